//! An ACME authority (RFC 8555).

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use plimsoll_model::secret::Sensitive;
use plimsoll_model::words::in_words;
use plimsoll_web::{Client, Connector};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::own::keep_private;
use crate::pair::Pair;

/// How long one answer may take, and how long an order.
const ANSWER: Duration = Duration::from_secs(30);
const ORDER: Duration = Duration::from_secs(90);

/// Bytes of the largest answer: a chain with room to spare.
const LARGEST: usize = 1 << 20;

/// How long everything for one certificate may take.
const WHOLE: Duration = Duration::from_mins(4);

/// Where and as whom certificates are ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The authority's directory.
    pub directory: String,
    /// Where the authority writes to when something is wrong: an address of electronic mail.
    pub contact: Option<String>,
    /// Certificates that the authority's own connection is trusted by, as PEM, beside those of this machine.
    pub roots: Option<PathBuf>,
}

/// How we show that we answer for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A file below `/.well-known/acme-challenge/` on port 80.
    Http01,
    /// A certificate within a connection of its own protocol on port 443 (RFC 8737).
    TlsAlpn01,
}

/// What shows it.
#[derive(Debug, Clone)]
pub enum Proof {
    /// The text of the file with this name.
    File {
        /// The name.
        token: String,
        /// The text.
        text: String,
    },
    /// The certificate for connections of `acme-tls/1`.
    Certificate(Pair),
}

/// Whoever answers for hosts.
pub trait Prover: Sync {
    /// Shows a proof for a host to everybody from now on; nothing any more without one.
    fn show(
        &self,
        host: &str,
        proof: Option<Proof>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority refuses, or does not answer.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// The authority could not see the proof.
    #[error("the authority did not find the proof for {host}: {why}")]
    NotProven {
        /// The host.
        host: String,
        /// What it saw instead.
        why: String,
    },
    /// The proof cannot be shown.
    #[error("the proof cannot be shown: {0}")]
    NotShown(String),
    /// The authority has no such challenge for this host.
    #[error("the authority offers no {0:?} for this host")]
    NoSuchMethod(Method),
    /// The request cannot be made.
    #[error("no request can be made")]
    Make(#[from] rcgen::Error),
    /// The account cannot be kept.
    #[error("{} cannot be read or written", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// A client of one authority.
pub struct Acme {
    settings: Settings,
    /// Where the account is kept.
    file: PathBuf,
    account: Mutex<Option<Account>>,
}

/// An account as it is kept: it is one of this directory alone.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    account: AccountCredentials,
}

impl Acme {
    /// A client whose account is kept in a file. Nobody is asked before the first order.
    pub fn new(settings: Settings, file: PathBuf) -> Self {
        Self { settings, file, account: Mutex::new(None) }
    }

    /// Gets a certificate for a host.
    ///
    /// # Errors
    /// [`AcmeError`]; nothing is shown any more then.
    pub async fn obtain(&self, host: &str, method: Method, prover: &dyn Prover) -> Result<Pair, AcmeError> {
        let ordered = tokio::time::timeout(WHOLE, self.order(host, method, prover)).await;
        let late = || AcmeError::Refused(format!("it takes longer than {} s", WHOLE.as_secs()));
        let ordered = ordered.unwrap_or_else(|_| Err(late()));
        // Whoever cannot take it back shows what nobody asks for any more.
        prover.show(host, None).await.ok();
        ordered
    }

    async fn order(&self, host: &str, method: Method, prover: &dyn Prover) -> Result<Pair, AcmeError> {
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(refused)?;
        prove(&mut order, host, method, prover).await?;
        let retries = RetryPolicy::new().timeout(ORDER);
        match order.poll_ready(&retries).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(why_not(&mut order, host).await),
            Err(error) => {
                let why = why_not(&mut order, host).await;
                return Err(if matches!(why, AcmeError::NotProven { .. }) { why } else { refused(error) });
            }
        }
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await.map_err(refused)?;
        let chain = order.poll_certificate(&retries).await.map_err(refused)?;
        Ok(Pair { chain, key: Sensitive::new(key.serialize_pem()) })
    }

    /// The account, which is made the first time.
    async fn account(&self) -> Result<Account, AcmeError> {
        let mut known = self.account.lock().await;
        if let Some(account) = &*known {
            return Ok(account.clone());
        }
        let unreadable = |error| AcmeError::Io(self.file.clone(), error);
        let builder = Account::builder_with_http(Box::new(self.http().map_err(unreadable)?));
        let kept = match std::fs::read(&self.file) {
            // What cannot be understood is made anew, as another one's is.
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(error)),
        };
        let kept = kept.filter(|kept| kept.directory == self.settings.directory);
        let account = if let Some(kept) = kept {
            builder.from_credentials(kept.account).await.map_err(refused)?
        } else {
            let contact = self.settings.contact.as_ref().map(|address| format!("mailto:{address}"));
            let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
            let new =
                NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let directory = self.settings.directory.clone();
            let (made, credentials) = builder.create(&new, directory.clone(), None).await.map_err(refused)?;
            let kept = serde_json::to_vec(&Kept { directory, account: credentials });
            let kept = kept.map_err(io::Error::from).and_then(|kept| keep_private(&self.file, &kept));
            kept.map_err(unreadable)?;
            made
        };
        *known = Some(account.clone());
        Ok(account)
    }

