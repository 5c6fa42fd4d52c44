//! The listener and the table of requests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Json, Router, middleware};
use plimsoll_model::Project;
use plimsoll_model::id::Digest;
use plimsoll_server::{Caller, Server};
use plimsoll_store::{Query, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::limit::{self, Limits};
use crate::listen::{Ending, Listener};
use crate::oidc::{Issuer, Login, Provider};
use crate::problem::{Problem, Sort};
use crate::tls::{TlsError, TlsFiles, acceptor};
use crate::wire::API_VERSION;
use crate::{
    access, builds, exec, fetch, hooks, logs, objects, oidc, programs, tokens, usage, verbs, whole, write,
};

/// The file of the data directory that says where the API is.
const FILE: &str = "api.json";

/// Bytes of the largest program.
const LARGEST_PROGRAM: usize = 64 << 20;

/// Bytes of any other body: a file of declarations must fit, and a little more.
const LARGEST_BODY: usize = 2 << 20;

/// How an API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where; the loopback address and any port if nothing is said.
    pub address: SocketAddr,
    /// The certificate. Without one, an address other than loopback gets one that is made here.
    pub tls: Option<TlsFiles>,
    /// Connections at the same time; further ones wait.
    pub connections: usize,
    /// Requests of each caller in a second, and twice as many at once; 0 for no limit.
    pub rate: u32,
    /// Who says who somebody is, beside tokens.
    pub issuer: Option<Issuer>,
}

impl Default for Listen {
    fn default() -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        Self { address, tls: None, connections: 4096, rate: 1000, issuer: None }
    }
}

