//! An authority of this installation's own, for names that no public one vouches for.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use plimsoll_model::object::Timestamp;
use plimsoll_model::secret::Sensitive;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use time::{Duration, OffsetDateTime};

use crate::pair::Pair;

/// The file of the authority's key.
const KEY: &str = "authority.key";

/// How long the authority and what it signs are good.
const YEARS: Duration = Duration::days(3650);
const LIFE: Duration = Duration::days(90);

/// Clocks of clients may be behind by this much.
const SKEW: Duration = Duration::hours(1);

/// Why no certificate can be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The library refuses.
    #[error("no certificate can be made")]
    Rcgen(#[from] rcgen::Error),
    /// A file cannot be read or written.
    #[error("{} cannot be read or written", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The authority.
pub struct OwnAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl OwnAuthority {
    /// The file of the authority's certificate, in its directory: whoever trusts it trusts all that the authority signs.
    pub const FILE: &str = "authority.crt";

    /// The authority of a directory, which is made the first time.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn load_or_make(directory: &Path, now: Timestamp) -> Result<Self, MakeError> {
        let (certificate, key) = (directory.join(Self::FILE), directory.join(KEY));
        if let (Some(chain), Some(key)) = (read(&certificate)?, read(&key)?) {
            let issuer = Issuer::new(params(now), KeyPair::from_pem(&key)?);
            return Ok(Self { issuer, certificate: chain });
        }
        let pair = KeyPair::generate()?;
        let text = params(now).self_signed(&pair)?.pem();
        // The key last: with both there it is complete.
        write(&certificate, &text)?;
        write(&key, &pair.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params(now), pair), certificate: text })
    }

    /// The certificate that clients have to trust, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a host.
    ///
    /// # Errors
    /// [`MakeError::Rcgen`].
    pub fn issue(&self, host: &str, now: Timestamp) -> Result<Pair, MakeError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        (params.not_before, params.not_after) = (date(now) - SKEW, date(now) + LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer)?;
        let chain = format!("{}{}", signed.pem(), self.certificate);
        Ok(Pair { chain, key: Sensitive::new(key.serialize_pem()) })
    }
}

/// What the authority is; its name and its key are what matters to those that it signs.
fn params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Plimsoll, for this machine's own names");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Whoever trusts it trusts it for names of their own machine and no others.
    let permitted_subtrees = vec![GeneralSubtree::DnsName("localhost".into())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    (params.not_before, params.not_after) = (date(now) - SKEW, date(now) + YEARS);
    params
}

fn date(at: Timestamp) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(0);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn read(path: &Path) -> Result<Option<String>, MakeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(MakeError::Io(path.to_owned(), error)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), MakeError> {
    keep_private(path, text.as_bytes()).map_err(|error| MakeError::Io(path.to_owned(), error))
}

/// Writes a file that nobody else reads.
pub(crate) fn keep_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
