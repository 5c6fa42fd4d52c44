//! The parts of a request, refused as problems where they cannot be read.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use plimsoll_model::Revision;
use plimsoll_model::id::ManagerName;
use plimsoll_server::{By, Caller, Known, Named, Server, Terms};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, Sort};

/// The names in the path.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            // A name that no object can have.
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Problem::new(Sort::NotFound, error.body_text()))
            }
            Err(error) => Err(Problem::bad(error.body_text())),
        }
    }
}

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let asked = Query::from_request_parts(parts, state).await;
        asked.map(|Query(asked)| Self(asked)).map_err(|error: QueryRejection| Problem::bad(error.body_text()))
    }
}

/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_mins(1);

/// The body.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Ok(read) = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await else {
            return Err(Problem::bad(format!("the body did not come within {} s", BODY_WITHIN.as_secs())));
        };
        match read {
            Ok(bytes) => Ok(Self(bytes)),
            Err(BytesRejection::FailedToBufferBody(error)) if error.status() == Sort::TooLarge.parts().0 => {
                Err(Problem::new(Sort::TooLarge, error.body_text()))
            }
            Err(error) => Err(Problem::bad(error.body_text())),
        }
    }
}

/// The name that a client gave its request, if it gave one.
pub(crate) struct Name(Option<String>);

/// The header that has it.
const NAME: &str = "idempotency-key";

/// Bytes of a name at most.
const LONGEST_NAME: usize = 255;

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(name) = parts.headers.get(NAME) else { return Ok(Self(None)) };
        let name = name.to_str().ok().filter(|name| (1..=LONGEST_NAME).contains(&name.len()));
        let wrong =
            || Problem::bad(format!("Idempotency-Key is 1 to {LONGEST_NAME} visible ASCII characters"));
        Ok(Self(Some(name.ok_or_else(wrong)?.to_owned())))
    }
}

impl Name {
    /// The request with its name.
    pub(crate) fn of(&self, caller: &Caller, place: &str, body: &[u8]) -> Option<Named> {
        Some(Named::new(caller.user(), place, self.0.as_ref()?, body))
    }
}

/// The answer of a request that was carried out before; nothing if it is new.
pub(crate) async fn replayed(server: &Server, named: Option<&Named>) -> Result<Option<String>, Problem> {
    let Some(named) = named else { return Ok(None) };
    match server.known(named).await? {
        Known::New => Ok(None),
        Known::Done(answer) => Ok(Some(answer)),
        Known::Another => {
            Err(Problem::new(Sort::Conflict, "another request had this Idempotency-Key: give each its own"))
        }
    }
}

/// An answer, as it was given the first time.
pub(crate) fn again(answer: String) -> Response {
    (
        [
            (header::CONTENT_TYPE, "application/json"),
            (HeaderName::from_static("idempotency-replayed"), "true"),
        ],
        answer,
    )
        .into_response()
}

/// A body of JSON.
///
/// # Errors
/// A problem that says where it is wrong.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let error = serde_json::json!({"message": error.to_string(), "pointer": ""});
        Problem::refused(vec![error])
    })
}

/// Whether to write, or only to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum DryRun {
    All,
}

/// What a writing request asks for beside its body.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WriteQuery {
    pub(crate) dry_run: Option<DryRun>,
    /// Who sets the fields.
    pub(crate) field_manager: Option<ManagerName>,
    /// Take fields from others that have set them to something else.
    #[serde(default)]
    pub(crate) force: bool,
}

/// What can be said of a deletion beside its headers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    pub(crate) dry_run: Option<DryRun>,
    /// Do not wait for a target that does not answer.
    #[serde(default)]
    pub(crate) abandon: bool,
}

impl WriteQuery {
    /// The terms of a request: its query, `If-Match`, and `If-None-Match: *`.
    pub(crate) fn terms(&self, headers: &HeaderMap) -> Result<Terms, Problem> {
        let text = |name| headers.get(name).map(|value| value.to_str().map_err(Problem::bad)).transpose();
        let (at, present) = match text(header::IF_MATCH)? {
            None => (None, false),
            Some("*") => (None, true),
            Some(tag) => (Some(revision(tag.trim().trim_matches('"'))?), true),
        };
        let absent = match text(header::IF_NONE_MATCH)? {
            None => false,
            Some("*") => true,
            Some(_) => return Err(Problem::bad("If-None-Match can only be * when something is written")),
        };
        let by = self.field_manager.clone().map_or_else(By::default, By::Changed);
        Ok(Terms { at, absent, present, dry_run: self.dry_run.is_some(), by, receipt: None })
    }
}

/// A resource version as clients send it back.
pub(crate) fn revision(text: &str) -> Result<Revision, Problem> {
    let number = text.parse().map_err(|_| Problem::bad(format!("{text:?} is no resource version")))?;
    Ok(Revision(number))
}
