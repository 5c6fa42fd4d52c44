//! Programs for the copies that get them by themselves: each shows a credential that is good for its own program, and for nothing
//! else. This is not the API, and no token of a person is taken here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Router, middleware};
use plimsoll_server::Server;
use tokio::net::TcpListener;

use crate::limit::{self, Limits};
use crate::listen::Listener;
use crate::problem::{Problem, Sort};

/// Connections at the same time; copies that start wait for their turn.
const CONNECTIONS: usize = 256;

/// Where they ask.
pub(crate) fn listeners(server: &Server) -> io::Result<Vec<Listener>> {
    let bound = server.program_listeners().into_iter().map(|socket| {
        Ok(Listener { socket: TcpListener::from_std(socket)?, tls: None, connections: CONNECTIONS })
    });
    bound.collect()
}

pub(crate) fn routes(server: Arc<Server>, limits: &Limits) -> Router {
    Router::new()
        .route("/program", get(program))
        .fallback(async || Problem::not_found("such path"))
        .layer(middleware::from_fn_with_state(limits.clone(), limit::each_address))
        .with_state(server)
}

async fn program(
    State(server): State<Arc<Server>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shown =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let found = server.fetch_program(shown.unwrap_or_default(), from.ip()).await;
    if let Some(text) = found.map_err(|error| Problem::new(Sort::Internal, error.to_string()))? {
        return Ok(([(header::CONTENT_TYPE, "application/octet-stream")], text).into_response());
    }
    let detail = "the credential is good for no copy that runs and asks from here";
    Err(Problem::new(Sort::Unauthorized, detail))
}
