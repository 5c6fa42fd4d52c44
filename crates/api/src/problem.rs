//! Errors as RFC 9457 says them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plimsoll_model::fields::Conflict;
use plimsoll_model::id::PathHash;
use plimsoll_model::words::in_words;
use plimsoll_server::{
    AccessError, ApplyError, BackupError, Fault, HoldError, LoadError, MigrateError, OtherPlan, RotateError,
    TokenError,
};
use plimsoll_store::StoreError;
use serde::Serialize;

/// What is wrong, in one word: the part of a problem that programs compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PlanChanged,
    Gone,
    Stale,
    TooLarge,
    TooMany,
    MediaType,
    Invalid,
    Internal,
    Unavailable,
}

impl Sort {
    /// Every sort, for the document of the API.
    pub(crate) const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PlanChanged,
        Self::Gone,
        Self::Stale,
        Self::TooLarge,
        Self::TooMany,
        Self::MediaType,
        Self::Invalid,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The type's URI, which nobody needs to ask.
    pub(crate) fn uri(self) -> String {
        format!("https://plimsoll.dev/problems/{}", self.parts().1)
    }

    /// Status, last part of the type's URI, and title.
    pub(crate) fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "bad request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "not found"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "method not allowed")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "conflict"),
            Self::PlanChanged => (StatusCode::CONFLICT, "plan-changed", "the plan has changed"),
            Self::Gone => (StatusCode::GONE, "gone", "the changes since then are not kept any more"),
            Self::Stale => (StatusCode::PRECONDITION_FAILED, "stale", "the object is another one by now"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is too large"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too-many", "too many requests"),
            Self::MediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "the content type is not known")
            }
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "the documents are refused"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "something is broken here"),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "something is not available")
            }
        }
    }
}

/// A request that was not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) sort: Sort,
    pub(crate) detail: String,
    /// Every error of a refused document.
    errors: Vec<serde_json::Value>,
}

impl Problem {
    pub(crate) fn new(sort: Sort, detail: impl Into<String>) -> Self {
        Self { sort, detail: detail.into(), errors: Vec::new() }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Sort::NotFound, format!("there is no {what}"))
    }

    pub(crate) fn bad(detail: impl std::fmt::Display) -> Self {
        Self::new(Sort::BadRequest, detail.to_string())
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
        Self { errors: errors.collect(), ..Self::new(Sort::PlanChanged, detail) }
    }

    pub(crate) fn refused(errors: Vec<serde_json::Value>) -> Self {
        let detail = match errors.len() {
            1 => "1 error".to_owned(),
            many => format!("{many} errors"),
        };
        Self { errors, ..Self::new(Sort::Invalid, detail) }
    }

    /// As it is sent.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Sent<'a> {
            r#type: String,
            title: &'static str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            errors: &'a [serde_json::Value],
        }
        let (status, _, title) = self.sort.parts();
        let sent = Sent {
            r#type: self.sort.uri(),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        serde_json::to_value(sent).unwrap_or_default()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let sort = match &error {
            StoreError::Conflict { .. } => Sort::Conflict,
            StoreError::OutOfScope { .. } => Sort::Forbidden,
            StoreError::Expired => Sort::Gone,
            StoreError::Unavailable(_) | StoreError::Lost | StoreError::ReadOnly(_) => Sort::Unavailable,
            StoreError::Corrupt { .. } => Sort::Internal,
        };
        Self::new(sort, in_words(&error))
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::NoProject(_) => Self::new(Sort::NotFound, error.to_string()),
            AccessError::Denied { .. }
            | AccessError::Nowhere { .. }
            | AccessError::Platform(_)
            | AccessError::Owner => Self::new(Sort::Forbidden, error.to_string()),
            AccessError::Store(error) => error.into(),
        }
    }
}

impl From<ApplyError> for Problem {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Access(error) => error.into(),
            ApplyError::Store { source, .. } => source.into(),
            ApplyError::Absent { .. } => Self::new(Sort::NotFound, in_words(&error)),
            ApplyError::Stale { .. } => Self::new(Sort::Stale, in_words(&error)),
            ApplyError::Deleting { .. } | ApplyError::Needed { .. } | ApplyError::Answers { .. } => {
                Self::new(Sort::Conflict, in_words(&error))
            }
            ApplyError::Fields { ref conflicts, .. } => {
                let one = |it: &Conflict| {
                    let message = format!("{} has set it to something else", it.manager);
                    serde_json::json!({"message": message, "pointer": it.field, "manager": it.manager})
                };
                let errors = conflicts.iter().map(one).collect();
                let detail = "fields of others would change: leave them out, or take them with force=true";
                Self { errors, ..Self::new(Sort::Conflict, detail) }
            }
            ApplyError::Quota { .. } => Self::new(Sort::Forbidden, in_words(&error)),
            ApplyError::System(_) => Self::new(Sort::Internal, in_words(&error)),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Invalid(faults) => {
                let one = |it: Fault| serde_json::json!({"message": it.message, "pointer": it.pointer});
                Self::refused(faults.into_iter().map(one).collect())
            }
            LoadError::NoRoom { .. } => Self::new(Sort::Conflict, error.to_string()),
            LoadError::Apply(error) => error.into(),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Refused(error) => error.into(),
            TokenError::Store(error) => error.into(),
            TokenError::Ended => Self::new(Sort::Unauthorized, error.to_string()),
            TokenError::Exists(_) => Self::new(Sort::Conflict, in_words(&error)),
            TokenError::Past(_) => Self::new(Sort::Invalid, in_words(&error)),
            TokenError::System(_) => Self::new(Sort::Internal, in_words(&error)),
        }
    }
}

/// Only what can be wrong with the request itself gets here: what fails later ends the answer.
impl From<BackupError> for Problem {
    fn from(error: BackupError) -> Self {
        Self::new(Sort::Invalid, in_words(&error))
    }
}

impl From<HoldError> for Problem {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Store(error) => error.into(),
            HoldError::Driver(_) => Self::new(Sort::Unavailable, in_words(&error)),
            HoldError::Io(_) => Self::new(Sort::Internal, in_words(&error)),
        }
    }
}

impl From<RotateError> for Problem {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Store(error) => error.into(),
            RotateError::Lost(_) => Self::new(Sort::Conflict, in_words(&error)),
            RotateError::Io(_) => Self::new(Sort::Internal, in_words(&error)),
        }
    }
}

impl From<MigrateError> for Problem {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Store(error) => error.into(),
            MigrateError::Choice(_) | MigrateError::Open(_) => Self::new(Sort::Conflict, in_words(&error)),
            MigrateError::Content(_) | MigrateError::Different | MigrateError::Io(_) => {
                Self::new(Sort::Internal, in_words(&error))
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, ..) = self.sort.parts();
        let mut response = (status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"plimsoll\""));
        }
        response
    }
}
