//! One instance's life.
//!
//! ```text
//!   start ──▶ unready ◀──▶ ready ──▶ backoff ──▶ start …      while it should run
//!                 └──────────┴─────────┴──▶ stopping ──▶ stopped
//! ```
//!
//! The task of a hook is not started again: `start ──▶ unready ──▶ done`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_model::health::Health;
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Blockage, Exit, Instance, Limit, Phase};
use tokio::sync::watch;

use crate::agent::OnChange;
use crate::place::{Counters, Intent, Mark, Place};
use crate::probe;
use crate::runner::Latest;
use crate::vehicle::{NotStarted, Outcome, Running, Vehicle};

/// The first pause before a program that ended is started again; it doubles up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LONGEST: Duration = Duration::from_secs(30);

/// A run this long ends the row of failures.
const LONG_RUN: Duration = Duration::from_mins(1);

/// The pause after a start that failed for a reason outside of the program.
const BLOCKED_PAUSE: Duration = Duration::from_secs(1);

/// The first pause between two probes of a program that has not answered yet; it doubles up to the declared one.
const PROBE_FIRST: Duration = Duration::from_millis(10);

/// What can be seen of an instance from outside.
#[derive(Clone)]
pub(crate) struct Sight {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    /// The present phase, without its time.
    phase: Phase,
    entered: Instant,
    counters: Counters,
    probe: Option<String>,
    last_exit: Option<Exit>,
    unenforced: Vec<Limit>,
}

impl Sight {
    fn new(counters: Counters, phase: Phase) -> Self {
        let state = State {
            phase,
            entered: Instant::now(),
            counters,
            probe: None,
            last_exit: None,
            unenforced: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance as it is now.
    pub(crate) fn instance(&self, mark: &Mark) -> Instance {
        let state = self.lock().clone();
        let since = Span::millis(u64::try_from(state.entered.elapsed().as_millis()).unwrap_or(u64::MAX));
        let phase = match state.phase {
            Phase::Unready { .. } => Phase::Unready { since },
            Phase::Ready { .. } => Phase::Ready { since },
            Phase::Backoff { .. } => Phase::Backoff { since },
            Phase::Stopping { .. } => Phase::Stopping { since },
            phase => phase,
        };
        Instance {
            component: mark.component.clone(),
            slot: mark.slot,
            revision: mark.revision,
            bindings: mark.bindings,
            endpoints: mark.endpoints(),
            phase,
            restarts: state.counters.restarts,
            unready_count: state.counters.unready,
            probe: state.probe,
            last_exit: state.last_exit,
            unenforced: state.unenforced,
            hook: mark.launch.hook,
        }
    }

    /// Nothing of it runs, nor will.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Stopped | Phase::Done { .. })
    }
}

/// Keeps one instance.
pub(crate) struct Keeper {
    pub(crate) place: Place,
    pub(crate) mark: Arc<Mark>,
    pub(crate) on_change: OnChange,
    vehicle: Vehicle,
    sight: Sight,
    intent: watch::Receiver<Intent>,
    /// Ends in a row that came soon.
    failures: u32,
}

impl Keeper {
    pub(crate) fn new(
        place: Place,
        mark: Arc<Mark>,
        vehicle: Vehicle,
        on_change: OnChange,
        intent: watch::Receiver<Intent>,
        phase: Phase,
    ) -> (Self, Sight) {
        let sight = Sight::new(place.counters(), phase);
        let keeper = Self { place, mark, on_change, vehicle, sight: sight.clone(), intent, failures: 0 };
        (keeper, sight)
    }

    fn enter(&self, phase: Phase) {
        {
            let mut state = self.sight.lock();
            if is_same(&state.phase, &phase) {
                return;
            }
            if matches!(state.phase, Phase::Ready { .. }) {
                state.counters.unready += 1;
                self.place.write_counters(state.counters);
            }
            state.phase = phase;
            state.entered = Instant::now();
        }
        (self.on_change)(&self.mark.key);
    }

    fn note_exit(&self, exit: Exit) {
        self.sight.lock().last_exit = Some(exit);
    }

