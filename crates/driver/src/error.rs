//! What can go wrong with a driver.

use crate::ledger::Refusal;

/// A failed call to a driver. What the far side holds afterwards is known only by observing it again.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The far side did not answer or cannot do it now; the call may be repeated.
    #[error("{0}")]
    Transient(String),
    /// The far side can never do this.
    #[error("{0}")]
    Terminal(String),
    /// The plan that the step belongs to is not the one to follow any more.
    #[error("the plan is out of date")]
    Refused(#[source] Refusal),
}

impl DriverError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Transient(_))
    }
}
