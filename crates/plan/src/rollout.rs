//! The rollout of one component: what is worked towards, whether the gate has passed or failed.
//!
//! ```text
//!            revision or bindings differ           every copy ready for the soak time
//!   (none) ─────────────────────────────▶ rolling ─────────────────────────────────▶ (none), good
//!                                            │ clock passes the deadline
//!                    nothing older was good, │ or onFailure: halt      otherwise
//!                          failed ◀──────────┴───────────────────────▶ (none) + Rejection
//!                            │ every copy ready for the soak time
//!                            └──────────────────────────────────────▶ (none), good
//! ```
//!
//! Where the declaration has steps, new copies are tried beside all old ones first ([`crate::trial`]).
//!
//! Before all that, and between the soak time and good, there may be the task of a hook ([`crate::hooks`]).
//!
//! The clock counts the time in which a new copy is not ready through its own fault. It runs on the node's
//! clock, stands while a provider, a node, the router or a disk is to blame, and starts again at zero with
//! every further copy that becomes ready.

use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::{BindingsHash, ComponentHash, PlanNo, RevisionNo};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::Evidence;
use plimsoll_model::status::{Clock, Good, Memory, Rollout};
use plimsoll_model::update::{Budget, OnFailure, Stage, Update};
use plimsoll_model::world::{Exit, Phase};

use crate::hooks::{Hooks, Progress};
use crate::measure::{self, Answers, Reading, Watch};
use crate::survey::{Copy, Survey, Wanted, count};
use crate::trial::{self, Watched};

/// What a rollout needs to know of its component.
pub(crate) struct Gate<'a> {
    pub(crate) wanted: Wanted<'a>,
    /// The App revision that holds the wanted component revision.
    pub(crate) source: RevisionNo,
    /// The revision declared; differs from the wanted one after a rollback.
    pub(crate) declared: ComponentHash,
    pub(crate) replicas: u32,
    pub(crate) budget: Budget,
    pub(crate) update: &'a Update,
    /// Something outside of the component is to blame for whatever it does now.
    pub(crate) excused: bool,
    /// The number of the App's plan.
    pub(crate) plan: PlanNo,
    /// Steps that a person has ended of the rollout that is under way.
    pub(crate) promoted: u32,
    pub(crate) judge: Judge<'a>,
    pub(crate) hooks: Hooks<'a>,
}

/// Who decides about what is rolled out, beside its health.
#[derive(Clone, Copy)]
pub(crate) enum Judge<'a> {
    /// Nobody: it is not what is declared, or there is nothing else to go back to.
    Nobody,
    /// Nobody needs to: all goes as it is hoped.
    Hope,
    /// What is measured, and people.
    Evidence {
        /// What was answered to the gate's questions.
        answers: &'a Answers,
        /// A person does not want the rollout that is under way.
        aborted: bool,
    },
}

impl<'a> Gate<'a> {
    /// What new copies go through beside all old ones.
    pub(crate) fn stages(&self) -> &'a [Stage] {
        // Without room for copies beside the old ones nothing can be tried.
        if self.budget.surge == 0 { &[] } else { self.update.stages() }
    }

    /// What is measured of the fresh copies.
    pub(crate) fn measure(&self, survey: &Survey<'_>, watch: Watch) -> Reading {
        match self.judge {
            Judge::Evidence { answers, .. } if !self.excused => {
                measure::read(survey, &self.update.gate, answers, watch)
            }
            _ => Reading::Fine,
        }
    }

    /// Whether anything is measured.
    fn measures(&self) -> bool {
        matches!(self.judge, Judge::Evidence { .. }) && !self.update.gate.is_default()
    }

    fn is_aborted(&self) -> bool {
        matches!(self.judge, Judge::Evidence { aborted: true, .. })
    }
}

/// How often it is looked at what is measured.
const MEASURED_EVERY: Span = Span::seconds(5);

/// What became of the rollout at this look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No rollout is under way.
    Idle,
    /// Under way; look again after this time at the latest.
    Rolling {
        look: Option<Span>,
        soaking: bool,
        undecided: Option<String>,
        /// The hook that has to succeed before anything else happens.
        hook: Option<HookPoint>,
    },
    /// The revision failed and is to be rejected with this evidence.
    Reject(Evidence),
}

