//! One pass over one App.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_driver::DriverError;
use plimsoll_engine::{Clock, Fut, Look, Reconciler};
use plimsoll_model::id::{Epoch, InstallationId, TargetName};
use plimsoll_model::quantity::Span;
use plimsoll_model::status::{AppStatus, Outcome};
use plimsoll_model::step::Plan;
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::world::ServiceIp;
use plimsoll_model::{App, Object, ObjectKey};
use plimsoll_plan::{Course, Decision, Input, decide};
use plimsoll_store::{Scope, Store, StoreError};

use crate::drivers::Drivers;
use crate::execute::{self, Failure, Opened, Opener};
use crate::gauges::{self, Gauges};
use crate::record;
use crate::surroundings;

/// Whose plans are carried out, and whether any are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The installation, part of every mark.
    pub installation: InstallationId,
    /// Raised by a restore.
    pub epoch: Epoch,
    /// Whether to look only.
    pub hold: Hold,
}

/// Whether to look only: after a restore the store may know less than the world. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<AtomicBool>);

impl Hold {
    /// A hold that lasts until it is released, if there is one.
    pub fn new(is_on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is_on)))
    }

    /// Whether nothing may be done.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Lets everything be done from now on.
    pub fn release(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How passes are carried out.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Steps of one App under way at the same time.
    pub parallel: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { parallel: 64 }
    }
}

/// Time that a failing store, driver or step may take before it counts as stalled.
const FAILURE_DEADLINE: Span = Span::seconds(60);

/// How often an address that proved to be taken is replaced by another within one pass.
const CLAIM_ATTEMPTS: usize = 16;

/// Brings Apps closer to their declarations.
#[derive(Clone)]
pub struct AppReconciler {
    store: Store,
    drivers: Drivers,
    identity: Identity,
    clock: Arc<dyn Clock>,
    opener: Arc<dyn Opener>,
    gauges: Arc<dyn Gauges>,
    settings: Settings,
}

/// How a pass ended, with the place that decided it.
struct Ended {
    outcome: Outcome,
    next: Option<Span>,
    site: &'static Location<'static>,
}

#[track_caller]
fn ended(outcome: Outcome, next: Option<Span>) -> Ended {
    Ended { outcome, next, site: Location::caller() }
}

impl AppReconciler {
    /// A reconciler over a store and drivers.
    pub fn new(
        store: Store,
        drivers: Drivers,
        identity: Identity,
        clock: Arc<dyn Clock>,
        opener: Arc<dyn Opener>,
        gauges: Arc<dyn Gauges>,
        settings: Settings,
    ) -> Self {
        Self { store, drivers, identity, clock, opener, gauges, settings }
    }

    /// Everything the planner needs to know of an App, read anew.
    ///
    /// # Errors
    /// When the store does not answer. Drivers that do not answer are part of the input, as unknown.
    pub async fn read(&self, app: &Object<App>) -> Result<Input, StoreError> {
        let mut context = surroundings::gather(&self.store, app).await?;
        context.answers = gauges::answers(&*self.gauges, app, context.target_spec.as_ref());
        let parent = surroundings::current_plan(&self.store, app).await?;
        let mut targets: BTreeSet<TargetName> = BTreeSet::from([context.target.clone()]);
        targets.extend(app.status.iter().flat_map(|status| status.value.targets.iter().cloned()));
        let world = self.drivers.observe(&app.meta.uid, &targets).await;
        context.used = gauges::used(&*self.gauges, app, &world);
        Ok(Input::of(app, context, parent, world))
    }

