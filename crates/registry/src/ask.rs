//! The question which bytes a tag leads to.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, LINK, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use plimsoll_model::id::Digest;
use plimsoll_model::image::ImageRef;
use plimsoll_model::version::VersionRange;
use plimsoll_model::words::in_words;
use plimsoll_web::{Client, Connector};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::challenge::Challenge;
use crate::logins::{Login, Secret};

/// Kinds of manifests and indexes, of Docker and OCI.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// The header that says a manifest's digest.
const DIGEST: &str = "docker-content-digest";

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(15);

/// Bytes of a manifest: registries refuse larger ones.
const LARGEST_MANIFEST: usize = 4 << 20;

/// Bytes of a token's answer.
const LARGEST_TOKEN: usize = 64 << 10;

/// Tags that are asked for at once, pages of them at most, and bytes of one.
const TAGS_OF_A_PAGE: u32 = 1000;
const MOST_PAGES: usize = 50;
const LARGEST_PAGE: usize = 1 << 20;

/// Questions that one registry is asked at the same time.
const TOGETHER: usize = 4;

/// How long a registry is left alone that wants to be and does not say how long; and the longest that is believed.
const PAUSE: Duration = Duration::from_mins(1);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// How long a token holds whose answer does not say, and how long before its end another one is got.
const TOKEN: u64 = 60;
const TOKEN_MARGIN: u64 = 10;

/// The host that serves what is called `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Why a registry did not say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has no such repository or tag, or says so to those who may not see it.
    #[error("{0} has no such image")]
    Missing(String),
    /// It wants a login, or another one.
    #[error("{0} wants a login for it")]
    Forbidden(String),
    /// It wants to be asked later.
    #[error("{registry} wants to be asked later")]
    Later {
        /// Which.
        registry: String,
        /// How much later.
        after: Duration,
    },
    /// It does not answer.
    #[error("{registry} does not answer: {why}")]
    Away {
        /// Which.
        registry: String,
        /// What came instead.
        why: String,
    },
    /// It answers otherwise than a registry does.
    #[error("{registry} answers unlike a registry: {why}")]
    Strange {
        /// Which.
        registry: String,
        /// How.
        why: String,
    },
}

impl RegistryError {
    /// Whether the same question may have an answer another time without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Later { .. } | Self::Away { .. })
    }
}

/// A client of all registries. Clones share connections, tokens and pauses.
#[derive(Clone)]
pub struct Registry {
    client: Client<Connector, Full<Bytes>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    hosts: Mutex<HashMap<String, Host>>,
    tokens: Mutex<HashMap<(String, Option<String>), Token>>,
}

/// What is to be minded with one registry.
#[derive(Clone)]
struct Host {
    turns: Arc<Semaphore>,
    paused_until: Option<Instant>,
}

#[derive(Clone)]
struct Token {
    text: String,
    until: Instant,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A client that trusts the authorities this machine trusts.
    pub fn new() -> Self {
        Self { client: plimsoll_web::client(), shared: Arc::default() }
    }

    /// The digest of the manifest or index that an image's tag leads to now.
    ///
    /// # Errors
    /// Why the registry does not say.
    pub async fn digest(&self, image: &ImageRef, login: Option<&Login>) -> Result<Digest, RegistryError> {
        let turns = self.turns(image.repository().registry())?;
        let _turn = turn(&turns, image).await?;
        Question { client: self, image, login }.digest().await
    }

    /// The tag of the newest version of a range that an image's repository has, if it has one, and the digest that it
    /// leads to now.
    ///
    /// # Errors
    /// Why the registry does not say.
    pub async fn newest(
        &self,
        image: &ImageRef,
        range: &VersionRange,
        login: Option<&Login>,
    ) -> Result<Option<(String, Digest)>, RegistryError> {
        let turns = self.turns(image.repository().registry())?;
        let _turn = turn(&turns, image).await?;
        let tags = Question { client: self, image, login }.tags().await?;
        let Some(tag) = range.newest(tags.iter().map(String::as_str)) else { return Ok(None) };
        let tagged = image.with_tag(tag).map_err(|error| RegistryError::Strange {
            registry: image.repository().registry().to_owned(),
            why: error.to_string(),
        })?;
        let digest = Question { client: self, image: &tagged, login }.digest().await?;
        Ok(Some((tag.to_owned(), digest)))
    }

