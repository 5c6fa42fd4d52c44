//! One instance's life.
//!
//! ```text
//!   start ──▶ unready ◀──▶ ready ──▶ backoff ──▶ start …      while it should run
//!                 └──────────┴─────────┴──▶ stopping ──▶ stopped
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_model::health::Health;
use plimsoll_model::id::InstanceId;
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Blockage, Exit, Instance, Limit, Phase};
use plimsoll_shim::{RUN, Run, SHARED, read};
use tokio::sync::watch;

use crate::agent::OnChange;
use crate::cgroups::Cgroups;
use crate::networks::Networks;
use crate::place::{Counters, Intent, Mark, Place};
use crate::render::{self, RenderError};
use crate::runner::{self, Runner, Surroundings};
use crate::{probe, runner::Latest};

/// The first pause before a program that ended is started again; it doubles up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LONGEST: Duration = Duration::from_secs(30);

/// A run this long ends the row of failures.
const LONG_RUN: Duration = Duration::from_mins(1);

/// The pause after a start that failed for a reason outside of the program.
const BLOCKED_PAUSE: Duration = Duration::from_secs(1);

/// The first pause between two probes of a program that has not answered yet; it doubles up to the declared one.
const PROBE_FIRST: Duration = Duration::from_millis(10);

/// Time on top of the grace time after which a supervisor that did not end its program is overruled.
const OVERRULED: Duration = Duration::from_secs(5);

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
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().phase == Phase::Stopped
    }
}

/// Keeps one instance.
pub(crate) struct Keeper {
    pub(crate) instance: InstanceId,
    pub(crate) place: Place,
    pub(crate) mark: Arc<Mark>,
    pub(crate) content: PathBuf,
    pub(crate) shim: Arc<[String]>,
    pub(crate) on_change: OnChange,
    cgroups: Arc<Cgroups>,
    networks: Arc<Networks>,
    sight: Sight,
    intent: watch::Receiver<Intent>,
    /// Ends in a row that came soon.
    failures: u32,
}

/// Where a keeper's parts come from.
pub(crate) struct Setting {
    pub(crate) content: PathBuf,
    pub(crate) shim: Arc<[String]>,
    pub(crate) on_change: OnChange,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) networks: Arc<Networks>,
}

impl Keeper {
    pub(crate) fn new(
        instance: InstanceId,
        place: Place,
        mark: Arc<Mark>,
        setting: &Setting,
        intent: watch::Receiver<Intent>,
        phase: Phase,
    ) -> (Self, Sight) {
        let sight = Sight::new(place.counters(), phase);
        let keeper = Self {
            instance,
            place,
            mark,
            content: setting.content.clone(),
            shim: setting.shim.clone(),
            on_change: setting.on_change.clone(),
            cgroups: setting.cgroups.clone(),
            networks: setting.networks.clone(),
            sight: sight.clone(),
            intent,
            failures: 0,
        };
        (keeper, sight)
    }

