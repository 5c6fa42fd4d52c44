//! Tokens and the audit log.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use plimsoll_server::{Caller, Server};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::problem::{Problem, Sort};
use crate::request::{Asked, Body, Name, json as from_json, replayed};

/// Records of the audit log in an answer at most.
const LARGEST_PAGE: usize = 1000;

/// Makes a token. This answer is the only place where its text is ever seen.
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    name: Name,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let named = name.of(&caller, "tokens", &body);
    if replayed(&server, named.as_ref()).await?.is_some() {
        let detail =
            "this request made the token already, and its text is shown once: revoke it and make another one";
        return Err(Problem::new(Sort::Conflict, detail));
    }
    let text = server.create_token(&caller, from_json(&body)?, named.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(json!({"token": text.expose()}))))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuditQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// Records of the audit log that the caller may see, in order.
pub(crate) async fn audit(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Asked(AuditQuery { after, limit }): Asked<AuditQuery>,
) -> Result<Json<Value>, Problem> {
    let scope = caller.everywhere(server.store()).await?;
    let limit = limit.unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE);
    let items = server.store().audit(&scope, after, limit).await?;
    Ok(Json(json!({"items": items})))
}
