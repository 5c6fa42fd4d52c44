//! The port that every reconciler implements.

use std::future::Future;
use std::pin::Pin;

use plimsoll_model::ObjectKey;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::Outcome;

/// A boxed future, because reconcilers of different kinds share one engine.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Brings one object closer to what is declared of it.
pub trait Reconciler: Send + Sync + 'static {
    /// Reads the world itself, acts, and says how that ended. Dropping the future at any point is safe.
    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> Fut<'a, Look>;
}

/// How one reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The outcome; a failed reconcile is a wait like any other.
    pub outcome: Outcome,
    /// Look again after this time at the latest.
    pub next: Option<Span>,
}
