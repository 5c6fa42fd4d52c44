//! Certificates by host, and what shows an authority that we answer for one.
//!
//! They are on disk too, so that a router that was killed serves the same after its start; proofs are not, since the order that
//! they are for would be over. A connection has what was there when it began: another certificate disturbs none.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use plimsoll_certificate::Pair;
use plimsoll_model::kind::HeldCertificate;
use plimsoll_model::secret::Sensitive;
use plimsoll_shim::{read, write_durably};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

/// Readable by its owner only, like all that is written durably.
const FILE: &str = "certificates.json";

/// The protocol of connections that only look for a proof (RFC 8737).
const PROOF: &[u8] = b"acme-tls/1";

/// A certificate as it is kept and sent: the one place where its key is written out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) held: HeldCertificate,
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.fmt(f)
    }
}

impl Kept {
    fn certified(&self) -> io::Result<Arc<CertifiedKey>> {
        let pair = Pair { chain: self.chain.clone(), key: Sensitive::new(self.key.clone()) };
        pair.certified().map_err(io::Error::other)
    }
}

/// What shows that we answer for a host, as it is sent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Shown {
    File { token: String, text: String },
    Certificate { chain: String, key: String },
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(proof)")
    }
}

/// A proof that can be served.
#[derive(Debug)]
enum Proof {
    File { token: String, text: String },
    Certificate(Arc<CertifiedKey>),
}

/// All of them, shared.
pub(crate) struct Certificates {
    directory: PathBuf,
    kept: Mutex<BTreeMap<String, Kept>>,
    served: RwLock<Served>,
}

#[derive(Debug, Default)]
struct Served {
    hosts: BTreeMap<String, Arc<CertifiedKey>>,
    proofs: BTreeMap<String, Proof>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads what was served before. What cannot be used any more is left out: another one is wanted then.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        let kept: BTreeMap<String, Kept> = read(&directory, FILE)?.unwrap_or_default();
        let usable = kept.into_iter().filter_map(|(host, kept)| {
            let certified = kept.certified().ok()?;
            Some(((host.clone(), kept), (host, certified)))
        });
        let (kept, hosts) = usable.unzip();
        let served = Served { hosts, proofs: BTreeMap::new() };
        Ok(Self { directory, kept: Mutex::new(kept), served: RwLock::new(served) })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held of each host.
    pub(crate) fn held(&self) -> BTreeMap<String, HeldCertificate> {
        self.kept().iter().map(|(host, kept)| (host.clone(), kept.held.clone())).collect()
    }

    /// Serves a host with another certificate from now on, or with none.
    pub(crate) fn keep(&self, host: String, new: Option<Kept>) -> io::Result<()> {
        let certified = new.as_ref().map(Kept::certified).transpose()?;
        let mut kept = self.kept();
        let mut next = kept.clone();
        match new {
            Some(new) => next.insert(host.clone(), new),
            None => next.remove(&host),
        };
        write_durably(&self.directory, FILE, &next)?;
        *kept = next;
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        match certified {
            Some(certified) => served.hosts.insert(host, certified),
            None => served.hosts.remove(&host),
        };
        Ok(())
    }

    /// Shows a proof for a host, or none any more.
    pub(crate) fn show(&self, host: String, shown: Option<Shown>) -> io::Result<()> {
        let proof = match shown {
            None => None,
            Some(Shown::File { token, text }) => Some(Proof::File { token, text }),
            Some(Shown::Certificate { chain, key }) => {
                let pair = Pair { chain, key: Sensitive::new(key) };
                Some(Proof::Certificate(pair.as_proof().map_err(io::Error::other)?))
            }
        };
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        match proof {
            Some(proof) => served.proofs.insert(host, proof),
            None => served.proofs.remove(&host),
        };
        Ok(())
    }

    /// The text of a proof that is asked for by its path.
    pub(crate) fn proof(&self, host: &str, path: &str) -> Option<String> {
        let wanted = path.strip_prefix("/.well-known/acme-challenge/")?;
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        match served.proofs.get(host)? {
            Proof::File { token, text } if token == wanted => Some(text.clone()),
            _ => None,
        }
    }

    /// What encrypts connections with whatever is there when they begin.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), PROOF.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Whether a connection was made only to look for a proof.
pub(crate) fn is_for_proof(protocol: Option<&[u8]>) -> bool {
    protocol == Some(PROOF)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name()?.to_lowercase();
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        if hello.alpn().into_iter().flatten().eq([PROOF]) {
            return match served.proofs.get(&host)? {
                Proof::Certificate(certified) => Some(certified.clone()),
                Proof::File { .. } => None,
            };
        }
        let wildcard = || served.hosts.get(&format!("*.{}", host.split_once('.')?.1));
        served.hosts.get(&host).or_else(wildcard).cloned()
    }
}
