//! What stands between a control plane and the outside: one call a turn, with the faults drawn from the seed.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use plimsoll_driver::{Driver, DriverError, Marked, SecretValues, Sighting};
use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{Epoch, PlanHash, PlanNo, Uid};
use plimsoll_model::step::{Action, Fence, Scope as DriverScope, Step};
use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{
    Backend, Batch, Fut, KindName, Memory, Moment, Page, Query, ResumeToken, Row, Scope, StoreError, Watch,
    Write,
};

use crate::audit::Audit;
use crate::fault::{Coverage, Fault, Op};

/// Older readings kept for stale reads.
const KEPT: usize = 4;

/// What all control planes of a run share.
#[derive(Default)]
pub(crate) struct Chaos {
    pub(crate) rng: fastrand::Rng,
    /// No more faults: the end of a run.
    pub(crate) calm: bool,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Vec<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) audit: Audit,
    pub(crate) last_op: Option<Op>,
    /// The step that was carried out last.
    pub(crate) latest: Option<(Step, Fence)>,
    /// Steps that arrive late.
    pub(crate) late: Vec<(Step, Fence)>,
    rows: BTreeMap<(KindName, ObjectKey), VecDeque<Option<Row>>>,
    sightings: BTreeMap<(DriverScope, Uid), VecDeque<Sighting>>,
    followed: BTreeMap<(DriverScope, Uid), (Epoch, PlanNo, PlanHash)>,
}

/// [`Chaos`], shared.
pub(crate) type Shared = Arc<Mutex<Chaos>>;

pub(crate) fn lock(chaos: &Shared) -> MutexGuard<'_, Chaos> {
    chaos.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chaos {
    /// Draws what goes wrong at a call.
    fn draw(&mut self, op: Op) -> Option<Fault> {
        self.last_op = Some(op);
        if self.calm || self.rng.u32(0..100) >= 12 {
            return None;
        }
        let choices: Vec<Fault> = [Fault::Error, Fault::LostReply, Fault::Late, Fault::Stale, Fault::Ghost]
            .into_iter()
            .filter(|fault| fault.applies_to(op))
            .collect();
        let fault = choices[self.rng.usize(0..choices.len())];
        self.met(fault, op);
        Some(fault)
    }

    /// Notes that a fault met a call.
    pub(crate) fn met(&mut self, fault: Fault, op: Op) {
        self.coverage.count(fault, op);
        self.trace.push(format!("    fault: {fault} at {op}"));
    }

    /// The far side must never follow an older plan than it did, nor two with the same number.
    fn follow(&mut self, scope: &DriverScope, fence: &Fence) {
        let new = (fence.epoch, fence.plan, fence.hash);
        let key = (scope.clone(), fence.app.clone());
        if let Some(old) = self.followed.get(&key) {
            let forked = (new.0, new.1) == (old.0, old.1) && new.2 != old.2;
            if (new.0, new.1) < (old.0, old.1) || forked {
                self.violations
                    .push(format!("{scope} followed plan {} after plan {} of {}", new.1, old.1, key.1));
            }
        }
        self.followed.insert(key, new);
    }
}

/// One control plane's permission to make its next call.
#[derive(Clone, Default)]
pub(crate) struct Turn {
    granted: Arc<AtomicBool>,
}

impl Turn {
    pub(crate) fn grant(&self) {
        self.granted.store(true, Ordering::Relaxed);
    }

    async fn taken(&self) {
        poll_fn(|context| {
            if self.granted.swap(false, Ordering::Relaxed) {
                return Poll::Ready(());
            }
            // Combinators poll only what was woken; the next turn may come at any time.
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// What one control plane saw of Apps in its latest looks, for the audit of its plans.
pub(crate) type Seen = Arc<Mutex<BTreeMap<(DriverScope, Uid), Option<Sighting>>>>;

/// The store as one control plane reaches it.
pub(crate) struct ChaosStore {
    pub(crate) inner: Memory,
    pub(crate) chaos: Shared,
    pub(crate) turn: Turn,
    pub(crate) seen: Seen,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("simulated".into())
}

impl Backend for ChaosStore {
    fn get<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        key: &'a ObjectKey,
    ) -> Fut<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move {
            self.turn.taken().await;
            let fault = lock(&self.chaos).draw(Op::Get);
            if fault == Some(Fault::Error) {
                return Err(unavailable());
            }
            let row = self.inner.get(scope, kind, key).await?;
            let mut chaos = lock(&self.chaos);
            let history = chaos.rows.entry((kind, key.clone())).or_default();
            if history.back() != Some(&row) {
                history.push_back(row.clone());
                if history.len() > KEPT {
                    history.pop_front();
                }
            }
            let oldest = history.front().cloned().flatten();
            Ok(if fault == Some(Fault::Stale) { oldest } else { row })
        })
    }

    /// Nothing under test reads a whole store.
    fn moment(&self) -> Fut<'_, Result<Box<dyn Moment>, StoreError>> {
        self.inner.moment()
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        query: &'a Query,
    ) -> Fut<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            self.turn.taken().await;
            let fault = lock(&self.chaos).draw(Op::List);
            let mut page = self.inner.list(scope, kind, query).await?;
            match fault {
                Some(Fault::Error) => return Err(unavailable()),
                // A replica that lags does not know the newest row yet.
                Some(Fault::Stale) => {
                    page.rows.pop();
                }
                _ => {}
            }
            Ok(page)
        })
    }

    fn commit<'a>(&'a self, scope: &'a Scope, batch: Batch) -> Fut<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.turn.taken().await;
            let fault = lock(&self.chaos).draw(Op::Commit);
            if fault == Some(Fault::Error) {
                return Err(unavailable());
            }
            let findings = {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                lock(&self.chaos).audit.findings(&batch, &seen)
            };
            let writes: Vec<String> = batch.writes.iter().map(describe).collect();
            let result = self.inner.commit(scope, batch.clone()).await;
            let mut chaos = lock(&self.chaos);
            if result.is_ok() {
                chaos.violations.extend(findings);
                chaos.audit.committed(&batch);
            }
            let ended = if result.is_ok() { "ok" } else { "refused" };
            chaos.trace.push(format!("    commit {ended}: {}", writes.join(", ")));
            if fault == Some(Fault::LostReply) { result.and(Err(StoreError::Lost)) } else { result }
        })
    }

    fn audit<'a>(
        &'a self,
        scope: &'a Scope,
        after: u64,
        limit: usize,
    ) -> Fut<'a, Result<Vec<AuditRecord>, StoreError>> {
        // No control plane reads it.
        self.inner.audit(scope, after, limit)
    }

    fn position(&self) -> ResumeToken {
        self.inner.position()
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.inner.watch(scope, kind, from)
    }
}

