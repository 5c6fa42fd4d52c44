//! The listener and the table of requests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use plimsoll_model::Project;
use plimsoll_server::Server;
use plimsoll_store::{Query, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::problem::Problem;
use crate::{logs, objects, token, verbs};

/// The file of the data directory that says where the API is.
const FILE: &str = "api.json";

/// Bytes of the largest body; a program must fit.
const LARGEST_BODY: usize = 64 << 20;

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
        let token = std::fs::read_to_string(data.join(token::FILE))?;
        Ok((endpoint, token.trim().to_owned()))
    }
}

/// Binds the API and says where it is; the future serves it until it is dropped.
///
/// # Errors
/// When no port is free or the data directory cannot be written.
pub async fn serve(server: Arc<Server>) -> Result<(Endpoint, impl Future<Output = ()> + Send), ServeError> {
    let data = server.data().path().to_owned();
    let hash = token::load_or_make(&data)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = Endpoint { address: listener.local_addr()? };
    plimsoll_shim::write_durably(&data, FILE, &endpoint)?;
    let guarded = Router::new()
        .route("/version", get(version))
        .route("/v1/apply", post(verbs::apply))
        .route("/v1/plan", post(verbs::plan))
        .route("/v1/content/{digest}", put(verbs::put_content))
        .route("/v1/router", get(router))
        .route("/v1/{plural}", get(objects::list_all))
        .route("/v1/projects/{project}/{plural}", get(objects::list))
        .route("/v1/projects/{project}/{plural}/{name}", get(objects::get).delete(objects::delete))
        .route("/v1/projects/{project}/apps/{name}/operations", post(verbs::operate))
        .route("/v1/projects/{project}/apps/{name}/logs", get(logs::logs))
        .fallback(async || Problem::not_found("such path"))
        .layer(middleware::from_fn_with_state(hash, token::check));
    let app = Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .merge(guarded)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(server);
    let serving = async move {
        // It ends only when its listener breaks, which it does not.
        axum::serve(listener, app).await.ok();
    };
    Ok((endpoint, serving))
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
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the router cannot be reached", error.to_string())
    };
    let address = server.router().address().await.map_err(unavailable)?;
    Ok(Json(json!({"address": address})))
}
