//! Errors as RFC 9457 says them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plimsoll_model::id::PathHash;
use plimsoll_server::{ApplyError, OtherPlan};
use plimsoll_store::StoreError;
use serde::Serialize;

/// A request that was not carried out.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
    /// Every error of a refused document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<serde_json::Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { title, status: status.as_u16(), detail: detail.into(), errors: Vec::new() }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", format!("there is no {what}"))
    }

    pub(crate) fn no_kind(plural: &str) -> Self {
        Self::not_found(format!("kind {plural}; there are {}", crate::derived::known()))
    }

    pub(crate) fn bad(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad request", detail.to_string())
    }

    /// The documents would not do what was reviewed.
    pub(crate) fn other_plan(reviewed: PathHash, OtherPlan { now, differences }: OtherPlan) -> Self {
        let detail = match &differences {
            Some(_) => format!("it would now do {now}, not {reviewed}: look at the plan again"),
            None => {
                format!("it would do {now}, and nobody was shown {reviewed} lately: look at the plan again")
            }
        };
        let errors = differences.into_iter().flatten();
        let errors = errors.map(|(app, it)| serde_json::json!({"message": format!("app {app}: {it}")}));
        let problem = Self::new(StatusCode::CONFLICT, "the plan has changed", detail);
        Self { errors: errors.collect(), ..problem }
    }

    pub(crate) fn refused(errors: Vec<serde_json::Value>) -> Self {
        let detail = format!("{} errors", errors.len());
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the documents are refused", detail);
        Self { errors, ..problem }
    }
}

/// A text with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (status, title) = match &error {
            StoreError::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
            StoreError::OutOfScope { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            StoreError::Expired => (StatusCode::GONE, "expired"),
            StoreError::Unavailable(_) | StoreError::Lost => {
                (StatusCode::SERVICE_UNAVAILABLE, "the store is not available")
            }
            StoreError::Corrupt { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "the store is damaged"),
        };
        Self::new(status, title, chain(&error))
    }
}

impl From<ApplyError> for Problem {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Store { source, .. } => source.into(),
            ApplyError::Deleting { .. } => Self::new(StatusCode::CONFLICT, "conflict", chain(&error)),
            ApplyError::System(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the operating system refused", chain(&error))
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