/// Carries the memory of a component's rollout forward by one look.
pub(crate) fn advance(memory: &mut Memory, survey: &Survey<'_>, gate: &Gate<'_>) -> Verdict {
    if gate.is_aborted() {
        (memory.rollout, memory.task) = (None, None);
        return Verdict::Reject(evidence("a person aborted the rollout".to_owned(), survey));
    }
    let Some(bindings) = gate.wanted.bindings else { return stand_still(memory, survey) };
    if gate.replicas == 0 {
        memory.rollout = None;
        return Verdict::Idle;
    }
    let is_good = memory.good.is_some_and(|good| good.component == gate.wanted.revision);
    let under_way = memory.rollout.take();
    if is_good && under_way.is_none() && !survey.has_live_stale() {
        return Verdict::Idle;
    }
    let same = |it: &Rollout| it.to == gate.wanted.revision && it.bindings == bindings;
    let goes_on = under_way.as_ref().is_some_and(same);
    if survey.blind && !gate.stages().is_empty() && !goes_on {
        // Whether there is something to try beside cannot be seen now.
        memory.rollout = under_way;
        return stand_still(memory, survey);
    }
    let mut rollout = under_way.filter(same).unwrap_or_else(|| begin(memory, bindings, survey, gate));
    match gate.hooks.progress(HookPoint::Before, memory, rollout.reference()) {
        Progress::Over => {}
        progress => return held(memory, rollout, (HookPoint::Before, progress), survey, gate),
    }
    let ready = count(survey.fresh().filter(|copy| copy.instance.is_ready()));
    if ready > rollout.best {
        rollout.best = ready;
        rollout.clock = Clock::ZERO;
    }
    let stuck = trial::keep(&mut rollout.trial, memory.good, survey, gate);
    if rollout.trial.as_ref().is_some_and(|trial| trial.step < gate.promoted) && rollout.failed.is_some() {
        // A person has seen what failed, and goes on.
        (rollout.failed, rollout.clock) = (None, Clock::ZERO);
    }
    let halted = rollout.failed.is_some();
    let watched = rollout.trial.as_mut().and_then(|trial| trial::advance(trial, survey, gate, halted));
    let is_trial = watched.is_some();
    let Watched { left: soak, is_steady, reading } = watched.unwrap_or_else(|| soaking(survey, gate));
    if is_steady {
        // What was unready for a moment some days ago is forgiven.
        rollout.clock = Clock::ZERO;
    }
    if soak == Some(Span::ZERO) && reading == Reading::Fine && !is_trial {
        match gate.hooks.progress(HookPoint::After, memory, rollout.reference()) {
            Progress::Over => {}
            progress => return held(memory, rollout, (HookPoint::After, progress), survey, gate),
        }
        memory.good = Some(Good { component: gate.wanted.revision, revision: gate.source });
        return Verdict::Idle;
    }
    let limit = tick(&mut rollout.clock, survey, gate, is_trial);
    let (broken, undecided) = reading.said();
    let own_fault = || broken.or_else(|| own_fault(&rollout.clock, limit, survey));
    let verdict = if gate.excused { None } else { own_fault() };
    if let (Some(verdict), None) = (verdict, &rollout.failed) {
        if may_reject(memory, gate) {
            memory.task = None;
            return Verdict::Reject(evidence(verdict, survey));
        }
        rollout.failed = Some(verdict);
    }
    let is_measured = (is_trial || soak.is_some()) && gate.measures();
    let look = next_look(&rollout, limit.minus(rollout.clock.reading(survey.now)), soak, is_measured);
    memory.rollout = Some(rollout);
    let look = look.into_iter().chain(stuck).min();
    Verdict::Rolling { look, soaking: soak.is_some() && !is_trial, undecided, hook: None }
}

/// Whether what failed is rolled back and rejected; it stays otherwise, for a person to look at.
fn may_reject(memory: &Memory, gate: &Gate<'_>) -> bool {
    let has_way_back = memory.good.is_some_and(|good| good.component != gate.wanted.revision);
    gate.declared == gate.wanted.revision && has_way_back && gate.update.on_failure == OnFailure::Rollback
}

/// A rollout that a hook holds: its clock stands, for nothing else is due, and the task has a deadline of its own.
fn held(
    memory: &mut Memory,
    mut rollout: Rollout,
    (hook, progress): (HookPoint, Progress),
    survey: &Survey<'_>,
    gate: &Gate<'_>,
) -> Verdict {
    rollout.clock = Clock::ZERO;
    if let Some(trial) = &mut rollout.trial {
        trial.clock.run(false, survey.now);
    }
    let look = match progress {
        Progress::Failed(_) if rollout.failed.is_none() && gate.excused => {
            // It may be no fault of its own: another one is run once one may start.
            memory.task = None;
            None
        }
        Progress::Failed(evidence) if rollout.failed.is_none() => {
            if may_reject(memory, gate) {
                memory.task = None;
                return Verdict::Reject(evidence);
            }
            rollout.failed = Some(evidence.verdict);
            None
        }
        Progress::Open { left } => left,
        Progress::Over | Progress::Failed(_) => None,
    };
    memory.rollout = Some(rollout);
    Verdict::Rolling { look, soaking: false, undecided: None, hook: Some(hook) }
}

