//! The certificate of the API: one from files, or one that was made here and is known by its fingerprint.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_model::id::Digest;
use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The files of a certificate that was made here, in the data directory.
const OWN: [&str; 2] = ["tls.crt", "tls.key"];

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{} has no certificate or key that can be read", .0.display())]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// The two do not belong together.
    #[error("the certificate cannot be used with its key")]
    Rustls(#[from] rustls::Error),
    /// One cannot be made.
    #[error("no certificate can be made")]
    Make(#[from] rcgen::Error),
    /// It cannot be kept.
    #[error("the certificate cannot be kept in the data directory")]
    Io(#[from] io::Error),
}

/// What encrypts connections, and the fingerprint by which clients know it: the SHA-256 of the server's certificate.
pub(crate) fn acceptor(
    files: Option<&TlsFiles>,
    data: &Path,
    address: IpAddr,
) -> Result<(TlsAcceptor, Digest), TlsError> {
    let own = || TlsFiles { certificate: data.join(OWN[0]), key: data.join(OWN[1]) };
    let files = files.cloned().map_or_else(|| made(own(), address), Ok)?;
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::Pem(path, error)
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(unread(&files.certificate))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(unread(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unread(&files.key))?;
    let empty = || TlsError::Pem(files.certificate.clone(), rustls::pki_types::pem::Error::NoItemsFound);
    let fingerprint = Digest::of_bytes(chain.first().ok_or_else(empty)?);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

/// The certificate that was made here; makes it if there is none.
fn made(files: TlsFiles, address: IpAddr) -> Result<TlsFiles, TlsError> {
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Ok(host) = rustix::system::uname().nodename().to_str() {
        names.push(host.to_owned());
    }
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.sort();
    names.dedup();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    for (path, text) in [(&files.key, key.serialize_pem()), (&files.certificate, certificate.pem())] {
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    Ok(files)
}
