//! What engines answer when they do not do it.

use std::io;

use plimsoll_model::words::in_words;

/// Why an engine did not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no engine here.
    #[error("there is no container engine: {0}")]
    Missing(String),
    /// Nobody answers, or not as an engine would.
    #[error("the container engine does not answer: {0}")]
    Away(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Something of that name is there, or in use.
    #[error("{0}")]
    Conflict(String),
    /// The engine will not, or cannot.
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    /// Whether the same may work another time without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Away(_) | Self::Conflict(_))
    }
}

impl From<bollard::errors::Error> for EngineError {
    fn from(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => match status_code {
                404 => Self::NotFound(message),
                409 => Self::Conflict(message),
                _ => Self::Refused(message),
            },
            Error::DockerStreamError { error } => Self::Refused(error),
            // It answers, in words that are not known here.
            error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => {
                Self::Refused(in_words(&error))
            }
            other => Self::Away(in_words(&other)),
        }
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::Away(in_words(&error))
    }
}