    /// The turns of a registry, unless it wants to be left alone.
    fn turns(&self, registry: &str) -> Result<Arc<Semaphore>, RegistryError> {
        let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts
            .entry(registry.to_owned())
            .or_insert_with(|| Host { turns: Arc::new(Semaphore::new(TOGETHER)), paused_until: None });
        match host.paused_until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(after) => Err(RegistryError::Later { registry: registry.to_owned(), after }),
            None => Ok(host.turns.clone()),
        }
    }

    fn pause(&self, registry: &str, headers: &HeaderMap) -> RegistryError {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = seconds.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE);
        let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(registry) {
            host.paused_until = Some(Instant::now() + after);
        }
        RegistryError::Later { registry: registry.to_owned(), after }
    }

    async fn send(
        &self,
        registry: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let answer = tokio::time::timeout(WITHIN, self.client.request(request)).await;
        answer.map_err(|error| away(registry, &error))?.map_err(|error| away(registry, &error))
    }
}

/// One question to one registry.
struct Question<'a> {
    client: &'a Registry,
    image: &'a ImageRef,
    login: Option<&'a Login>,
}

impl Question<'_> {
    fn registry(&self) -> &str {
        self.image.repository().registry()
    }

    fn strange(&self, why: impl Into<String>) -> RegistryError {
        RegistryError::Strange { registry: self.registry().to_owned(), why: why.into() }
    }

    /// Where the registry has something of the repository.
    fn url(&self, what: &str) -> String {
        let registry = self.registry();
        let host = if registry == "docker.io" { DOCKER_HUB } else { registry };
        // As engines have it: without encryption on this machine only.
        let scheme = if is_loopback(registry) { "http" } else { "https" };
        format!("{scheme}://{host}/v2/{}/{what}", self.image.repository().path())
    }

    /// What the manifest is known by there: its digest, or its tag.
    fn manifest(&self) -> String {
        match self.image.digest() {
            Some(digest) => format!("manifests/sha256:{digest}"),
            None => format!("manifests/{}", self.image.tag().unwrap_or("latest")),
        }
    }

    async fn digest(&self) -> Result<Digest, RegistryError> {
        let asked = self.ask(Method::HEAD, &self.manifest()).await?;
        match digest_of(asked.headers()) {
            Some(digest) => Ok(digest),
            // Some do not say it in the header: it is that of the bytes then.
            None => self.taken_from_bytes().await,
        }
    }

    /// All tags of the repository, page by page.
    async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let (mut found, mut query) = (Vec::new(), format!("n={TAGS_OF_A_PAGE}"));
        for _ in 0..MOST_PAGES {
            let answer = self.ask(Method::GET, &format!("tags/list?{query}")).await?;
            let next = answer.headers().get(LINK).and_then(|link| next_page(link.to_str().ok()?));
            let bytes = self.body(answer, LARGEST_PAGE).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|error| self.strange(error.to_string()))?;
            found.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if next != query => query = next,
                _ => return Ok(found),
            }
        }
        Err(self.strange(format!("it has more than {MOST_PAGES} pages of tags")))
    }

    /// Asks for something of the repository, logs in if need be, and asks again.
    async fn ask(&self, method: Method, what: &str) -> Result<Response<Incoming>, RegistryError> {
        let registry = self.registry();
        let who = self.login.map(|login| login.user.clone());
        let key = (format!("{registry}/{}", self.image.repository().path()), who);
        let known = {
            let tokens = self.client.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.get(&key).filter(|token| token.until > Instant::now()).cloned()
        };
        let known = known.map(|token| format!("Bearer {}", token.text));
        let answer = self.request(method.clone(), what, known).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.judged(answer);
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenges.filter_map(|header| header.to_str().ok()).find_map(Challenge::read);
        let authorization = match challenge {
            Some(Challenge::Basic) => self.basic()?,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let token = self.token(&realm, service.as_deref(), scope.as_deref()).await?;
                let text = format!("Bearer {}", token.text);
                self.client.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(key, token);
                text
            }
            None => return Err(self.strange("it wants a login and does not say which")),
        };
        let answer = self.request(method, what, Some(authorization)).await?;
        self.judged(answer)
    }

    fn basic(&self) -> Result<String, RegistryError> {
        match self.login {
            Some(Login { user, secret: Secret::Password(password) }) => {
                let pair = format!("{user}:{}", password.expose());
                Ok(format!("Basic {}", Base64::encode_string(pair.as_bytes())))
            }
            _ => Err(RegistryError::Forbidden(self.registry().to_owned())),
        }
    }

    /// A token as the distribution specification's token authentication gives one: by GET with a password or nothing,
    /// by POST with a refresh token.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Token, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let uri: Uri = realm.parse().map_err(|_| self.strange(format!("{realm} gives no tokens")))?;
        // In the clear only within this machine, and into this machine only for its own registries.
        let is_within = is_loopback(self.registry()) && uri.host().is_some_and(is_loopback);
        if uri.scheme_str() != Some("https") && !is_within {
            return Err(self.strange(format!("its tokens come from {realm}, without encryption")));
        }
        let usual_scope = format!("repository:{}:pull", self.image.repository().path());
        let mut parameters = vec![("scope", scope.unwrap_or(&usual_scope))];
        parameters.extend(service.map(|service| ("service", service)));
        let refresh = match self.login {
            Some(Login { secret: Secret::IdentityToken(token), .. }) => Some(token),
            _ => None,
        };
        let mut request = Request::builder().header(USER_AGENT, agent());
        let body = if let Some(token) = refresh {
            parameters.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "plimsoll"),
                ("refresh_token", token.expose()),
            ]);
            request = request.method(Method::POST).uri(realm);
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            Bytes::from(form(&parameters))
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            request = request.uri(format!("{realm}{separator}{}", form(&parameters)));
            if self.login.is_some() {
                request = request.header(AUTHORIZATION, self.basic()?);
            }
            Bytes::new()
        };
        let request = request.body(Full::new(body)).map_err(|error| self.strange(error.to_string()))?;
        let answer = self.judged(self.client.send(self.registry(), request).await?)?;
        let bytes = self.body(answer, LARGEST_TOKEN).await?;
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|error| self.strange(error.to_string()))?;
        let text = answer.token.or(answer.access_token);
        let text = text.ok_or_else(|| self.strange(format!("{realm} gives an answer without a token")))?;
        let seconds = answer.expires_in.unwrap_or(TOKEN).saturating_sub(TOKEN_MARGIN);
        Ok(Token { text, until: Instant::now() + Duration::from_secs(seconds) })
    }

    async fn request(
        &self,
        method: Method,
        what: &str,
        authorization: Option<String>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut request = Request::builder().method(method).uri(self.url(what)).header(ACCEPT, MANIFESTS);
        request = request.header(USER_AGENT, agent());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::default()).map_err(|error| self.strange(error.to_string()))?;
        self.client.send(self.registry(), request).await
    }

    /// An answer that is one, or what its status stands for.
    fn judged(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, RegistryError> {
        let registry = self.registry().to_owned();
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(RegistryError::Missing(registry)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Forbidden(registry)),
            StatusCode::TOO_MANY_REQUESTS => Err(self.client.pause(&registry, answer.headers())),
            status if status.is_server_error() => {
                if answer.headers().contains_key(RETRY_AFTER) {
                    return Err(self.client.pause(&registry, answer.headers()));
                }
                Err(RegistryError::Away { registry, why: status.to_string() })
            }
            status => Err(self.strange(status.to_string())),
        }
    }

    async fn body(&self, answer: Response<Incoming>, most: usize) -> Result<Bytes, RegistryError> {
        let read = tokio::time::timeout(WITHIN, Limited::new(answer.into_body(), most).collect()).await;
        let read = read.map_err(|error| away(self.registry(), &error))?;
        read.map(http_body_util::Collected::to_bytes).map_err(|error| RegistryError::Away {
            registry: self.registry().to_owned(),
            why: error.to_string(),
        })
    }

    async fn taken_from_bytes(&self) -> Result<Digest, RegistryError> {
        let answer = self.ask(Method::GET, &self.manifest()).await?;
        let bytes = self.body(answer, LARGEST_MANIFEST).await?;
        // An error page is no manifest, whatever its status says.
        serde_json::from_slice::<Manifest>(&bytes).map_err(|error| self.strange(error.to_string()))?;
        Ok(Digest::of_bytes(&bytes))
    }
}

/// What every manifest and index has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(rename = "schemaVersion")]
    _schema_version: u64,
}

fn form(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

fn agent() -> String {
    concat!("plimsoll/", env!("CARGO_PKG_VERSION")).to_owned()
}

fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST)?.to_str().ok()?.strip_prefix("sha256:")?.parse().ok()
}

/// The query of the page that a `Link` header calls the next one (RFC 8288); where it lies, the registry has no say in.
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|it| matches!(it.trim(), "rel=\"next\"" | "rel=next"));
    let (_, query) = target.split_once('?')?;
    is_next.then(|| query.to_owned())
}

/// Waits for a turn with the registry of an image.
async fn turn<'a>(turns: &'a Semaphore, image: &ImageRef) -> Result<SemaphorePermit<'a>, RegistryError> {
    turns.acquire().await.map_err(|error| away(image.repository().registry(), &error))
}

/// Whether a registry is on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn away(registry: &str, error: &dyn std::error::Error) -> RegistryError {
    RegistryError::Away { registry: registry.to_owned(), why: in_words(error) }
}