fn describe(write: &Write) -> String {
    match write {
        Write::Put { kind, row, .. } => format!("put {kind} {}", row.meta.key),
        Write::Delete { kind, key, at: Revision(at) } => format!("delete {kind} {key} at {at}"),
        Write::Require { kind, key, .. } => format!("require {kind} {key}"),
    }
}

/// A driver as one control plane reaches it.
pub(crate) struct ChaosDriver<D> {
    pub(crate) inner: D,
    pub(crate) chaos: Shared,
    pub(crate) turn: Turn,
    pub(crate) seen: Seen,
}

impl<D: Driver> ChaosDriver<D> {
    async fn perform(&self, step: &Step, fence: &Fence, secrets: &SecretValues) -> Result<(), DriverError> {
        let result = self.inner.execute(step, fence, secrets).await;
        let mut chaos = lock(&self.chaos);
        if result.is_ok() {
            chaos.follow(&self.inner.scope(), fence);
            chaos.latest = Some((step.clone(), fence.clone()));
        }
        let ended = match &result {
            Ok(()) => "ok".to_owned(),
            Err(DriverError::Refused(refusal)) => format!("refused, {refusal}"),
            Err(error) => error.to_string(),
        };
        let instance = step.action.instance().map(ToString::to_string).unwrap_or_default();
        chaos.trace.push(format!(
            "    {} {instance} of {} @{}: {ended}",
            step.action.verb(),
            fence.key,
            fence.plan
        ));
        result
    }
}

impl<D: Driver> Driver for ChaosDriver<D> {
    fn scope(&self) -> DriverScope {
        self.inner.scope()
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> plimsoll_driver::Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move {
            self.turn.taken().await;
            let fault = lock(&self.chaos).draw(Op::Observe);
            let place = (self.inner.scope(), app.clone());
            let seen = |sighting: Option<Sighting>| {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone(), sighting);
            };
            if fault == Some(Fault::Error) {
                seen(None);
                return Err(DriverError::Transient("simulated".into()));
            }
            let sighting = self.inner.observe(app).await?;
            let mut chaos = lock(&self.chaos);
            let history = chaos.sightings.entry(place.clone()).or_default();
            history.push_back(sighting.clone());
            if history.len() > KEPT {
                history.pop_front();
            }
            let oldest = history.front().cloned();
            let shown = if fault == Some(Fault::Stale) { oldest.unwrap_or(sighting) } else { sighting };
            seen(Some(shown.clone()));
            Ok(shown)
        })
    }

    fn inventory(&self) -> plimsoll_driver::Fut<'_, Result<Vec<Marked>, DriverError>> {
        Box::pin(async move {
            self.turn.taken().await;
            self.inner.inventory().await
        })
    }

    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        secrets: &'a SecretValues,
    ) -> plimsoll_driver::Fut<'a, Result<(), DriverError>> {
        Box::pin(async move {
            self.turn.taken().await;
            let op = Op::of(&step.action);
            let fault = lock(&self.chaos).draw(op);
            match fault {
                Some(Fault::Error) => Err(DriverError::Transient("simulated".into())),
                Some(Fault::Ghost) => Ok(()),
                Some(Fault::Late) => {
                    lock(&self.chaos).late.push((step.clone(), fence.clone()));
                    Err(DriverError::Transient("timed out".into()))
                }
                Some(Fault::LostReply) => {
                    // Whatever the far side said, the sender only knows that it did not hear.
                    self.perform(step, fence, secrets).await.ok();
                    Err(DriverError::Transient("timed out".into()))
                }
                _ => self.perform(step, fence, secrets).await,
            }
        })
    }
}

/// Delivers a step that nobody waits for: one that is late, or one that should not be.
pub(crate) async fn deliver<D: Driver>(driver: &D, chaos: &Shared, step: &Step, fence: &Fence) {
    let result = driver.execute(step, fence, &SecretValues::new()).await;
    let mut chaos = lock(chaos);
    if result.is_ok() {
        chaos.follow(&driver.scope(), fence);
    }
    let ended = if result.is_ok() { "ok" } else { "refused" };
    let verb = step.action.verb();
    chaos.trace.push(format!("stray {verb} of {} @{}: {ended}", fence.key, fence.plan));
}

/// True for actions that a node carries out.
pub(crate) fn is_for_node(action: &Action) -> bool {
    matches!(action, Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. } | Action::Close)
}
