//! One run: a seed, a number of steps, and what came of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use plimsoll_driver::Marked;
use plimsoll_driver::fake::{FakeNode, FakeRouter, Script};
use plimsoll_engine::{Clock, Look, Queue, Reconciler as _};
use plimsoll_model::id::{
    BindingsHash, ComponentHash, Digest, Epoch, InstallationId, PlanHash, Slot, TargetName,
};
use plimsoll_model::kind::Sealed;
use plimsoll_model::object::Timestamp;
use plimsoll_model::quantity::Span;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::status::{Outcome, OutcomeState};
use plimsoll_model::step::{Fence, Step};
use plimsoll_model::world::{Blockage, Instance, Phase};
use plimsoll_model::{App, Object, ObjectKey};
use plimsoll_reconcile::{AppReconciler, Drivers, Hold, Identity, NoGauges, Opener, Orphans, Settings};
use plimsoll_store::{Memory, Query, Scope, Store};

use crate::chaos::{self, Chaos, ChaosDriver, ChaosStore, Seen, Shared, Turn, lock};
use crate::fault::{Coverage, Fault, Op};
use crate::scenario::Scenario;
use crate::truth::Truth;

/// Lines of a trace that a failure shows.
const SHOWN: usize = 200;

/// What came of a run without a failure.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which fault met which call how often.
    pub coverage: Coverage,
    /// Whether every App was settled at the end, rather than some waiting for a person.
    pub settled: bool,
}

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that leads to it.
    pub seed: u64,
    /// The step at which it was seen.
    pub step: u32,
    /// What is wrong.
    pub what: String,
    /// How many of the seed's steps it takes.
    pub taken: usize,
    /// What happened before, as far back as it is shown.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.step == u32::MAX {
            "in the calm at the end".into()
        } else {
            format!("at step {}", self.step)
        };
        writeln!(
            f,
            "seed {} broke an invariant {at}: {} ({} steps shown)",
            self.seed, self.what, self.taken
        )?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

struct SimClock {
    millis: Arc<AtomicU64>,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.millis.load(Ordering::Relaxed))
    }
}

struct SimOpener;

impl Opener for SimOpener {
    fn open(&self, sealed: &Sealed) -> Option<Sensitive<String>> {
        Some(Sensitive::new(sealed.0.clone()))
    }
}

type Pass = Pin<Box<dyn Future<Output = Look> + Send>>;

/// One control plane.
pub(crate) struct Plane {
    reconciler: AppReconciler,
    pub(crate) orphans: Orphans,
    pub(crate) queue: Queue,
    pub(crate) turn: Turn,
    pub(crate) pass: Option<(ObjectKey, Pass)>,
}

/// Everything there is in a run.
pub(crate) struct World {
    seed: u64,
    step: u32,
    pub(crate) rng: fastrand::Rng,
    now: Span,
    wall: Arc<AtomicU64>,
    pub(crate) memory: Memory,
    pub(crate) node: FakeNode,
    pub(crate) router: FakeRouter,
    pub(crate) script: Script,
    installation: InstallationId,
    pub(crate) chaos: Shared,
    pub(crate) planes: Vec<Plane>,
    pub(crate) scenario: Scenario,
    pub(crate) truth: Truth,
    late_hints: Vec<ObjectKey>,
    planted: u32,
}

/// Runs one seed for a number of steps and then to the settled end.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64, steps: u32) -> Result<Report, Box<Failure>> {
    run_steps(seed, 0..steps)
}