    fn enter(&self, phase: Phase) {
        {
            let mut state = self.sight.lock();
            if std::mem::discriminant(&state.phase) == std::mem::discriminant(&phase) {
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
                // Its directory cannot be read or /proc is out of order: nothing may be concluded.
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
        let runner = match runner::adopt(&self.place).await? {
            Some(runner) => {
                self.limit();
                runner
            }
            None => match self.start().await? {
                Some(runner) => runner,
                None => return Ok(()),
            },
        };
        let began = Instant::now();
        // A receiver of its own, so that the change is still news to whoever asks next.
        let mut intent = self.intent.clone();
        tokio::select! {
            biased;
            // What runs goes on running: the next intent, or the next agent, finds it.
            changed = intent.changed() => return changed.map_err(io::Error::other),
            () = runner.ended() => {}
            () = self.probe() => {
                runner::ask_to_stop(&self.place, self.mark.launch.grace).ok();
                let limit = Duration::from_millis(self.mark.launch.grace.millis) + OVERRULED;
                tokio::time::timeout(limit, runner.ended()).await.ok();
            }
        }
        let exit = runner.outcome(&self.place).await?;
        if runner.was_not_begun(&self.place)? {
            // That was not the program's fault: the log has the reason.
            self.networks.distrust();
            self.enter(Phase::Blocked { by: Blockage::Network });
            self.pause(BLOCKED_PAUSE).await;
            return Ok(());
        }
        self.note_exit(exit);
        self.failures = if began.elapsed() >= LONG_RUN { 0 } else { self.failures.saturating_add(1) };
        self.enter(Phase::Backoff { since: Span::ZERO });
        let exponent = self.failures.saturating_sub(1).min(16);
        self.pause((BACKOFF_FIRST * 2_u32.pow(exponent)).min(BACKOFF_LONGEST)).await;
        Ok(())
    }

    /// Starts the next run; `None` if that is not possible now.
    async fn start(&mut self) -> io::Result<Option<Runner>> {
        let Latest { attempt, exit } = runner::latest(&self.place)?;
        if let Some(exit) = exit {
            self.note_exit(exit);
        }
        let run: Option<Run> = read(self.place.path(), RUN)?;
        // Written before every start, so that it is certain where the program has never been.
        let is_first = run.is_some_and(|run| run.attempt == 0);
        let blocked = if is_first { self.first_start() } else { None };
        let started = if let Some(blockage) = blocked {
            Err(blockage)
        } else {
            self.surroundings().and_then(|around| {
                runner::start(&self.place, &self.shim, around).map_err(|error| blockage(&error))
            })
        };
        let runner = match started {
            Ok(runner) => runner,
            Err(by) => {
                self.enter(Phase::Blocked { by });
                self.pause(BLOCKED_PAUSE).await;
                return Ok(None);
            }
        };
        runner.announced(&self.place).await;
        if attempt > 0 && !runner.was_not_begun(&self.place)? {
            let mut state = self.sight.lock();
            state.counters.restarts += 1;
            self.place.write_counters(state.counters);
        }
        Ok(Some(runner))
    }

    /// What the next run is kept within.
    fn surroundings(&self) -> Result<Surroundings, Blockage> {
        let network = self.mark.address.map(|address| {
            let ports = self.mark.ports.values().copied().collect();
            self.networks.of(address, ports).map_err(|error| {
                plimsoll_shim::note(self.place.path(), &format!("it cannot be started: {error}"));
                Blockage::Network
            })
        });
        Ok(Surroundings { groups: self.limit(), network: network.transpose()?, tmp: self.own_tmp() })
    }

    /// What takes the place of `/tmp`: nothing where we may not mount, nor where `/tmp` holds the node's own directory.
    fn own_tmp(&self) -> Option<PathBuf> {
        let hides_us = SHARED.iter().any(|shared| self.place.path().starts_with(shared));
        (!hides_us && self.networks.has_mounts()).then(|| self.place.tmp())
    }

    /// Makes the instance's groups, anew for each run: a reboot forgets them. Notes what cannot be enforced.
    fn limit(&self) -> Vec<PathBuf> {
        let limited = self.cgroups.limit(&self.instance, &self.mark.launch.resources);
        let mut unenforced = limited.unenforced;
        if self.mark.launch.volumes.values().any(|volume| volume.size.is_some()) {
            unenforced.push(Limit::VolumeSize);
        }
        if self.mark.address.is_none() {
            unenforced.push(Limit::Network);
        }
        if self.own_tmp().is_none() {
            unenforced.push(Limit::Tmp);
        }
        self.sight.lock().unenforced = unenforced;
        limited.groups
    }

    /// Puts the program in its place. Before the first run only: afterwards the directory is the
    /// program's own, and nothing is written there.
    fn first_start(&self) -> Option<Blockage> {
        match render::place_content(&self.place, &self.mark, &self.content) {
            Ok(true) => {
                if let Some(why) = self.networks.why_shared().filter(|_| self.mark.address.is_none()) {
                    plimsoll_shim::note(self.place.path(), &format!("it shares the node's network: {why}"));
                }
                None
            }
            Err(RenderError::Disk(error)) => Some(blockage(&error)),
            Ok(false) | Err(_) => Some(Blockage::Content),
        }
    }

    /// Follows the program's health; returns when it has to be started again.
    async fn probe(&self) {
        self.enter(Phase::Unready { since: Span::ZERO });
        let Some(health) = &self.mark.launch.health else {
            self.enter(Phase::Ready { since: Span::ZERO });
            return std::future::pending().await;
        };
        let endpoints = self.mark.endpoints();
        let mut beside = self.shim.to_vec();
        beside.extend([self.place.path().display().to_string(), "--".into()]);
        let began = Instant::now();
        let every = Duration::from_millis(health.every.millis);
        let (mut failures, mut pause) = (0, PROBE_FIRST);
        loop {
            let result = probe::once(health, &endpoints, &beside).await;
            let is_ready = matches!(self.sight.lock().phase, Phase::Ready { .. });
            match result {
                Ok(()) => {
                    failures = 0;
                    self.sight.lock().probe = None;
                    self.enter(Phase::Ready { since: Span::ZERO });
                }
                Err(said) => {
                    failures += 1;
                    self.sight.lock().probe = Some(said);
                    if !is_ready || failures >= health.failures {
                        self.enter(Phase::Unready { since: Span::ZERO });
                    }
                    if is_dead(health, failures, began.elapsed()) {
                        return;
                    }
                }
            }
            pause = if failures == 0 || is_ready { every } else { (pause * 2).min(every) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn stop(&mut self, grace: Span) -> io::Result<()> {
        if let Some(runner) = runner::adopt(&self.place).await? {
            self.enter(Phase::Stopping { since: Span::ZERO });
            runner::ask_to_stop(&self.place, grace).ok();
            let limit = Duration::from_millis(grace.millis) + OVERRULED;
            tokio::time::timeout(limit, runner.ended()).await.ok();
            let exit = runner.outcome(&self.place).await?;
            self.note_exit(exit);
        } else if let Some(exit) = runner::latest(&self.place)?.exit {
            self.note_exit(exit);
        }
        self.enter(Phase::Stopped);
        self.intent.changed().await.map_err(io::Error::other)?;
        self.intent.mark_changed();
        self.failures = 0;
        Ok(())
    }
}

fn is_dead(health: &Health, failures: u32, age: Duration) -> bool {
    let started = age >= Duration::from_millis(health.start.millis);
    started && health.live.failures > 0 && failures >= health.live.failures
}

/// Which reason outside of the program an error of the system stands for.
fn blockage(error: &io::Error) -> Blockage {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Blockage::Processes,
        _ => Blockage::Disk,
    }
}
