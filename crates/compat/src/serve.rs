//! The listener and its table of requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, post};
use plimsoll_model::id::{ProjectName, RuntimeName};
use plimsoll_model::{ObjectKey, Project};
use plimsoll_server::Server;
use plimsoll_store::{Scope, StoreError};
use tokio::net::TcpListener;

use crate::allow::Allowed;
use crate::wire::{self, Fault};

/// Bytes of a message at most.
const LARGEST: usize = 2 << 20;

/// How their clients are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub listen: SocketAddr,
    /// The project that programs are loaded into.
    pub project: ProjectName,
    /// Who may come in; only this machine without any.
    pub allow: Vec<Allowed>,
    /// The runtime of their programs.
    pub runtime: RuntimeName,
}

/// Why they cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CompatError {
    /// Whoever reaches an address could load programs.
    #[error(
        "{0} is not this machine alone, and there are no tokens in what these clients say: name the networks that may come in with --compat-allow"
    )]
    Open(SocketAddr),
    /// The project that is meant could be anybody's.
    #[error("{0} is not this machine alone: name a project of its own with --compat-project")]
    NoProject(SocketAddr),
    /// There is no such project, or nothing limits what comes into it.
    #[error(
        "project {0} must be there and have a quota before others may load programs into it: plimsoll project quota {0} --instances N"
    )]
    NoQuota(ProjectName),
    /// The address cannot be had.
    #[error("these clients cannot be served on {0}: stop what has it, or give another --compat-listen")]
    Listen(SocketAddr, #[source] io::Error),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What serves them.
#[derive(Clone)]
pub struct Compat {
    pub(crate) server: Arc<Server>,
    pub(crate) settings: Arc<Settings>,
}

impl Compat {
    /// Binds the listener. Where others than this machine could come in, a project with a quota must be named, and who may.
    ///
    /// # Errors
    /// [`CompatError`].
    pub async fn bind(
        server: Arc<Server>,
        settings: Settings,
        is_project_named: bool,
    ) -> Result<(Self, TcpListener), CompatError> {
        let at = settings.listen;
        if !at.ip().is_loopback() {
            if settings.allow.is_empty() {
                return Err(CompatError::Open(at));
            }
            if !is_project_named {
                return Err(CompatError::NoProject(at));
            }
            let name = plimsoll_server::name_of_project(&settings.project);
            let found = server.store().get::<Project>(&Scope::All, &ObjectKey::of_installation(name)).await?;
            if found.is_none_or(|project| project.spec.quota.is_empty()) {
                return Err(CompatError::NoQuota(settings.project));
            }
        }
        let listener = TcpListener::bind(at).await.map_err(|error| CompatError::Listen(at, error))?;
        Ok((Self { server, settings: Arc::new(settings) }, listener))
    }

    /// The table of requests.
    pub fn routes(&self) -> Router {
        let of_script = any(script);
        Router::new()
            .route("/api/{service}/{operation}", any(gateway))
            .route("/script/{token}", of_script.clone())
            .route("/script/{token}/", of_script.clone())
            .route("/script/{token}/{*path}", of_script)
            .route("/{operation}", any(operation))
            .fallback(async |request: Request| {
                let operation = request.uri().path().trim_start_matches('/').to_owned();
                Fault::Io(format!("Invalid operation: {operation}"))
            })
            .layer(middleware::from_fn_with_state(self.clone(), admit))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(self.clone())
    }

    /// What copies may ask for where they get their programs: nobody else reaches that address, or has a credential.
    pub fn routes_for_copies(&self) -> Router {
        Router::new().route("/getProgram", post(own_program)).with_state(self.clone())
    }

    fn admits(&self, from: IpAddr) -> bool {
        from.to_canonical().is_loopback() || self.settings.allow.iter().any(|network| network.admits(from))
    }
}

/// Lets in whoever may come in by their address.
async fn admit(
    State(compat): State<Compat>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !compat.admits(from.ip()) {
        return (StatusCode::FORBIDDEN, "this address may not come in").into_response();
    }
    // A page of another site could have a person's browser ask, and it comes from this machine then.
    let is_of_page = request.headers().contains_key(header::ORIGIN);
    if is_of_page && !request.uri().path().starts_with("/script/") {
        return (StatusCode::FORBIDDEN, "pages in browsers may not load programs").into_response();
    }
    next.run(request).await
}

async fn operation(
    State(compat): State<Compat>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(operation): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Fault> {
    let message = wire::message(&headers, &operation, &body)?;
    Ok(wire::answer(&compat.carry_out(&operation, &message, from.ip()).await?))
}

async fn own_program(
    compat: State<Compat>,
    from: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Fault> {
    operation(compat, from, Path("getProgram".to_owned()), headers, body).await
}

async fn gateway(
    State(compat): State<Compat>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path((service, operation)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    compat.through_gateway((&service, &operation), &headers, &body, from.ip()).await
}

async fn script(
    State(compat): State<Compat>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    let path = request.uri().path().trim_start_matches("/script/").to_owned();
    let (token, rest) = path.split_once('/').unwrap_or((&path, ""));
    compat.lead(token, rest, request, from.ip()).await
}
