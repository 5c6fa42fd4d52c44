//! Which driver serves which scope, and what they see of an App.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plimsoll_driver::{Driver, Sighting};
use plimsoll_model::id::{TargetName, Uid};
use plimsoll_model::step::Scope;
use plimsoll_model::world::{NodeView, Presence, RouterView, TargetView, World};

/// The drivers by scope. A scope without a driver does not answer: what it holds is unknown.
#[derive(Clone, Default)]
pub struct Drivers {
    by_scope: BTreeMap<Scope, Arc<dyn Driver>>,
}

impl Drivers {
    /// No drivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver.
    #[must_use]
    pub fn with(mut self, driver: impl Driver) -> Self {
        self.by_scope.insert(driver.scope(), Arc::new(driver));
        self
    }

    /// The driver of a scope.
    pub fn get(&self, scope: &Scope) -> Option<&Arc<dyn Driver>> {
        self.by_scope.get(scope)
    }

    /// All node drivers.
    pub fn nodes(&self) -> impl Iterator<Item = (&Scope, &Arc<dyn Driver>)> {
        self.by_scope.iter().filter(|(scope, _)| matches!(scope, Scope::Node(_)))
    }

    /// What all of these targets hold of an App.
    pub async fn observe(&self, app: &Uid, targets: &BTreeSet<TargetName>) -> World {
        let mut world = World::default();
        for target in targets {
            let view =
                TargetView { node: self.node(app, target).await, router: self.router(app, target).await };
            world.targets.insert(target.clone(), view);
        }
        world
    }

    async fn sight(&self, app: &Uid, scope: &Scope) -> Option<Sighting> {
        // Whatever the error: nothing is known of it now, and nothing may be concluded.
        self.get(scope)?.observe(app).await.ok()
    }

    async fn node(&self, app: &Uid, target: &TargetName) -> Presence<NodeView> {
        match self.sight(app, &Scope::Node(target.clone())).await {
            Some(Sighting::Node(view)) => Presence::Present(view),
            _ => Presence::Unknown,
        }
    }

    async fn router(&self, app: &Uid, target: &TargetName) -> Presence<RouterView> {
        match self.sight(app, &Scope::Router(target.clone())).await {
            Some(Sighting::Router(view)) => Presence::Present(view),
            _ => Presence::Unknown,
        }
    }
}
