//! Carrying out steps: each after its predecessors, so many at a time, each tried once.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use plimsoll_driver::{DriverError, SecretValues};
use plimsoll_model::id::{Epoch, InstallationId};
use plimsoll_model::kind::Sealed;
use plimsoll_model::secret::{SecretRef, Sensitive};
use plimsoll_model::step::{Action, Fence, Fragment, Launch, Plan, Rendered, Scope, Step, StepNo};
use plimsoll_model::{ObjectKey, Secret};
use plimsoll_store::{Store, StoreError};

use crate::drivers::Drivers;

/// Opens what was sealed before it reached the store.
pub trait Opener: Send + Sync + 'static {
    /// The value, or `None` when the key that sealed it is not here.
    fn open(&self, sealed: &Sealed) -> Option<Sensitive<String>>;
}

/// Why a step did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) scope: Scope,
    pub(crate) error: DriverError,
}

/// Carries out steps of a plan. What depends on a failed step is not tried.
pub(crate) async fn run(
    drivers: &Drivers,
    (installation, epoch): (&InstallationId, Epoch),
    plan: &Plan,
    steps: &[Step],
    secrets: &SecretValues,
    limit: usize,
) -> Vec<Failure> {
    // A fence has the hash of the whole plan: one for each driver, not for each step.
    let mut fences: BTreeMap<Scope, Fence> = BTreeMap::new();
    for step in steps {
        let make = |scope: &Scope| plan.fence(installation, epoch, scope);
        fences.entry(step.scope()).or_insert_with_key(make);
    }
    let fences = &fences;
    let mut failures = Vec::new();
    let mut waiting: Vec<usize> = (0..steps.len()).collect();
    let mut done: BTreeSet<StepNo> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let mut free = Vec::new();
        waiting.retain(|index| {
            let is_free = running.len() + free.len() < limit
                && steps[*index].after.iter().all(|before| done.contains(before));
            if is_free {
                free.push(*index);
            }
            !is_free
        });
        for index in free {
            let step = &steps[index];
            let fence = &fences[&step.scope()];
            running.push(async move { (index, one(drivers, step, fence, secrets).await) });
        }
        match running.next().await {
            None => return failures,
            Some((index, Ok(()))) => {
                done.insert(StepNo(u32::try_from(index).unwrap_or(u32::MAX)));
            }
            Some((index, Err(error))) => failures.push(Failure { scope: steps[index].scope(), error }),
        }
    }
}

async fn one(
    drivers: &Drivers,
    step: &Step,
    fence: &Fence,
    secrets: &SecretValues,
) -> Result<(), DriverError> {
    let scope = step.scope();
    let driver =
        drivers.get(&scope).ok_or_else(|| DriverError::Transient(format!("{scope} is not connected")))?;
    driver.execute(step, fence, secrets).await
}

/// What became of the secrets that steps need.
pub(crate) enum Opened {
    /// Their values.
    All(SecretValues),
    /// One has changed since the plan was made: the next pass plans with the new version.
    Changed,
    /// What was sealed is not opened by any key that is here.
    Closed(Failure),
}

/// The values of every secret that the steps need.
pub(crate) async fn open_secrets(
    store: &Store,
    opener: &dyn Opener,
    app: &ObjectKey,
    steps: &[Step],
) -> Result<Opened, StoreError> {
    let mut values = SecretValues::new();
    for step in steps {
        for (secret, version) in needed(step) {
            let key = app.sibling(secret.name.clone());
            let stored = store.get::<Secret>(&plimsoll_store::Scope::All, &key).await?;
            let stored = stored.filter(|it| it.meta.generation == version);
            let Some(sealed) = stored.as_ref().and_then(|it| it.spec.data.get(&secret.key)) else {
                return Ok(Opened::Changed);
            };
            let Some(value) = opener.open(sealed) else {
                let text =
                    format!("secret {secret} cannot be opened with the keys that are here: set it anew");
                return Ok(Opened::Closed(Failure {
                    scope: step.scope(),
                    error: DriverError::Terminal(text),
                }));
            };
            values.insert(secret.clone(), value);
        }
    }
    Ok(Opened::All(values))
}

fn needed(step: &Step) -> Vec<(&SecretRef, plimsoll_model::Generation)> {
    let Action::Create { launch, .. } = &step.action else { return Vec::new() };
    let Launch { env, files, bindings, .. } = &**launch;
    let texts = env.values().chain(files.values()).chain(bindings.values().flat_map(|data| data.values()));
    let fragments = texts.flat_map(|Rendered(fragments)| fragments);
    fragments
        .filter_map(|fragment| match fragment {
            Fragment::Text(_) | Fragment::Host(_) => None,
            Fragment::Secret { secret, version } => Some((secret, *version)),
        })
        .collect()
}