    async fn pass(&self, key: &ObjectKey) -> Result<Ended, StoreError> {
        let Some(app) = self.store.get::<App>(&Scope::All, key).await? else {
            return Ok(ended(Outcome::Gone, None));
        };
        let mut input = self.read(&app).await?;
        for _ in 0..CLAIM_ATTEMPTS {
            let decision = decide(&input);
            if self.identity.hold.is_on() {
                return self.look(&app, decision).await;
            }
            if decision.gone {
                record::forget(&self.store, &app).await?;
                return Ok(ended(Outcome::Gone, None));
            }
            match self.carry(&app, &input, decision).await {
                // An address that somebody else holds: the next candidate is tried.
                Err(StoreError::Conflict { key, .. }) if key.project.is_none() => match claimed_ip(&key) {
                    Some(ip) => {
                        input.context.avoid.insert(ip);
                    }
                    None => return Ok(ended(Outcome::Advanced, None)),
                },
                other => return other,
            }
        }
        Ok(ended(Outcome::Advanced, None))
    }

    /// Writes down what is seen, and does nothing about it.
    async fn look(&self, app: &Object<App>, decision: Decision) -> Result<Ended, StoreError> {
        let waits = vec![Wait::new(None, Reason::OnHold, FAILURE_DEADLINE)];
        let held = ended(Outcome::Stalled(waits), decision.next_look);
        let old = app.status.as_ref().map(|status| status.value.clone()).unwrap_or_default();
        let outcome =
            record::outcome(old.outcome.as_ref(), &held.outcome, self.clock.now(), held.site.to_string());
        let status = AppStatus { components: decision.components, outcome: Some(outcome), ..old };
        if app.status.as_ref().is_none_or(|old| old.value != status || old.of != app.meta.generation) {
            let batch = plimsoll_store::Batch::new().report(app, status, self.clock.now());
            self.store.commit(&Scope::All, batch).await?;
        }
        Ok(held)
    }

    /// Makes a decision current and carries out its steps.
    async fn carry(
        &self,
        app: &Object<App>,
        input: &Input,
        mut decision: Decision,
    ) -> Result<Ended, StoreError> {
        self.hear(input, &mut decision).await;
        let (plan, steps) = match &decision.course {
            Course::Rest => (None, &[][..]),
            Course::Continue(steps) => (input.parent.as_ref(), &steps[..]),
            Course::Adopt(plan) => (Some(&**plan), &plan.steps[..]),
        };
        let busy = plan.is_some() || !decision.rejections.is_empty();
        let before = self.judge(&decision, busy, app);
        self.write(app, input, &decision, &before).await?;
        let Some(plan) = plan else { return Ok(before) };
        let failures = self.execute(&app.meta.key, plan, steps).await?;
        let Some(after) = failed(&decision, &failures) else { return Ok(before) };
        // The status may have moved on meanwhile; then the next pass says what is wrong.
        if let Some(fresh) = self.store.get::<App>(&Scope::All, &app.meta.key).await? {
            self.write_outcome(&fresh, &after).await?;
        }
        Ok(after)
    }

    /// Adds the last words of a copy to the evidence against its revision.
    async fn hear(&self, input: &Input, decision: &mut Decision) {
        let scope = plimsoll_model::step::Scope::Node(input.context.target.clone());
        let Some(driver) = self.drivers.get(&scope) else { return };
        for rejection in decision.rejections.values_mut() {
            if let Some(instance) = &rejection.evidence.instance {
                rejection.evidence.log = driver.last_words(instance).await;
            }
        }
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        plan: &Plan,
        steps: &[plimsoll_model::step::Step],
    ) -> Result<Vec<Failure>, StoreError> {
        let secrets = match execute::open_secrets(&self.store, &*self.opener, key, steps).await? {
            Opened::All(secrets) => secrets,
            Opened::Changed => return Ok(Vec::new()),
            Opened::Closed(failure) => return Ok(vec![failure]),
        };
        let identity = (&self.identity.installation, self.identity.epoch);
        Ok(execute::run(&self.drivers, identity, plan, steps, &secrets, self.settings.parallel).await)
    }

