//! Apps that were given up while a target of theirs did not answer: what may be left of them is removed once it does.

use std::collections::BTreeSet;

use plimsoll_driver::{DriverError, Sighting};
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::{Claim, Tombstone, TombstoneSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::step::{Action, Scope};
use plimsoll_model::world::World;
use plimsoll_model::{App, Attached, Object, ObjectKey};
use plimsoll_store::{Batch, New, Query, Scope as StoreScope, Store, StoreError};

use crate::app::Identity;
use crate::drivers::Drivers;
use crate::orphans::{LastWord, SweepError};
use crate::record;
use crate::surroundings::{GONE, record_name};

/// What gives an App up though something of it does not answer; `None` when everything does, and nothing needs to be.
///
/// # Errors
/// When the store does not answer.
pub async fn abandon(
    store: &Store,
    app: &Object<App>,
    world: &World,
    at: Timestamp,
) -> Result<Option<(Batch, TombstoneSpec)>, StoreError> {
    let mut silent = BTreeSet::new();
    for (target, view) in &world.targets {
        silent.extend(view.node.is_unknown().then(|| Scope::Node(target.clone())));
        silent.extend(view.router.is_unknown().then(|| Scope::Router(target.clone())));
    }
    if silent.is_empty() {
        return Ok(None);
    }
    let status = app.status.as_ref().map(|status| &status.value);
    let copies =
        status.into_iter().flat_map(|status| status.components.values().flat_map(|it| &it.instances));
    let spec = TombstoneSpec {
        app: app.meta.uid.clone(),
        key: app.meta.key.clone(),
        targets: world.targets.keys().cloned().collect(),
        silent,
        instances: copies.map(|copy| (copy.id.clone(), copy.target.clone())).collect(),
        claims: status.map(|status| status.claims.clone()).unwrap_or_default(),
    };
    let batch = record::without(store, app).await?.create(New::<Tombstone> {
        uid: record::child_uid(&app.meta.uid, "tombstone"),
        key: app.meta.key.sibling(record_name(&app.meta, GONE)),
        owner: None,
        at,
        attached: Attached::default(),
        spec: spec.clone(),
        operations: (),
    });
    Ok(Some((batch, spec)))
}

/// Takes a tombstone away, and gives what it held back to whoever asks next.
///
/// # Errors
/// When the store does not answer, or somebody was first.
pub async fn forget(store: &Store, tombstone: &Object<Tombstone>) -> Result<Batch, StoreError> {
    let mut batch = Batch::new().delete(tombstone);
    for name in &tombstone.spec.claims {
        let key = ObjectKey::of_installation(name.clone());
        if let Some(claim) = store.get::<Claim>(&StoreScope::All, &key).await? {
            // What the App has lost to another one meanwhile is not its own any more.
            batch = if claim.spec.app == tombstone.spec.app { batch.delete(&claim) } else { batch };
        }
    }
    Ok(batch)
}

/// Looks after tombstones.
pub struct Tombstones {
    store: Store,
    drivers: Drivers,
    identity: Identity,
}

impl Tombstones {
    /// Over a store and drivers.
    pub fn new(store: Store, drivers: Drivers, identity: Identity) -> Self {
        Self { store, drivers, identity }
    }

    /// Takes a step towards the end of whatever is left at targets that answer, and forgets the tombstones of which nothing
    /// is left. Those at silent targets stay. Says whether a further step is due at once.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn tend(&self) -> Result<bool, SweepError> {
        let mut is_busy = false;
        if self.identity.hold.is_on() {
            return Ok(is_busy);
        }
        for tombstone in self.store.list::<Tombstone>(&StoreScope::All, &Query::default()).await? {
            let mut is_gone = true;
            let router = |target: &TargetName| Scope::Router(target.clone());
            let scopes = tombstone.spec.targets.iter().flat_map(|it| [router(it), Scope::Node(it.clone())]);
            for scope in scopes {
                // Whatever keeps one of them from it: the others are told all the same.
                let answer = self.is_gone_from(&tombstone.spec, &scope).await.ok();
                is_busy |= answer == Some(false);
                is_gone &= answer == Some(true);
            }
            if is_gone {
                let batch = forget(&self.store, &tombstone).await?;
                self.store.commit(&StoreScope::All, batch).await?;
            }
        }
        Ok(is_busy)
    }

    /// Tells a node or a router; true once nothing is left there, and nothing can come any more.
    async fn is_gone_from(&self, spec: &TombstoneSpec, scope: &Scope) -> Result<bool, DriverError> {
        let word = LastWord { identity: &self.identity, app: &spec.app, key: &spec.key };
        let (Scope::Node(target) | Scope::Router(target)) = scope;
        let driver = self.drivers.get(scope);
        let driver = driver.ok_or_else(|| DriverError::Transient(format!("nobody serves {scope}")))?;
        match driver.observe(&spec.app).await? {
            Sighting::Router(view) if view.closed => return Ok(true),
            Sighting::Router(view) => {
                word.say(&**driver, target, None, Action::Withdraw, view.effects).await?;
            }
            Sighting::Node(view) if view.closed && view.instances.is_empty() => return Ok(true),
            Sighting::Node(view) if view.instances.is_empty() => {
                word.say(&**driver, target, None, Action::Close, view.effects).await?;
            }
            Sighting::Node(view) => {
                for instance in view.instances.keys() {
                    word.end(&**driver, target, &view, instance).await?;
                }
            }
        }
        Ok(false)
    }
}
