//! What can go wrong with a store.

use plimsoll_model::object::ObjectKey;

use crate::backend::KindName;

/// A failed call to a store. Nothing of a failed commit was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition did not hold: somebody else wrote in between, or the object exists already.
    #[error("{kind} {key} was changed by somebody else")]
    Conflict {
        /// Kind of the object.
        kind: KindName,
        /// The object.
        key: ObjectKey,
    },
    /// The object is outside of the caller's scope.
    #[error("{kind} {key} is out of scope")]
    OutOfScope {
        /// Kind of the object.
        kind: KindName,
        /// The object.
        key: ObjectKey,
    },
    /// The changes since the resume token are not kept any more: list, then watch from now.
    #[error("the changes since then are not kept any more")]
    Expired,
    /// The store does not answer, or cannot write now. The call may be repeated.
    #[error("the store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing is written now, on purpose.
    #[error("the store takes no writes: {0}")]
    ReadOnly(&'static str),
    /// The reply was lost: the commit may or may not have happened.
    #[error("the store's reply was lost")]
    Lost,
    /// A stored row cannot be understood.
    #[error("{kind} {key} is stored in a form that cannot be read")]
    Corrupt {
        /// Kind of the object.
        kind: KindName,
        /// The object.
        key: ObjectKey,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the same call can succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Unavailable(_) | Self::ReadOnly(_) | Self::Lost => true,
            Self::OutOfScope { .. } | Self::Expired | Self::Corrupt { .. } => false,
        }
    }
}
