//! The port itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use plimsoll_model::ObjectKey;
use plimsoll_model::id::{InstallationId, InstanceId, Uid};
use plimsoll_model::secret::{SecretRef, Sensitive};
use plimsoll_model::step::{Fence, Scope, Step};
use plimsoll_model::world::{NodeView, RouterView};

use crate::error::DriverError;

/// A boxed future, because drivers are chosen at run time.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Secret values that a step needs, handed over beside it so that no plan ever holds one.
pub type SecretValues = BTreeMap<SecretRef, Sensitive<String>>;

/// What a driver sees of one App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// Instances.
    Node(NodeView),
    /// Addresses, routes and members.
    Router(RouterView),
}

/// Something that carries the mark of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Whose it is.
    pub installation: InstallationId,
    /// The App it belongs to.
    pub app: Uid,
    /// That App's project and name when it was made.
    pub key: ObjectKey,
    /// The instance.
    pub instance: InstanceId,
}

/// One family of actions on one target.
pub trait Driver: Send + Sync + 'static {
    /// Which one it is.
    fn scope(&self) -> Scope;

    /// Everything of one App that carries this installation's mark. An App that was never heard of is an empty
    /// sighting, not an error; an error means that nothing is known.
    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>>;

    /// Every instance that carries a mark, whosever it is; to find those that nobody owns any more.
    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>>;

    /// The last lines that an instance said; none where that is not known. For people: nothing is decided on it.
    fn last_words<'a>(&'a self, _instance: &'a InstanceId) -> Fut<'a, Vec<String>> {
        Box::pin(async { Vec::new() })
    }

    /// Carries out a step. Doing it twice is doing it once.
    ///
    /// # Errors
    /// [`DriverError::Refused`] when the fence is not the one to follow; then nothing was done.
    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        secrets: &'a SecretValues,
    ) -> Fut<'a, Result<(), DriverError>>;
}
