//! Another data key: all values of Secrets are sealed anew while everything goes on.

use plimsoll_model::audit::Action;
use plimsoll_model::kind::SecretSpec;
use plimsoll_model::{Object, Secret};
use plimsoll_reconcile::Opener as _;
use plimsoll_store::{Batch, Query, Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::access::Caller;
use crate::content::{PAGE, each};
use crate::seal::KeyId;

/// What was sealed anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// The new data key. It is the only one now.
    pub key: KeyId,
    /// Secrets that were sealed anew.
    pub secrets: u64,
}

/// Why older keys are still needed. Nothing is lost: the next rotation begins where this one ended.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys cannot be written down.
    #[error("the keys cannot be written")]
    Io(#[from] std::io::Error),
    /// Values do not open: they were sealed with a key that is not here.
    #[error("these secrets have values that cannot be opened; set them anew, then rotate again: {0}")]
    Lost(String),
}

impl Server {
    /// Makes a new data key, seals every Secret with it and forgets the keys before. No version of a Secret changes by
    /// that: nothing is rolled.
    ///
    /// # Errors
    /// [`RotateError`]; what was sealed before can still be opened then.
    pub async fn rotate(&self, caller: &Caller) -> Result<Rotated, RotateError> {
        // A backup has values of one moment and keys of another: both kinds of keys must be in it.
        let _tidying = self.tidying.lock().await;
        self.all_open().await?;
        let key = {
            let _alone = self.keyring().sealed().await;
            let key = self.keyring().add()?;
            // The writer takes batches in their order: what was sealed before, even by whoever has gone away since, is in the
            // store when this is, and is found below.
            self.note(caller, Action::Rotate).await?;
            key
        };
        let (mut secrets, mut query) = (0, Query { limit: PAGE, ..Query::default() });
        loop {
            let (page, is_more, _) = self.store().page::<Secret>(&Scope::All, &query).await?;
            for secret in &page {
                secrets += u64::from(self.seal_anew(secret).await?);
            }
            query.after = page.into_iter().next_back().map(|it| it.meta.key);
            if !is_more {
                break;
            }
        }
        self.keyring().forget_older()?;
        Ok(Rotated { key, secrets })
    }

    /// Looks at all Secrets first: with one that does not open, no older key could be forgotten in the end.
    async fn all_open(&self) -> Result<(), RotateError> {
        let mut lost = Vec::new();
        each::<Secret>(self.store(), |secret| {
            if !secret.spec.data.values().all(|sealed| self.keyring().open(sealed).is_some()) {
                lost.push(secret.meta.key.to_string());
            }
        })
        .await?;
        if lost.is_empty() { Ok(()) } else { Err(RotateError::Lost(lost.join(", "))) }
    }

    /// Says whether something was sealed with an older key.
    async fn seal_anew(&self, secret: &Object<Secret>) -> Result<bool, RotateError> {
        let key = &secret.meta.key;
        let anew = |now: Option<Object<Secret>>| {
            let Some(now) = now else { return Ok((Batch::new(), false)) };
            let mut data = now.spec.data.clone();
            for sealed in data.values_mut() {
                let new = self.keyring().seal_anew(sealed)?;
                *sealed = new.ok_or_else(|| RotateError::Lost(key.to_string()))?;
            }
            let batch = Batch::new().reword(&now, SecretSpec { data });
            let is_any = !batch.is_empty();
            Ok((batch, is_any))
        };
        self.store().update::<Secret, _, _>(&Scope::All, key, anew).await?
    }
}