    /// Keeps the instance as its intent says until it is to be removed.
    pub(crate) async fn keep(mut self) {
        loop {
            let intent = *self.intent.borrow_and_update();
            let result = match intent {
                Intent::Run => self.run().await,
                Intent::Stop(grace) => self.stop(grace).await,
                Intent::Remove => return,
            };
            if result.is_err() {
                // Its directory cannot be read, /proc is out of order, or its engine is away: nothing may be concluded.
                self.enter(Phase::Unknown);
                if !self.pause(BLOCKED_PAUSE).await {
                    return;
                }
            }
        }
    }

    /// Waits, or returns early when the intent changes; false when there is no agent any more.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            changed = self.intent.changed() => {
                if changed.is_ok() {
                    self.intent.mark_changed();
                }
                changed.is_ok()
            }
        }
    }

    /// One run from its start, or from its adoption, to its end or to another intent.
    async fn run(&mut self) -> io::Result<()> {
        let mut run = self.vehicle.adopt().await?;
        if run.is_none() {
            if let Some(exit) = self.end_of_task().await? {
                return self.done(exit).await;
            }
            run = self.start_unless_told_otherwise().await?;
            if run.is_some() {
                self.enter(Phase::Unready { since: Span::ZERO });
            }
        }
        let Some(run) = run else { return Ok(()) };
        let unenforced = self.vehicle.unenforced().await;
        self.sight.lock().unenforced = unenforced;
        let began = Instant::now();
        // A receiver of its own, so that the change is still news to whoever asks next.
        let mut intent = self.intent.clone();
        tokio::select! {
            biased;
            // What runs goes on running: the next intent, or the next agent, finds it.
            changed = intent.changed() => return changed.map_err(io::Error::other),
            () = self.vehicle.ended(&run) => {}
            () = self.probe() => self.vehicle.end(&run, self.mark.launch.grace).await,
        }
        if self.is_task() && self.vehicle.adopt().await?.is_some() {
            // A supervisor that was started before this one had begun it already.
            return Ok(());
        }
        match self.vehicle.outcome(&run).await? {
            Outcome::Ended(exit) => match self.end_of_task().await? {
                Some(exit) => self.done(exit).await?,
                None => self.back_off(exit, began).await,
            },
            Outcome::NotBegun => self.blocked(Blockage::Network).await,
        }
        Ok(())
    }

    fn is_task(&self) -> bool {
        self.mark.launch.hook.is_some()
    }

    /// How the task of a hook ended, if it is one and was begun: it is not begun again. Only true while nothing runs.
    async fn end_of_task(&self) -> io::Result<Option<Exit>> {
        if !self.is_task() {
            return Ok(None);
        }
        let Latest { attempt, exit } = self.vehicle.latest().await?;
        Ok(exit.filter(|_| attempt > 0))
    }

    /// Says how the task of a hook ended, for as long as it is there.
    async fn done(&mut self, exit: Exit) -> io::Result<()> {
        self.note_exit(exit);
        self.enter(Phase::Done { exit });
        self.intent.changed().await.map_err(io::Error::other)?;
        self.intent.mark_changed();
        Ok(())
    }

    /// Starts the next run; an image may take long to come, and nobody may want it any more by then.
    async fn start_unless_told_otherwise(&mut self) -> io::Result<Option<Running>> {
        if matches!(self.vehicle, Vehicle::Process(_)) {
            return self.start().await;
        }
        let mut intent = self.intent.clone();
        tokio::select! {
            biased;
            changed = intent.changed() => changed.map(|()| None).map_err(io::Error::other),
            started = self.start() => started,
        }
    }

    /// Waits before the next run: the longer, the more often it ended soon.
    async fn back_off(&mut self, exit: Exit, began: Instant) {
        self.note_exit(exit);
        self.failures = if began.elapsed() >= LONG_RUN { 0 } else { self.failures.saturating_add(1) };
        self.enter(Phase::Backoff { since: Span::ZERO });
        let exponent = self.failures.saturating_sub(1).min(16);
        self.pause((BACKOFF_FIRST * 2_u32.pow(exponent)).min(BACKOFF_LONGEST)).await;
    }

    async fn blocked(&mut self, by: Blockage) {
        self.enter(Phase::Blocked { by });
        self.pause(BLOCKED_PAUSE).await;
    }

    /// Starts the next run; `None` if that is not possible now.
    async fn start(&mut self) -> io::Result<Option<Running>> {
        let Latest { attempt, exit } = self.vehicle.latest().await?;
        if let Some(exit) = exit {
            self.note_exit(exit);
        }
        let count = |this: &Self| {
            if attempt > 0 {
                let mut state = this.sight.lock();
                state.counters.restarts += 1;
                this.place.write_counters(state.counters);
            }
        };
        // What kept it from starting is said until that is over: trying again is no news.
        let is_blocked = matches!(self.sight.lock().phase, Phase::Blocked { .. });
        let enter = |phase| {
            if !is_blocked {
                self.enter(phase);
            }
        };
        match self.vehicle.start(enter).await? {
            Ok(run) => {
                if self.vehicle.was_begun(&run)? {
                    count(self);
                }
                Ok(Some(run))
            }
            Err(NotStarted::Blocked(by)) => {
                self.blocked(by).await;
                Ok(None)
            }
            Err(NotStarted::Failed(exit)) if self.is_task() => {
                self.done(exit).await?;
                Ok(None)
            }
            Err(NotStarted::Failed(exit)) => {
                count(self);
                self.back_off(exit, Instant::now()).await;
                Ok(None)
            }
        }
    }

    /// Follows the program's health; returns when it has to be started again.
    ///
    /// What was found running, by an agent that knows nothing else of it, may serve: it stays unknown until it has answered, or
    /// has failed as often as one that was ready may.
    async fn probe(&self) {
        if self.is_task() || self.sight.lock().phase != Phase::Unknown {
            self.enter(Phase::Unready { since: Span::ZERO });
        }
        if self.is_task() {
            return std::future::pending().await;
        }
        let Some(health) = &self.mark.launch.health else {
            self.enter(Phase::Ready { since: Span::ZERO });
            return std::future::pending().await;
        };
        let endpoints = self.mark.endpoints();
        let way = self.vehicle.way_beside();
        let began = Instant::now();
        let every = Duration::from_millis(health.every.millis);
        let (mut failures, mut pause) = (0, PROBE_FIRST);
        loop {
            let result = probe::once(health, &endpoints, &way).await;
            let may_serve = matches!(self.sight.lock().phase, Phase::Ready { .. } | Phase::Unknown);
            match result {
                Ok(()) => {
                    failures = 0;
                    self.sight.lock().probe = None;
                    self.enter(Phase::Ready { since: Span::ZERO });
                }
                Err(said) => {
                    failures += 1;
                    self.sight.lock().probe = Some(said);
                    if !may_serve || failures >= health.failures {
                        self.enter(Phase::Unready { since: Span::ZERO });
                    }
                    if is_dead(health, failures, began.elapsed()) {
                        return;
                    }
                }
            }
            pause = if failures == 0 || may_serve { every } else { (pause * 2).min(every) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn stop(&mut self, grace: Span) -> io::Result<()> {
        let phase = self.sight.lock().phase;
        if let Phase::Done { exit } = phase {
            return self.done(exit).await;
        }
        if let Some(run) = self.vehicle.adopt().await? {
            self.enter(Phase::Stopping { since: Span::ZERO });
            self.vehicle.end(&run, grace).await;
            if let Outcome::Ended(exit) = self.vehicle.outcome(&run).await? {
                self.note_exit(exit);
            }
        } else if let Some(exit) = self.vehicle.latest().await?.exit {
            self.note_exit(exit);
        }
        self.enter(Phase::Stopped);
        self.intent.changed().await.map_err(io::Error::other)?;
        self.intent.mark_changed();
        self.failures = 0;
        Ok(())
    }
}

/// Whether two phases differ in their times at most.
fn is_same(one: &Phase, other: &Phase) -> bool {
    match (one, other) {
        (Phase::Blocked { by }, Phase::Blocked { by: other }) => by == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

fn is_dead(health: &Health, failures: u32, age: Duration) -> bool {
    let started = age >= Duration::from_millis(health.start.millis);
    started && health.live.failures > 0 && failures >= health.live.failures
}