fn begin(memory: &Memory, bindings: BindingsHash, survey: &Survey<'_>, gate: &Gate<'_>) -> Rollout {
    Rollout {
        to: gate.wanted.revision,
        bindings,
        best: 0,
        clock: Clock::ZERO,
        failed: None,
        began: gate.plan,
        trial: trial::begin(memory.good, survey, gate),
    }
}

/// When to look again at the latest: the deadline is over, the soak time is, or something else may be measured.
fn next_look(rollout: &Rollout, limit: Span, soak: Option<Span>, is_measured: bool) -> Option<Span> {
    let runs = matches!(rollout.clock, Clock::Running { .. }) && rollout.failed.is_none();
    let clock = runs.then_some(limit);
    let gate = is_measured.then_some(MEASURED_EVERY);
    // What waits for its gate only is looked at when that may have changed.
    let due = clock.into_iter().chain(soak).min().filter(|look| *look > Span::ZERO || gate.is_none());
    due.into_iter().chain(gate).min()
}

/// How the end of a rollout goes, once all copies are new. A person may end it too, whatever is measured.
fn soaking(survey: &Survey<'_>, gate: &Gate<'_>) -> Watched {
    let is_ended = gate.promoted > count(gate.stages().iter());
    if gate.measures() && gate.excused && !is_ended {
        return Watched { left: None, is_steady: false, reading: Reading::Fine };
    }
    let since = youngest(survey, gate);
    let watch = since.filter(|_| !is_ended).map(|since| Watch { since, has_traffic: true });
    Watched {
        left: since.map(|since| gate.update.soak().minus(since)),
        is_steady: false,
        reading: watch.map_or(Reading::Fine, |watch| gate.measure(survey, watch)),
    }
}

/// Where something is missing nothing can be said of the rollout; its clock stands.
pub(crate) fn stand_still(memory: &mut Memory, survey: &Survey<'_>) -> Verdict {
    match &mut memory.rollout {
        None => Verdict::Idle,
        Some(rollout) => {
            rollout.clock.run(false, survey.now);
            Verdict::Rolling { look: None, soaking: false, undecided: None, hook: None }
        }
    }
}

/// Time for which every copy has been ready; `None` while one is missing, unready or old.
fn youngest(survey: &Survey<'_>, gate: &Gate<'_>) -> Option<Span> {
    let in_place = |copy: &&Copy<'_>| copy.slot().0 < gate.replicas && survey.is_available(copy);
    let ready: Vec<Span> =
        survey.fresh().filter(in_place).filter_map(|copy| copy.instance.ready_for()).collect();
    let complete = count(ready.iter()) >= gate.replicas && !survey.has_live_stale() && !survey.blind;
    ready.into_iter().min().filter(|_| complete)
}

/// Starts or stops the clock and returns the reading at which the gate fails.
fn tick(clock: &mut Clock, survey: &Survey<'_>, gate: &Gate<'_>, is_trial: bool) -> Span {
    let unready = survey.fresh().any(|copy| copy.is_live() && !copy.instance.is_ready());
    // A trial may last for days: there, only the time in which a copy is not ready counts.
    let flapped = !is_trial && survey.fresh().any(|copy| copy.instance.unready_count > 0);
    let runs = !gate.excused && !survey.blind && !survey.has_blocked() && (unready || flapped);
    clock.run(runs, survey.now);
    // A copy that flapped is given the soak time on top, so that it can still pass.
    if unready { gate.update.deadline() } else { gate.update.deadline().plus(gate.update.soak()) }
}

/// Why the gate has failed, if it has.
fn own_fault(clock: &Clock, limit: Span, survey: &Survey<'_>) -> Option<String> {
    let broken = survey.fresh().find_map(|copy| match (copy.instance.phase, copy.instance.last_exit) {
        (Phase::Backoff { .. }, Some(exit @ Exit::Exec(_))) => Some(format!("{} {exit}", copy.id)),
        _ => None,
    });
    let late = matches!(clock, Clock::Running { .. }) && clock.reading(survey.now) >= limit;
    broken.or_else(|| late.then(|| format!("not ready within {limit}")))
}

/// What is known of the worst new copy.
fn evidence(verdict: String, survey: &Survey<'_>) -> Evidence {
    let worst =
        survey.fresh().filter(|copy| !copy.instance.is_ready()).max_by_key(|copy| copy.instance.restarts);
    Evidence {
        verdict,
        instance: worst.map(|copy| copy.id.clone()),
        probe: worst.and_then(|copy| copy.instance.probe.clone()),
        exit: worst.and_then(|copy| copy.instance.last_exit),
        log: Vec::new(),
    }
}