    fn http(&self) -> io::Result<Http> {
        let client = match &self.settings.roots {
            Some(file) => plimsoll_web::client_trusting(file)?,
            None => plimsoll_web::client(),
        };
        Ok(Http(client))
    }
}

/// Shows the proof that an order asks for, and tells the authority to look.
async fn prove(order: &mut Order, host: &str, method: Method, prover: &dyn Prover) -> Result<(), AcmeError> {
    let wanted = match method {
        Method::Http01 => ChallengeType::Http01,
        Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(refused)?;
        // It remembers what was shown lately.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(wanted.clone()).ok_or(AcmeError::NoSuchMethod(method))?;
        let answer = challenge.key_authorization();
        let proof = match method {
            Method::Http01 => {
                Proof::File { token: challenge.token.clone(), text: answer.as_str().to_owned() }
            }
            Method::TlsAlpn01 => Proof::Certificate(of_challenge(host, answer.digest().as_ref())?),
        };
        prover.show(host, Some(proof)).await.map_err(AcmeError::NotShown)?;
        challenge.set_ready().await.map_err(refused)?;
    }
    Ok(())
}

/// The certificate that shows the digest of an answer.
fn of_challenge(host: &str, digest: &[u8]) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let chain = params.self_signed(&key)?.pem();
    Ok(Pair { chain, key: Sensitive::new(key.serialize_pem()) })
}

/// What the authority saw instead of a proof.
async fn why_not(order: &mut Order, host: &str) -> AcmeError {
    let mut found = None;
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            found = found.or_else(|| errors.into_iter().find_map(|problem| problem.detail.clone()));
        }
    }
    match found {
        Some(why) => AcmeError::NotProven { host: host.to_owned(), why },
        None => AcmeError::Refused("the order ended without a reason".to_owned()),
    }
}

/// What the client says of the authority.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn refused(error: instant_acme::Error) -> AcmeError {
    AcmeError::Refused(in_words(&error))
}

/// The HTTP client of the ACME client.
struct Http(Client<Connector, BodyWrapper<Bytes>>);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        // An account is not shown to whoever listens.
        if request.uri().scheme_str() != Some("https") {
            let error = io::Error::other(format!("{} is not encrypted", request.uri()));
            return Box::pin(async move { Err(instant_acme::Error::Other(error.into())) });
        }
        let asked = self.0.request(request);
        let whole = async move {
            let (head, body) =
                asked.await.map_err(|error| instant_acme::Error::Other(error.into()))?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(instant_acme::Error::Other)?;
            Ok(BytesResponse::from(Response::from_parts(head, Full::new(body.to_bytes()))))
        };
        Box::pin(async move {
            let within = tokio::time::timeout(ANSWER, whole).await;
            within.unwrap_or_else(|late| Err(instant_acme::Error::Other(late.into())))
        })
    }
}
