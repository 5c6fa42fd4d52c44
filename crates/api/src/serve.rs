//! The listener and the table of requests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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

use crate::problem::{Problem, Sort};
use crate::wire::API_VERSION;
use crate::{access, logs, objects, tokens, verbs, whole, write};

/// The file of the data directory that says where the API is.
const FILE: &str = "api.json";

/// Bytes of the largest program.
const LARGEST_PROGRAM: usize = 64 << 20;

/// Bytes of any other body: a file of declarations must fit, and a little more.
const LARGEST_BODY: usize = 2 << 20;

/// Where an API is and what it wants to see.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
#[error("the API cannot be served")]
pub struct ServeError(#[from] io::Error);

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

/// Binds the API and says where it is; the future serves it until it is dropped.
///
/// # Errors
/// When no port is free or the data directory cannot be written.
pub async fn serve(server: Arc<Server>) -> Result<(Endpoint, impl Future<Output = ()> + Send), ServeError> {
    let data = server.data().path().to_owned();
    let hash = access::load_or_make(&data)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = Endpoint { address: listener.local_addr()? };
    plimsoll_shim::write_durably(&data, FILE, &endpoint)?;
    let app = routes(server, hash).into_make_service_with_connect_info::<SocketAddr>();
    let serving = async move {
        // It ends only when its listener breaks, which it does not.
        axum::serve(listener, app).await.ok();
    };
    Ok((endpoint, serving))
}

/// What can be asked of one object, wherever it belongs.
fn one_object() -> MethodRouter<Arc<Server>> {
    get(objects::get).put(write::put).patch(write::patch).delete(write::delete)
}

/// The table of requests.
fn routes(server: Arc<Server>, admin: Digest) -> Router {
    let of_app = "/projects/{project}/apps/{name}";
    let guarded = Router::new()
        .route("/whoami", get(access::whoami))
        .route("/router", get(router))
        .route("/audit", get(tokens::audit))
        .route("/backup", post(whole::back_up))
        .route("/hold", get(whole::hold).delete(whole::release))
        .route("/migrate", post(whole::migrate))
        .route("/tokens", get(objects::list_tokens).post(tokens::create))
        .route("/projects/{project}/apply", post(verbs::apply))
        .route("/projects/{project}/plan", post(verbs::plan))
        .route(
            "/projects/{project}/content/{digest}",
            put(verbs::put_content).layer(DefaultBodyLimit::max(LARGEST_PROGRAM)),
        )
        .route(&format!("{of_app}/operations"), post(verbs::operate))
        .route(&format!("{of_app}/logs"), get(logs::logs))
        .route("/projects/{project}/{plural}", get(objects::list))
        .route("/projects/{project}/{plural}/{name}", one_object())
        .route("/{plural}", get(objects::list_all))
        .route("/{plural}/{name}", one_object());
    let door = access::Door { server: server.clone(), admin };
    let guarded = Router::new()
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async || Json(crate::openapi::openapi())))
        .nest(&format!("/apis/{API_VERSION}"), guarded)
        .fallback(async || Problem::not_found("such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(Sort::MethodNotAllowed, "this path does not take this method")
        })
        .layer(middleware::from_fn_with_state(door, access::check));
    Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
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

async fn router(State(server): State<Arc<Server>>) -> Result<Json<Value>, Problem> {
    let unavailable = |error: plimsoll_server::DriverError| {
        Problem::new(Sort::Unavailable, format!("the router cannot be reached: {error}"))
    };
    let address = server.router().address().await.map_err(unavailable)?;
    Ok(Json(json!({"address": address})))
}
