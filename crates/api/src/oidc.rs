//! Login by an OpenID Connect provider: a proof of who somebody is, in exchange for a token of ours.
//!
//! The command gets a code from the provider by the code flow with PKCE (RFC 7636, RFC 8252) and brings it here, where it
//! becomes an ID token whose signature, issuer, audience, time and nonce are checked (OpenID Connect Core 1.0, section 3.1.3.7). What comes of it is a
//! token like any other: known by its hash, revocable, in the audit log. The provider is asked at a login and never else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64ct::{Base64, Encoding as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri, header};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use plimsoll_model::id::UserName;
use plimsoll_model::secret::Sensitive;
use plimsoll_server::Server;
use plimsoll_web::{Client, Connector};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limit::{Asker, Limits};
use crate::problem::{Problem, Sort};
use crate::request::{Body, json as from_json};

/// How long what the provider publishes is believed.
const BELIEVED: Duration = Duration::from_hours(1);

/// Time between two questions for keys because of one that is not known.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

/// How long the provider may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Bytes of its answers.
const LARGEST: usize = 1 << 20;

/// Signatures that are believed: none with a shared secret, and not none.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

/// Who says who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its address, as its tokens have it.
    pub url: String,
    /// What it knows this control plane as.
    pub client: String,
    /// By which the provider knows that it is this one, where it wants that.
    pub secret: Option<Sensitive<String>>,
    /// The claim that is the user's name here.
    pub claim: String,
    /// Users that administrate the platform.
    pub administrators: Vec<UserName>,
}

/// What the provider publishes of itself.
#[derive(Debug, Clone, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

/// What a command needs to know to bring somebody to the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoginPlace {
    /// The provider.
    pub issuer: String,
    /// What it knows this control plane as.
    pub client_id: String,
    /// Where people say who they are.
    pub authorization_endpoint: String,
    /// What to ask for.
    pub scope: String,
}

/// With what the browser of somebody came back, and what only their command knows of this login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CameBack {
    /// The provider's code.
    pub code: String,
    /// What the code's challenge was made of (RFC 7636).
    pub code_verifier: String,
    /// Where the browser came back to.
    pub redirect_uri: String,
    /// What the ID token must repeat.
    pub nonce: String,
}

/// An ID token that was made for a login.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Proven {
    id_token: String,
    nonce: String,
}

/// A proof of who somebody is: a code, or the ID token itself from whoever got that by other ways.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Proof {
    Code(CameBack),
    Token(Proven),
}

/// What a login comes to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedIn {
    /// The token; this answer is the only place where it is ever seen.
    pub token: String,
    /// Its name, to revoke it.
    pub name: plimsoll_model::id::ObjectName,
    /// Whom it speaks for.
    pub user: UserName,
    /// When it ends.
    pub expires: plimsoll_model::object::Timestamp,
}

/// What was asked of the provider, and when.
#[derive(Default)]
struct Known {
    discovery: Option<(Discovery, Instant)>,
    keys: Option<(JwkSet, Instant)>,
}

/// A provider, and what it published.
pub(crate) struct Provider {
    issuer: Issuer,
    client: Client<Connector, Full<Bytes>>,
    known: tokio::sync::Mutex<Known>,
}

impl Provider {
    /// A provider that is asked when somebody logs in.
    pub(crate) fn new(issuer: Issuer) -> Self {
        Self { issuer, client: plimsoll_web::client(), known: tokio::sync::Mutex::default() }
    }

    async fn fetch<T: DeserializeOwned>(&self, url: &str) -> Result<T, Problem> {
        self.ask(url, None).await
    }