    /// What a decision amounts to before its steps are carried out.
    fn judge(&self, decision: &Decision, busy: bool, app: &Object<App>) -> Ended {
        if busy {
            return ended(Outcome::Advanced, None);
        }
        if decision.waits.is_empty() {
            return ended(Outcome::Settled, decision.next_look);
        }
        let waits = decision.waits.clone();
        let record = app.status.as_ref().and_then(|status| status.value.outcome.as_ref());
        let now = self.clock.now();
        let overdue = |wait: &Wait| {
            let known = record.and_then(|it| it.waits.iter().find(|waited| waited.wait == *wait));
            known.is_some_and(|it| now.0.saturating_sub(it.since.0) >= wait.deadline().millis)
        };
        if waits.iter().any(|wait| wait.reason().is_stall() || overdue(wait)) {
            ended(Outcome::Stalled(waits), decision.next_look)
        } else {
            ended(Outcome::Waiting(waits), decision.next_look)
        }
    }

    /// Writes the status and whatever the decision makes, if anything changed.
    async fn write(
        &self,
        app: &Object<App>,
        input: &Input,
        decision: &Decision,
        ended: &Ended,
    ) -> Result<(), StoreError> {
        let at = self.clock.now();
        let mut status = record::status(&input.status, input, decision);
        status.outcome =
            Some(record::outcome(status.outcome.as_ref(), &ended.outcome, at, ended.site.to_string()));
        let batch = record::batch(&self.store, app, input, decision, status, at).await?;
        self.store.commit(&Scope::All, batch).await
    }

    /// Writes what went wrong after the status of the pass was written.
    async fn write_outcome(&self, app: &Object<App>, ended: &Ended) -> Result<(), StoreError> {
        let Some(old) = &app.status else { return Ok(()) };
        let at = self.clock.now();
        let mut status = old.value.clone();
        status.outcome =
            Some(record::outcome(status.outcome.as_ref(), &ended.outcome, at, ended.site.to_string()));
        if status == old.value {
            return Ok(());
        }
        let batch = plimsoll_store::Batch::new().report(app, status, at);
        self.store.commit(&Scope::All, batch).await
    }
}

/// What failed steps amount to; `None` when the world has to be looked at again before anything can be said.
fn failed(decision: &Decision, failures: &[Failure]) -> Option<Ended> {
    let mut waits = decision.waits.clone();
    let mut terminal = false;
    for Failure { scope, error } in failures {
        match error {
            // Somebody else's plan or effects came in between: look again.
            DriverError::Refused(_) => {}
            DriverError::Transient(text) | DriverError::Terminal(text) => {
                terminal |= matches!(error, DriverError::Terminal(_));
                let reason = Reason::StepFailed { scope: scope.clone(), error: text.clone() };
                waits.push(Wait::new(None, reason, FAILURE_DEADLINE));
            }
        }
    }
    if waits.len() == decision.waits.len() {
        return None;
    }
    waits.sort();
    waits.dedup();
    Some(if terminal { ended(Outcome::Stalled(waits), None) } else { ended(Outcome::Waiting(waits), None) })
}

/// The address that a claim is about.
fn claimed_ip(claim: &ObjectKey) -> Option<ServiceIp> {
    let (_, ip) = claim.name.as_str().strip_prefix("ip.")?.rsplit_once('.')?;
    ip.replace('-', ".").parse().ok()
}

impl Reconciler for AppReconciler {
    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> Fut<'a, Look> {
        Box::pin(async move {
            match self.pass(key).await {
                Ok(Ended { outcome, next, .. }) => Look { outcome, next },
                Err(StoreError::Conflict { .. }) => Look { outcome: Outcome::Advanced, next: None },
                Err(error) => {
                    // Nothing can be written down now; the queue's backoff is the wait.
                    let scope = plimsoll_model::step::Scope::Node(
                        surroundings::DEFAULT_TARGET.parse().expect("a valid target name"),
                    );
                    let reason = Reason::StepFailed { scope, error: error.to_string() };
                    Look {
                        outcome: Outcome::Waiting(vec![Wait::new(None, reason, FAILURE_DEADLINE)]),
                        next: None,
                    }
                }
            }
        })
    }
}
