//! A certificate with its key.

use std::sync::Arc;

use plimsoll_model::id::Digest;
use plimsoll_model::kind::{CertificateOrigin, HeldCertificate};
use plimsoll_model::object::Timestamp;
use plimsoll_model::secret::Sensitive;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A chain and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The host's own certificate first.
    pub chain: String,
    /// Its key.
    pub key: Sensitive<String>,
}

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The chain or the key is no PEM.
    #[error("{0} is no PEM that can be read")]
    Pem(&'static str, #[source] pem::Error),
    /// There is no certificate in it.
    #[error("there is no certificate in the chain")]
    Empty,
    /// The key is not that of the certificate, or of a kind that nobody uses.
    #[error("the key does not belong to the certificate")]
    Key(#[source] tokio_rustls::rustls::Error),
    /// The certificate cannot be understood.
    #[error("the certificate cannot be understood: {0}")]
    Strange(String),
    /// It is for other hosts.
    #[error("the certificate is for {}, not for {host}", names.join(", "))]
    OtherHost {
        /// The host.
        host: String,
        /// What it is for.
        names: Vec<String>,
    },
    /// Its time is over.
    #[error("the certificate ended at {0}")]
    Expired(Timestamp),
}

impl Pair {
    /// As TLS uses it.
    ///
    /// # Errors
    /// [`PairError`], when the two are no pair.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, PairError> {
        let (chain, key) = self.read()?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        certified.map(Arc::new).map_err(PairError::Key)
    }

    /// As TLS shows it to an authority that looks for a proof: nobody else understands such a certificate.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn as_proof(&self) -> Result<Arc<CertifiedKey>, PairError> {
        let (chain, key) = self.read()?;
        let key = ring::sign::any_supported_type(&key).map_err(PairError::Key)?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PairError> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| PairError::Pem("the chain", error))?;
        if chain.is_empty() {
            return Err(PairError::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes());
        Ok((chain, key.map_err(|error| PairError::Pem("the key", error))?))
    }

    /// Checks it for a host at a time, and says what it says of itself.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn check(
        &self,
        host: &str,
        origin: CertificateOrigin,
        now: Timestamp,
    ) -> Result<HeldCertificate, PairError> {
        let certified = self.certified()?;
        let own = certified.end_entity_cert().map_err(PairError::Key)?;
        let strange = |error: &dyn std::fmt::Display| PairError::Strange(error.to_string());
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| strange(&error))?;
        let names = names(&parsed).map_err(|error| strange(&error))?;
        if !names.iter().any(|name| covers(name, host)) {
            return Err(PairError::OtherHost { host: host.to_owned(), names });
        }
        let stamp = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let validity = parsed.validity();
        let held = HeldCertificate {
            origin,
            fingerprint: Digest::of_bytes(own),
            begins: stamp(validity.not_before.timestamp()),
            expires: stamp(validity.not_after.timestamp()),
        };
        if held.expires <= now { Err(PairError::Expired(held.expires)) } else { Ok(held) }
    }
}

/// The hosts of a certificate: its alternative names, which is all that clients look at.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, x509_parser::error::X509Error> {
    let found = certificate.subject_alternative_name()?;
    let all = found.iter().flat_map(|it| &it.value.general_names);
    Ok(all
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase()),
            _ => None,
        })
        .collect())
}

/// Whether a name of a certificate is for a host: the same, or with `*` for the first label (RFC 6125).
fn covers(name: &str, host: &str) -> bool {
    let rest = |text: &str| text.split_once('.').map(|(_, rest)| rest.to_owned());
    name == host || (name.starts_with("*.") && rest(name) == rest(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_for_one_label() {
        assert!(covers("*.example.org", "a.example.org") && covers("*.example.org", "*.example.org"));
        assert!(!covers("*.example.org", "a.b.example.org") && !covers("*.example.org", "example.org"));
        assert!(!covers("a.example.org", "*.example.org"));
    }

    #[test]
    fn pairs_are_checked() {
        let now = Timestamp(1_800_000_000_000);
        let directory = tempfile::tempdir().unwrap();
        let authority = crate::OwnAuthority::load_or_make(directory.path(), now).unwrap();
        let (one, other) =
            (authority.issue("a.localhost", now).unwrap(), authority.issue("b.localhost", now).unwrap());
        let facts = one.check("a.localhost", CertificateOrigin::Own, now).unwrap();
        assert!(facts.begins < now && facts.renew() > now && facts.renew() < facts.expires);
        assert!(matches!(
            one.check("b.localhost", CertificateOrigin::Own, now),
            Err(PairError::OtherHost { .. })
        ));
        assert!(matches!(
            one.check("a.localhost", CertificateOrigin::Own, facts.expires),
            Err(PairError::Expired(_))
        ));
        let mixed = Pair { chain: one.chain.clone(), key: other.key.clone() };
        assert!(matches!(mixed.check("a.localhost", CertificateOrigin::Own, now), Err(PairError::Key(_))));
        let none = Pair { chain: String::new(), key: other.key };
        assert!(matches!(none.check("a.localhost", CertificateOrigin::Own, now), Err(PairError::Empty)));
        // The same authority, read again, signs what its first certificate vouches for.
        let again = crate::OwnAuthority::load_or_make(directory.path(), now).unwrap();
        assert_eq!(again.certificate(), authority.certificate());
    }
}