/// Runs some of a seed's steps. What each step draws depends on the seed and its own number only, so that leaving
/// one out leaves the others as they are.
pub(crate) fn run_steps(seed: u64, steps: impl IntoIterator<Item = u32>) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed);
    world.scenario.begin().now_or_never().expect("memory answers at once");
    world.learn_declarations(None);
    for plane in 0..world.planes.len() {
        world.scan(plane);
    }
    for step in steps {
        world.begin_step(step);
        world.one_step();
        world.verify()?;
    }
    world.begin_step(u32::MAX);
    let settled = world.calm_down()?;
    let coverage = lock(&world.chaos).coverage.clone();
    Ok(Report { coverage, settled })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let target: TargetName = "local".parse().expect("a valid target name");
        let installation: InstallationId = "here".parse().expect("a valid installation id");
        let script = Script::default();
        let memory = Memory::new();
        let chaos = Shared::default();
        lock(&chaos).rng = fastrand::Rng::with_seed(rng.u64(..));
        let mut world = Self {
            seed,
            step: 0,
            now: Span::ZERO,
            wall: Arc::new(AtomicU64::new(1_000_000)),
            node: FakeNode::new(target.clone(), installation.clone(), script.clone()),
            router: FakeRouter::new(target, installation.clone()),
            scenario: Scenario::new(&memory, &script),
            truth: Truth::new(installation.clone()),
            planes: Vec::new(),
            late_hints: Vec::new(),
            planted: 0,
            memory,
            script,
            installation,
            chaos,
            rng,
        };
        for _ in 0..=world.rng.usize(0..2) {
            let plane = world.plane();
            world.planes.push(plane);
        }
        world
    }

    /// A control plane as it is after its start.
    pub(crate) fn plane(&mut self) -> Plane {
        let turn = Turn::default();
        let seen = Seen::default();
        let chaos = || (self.chaos.clone(), turn.clone(), seen.clone());
        let (chaos_, turn_, seen_) = chaos();
        let backend = ChaosStore { inner: self.memory.clone(), chaos: chaos_, turn: turn_, seen: seen_ };
        let (chaos_, turn_, seen_) = chaos();
        let node = ChaosDriver { inner: self.node.clone(), chaos: chaos_, turn: turn_, seen: seen_ };
        let (chaos_, turn_, seen_) = chaos();
        let router = ChaosDriver { inner: self.router.clone(), chaos: chaos_, turn: turn_, seen: seen_ };
        let store = Store::new(backend);
        let drivers = Drivers::new().with(node).with(router);
        let identity =
            Identity { installation: self.installation.clone(), epoch: Epoch(1), hold: Hold::default() };
        let clock = Arc::new(SimClock { millis: self.wall.clone() });
        let reconciler = AppReconciler::new(
            store.clone(),
            drivers.clone(),
            identity.clone(),
            clock,
            Arc::new(SimOpener),
            Arc::new(NoGauges),
            Settings { parallel: 1 },
        );
        let orphans = Orphans::new(store, drivers, identity);
        Plane { reconciler, orphans, queue: Queue::new(self.rng.u64(..)), turn, pass: None }
    }

    pub(crate) fn note(&self, line: impl Into<String>) {
        lock(&self.chaos).trace.push(line.into());
    }

    fn met(&self, fault: Fault) {
        let mut chaos = lock(&self.chaos);
        let op = chaos.last_op.unwrap_or(Op::Get);
        chaos.met(fault, op);
    }

    /// Every step has a stream of random numbers of its own.
    fn begin_step(&mut self, step: u32) {
        self.step = step;
        let mut rng = fastrand::Rng::with_seed(self.seed.rotate_left(32) ^ u64::from(step));
        lock(&self.chaos).rng = fastrand::Rng::with_seed(rng.u64(..));
        self.rng = rng;
    }

    pub(crate) fn apps(&self) -> Vec<Object<App>> {
        let store = Store::new(self.memory.clone());
        let apps = async move { store.list::<App>(&Scope::All, &Query::default()).await };
        apps.now_or_never().expect("memory answers at once").expect("memory answers")
    }

    pub(crate) fn learn_declarations(&mut self, settled: Option<&ObjectKey>) {
        for app in self.apps() {
            // A settled look at an older declaration says nothing of the present one.
            let current = app.status.as_ref().is_some_and(|status| {
                let record = status.value.outcome.as_ref();
                status.of == app.meta.generation && record.is_some_and(|it| it.state == OutcomeState::Settled)
            });
            // Nor does one while a step that its sender gave up is still on its way.
            let under_way = lock(&self.chaos).late.iter().any(|(_, fence)| fence.app == app.meta.uid);
            let settled = current && !under_way && settled == Some(&app.meta.key);
            self.truth.declared(&app, settled, &self.node);
        }
    }

    pub(crate) fn scan(&mut self, plane: usize) {
        for key in self.scenario.keys() {
            self.planes[plane].queue.mark(&key);
        }
    }

    fn one_step(&mut self) {
        // Endings are rare; what must not come right after one would else be hardly ever tried.
        if matches!(lock(&self.chaos).last_op, Some(Op::Close | Op::Withdraw)) && self.rng.u32(0..8) == 0 {
            self.plant();
        }
        match self.rng.u32(0..100) {
            0..64 => {
                let plane = self.rng.usize(0..self.planes.len());
                for _ in 0..self.rng.u32(1..=12) {
                    self.poll(plane);
                }
            }
            64..80 => {
                let by = Span::millis(self.rng.u64(100..4000));
                self.advance(by);
            }
            80..87 => self.person(),
            87..90 => {
                let plane = self.rng.usize(0..self.planes.len());
                self.scan(plane);
            }
            90..92 => self.jump(),
            92..95 => self.trouble(),
            95..96 => self.plant(),
            96..97 => self.crash(),
            97..98 => self.fork(),
            _ => self.deliver_late(),
        }
    }

    /// Lets one control plane make its next call.
    pub(crate) fn poll(&mut self, index: usize) {
        let rival =
            self.planes.iter().enumerate().any(|(other, plane)| other != index && plane.pass.is_some());
        let now = self.now;
        let plane = &mut self.planes[index];
        if plane.pass.is_none() {
            let Some(key) = plane.queue.next(now) else { return };
            let (reconciler, of) = (plane.reconciler.clone(), key.clone());
            lock(&self.chaos).trace.push(format!("plane {index} looks at {key}"));
            plane.pass = Some((key, Box::pin(async move { reconciler.reconcile(&of).await })));
        }
        let Some((key, pass)) = &mut plane.pass else { return };
        plane.turn.grant();
        let ended = pass.as_mut().poll(&mut Context::from_waker(futures::task::noop_waker_ref()));
        if rival {
            let mut chaos = lock(&self.chaos);
            if let Some(op) = chaos.last_op {
                chaos.coverage.count(Fault::Rival, op);
            }
        }
        if let Poll::Ready(look) = ended {
            let key = key.clone();
            lock(&self.chaos)
                .trace
                .push(format!("plane {index} is done with {key}: {}", outcome_name(&look)));
            plane.pass = None;
            plane.queue.done(&key, &look, now);
            if look.outcome == Outcome::Settled {
                self.learn_declarations(Some(&key));
            }
        }
    }

    pub(crate) fn advance(&mut self, by: Span) {
        self.now = self.now.plus(by);
        self.wall.fetch_add(by.millis, Ordering::Relaxed);
        self.node.advance(by);
        self.router.advance(by);
        for key in std::mem::take(&mut self.late_hints) {
            self.planes.iter_mut().for_each(|plane| plane.queue.mark(&key));
        }
    }

    fn person(&mut self) {
        let at = Timestamp(self.wall.load(Ordering::Relaxed));
        let act = self.scenario.act(&mut self.rng, at).now_or_never();
        let (key, said) = act.expect("memory answers at once");
        self.note(format!("person: {said}"));
        self.learn_declarations(None);
        for index in 0..self.planes.len() {
            match self.rng.u32(0..6) {
                0 => self.met(Fault::Hint),
                1 => {
                    self.met(Fault::Hint);
                    self.late_hints.push(key.clone());
                }
                2 => {
                    self.met(Fault::Hint);
                    self.planes[index].queue.mark(&key);
                    self.planes[index].queue.mark(&key);
                }
                _ => self.planes[index].queue.mark(&key),
            }
        }
    }

    fn jump(&mut self) {
        self.met(Fault::ClockJump);
        if self.rng.bool() {
            let hours = self.rng.u64(0..48) * 3_600_000;
            let now = self.wall.load(Ordering::Relaxed);
            let then = if self.rng.bool() { now + hours } else { now.saturating_sub(hours) };
            self.wall.store(then, Ordering::Relaxed);
            self.note("the wall clock jumps");
        } else {
            self.node.reboot();
            self.note("the node reboots");
        }
    }

    fn trouble(&mut self) {
        let copies = self.node.copies();
        if copies.is_empty() {
            return;
        }
        let (marked, _) = &copies[self.rng.usize(0..copies.len())];
        match self.rng.u32(0..4) {
            0 => {
                self.node.kill(&marked.instance);
                self.note(format!("{} is killed", marked.instance));
            }
            1 => {
                let full = self.rng.bool();
                self.node.block(full.then_some(Blockage::Disk));
                self.note(if full { "the disk is full" } else { "the disk has room" });
            }
            _ => {
                let load = self.rng.u32(0..3);
                self.router.load(&marked.app, &marked.instance, load);
            }
        }
    }

    /// A copy that no App owns: of this installation, or of another one.
    fn plant(&mut self) {
        self.planted += 1;
        let n = self.planted;
        let foreign = self.rng.bool();
        let installation =
            if foreign { "elsewhere".parse().expect("a valid id") } else { self.installation.clone() };
        let marked = Marked {
            installation,
            app: format!("lost-{n}").parse().expect("a valid uid"),
            key: ObjectKey::in_project(
                "demo".parse().expect("a name"),
                format!("lost-{n}").parse().expect("a name"),
            ),
            instance: format!("lost-{n}").parse().expect("a valid id"),
        };
        let instance = Instance {
            component: "lost".parse().expect("a valid name"),
            slot: Slot(0),
            revision: ComponentHash(Digest::of_bytes(b"lost")),
            bindings: BindingsHash(Digest::of_bytes(b"lost")),
            endpoints: std::collections::BTreeMap::new(),
            phase: Phase::Unready { since: Span::ZERO },
            restarts: 0,
            unready_count: 0,
            probe: None,
            last_exit: None,
            unenforced: Vec::new(),
            hook: None,
        };
        self.met(Fault::Orphan);
        self.node.plant(marked.clone(), instance.clone());
        if foreign {
            self.truth.foreign(marked, instance);
        }
    }

    /// A control plane dies where it stands, and another one takes its place.
    fn crash(&mut self) {
        let index = self.rng.usize(0..self.planes.len());
        // Die at a random call of the pass, not always at its first.
        for _ in 0..self.rng.u32(0..12) {
            self.poll(index);
        }
        self.met(Fault::Crash);
        self.planes[index] = self.plane();
        self.scan(index);
    }

    pub(crate) fn deliver_late(&mut self) {
        let (step, fence) = {
            let mut chaos = lock(&self.chaos);
            let Chaos { late, rng, .. } = &mut *chaos;
            if late.is_empty() {
                return;
            }
            late.swap_remove(rng.usize(0..late.len()))
        };
        self.deliver(&step, &fence);
    }

    /// The latest step comes again, from a control plane that has a plan of the same number and other content.
    fn fork(&mut self) {
        let Some((step, fence)) = lock(&self.chaos).latest.clone() else { return };
        let forked = Fence { hash: PlanHash(Digest::of_json(&fence.hash)), ..fence };
        lock(&self.chaos).met(Fault::Fork, Op::of(&step.action));
        self.deliver(&step, &forked);
    }

    fn deliver(&self, step: &Step, fence: &Fence) {
        let delivery = async {
            if chaos::is_for_node(&step.action) {
                chaos::deliver(&self.node, &self.chaos, step, fence).await;
            } else {
                chaos::deliver(&self.router, &self.chaos, step, fence).await;
            }
        };
        delivery.now_or_never().expect("the fakes answer at once");
    }

    pub(crate) fn failure(&self, what: String) -> Box<Failure> {
        let trace = &lock(&self.chaos).trace;
        let trace = trace[trace.len().saturating_sub(SHOWN)..].to_vec();
        Box::new(Failure { seed: self.seed, step: self.step, what, taken: 0, trace })
    }

    pub(crate) fn verify(&self) -> Result<(), Box<Failure>> {
        let violation = lock(&self.chaos).violations.first().cloned();
        match violation.or_else(|| self.truth.check(&self.node)) {
            Some(what) => Err(self.failure(what)),
            None => Ok(()),
        }
    }
}

fn outcome_name(look: &Look) -> String {
    match &look.outcome {
        Outcome::Settled => "settled".into(),
        Outcome::Advanced => "advanced".into(),
        Outcome::Waiting(waits) => format!("waiting, {}", waits[0].reason()),
        Outcome::Stalled(waits) => format!("stalled, {}", waits[0].reason()),
        Outcome::Gone => "gone".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_takes_the_same_steps() {
        let trace = |seed| {
            let mut world = World::new(seed);
            world.scenario.begin().now_or_never().unwrap();
            world.learn_declarations(None);
            world.scan(0);
            for step in 0..200 {
                world.begin_step(step);
                world.one_step();
            }
            lock(&world.chaos).trace.clone()
        };
        assert_eq!(trace(11), trace(11));
        assert_ne!(trace(11), trace(12));
    }

    #[test]
    fn some_seeds_hold() {
        for seed in 0..2 {
            run(seed, 300).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}
