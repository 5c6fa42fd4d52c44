//! Giving an App up while a target of it does not answer, and giving up on the target too.

use plimsoll_model::audit::Action;
use plimsoll_model::kind::{Tombstone, TombstoneSpec};
use plimsoll_model::{App, Kind as _, ObjectKey};
use plimsoll_reconcile::{abandon, forget};
use plimsoll_store::{Scope, StoreError};

use crate::Server;
use crate::access::Caller;
use crate::apply::{ApplyError, Terms};

/// Times it is tried when somebody else writes the same App.
const ATTEMPTS: u32 = 20;

impl Server {
    /// Deletes an App although a target of it does not answer. What may be left there is in the tombstone, which goes once
    /// the target was told.
    ///
    /// # Errors
    /// [`ApplyError`]; [`ApplyError::Answers`] where a deletion does the same, and better.
    pub async fn abandon(
        &self,
        caller: &Caller,
        key: &ObjectKey,
        terms: &Terms,
    ) -> Result<TombstoneSpec, ApplyError> {
        let done = self.try_abandon(caller, key, terms).await;
        if let (Err(error), false) = (&done, terms.dry_run) {
            self.note_refusal(caller, Action::Abandon, App::PLURAL, key, error).await;
        }
        done
    }

    async fn try_abandon(
        &self,
        caller: &Caller,
        key: &ObjectKey,
        terms: &Terms,
    ) -> Result<TombstoneSpec, ApplyError> {
        let failed = |source| ApplyError::Store { kind: App::NAME, key: key.clone(), source };
        for attempt in 1.. {
            let app = self.store().get::<App>(&Scope::All, key).await.map_err(failed)?;
            let app = app.ok_or_else(|| ApplyError::Absent { kind: App::NAME, key: key.clone() })?;
            terms.check_version(&app)?;
            let world = self.reconciler().read(&app).await.map_err(failed)?.world;
            let given_up = abandon(self.store(), &app, &world, self.now()).await.map_err(failed)?;
            let (batch, left) = given_up.ok_or_else(|| ApplyError::Answers { key: key.clone() })?;
            if terms.dry_run {
                return Ok(left);
            }
            let batch = batch.audited(self.entry(caller, Action::Abandon, App::PLURAL, key));
            match self.store().commit(&Scope::All, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {}
                result => return result.map(|()| left).map_err(failed),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Takes a tombstone away although nobody knows what is left of its App: the target will never answer again. Its
    /// addresses and routes are free from then on.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn forget(&self, caller: &Caller, key: &ObjectKey, terms: &Terms) -> Result<(), ApplyError> {
        let done = self.try_forget(caller, key, terms).await;
        if let (Err(error), false) = (&done, terms.dry_run) {
            self.note_refusal(caller, Action::Delete, Tombstone::PLURAL, key, error).await;
        }
        done
    }

    async fn try_forget(&self, caller: &Caller, key: &ObjectKey, terms: &Terms) -> Result<(), ApplyError> {
        caller.platform("forget what may still run somewhere")?;
        let failed = |source| ApplyError::Store { kind: Tombstone::NAME, key: key.clone(), source };
        let tombstone = self.store().get::<Tombstone>(&Scope::All, key).await.map_err(failed)?;
        let tombstone =
            tombstone.ok_or_else(|| ApplyError::Absent { kind: Tombstone::NAME, key: key.clone() })?;
        terms.check_version(&tombstone)?;
        if terms.dry_run {
            return Ok(());
        }
        let entry = self.entry(caller, Action::Delete, Tombstone::PLURAL, key);
        let batch = forget(self.store(), &tombstone).await.map_err(failed)?.audited(entry);
        self.store().commit(&Scope::All, batch).await.map_err(failed)
    }
}