/// Where an API is and how it is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where clients of this machine find it.
    pub address: SocketAddr,
    /// The SHA-256 of its certificate, if connections are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
}

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("the API cannot listen on {0}: stop what has it, or give another --listen")]
    Listen(SocketAddr, #[source] io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory cannot be written.
    #[error("the API cannot be served")]
    Io(#[from] io::Error),
}

impl Endpoint {
    /// The API of the control plane that owns a data directory, and its admin token.
    ///
    /// # Errors
    /// When there is none, or its files may not be read.
    pub fn find(data: &std::path::Path) -> io::Result<(Self, String)> {
        let found: Option<Self> = plimsoll_shim::read(data, FILE)?;
        let endpoint = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let token = std::fs::read_to_string(data.join(access::FILE))?;
        Ok((endpoint, token.trim().to_owned()))
    }
}

/// An API that is served until its end is asked for.
pub struct Serving {
    listener: Listener,
    app: Router,
    /// Where copies ask for their programs.
    for_copies: (Vec<Listener>, Router),
    /// What else is served.
    beside: Vec<(Listener, Router)>,
    limits: Limits,
    ending: watch::Sender<bool>,
    certificate: Certificate,
}

/// The certificate of an API, which is read again when it was renewed.
#[derive(Clone)]
pub struct Certificate {
    listen: Listen,
    data: PathBuf,
    tls: Option<watch::Sender<TlsAcceptor>>,
}

impl Certificate {
    /// Whether there is one.
    pub fn is_used(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads its files again. New connections are encrypted with what they say now; those that are there go on.
    ///
    /// # Errors
    /// [`ServeError`]; the one before is used on then.
    pub fn reload(&self) -> Result<Option<Digest>, ServeError> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let (acceptor, fingerprint) = self.read()?;
        let endpoint = Endpoint { address: self.listen.address, fingerprint: Some(fingerprint) };
        plimsoll_shim::write_durably(&self.data, FILE, &endpoint)?;
        tls.send_replace(acceptor);
        Ok(Some(fingerprint))
    }

    fn read(&self) -> Result<(TlsAcceptor, Digest), TlsError> {
        acceptor(self.listen.tls.as_ref(), &self.data, self.listen.address.ip())
    }
}

/// Asks an API to end.
#[derive(Clone)]
pub struct End(watch::Sender<bool>);

impl End {
    /// From now on nobody is let in; what was begun is finished, within limits.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
}

impl Serving {
    /// What asks for its end.
    pub fn end(&self) -> End {
        End(self.ending.clone())
    }

    /// What is read again when it was renewed.
    pub fn certificate(&self) -> Certificate {
        self.certificate.clone()
    }

    /// Serves something else as well, with limits and an end as the API has them: of each address as of somebody unknown.
    pub fn beside(&mut self, socket: TcpListener, connections: usize, app: Router) {
        let app = app.layer(middleware::from_fn_with_state(self.limits.clone(), limit::each_address));
        self.beside.push((Listener { socket, tls: None, connections }, app));
    }

    /// Answers copies that ask where they get their programs more than that.
    pub fn for_copies(&mut self, app: Router) {
        let app = app.layer(middleware::from_fn_with_state(self.limits.clone(), limit::each_address));
        self.for_copies.1 = std::mem::take(&mut self.for_copies.1).merge(app);
    }

    /// Serves until the end was asked for and what was begun is finished.
    pub async fn run(self) {
        let (listeners, app) = self.for_copies;
        let for_copies = listeners.into_iter().map(|listener| (listener, app.clone()));
        let all = for_copies.chain(self.beside).chain([(self.listener, self.app)]);
        let all = all.map(|(listener, app)| listener.serve(app, self.ending.subscribe()));
        futures::future::join_all(all).await;
    }
}

/// Binds the API and says where it is.
///
/// # Errors
/// When the address cannot be had, or the data directory cannot be written.
pub async fn serve(server: Arc<Server>, listen: Listen) -> Result<(Endpoint, Serving), ServeError> {
    let data = server.data().path().to_owned();
    let hash = access::load_or_make(&data)?;
    let socket = TcpListener::bind(listen.address).await;
    let socket = socket.map_err(|error| ServeError::Listen(listen.address, error))?;
    let is_open = !listen.address.ip().is_loopback();
    let mut certificate = Certificate { listen: listen.clone(), data: data.clone(), tls: None };
    let encryption = if is_open || listen.tls.is_some() { Some(certificate.read()?) } else { None };
    let (tls, fingerprint) = encryption.unzip();
    let (sender, tls) = tls.map(watch::channel).unzip();
    certificate.tls = sender;
    let listener = Listener { socket, tls, connections: listen.connections.max(1) };
    let endpoint = Endpoint { address: listener.address()?, fingerprint };
    plimsoll_shim::write_durably(&data, FILE, &endpoint)?;
    certificate.listen.address = endpoint.address;
    let (ending, ends) = watch::channel(false);
    // One caller alone cannot take all connections for watches.
    let limits = Limits::new(listen.rate, listen.connections.div_ceil(2));
    let login = listen.issuer.clone().map(Provider::new).map(Arc::new);
    let for_copies = (fetch::listeners(&server)?, fetch::routes(server.clone(), &limits));
    let app = routes(server, hash, &limits, ends, login);
    Ok((endpoint, Serving { listener, app, for_copies, beside: Vec::new(), limits, ending, certificate }))
}

/// What can be asked of one object, wherever it belongs.
fn one_object() -> MethodRouter<Arc<Server>> {
    get(objects::get).put(write::put).patch(write::patch).delete(write::delete)
}

/// The table of requests.
fn routes(server: Arc<Server>, admin: Digest, limits: &Limits, ending: Ending, login: Login) -> Router {
    let of_app = "/projects/{project}/apps/{name}";
    let guarded = Router::new()
        .route("/whoami", get(access::whoami))
        .route("/router", get(router))
        .route("/audit", get(tokens::audit))
        .route("/backup", post(whole::back_up))
        .route("/hold", get(whole::hold).delete(whole::release))
        .route("/migrate", post(whole::migrate))
        .route("/rotate-key", post(whole::rotate))
        .route("/tokens", get(objects::list_tokens).post(tokens::create))
        .route("/projects/{project}/apply", post(verbs::apply))
        .route("/projects/{project}/plan", post(verbs::plan))
        .route("/projects/{project}/deploy", post(hooks::deploy))
        .route(
            "/projects/{project}/content/{digest}",
            put(verbs::put_content).layer(DefaultBodyLimit::max(LARGEST_PROGRAM)),
        )
        .route(&format!("{of_app}/operations"), post(verbs::operate))
        .route(&format!("{of_app}/logs"), get(logs::logs))
        .route(&format!("{of_app}/exec"), get(exec::exec))
        .route("/projects/{project}/programs", get(programs::list).post(programs::load))
        .route("/projects/{project}/programs/{name}", get(programs::status).delete(programs::unload))
        .route("/projects/{project}/builds/{name}/log", get(builds::log))
        .route("/projects/{project}/builds/{name}/retry", post(builds::retry))
        .route("/projects/{project}/usage", get(usage::usage))
        .route("/projects/{project}/http_sd", get(usage::http_sd))
        .route("/projects/{project}/{plural}", get(objects::list))
        .route("/projects/{project}/{plural}/{name}", one_object())
        .route("/{plural}", get(objects::list_all))
        .route("/{plural}/{name}", one_object());
    let door = access::Door { server: server.clone(), admin, limits: limits.clone() };
    let guarded = Router::new()
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async || Json(crate::openapi::openapi())))
        .route("/hooks/registry", post(hooks::notice))
        .nest(&format!("/apis/{API_VERSION}"), guarded)
        .fallback(async || Problem::not_found("such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(Sort::MethodNotAllowed, "this path does not take this method")
        })
        .layer(middleware::from_fn_with_state(door, access::check))
        .layer(Extension(limits.clone()))
        .layer(Extension(ending));
    // Who logs in has no token yet.
    let open = Router::new()
        .route(&format!("/apis/{API_VERSION}/login"), get(oidc::place).post(oidc::login))
        .layer(Extension(login))
        // A delivery is signed.
        .route("/hooks/{project}/{name}", post(hooks::deliver))
        .layer(Extension(limits.clone()));
    Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .merge(open)
        .merge(guarded)
        .layer(middleware::from_fn_with_state(server.clone(), measure))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(server)
}

/// What the control plane measures of itself. It counts what all tenants do.
async fn metrics(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<impl IntoResponse, Problem> {
    caller.platform("read metrics")?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], server.metrics()))
}

/// Counts a request under the route of the table.
async fn measure(
    State(server): State<Arc<Server>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let (method, began) = (request.method().clone(), Instant::now());
    let answer = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    server.meter().request(method.as_str(), route, answer.status().as_u16(), began.elapsed());
    answer
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn ready(State(server): State<Arc<Server>>) -> Result<&'static str, Problem> {
    server.store().list::<Project>(&Scope::All, &Query { limit: 1, ..Query::default() }).await?;
    Ok("ok")
}

async fn router(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Problem> {
    let unavailable = |error: plimsoll_server::DriverError| {
        Problem::new(Sort::Unavailable, format!("the router cannot be reached: {error}"))
    };
    let address = server.router().address().await.map_err(unavailable)?;
    // A router of an earlier version serves nothing encrypted.
    let tls = server.router().tls_address().await.ok();
    let authority = caller.is_platform().then(|| server.authority()).flatten();
    Ok(Json(json!({"address": address, "tlsAddress": tls, "authority": authority})))
}