    /// An ID token for a code.
    async fn exchange(&self, came: &CameBack) -> Result<String, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: String,
        }
        let discovery = self.discovery(&mut *self.known.lock().await).await?;
        let parameters = [
            ("grant_type", "authorization_code"),
            ("code", &came.code),
            ("redirect_uri", &came.redirect_uri),
            ("client_id", &self.issuer.client),
            ("code_verifier", &came.code_verifier),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let answer: Answer = self.ask(&discovery.token_endpoint, Some(body)).await?;
        Ok(answer.id_token)
    }

    /// How the provider knows that it is this control plane that asks (RFC 6749, section 2.3.1).
    fn credentials(&self) -> Option<String> {
        let secret = self.issuer.secret.as_ref()?;
        let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let both = format!("{}:{}", part(&self.issuer.client), part(secret.expose()));
        Some(format!("Basic {}", Base64::encode_string(both.as_bytes())))
    }

    /// Asks the provider, with a form if there is one.
    async fn ask<T: DeserializeOwned>(&self, url: &str, form: Option<String>) -> Result<T, Problem> {
        let silent = |why: String| Problem::new(Sort::Unavailable, format!("{url} cannot be asked: {why}"));
        let uri: Uri = url.parse().map_err(|_| silent("that is no address".into()))?;
        let is_here = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if uri.scheme_str() != Some("https") && !is_here {
            return Err(silent("it is not encrypted".into()));
        }
        let mut request = Request::builder().uri(uri).header(header::ACCEPT, "application/json");
        if form.is_some() {
            request =
                request.method("POST").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            request = self
                .credentials()
                .into_iter()
                .fold(request, |it, both| it.header(header::AUTHORIZATION, both));
        }
        let is_of_login = form.is_some();
        let request =
            request.body(Full::from(form.unwrap_or_default())).map_err(|error| silent(error.to_string()))?;
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| silent(error.to_string()))?;
            if is_of_login && answer.status().is_client_error() {
                return Err(refused(&format!("the provider answered with {} to its code", answer.status())));
            }
            if !answer.status().is_success() {
                return Err(silent(format!("it answered with {}", answer.status())));
            }
            let body = Limited::new(answer.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| silent(error.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| silent(error.to_string()))
        };
        tokio::time::timeout(WITHIN, asked).await.map_err(|_| silent("there was no answer in time".into()))?
    }

    async fn discovery(&self, known: &mut Known) -> Result<Discovery, Problem> {
        if let Some((discovery, at)) = &known.discovery
            && at.elapsed() < BELIEVED
        {
            return Ok(discovery.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/'));
        let found: Discovery = self.fetch(&url).await?;
        if found.issuer != self.issuer.url {
            let detail = format!("{url} speaks for {}, not for {}", found.issuer, self.issuer.url);
            return Err(Problem::new(Sort::Unavailable, detail));
        }
        known.discovery = Some((found.clone(), Instant::now()));
        Ok(found)
    }

    async fn place(&self) -> Result<LoginPlace, Problem> {
        let discovery = self.discovery(&mut *self.known.lock().await).await?;
        Ok(LoginPlace {
            issuer: self.issuer.url.clone(),
            client_id: self.issuer.client.clone(),
            authorization_endpoint: discovery.authorization_endpoint,
            scope: "openid email profile".into(),
        })
    }

    /// The key that a token says it was signed with; the only one if it does not say.
    async fn key(&self, id: Option<&str>) -> Result<DecodingKey, Problem> {
        let mut known = self.known.lock().await;
        let found = |keys: &JwkSet| match id {
            Some(id) => keys.find(id).cloned(),
            None => keys.keys.first().filter(|_| keys.keys.len() == 1).cloned(),
        };
        let kept = known.keys.as_ref().filter(|(_, at)| at.elapsed() < BELIEVED);
        let mut key = kept.and_then(|(keys, _)| found(keys));
        let was_asked = known.keys.as_ref().is_some_and(|(_, at)| at.elapsed() < ASKED_AGAIN);
        if key.is_none() && !was_asked {
            let discovery = self.discovery(&mut known).await?;
            let keys: JwkSet = self.fetch(&discovery.jwks_uri).await?;
            key = found(&keys);
            known.keys = Some((keys, Instant::now()));
        }
        let key = key.ok_or_else(|| refused("the provider has no key that signed it"))?;
        DecodingKey::from_jwk(&key).map_err(|error| refused(&error.to_string()))
    }

    /// Who somebody is.
    async fn verify(&self, proof: &Proven) -> Result<UserName, Problem> {
        let header =
            jsonwebtoken::decode_header(&proof.id_token).map_err(|error| refused(&error.to_string()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("it is signed in a way that is not believed"));
        }
        let key = self.key(header.kid.as_deref()).await?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&self.issuer.client]);
        validation.set_issuer(&[&self.issuer.url]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(&proof.id_token, &key, &validation);
        let claims = claims.map_err(|error| refused(&error.to_string()))?.claims;
        if claims.get("nonce").and_then(Value::as_str) != Some(&*proof.nonce) || proof.nonce.is_empty() {
            return Err(refused("it was made for another login"));
        }
        // Who is one of many audiences is told by the party that it was made for.
        if claims.get("azp").is_some_and(|party| *party != *self.issuer.client) {
            return Err(refused("it was made for another party"));
        }
        if self.issuer.claim == "email" && claims.get("email_verified").is_some_and(|it| *it != true) {
            return Err(refused("the provider has not verified this address"));
        }
        let name = claims.get(&self.issuer.claim).and_then(Value::as_str);
        let name = name.ok_or_else(|| refused(&format!("it has no claim {}", self.issuer.claim)))?;
        name.parse().map_err(|_| refused(&format!("{name:?} cannot be the name of a user here")))
    }
}

fn refused(why: &str) -> Problem {
    Problem::new(Sort::Forbidden, format!("the login is not accepted: {why}"))
}

/// The provider, if this control plane has one.
pub(crate) type Login = Option<Arc<Provider>>;

fn provider(login: &Login) -> Result<&Arc<Provider>, Problem> {
    login
        .as_ref()
        .ok_or_else(|| Problem::not_found("login here: the server was started without --oidc-issuer"))
}

/// Where people say who they are.
pub(crate) async fn place(
    Extension(login): Extension<Login>,
    Extension(limits): Extension<Limits>,
    ConnectInfo(from): ConnectInfo<std::net::SocketAddr>,
) -> Result<Json<LoginPlace>, Problem> {
    limits.ask(&Asker::Unknown(Some(from.ip())))?;
    Ok(Json(provider(&login)?.place().await?))
}

/// A token for whoever proves who they are.
pub(crate) async fn login(
    State(server): State<Arc<Server>>,
    Extension(login): Extension<Login>,
    Extension(limits): Extension<Limits>,
    ConnectInfo(from): ConnectInfo<std::net::SocketAddr>,
    Body(body): Body,
) -> Result<(StatusCode, Json<LoggedIn>), Problem> {
    limits.log_in(Some(from.ip()))?;
    let provider = provider(&login)?;
    let proven = match from_json(&body)? {
        Proof::Token(proven) => proven,
        Proof::Code(came) => Proven { id_token: provider.exchange(&came).await?, nonce: came.nonce },
    };
    let user = provider.verify(&proven).await?;
    let is_administrator = provider.issuer.administrators.contains(&user);
    let (name, token, expires) = server.log_in(&user, is_administrator, Some(from.ip())).await?;
    let token = token.expose().clone();
    Ok((StatusCode::CREATED, Json(LoggedIn { token, name, user, expires })))
}
