//! After a restore: what would be done, and letting it be done.

use plimsoll_model::audit::Action;
use plimsoll_model::id::{InstanceId, TargetName};
use plimsoll_model::step::Scope as Place;
use plimsoll_model::{App, ObjectKey};
use plimsoll_plan::path;
use plimsoll_reconcile::{Apps, SweepError};
use plimsoll_store::{Query, Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::access::Caller;
use crate::data::Held;
use crate::plan::Planned;

/// Apps whose way is told whole; of the others only their number.
const MOST_TOLD: usize = 100;

/// A restore that was not released, and what its release would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnHold {
    /// The restore.
    #[serde(flatten)]
    pub held: Held,
    /// Copies that run, and that no restored App owns: they would be ended.
    pub unknown: Vec<Unknown>,
    /// Apps that are not as restored, and what would be done about that.
    pub apps: Vec<Planned>,
    /// So many more of these.
    pub more: usize,
}

/// A copy that no restored App owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// Where.
    pub target: TargetName,
    /// The copy.
    pub instance: InstanceId,
    /// The App that it was made for.
    pub app: ObjectKey,
}

/// Why a hold cannot be examined or ended.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A driver does not answer, so nobody knows what runs there.
    #[error("what runs is not known, so neither is what would be done")]
    Driver(#[from] SweepError),
    /// It cannot be written down.
    #[error("the data directory cannot be written")]
    Io(#[from] std::io::Error),
}

impl Server {
    /// Whether everything is on hold, and what its release would do.
    ///
    /// # Errors
    /// [`HoldError`].
    pub async fn on_hold(&self) -> Result<Option<OnHold>, HoldError> {
        let Some(held) = self.data().held().filter(|_| self.identity().hold.is_on()) else { return Ok(None) };
        let mut unknown = Vec::new();
        for orphan in self.find_orphans().await? {
            if let Place::Node(target) = orphan.scope {
                unknown.push(Unknown { target, instance: orphan.marked.instance, app: orphan.marked.key });
            }
        }
        let (mut apps, mut more) = (Vec::new(), 0);
        for app in self.store().list::<App>(&Scope::All, &Query::default()).await? {
            let path = path(&self.reconciler().read(&app).await?);
            if path.plans.is_empty() {
                continue;
            }
            if apps.len() < MOST_TOLD {
                apps.push(Planned { key: app.meta.key, path });
            } else {
                more += 1;
            }
        }
        Ok(Some(OnHold { held, unknown, apps, more }))
    }

    /// Lets everything be done. Says whether it was on hold.
    ///
    /// # Errors
    /// [`HoldError`]; then it is still on hold.
    pub async fn release(&self, caller: &Caller) -> Result<bool, HoldError> {
        if !self.identity().hold.is_on() {
            return Ok(false);
        }
        self.note(caller, Action::Release).await?;
        self.data().release()?;
        self.identity().hold.release();
        Apps(self.store().clone()).mark(&Scope::All, self.hints()).await;
        Ok(true)
    }
}
