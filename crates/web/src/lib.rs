//! Asking others over HTTP and HTTPS, with the trust of this machine.
//!
//! Registries, certificate authorities, login providers and Prometheus are asked by the same client. It follows no redirect:
//! whoever asks decides what another address may learn.
//!
//! Deliberately absent: limits of time and size, which depend on the question; and the command line's own connections, whose
//! trust people choose for each.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
pub use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What a question goes through.
pub type Connector = HttpsConnector<HttpConnector>;

/// Idle connections that are kept to one host.
const IDLE: usize = 4;

/// A client that trusts the authorities this machine trusts. Without any, hosts in the clear can still be asked.
///
/// # Panics
/// Never: the protocol versions are those of the library.
pub fn client<B>() -> Client<Connector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    with(RootCertStore::empty())
}

/// A client that trusts, beside those, the authorities of a file of PEM certificates.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn client_trusting<B>(file: &Path) -> io::Result<Client<Connector, B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(with(roots))
}

fn with<B>(mut roots: RootCertStore) -> Client<Connector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the library's own versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE).build(connector)
}
