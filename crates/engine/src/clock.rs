//! The one place where wall time enters.

use plimsoll_model::object::Timestamp;

/// Wall time, for stamps that people read. No decision is made on it.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}
