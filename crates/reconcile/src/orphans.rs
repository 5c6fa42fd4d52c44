//! Copies of this installation that no App owns: reported at once, removed after a grace time.

use std::collections::BTreeMap;

use plimsoll_driver::{Driver, DriverError, Marked, SecretValues, Sighting};
use plimsoll_model::id::{
    ComponentName, Digest, Effects, InstanceId, PlanHash, PlanNo, Slot, TargetName, Uid,
};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Cause, Fence, Scope, Step};
use plimsoll_model::world::{NodeTime, NodeView, Phase};
use plimsoll_model::{App, ObjectKey};
use plimsoll_store::{Scope as StoreScope, Store, StoreError};

use crate::app::Identity;
use crate::drivers::Drivers;

/// How long a copy without an owner is left alone. A restored or lagging store may still learn of its owner.
const GRACE: Span = Span::seconds(600);

/// Time a removed orphan has to end by itself.
const STOP_GRACE: Span = Span::seconds(10);

/// A copy of this installation that no App owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where.
    pub scope: Scope,
    /// Its mark.
    pub marked: Marked,
}

/// Finds and removes orphans. What it remembers is only since when each has been seen; forgetting that
/// starts the grace time again.
pub struct Orphans {
    store: Store,
    drivers: Drivers,
    identity: Identity,
    first_seen: BTreeMap<(Scope, InstanceId), NodeTime>,
}

impl Orphans {
    /// A finder over a store and drivers.
    pub fn new(store: Store, drivers: Drivers, identity: Identity) -> Self {
        Self { store, drivers, identity, first_seen: BTreeMap::new() }
    }

    /// Looks at every node once, and does nothing about what it finds.
    ///
    /// # Errors
    /// When the store or a driver does not answer; then nothing is concluded about what it holds.
    pub async fn find(&self) -> Result<Vec<Orphan>, SweepError> {
        let mut found = Vec::new();
        for (scope, driver) in self.drivers.nodes() {
            for marked in driver.inventory().await? {
                if marked.installation == self.identity.installation && !self.is_owned(&marked).await? {
                    found.push(Orphan { scope: scope.clone(), marked });
                }
            }
        }
        Ok(found)
    }

    /// Looks at every node once: returns the orphans, and takes a step towards removing those whose grace
    /// time is over.
    ///
    /// # Errors
    /// When the store or a driver does not answer; then nothing is concluded about what it holds.
    pub async fn sweep(&mut self) -> Result<Vec<Orphan>, SweepError> {
        let found = self.find().await?;
        if self.identity.hold.is_on() {
            return Ok(found);
        }
        let drivers = self.drivers.clone();
        for Orphan { scope, marked } in &found {
            if let Some(driver) = drivers.get(scope) {
                self.handle(&**driver, scope, marked).await?;
            }
        }
        self.first_seen.retain(|(scope, instance), _| {
            found.iter().any(|orphan| orphan.scope == *scope && orphan.marked.instance == *instance)
        });
        Ok(found)
    }

    async fn is_owned(&self, marked: &Marked) -> Result<bool, StoreError> {
        let app = self.store.get::<App>(&StoreScope::All, &marked.key).await?;
        Ok(app.is_some_and(|app| app.meta.uid == marked.app))
    }

    async fn handle(
        &mut self,
        driver: &dyn Driver,
        scope: &Scope,
        marked: &Marked,
    ) -> Result<(), DriverError> {
        let Sighting::Node(view) = driver.observe(&marked.app).await? else { return Ok(()) };
        let seen = (scope.clone(), marked.instance.clone());
        let first = self.first_seen.entry(seen).or_insert_with(|| view.now.clone());
        match view.now.since(first) {
            // The node rebooted; its clock says nothing about before.
            None => *first = view.now.clone(),
            Some(age) if age >= GRACE => {
                let Scope::Node(target) = scope else { return Ok(()) };
                let word = LastWord { identity: &self.identity, app: &marked.app, key: &marked.key };
                word.end(driver, target, &view, &marked.instance).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// What is said to a target about an App that is not in the store.
pub(crate) struct LastWord<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) app: &'a Uid,
    pub(crate) key: &'a ObjectKey,
}

impl LastWord<'_> {
    /// Takes the next step towards a copy's end.
    pub(crate) async fn end(
        &self,
        driver: &dyn Driver,
        target: &TargetName,
        view: &NodeView,
        instance: &InstanceId,
    ) -> Result<(), DriverError> {
        let Some(copy) = view.instances.get(instance) else { return Ok(()) };
        let instance = instance.clone();
        let action = match copy.phase {
            Phase::Stopped | Phase::Done { .. } => Action::Remove { instance },
            Phase::Stopping { .. } | Phase::Unknown => return Ok(()),
            _ => Action::Stop { instance, grace: STOP_GRACE },
        };
        let whose = Some((copy.component.clone(), copy.slot));
        self.say(driver, target, whose, action, view.effects).await
    }

    pub(crate) async fn say(
        &self,
        driver: &dyn Driver,
        target: &TargetName,
        whose: Option<(ComponentName, Slot)>,
        action: Action,
        seen: Effects,
    ) -> Result<(), DriverError> {
        let (component, slot) = whose.unzip();
        let target = target.clone();
        let step = Step { target, component, slot, action, after: Vec::new(), cause: Cause::Retire };
        driver.execute(&step, &self.fence(seen), &SecretValues::new()).await
    }

    /// The fence above every plan: an App that is not in the store can have no plan that outranks it.
    fn fence(&self, seen: Effects) -> Fence {
        Fence {
            installation: self.identity.installation.clone(),
            epoch: self.identity.epoch,
            app: self.app.clone(),
            key: self.key.clone(),
            plan: PlanNo(u64::MAX),
            hash: PlanHash(Digest::of_bytes(b"remove orphans")),
            seen,
        }
    }
}

/// Why a sweep was not completed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store did not answer.
    #[error("owners could not be looked up")]
    Store(#[from] StoreError),
    /// A driver did not answer.
    #[error("a node could not be examined")]
    Driver(#[from] DriverError),
}
