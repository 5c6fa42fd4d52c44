//! Connections to a control plane: plain on this machine, encrypted elsewhere.
//!
//! Who a server is, is decided by the fingerprint of its certificate, by a certificate file, or by the authorities that the
//! machine trusts, in this order of preference.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use plimsoll_model::id::Digest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// By what a server is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By an authority that this machine trusts.
    #[default]
    Machine,
    /// By an authority, or its own certificate, in a file.
    File(PathBuf),
    /// By the SHA-256 of its certificate, whatever the name in it.
    Fingerprint(Digest),
}

/// A connection, whatever carries it.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// One server.
pub(crate) struct Transport {
    runtime: Runtime,
    base: Uri,
    trust: Trust,
    kept: std::cell::RefCell<Option<SendRequest<Full<Bytes>>>>,
}

impl Transport {
    /// A server by its address: `http://` or `https://`, a host, and a port where it is not the usual one.
    pub(crate) fn to(base: &str, trust: Trust) -> anyhow::Result<Self> {
        let parsed: Uri = base.parse().with_context(|| format!("{base:?} is no address"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            bail!("{base:?} is no address: it begins with http:// or https:// and a host");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, base: parsed, trust, kept: std::cell::RefCell::default() })
    }

    /// The same server by connections of its own.
    pub(crate) fn again(&self) -> anyhow::Result<Self> {
        Self::to(&self.base.to_string(), self.trust.clone())
    }

    fn host(&self) -> &str {
        self.base.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Whether nobody can listen in.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.base.scheme_str() == Some("https")
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Box<dyn Carrier>> {
        let port = self.base.port_u16().unwrap_or(if self.is_encrypted() { 443 } else { 80 });
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect((self.host(), port))).await;
        let stream = connected.context("it does not answer")??;
        stream.set_nodelay(true)?;
        if !self.is_encrypted() {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(self.host().to_owned())?;
        let connector = TlsConnector::from(Arc::new(self.trust.config()?));
        Ok(Box::new(tokio::time::timeout(CONNECT, connector.connect(name, stream)).await??))
    }

    /// Sends a request and returns the head of its answer.
    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let kept = self.kept.borrow_mut().take();
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
        {
            // A server that ended in between is found by asking again, which is harmless before an answer began only for
            // what changes nothing.
            if request.method() == hyper::Method::GET {
                let again = request.clone();
                if let Ok(answer) = kept.send_request(again).await {
                    *self.kept.borrow_mut() = Some(kept);
                    return Ok(answer);
                }
            }
        }
        let (mut sender, connection) = handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        *self.kept.borrow_mut() = Some(sender);
        Ok(answer)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let host = self.base.authority().map_or("", |it| it.as_str());
        // The address itself, or a path below it.
        let root = self.base.path_and_query().map_or("/", |it| it.as_str());
        let target =
            if path.is_empty() { root.to_owned() } else { format!("{}/{path}", root.trim_end_matches('/')) };
        let mut request = Request::builder().method(method).uri(target);
        request = request
            .header("host", host)
            .header("user-agent", concat!("plimsoll/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.body(Full::new(Bytes::copy_from_slice(body)))?)
    }

    /// A request and its whole answer, within a time if one is given.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        within: Option<Duration>,
    ) -> anyhow::Result<Response<Bytes>> {
        let request = self.request(method, path, headers, body)?;
        let answer = async {
            let (head, body) = self.send(request).await?.into_parts();
            anyhow::Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        };
        self.runtime.block_on(async {
            match within {
                None => answer.await,
                Some(within) => tokio::time::timeout(within, answer)
                    .await
                    .with_context(|| format!("there was no answer within {} s", within.as_secs()))?,
            }
        })
    }

    /// A request whose answer is written somewhere as it comes; says how long it was. An answer that is no success is
    /// returned whole.
    pub(crate) fn copy(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        out: &mut dyn Write,
    ) -> anyhow::Result<Result<u64, Response<Bytes>>> {
        let request = self.request(method, path, headers, body)?;
        self.runtime.block_on(async {
            let (head, mut body) = self.send(request).await?.into_parts();
            if !head.status.is_success() {
                return Ok(Err(Response::from_parts(head, body.collect().await?.to_bytes())));
            }
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    out.write_all(&data)?;
                    length += data.len() as u64;
                }
            }
            out.flush()?;
            Ok(Ok(length))
        })
    }

    /// Runs something that talks to the server by connections of its own.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

impl Trust {
    fn config(&self) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut roots = RootCertStore::empty();
        match self {
            Self::Fingerprint(fingerprint) => {
                let pinned = Arc::new(Pinned { fingerprint: *fingerprint, provider });
                return Ok(builder
                    .dangerous()
                    .with_custom_certificate_verifier(pinned)
                    .with_no_client_auth());
            }
            Self::File(file) => {
                let failed = || format!("{} has no certificate that can be read", file.display());
                for certificate in CertificateDer::pem_file_iter(file).with_context(failed)? {
                    roots.add(certificate.with_context(failed)?)?;
                }
            }
            Self::Machine => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Takes exactly one certificate, whatever is in it.
#[derive(Debug)]
struct Pinned {
    fingerprint: Digest,
    provider: Arc<CryptoProvider>,
}

type Verified<T> = Result<T, tokio_rustls::rustls::Error>;

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Verified<ServerCertVerified> {
        let found = Digest::of_bytes(certificate);
        if found == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let wanted = self.fingerprint;
        let text = format!(
            "the server's certificate has the fingerprint {found}, not {wanted}: somebody else answers there, or it has a new one"
        );
        Err(tokio_rustls::rustls::Error::Other(tokio_rustls::rustls::OtherError(Arc::new(io::Error::other(
            text,
        )))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
