//! New copies beside all old ones: `canary` and `blue-green`.
//!
//! ```text
//!   step 1 ──▶ step 2 ──▶ … ──▶ over: the old copies are replaced as by `rolling`
//! ```
//!
//! Until all steps are over, the copies of a component are two sides that are planned apart: the old one stays complete,
//! so that the way back is only to take the new one away; the new one has as many copies as its step says. A step is
//! over once its copies have been in place for its soak time, its gate says nothing against them, and, where it holds, a
//! person lets it go on.

use plimsoll_model::quantity::Span;
use plimsoll_model::status::{Clock, Good, Memory, StageStatus, Trial};
use plimsoll_model::step::Split;
use plimsoll_model::update::Stage;

use crate::measure::{Reading, Watch};
use crate::rollout::{Gate, Judge};
use crate::survey::{Copy, Survey, Traffic, count};

/// How the step that is under way goes.
pub(crate) struct Watched {
    /// Time until its soak time is over; `None` while a copy is missing, or for as long as a person wants.
    pub(crate) left: Option<Span>,
    /// All copies serve, and its soak time is over, whatever it still waits for.
    pub(crate) is_steady: bool,
    pub(crate) reading: Reading,
}

/// The copies of what was good.
fn old<'s, 'a>(good: Good, survey: &'s Survey<'a>) -> impl Iterator<Item = &'s Copy<'a>> {
    survey.copies.iter().filter(move |it| it.instance.revision == good.component)
}

/// A trial, if the rollout that begins is one: what was good runs beside it.
pub(crate) fn begin(good: Option<Good>, survey: &Survey<'_>, gate: &Gate<'_>) -> Option<Trial> {
    let good = good.filter(|good| good.component != gate.wanted.revision)?;
    let is_one = !gate.stages().is_empty() && gate.declared == gate.wanted.revision;
    let has_old = old(good, survey).any(Copy::is_live);
    (is_one && is_here(good, survey, gate) && has_old).then(|| Trial::at(0))
}

/// Two targets have two routers: neither could divide the traffic.
fn is_here(good: Good, survey: &Survey<'_>, gate: &Gate<'_>) -> bool {
    old(good, survey).all(|it| !it.is_live() || it.target == gate.wanted.target)
}

/// Ends a trial that there is nothing to try beside for any more: the old copies are elsewhere; or they do not serve, and
/// those of a third revision, which do, neither may go nor make room. What that lasts is counted, for old copies come back.
/// Returns when to look again because of that.
pub(crate) fn keep(
    trial: &mut Option<Trial>,
    good: Option<Good>,
    survey: &Survey<'_>,
    gate: &Gate<'_>,
) -> Option<Span> {
    let (Some(current), Some(good), false) = (trial.as_mut(), good, survey.blind) else { return None };
    if !is_here(good, survey, gate) {
        *trial = None;
        return None;
    }
    let is_third = |revision| revision != good.component && revision != gate.wanted.revision;
    let has_third = survey.copies.iter().any(|it| it.is_live() && is_third(it.instance.revision));
    let serving = count(old(good, survey).filter(|it| survey.is_available(it)));
    let floor = gate.budget.replicas.saturating_sub(gate.budget.unavailable);
    if !has_third || serving >= floor {
        current.stuck = Clock::ZERO;
        return None;
    }
    current.stuck.run(true, survey.now);
    let left = gate.update.deadline().minus(current.stuck.reading(survey.now));
    if left == Span::ZERO {
        *trial = None;
        return None;
    }
    Some(left)
}

/// The step that is under way; `None` once all are over.
pub(crate) fn stage<'a>(trial: &Trial, stages: &'a [Stage]) -> Option<&'a Stage> {
    stages.get(usize::try_from(trial.step).ok()?)
}

/// Carries a trial forward by one look; `None` once all steps are over.
pub(crate) fn advance(
    trial: &mut Trial,
    survey: &Survey<'_>,
    gate: &Gate<'_>,
    halted: bool,
) -> Option<Watched> {
    loop {
        let stage = stage(trial, gate.stages())?;
        let soak = stage.soak.unwrap_or(gate.update.soak());
        let is_watched = is_complete(survey, gate, stage) && !gate.excused && !halted;
        trial.clock.run(is_watched, survey.now);
        let since = trial.clock.reading(survey.now);
        let left = is_watched.then(|| soak.minus(since));
        let watch = Watch { since, has_traffic: stage.weight > 0 };
        let reading = if is_watched { gate.measure(survey, watch) } else { Reading::Fine };
        let holds = stage.hold && !matches!(gate.judge, Judge::Hope);
        let is_over = left == Some(Span::ZERO) && reading == Reading::Fine && !holds;
        if !is_over && trial.step >= gate.promoted {
            let is_steady = left == Some(Span::ZERO);
            return Some(Watched { left: left.filter(|_| !holds), is_steady, reading });
        }
        *trial = Trial::at(trial.step + 1);
    }
}

/// Whether all new copies of a step serve.
fn is_complete(survey: &Survey<'_>, gate: &Gate<'_>, stage: &Stage) -> bool {
    let wanted = gate.update.tried(stage, &gate.budget);
    let serving = survey.fresh().filter(|copy| copy.slot().0 < wanted && survey.is_available(copy));
    !survey.blind && count(serving) >= wanted
}

/// How the traffic is divided between copies of the good revision and all others; `None` where nobody is tried or taken back.
/// What others get in a step follows how many of the step's copies serve; after the steps, and on the way back, it is at least
/// what the good ones cannot take.
pub(crate) fn split(memory: &Memory, survey: &Survey<'_>, gate: &Gate<'_>) -> Option<Split> {
    let (good, stages) = (memory.good?, gate.stages());
    let last = stages.last().filter(|_| survey.routed)?;
    let serving = count(survey.fresh().filter(|copy| survey.is_available(copy)));
    let beyond =
        100 - share(100, count(old(good, survey).filter(|it| survey.is_available(it))), gate.replicas);
    let worth = |stage: &Stage| share(stage.weight, serving, gate.update.worth(stage, gate.replicas));
    let others = match memory.rollout.as_ref().map(|rollout| (rollout, &rollout.trial)) {
        Some((_, Some(trial))) => match stage(trial, stages) {
            Some(stage) => worth(stage),
            None => worth(last).max(beyond).max(share(100, serving, gate.replicas)),
        },
        // It was begun where there was nothing to try beside.
        Some((rollout, None)) if rollout.to != good.component => return None,
        _ => {
            let is_other =
                |it: &&Copy<'_>| it.traffic == Traffic::Active && it.instance.revision != good.component;
            survey.copies.iter().find(is_other)?;
            beyond
        }
    };
    Some(Split { good: good.component, others })
}

/// So much of a weight as so many copies of so many are worth.
fn share(weight: u8, copies: u32, of: u32) -> u8 {
    let (weight, copies, of) = (u64::from(weight), u64::from(copies.min(of)), u64::from(of.max(1)));
    u8::try_from(weight * copies / of).unwrap_or(100)
}

/// What people want to see of it.
pub(crate) fn status(memory: &Memory, stages: &[Stage]) -> Option<StageStatus> {
    let trial = memory.rollout.as_ref()?.trial.as_ref()?;
    let stage = stage(trial, stages)?;
    let of = u32::try_from(stages.len()).unwrap_or(u32::MAX);
    Some(StageStatus { step: trial.step + 1, of, weight: stage.weight, hold: stage.hold })
}
