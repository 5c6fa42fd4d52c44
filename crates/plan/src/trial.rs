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

use plimsoll_model::id::ComponentHash;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::{Clock, Good, Memory, StageStatus, Trial};
use plimsoll_model::step::Split;
use plimsoll_model::update::Stage;

use crate::measure::{Reading, Watch};
use crate::rollout::{Gate, Judge};
use crate::survey::{Survey, Traffic, count};

/// How the step that is under way goes.
pub(crate) struct Watched {
    /// Time until its soak time is over; `None` while a copy is missing, or for as long as a person wants.
    pub(crate) left: Option<Span>,
    pub(crate) reading: Reading,
}

/// A trial, if the rollout that begins is one: what was good runs beside it.
pub(crate) fn begin(good: Option<Good>, survey: &Survey<'_>, gate: &Gate<'_>) -> Option<Trial> {
    let good = good.filter(|good| good.component != gate.wanted.revision)?;
    let mut old = survey.copies.iter().filter(|it| it.is_live() && it.instance.revision == good.component);
    let is_one = !gate.stages().is_empty() && gate.declared == gate.wanted.revision;
    // Two targets have two routers: neither could divide the traffic.
    let is_here = old.clone().all(|it| it.target == gate.wanted.target);
    (is_one && is_here && old.next().is_some()).then_some(Trial { step: 0, clock: Clock::ZERO })
}

/// Whether there is nothing to try beside: copies of a third revision serve in the place of old ones, and would neither go
/// nor make room.
pub(crate) fn is_pointless(good: Option<Good>, survey: &Survey<'_>, gate: &Gate<'_>) -> bool {
    let is_old = |revision: ComponentHash| good.is_some_and(|good| good.component == revision);
    let old = survey.copies.iter().filter(|it| is_old(it.instance.revision) && survey.is_available(it));
    let is_third = |revision| !is_old(revision) && revision != gate.wanted.revision;
    let has_third = survey.copies.iter().any(|it| it.is_live() && is_third(it.instance.revision));
    has_third && count(old) < gate.budget.replicas.saturating_sub(gate.budget.unavailable)
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
            return Some(Watched { left: left.filter(|_| !holds), reading });
        }
        *trial = Trial { step: trial.step + 1, clock: Clock::ZERO };
    }
}

/// Whether all new copies of a step serve.
fn is_complete(survey: &Survey<'_>, gate: &Gate<'_>, stage: &Stage) -> bool {
    let wanted = gate.update.tried(stage, &gate.budget);
    let serving = survey.fresh().filter(|copy| copy.slot().0 < wanted && survey.is_available(copy));
    !survey.blind && count(serving) >= wanted
}

/// How the traffic is divided between the new copies and the old ones. What new copies get follows how many of them
/// serve, and never falls while the old ones are replaced.
pub(crate) fn split(memory: &Memory, survey: &Survey<'_>, gate: &Gate<'_>) -> Option<Split> {
    let stages = gate.stages();
    let last = stages.last().filter(|_| survey.routed)?;
    let serving = count(survey.fresh().filter(|copy| survey.is_available(copy)));
    let trial = memory.rollout.as_ref().and_then(|rollout| rollout.trial.as_ref());
    let Some(trial) = trial else { return back(memory, survey, gate, serving) };
    let weight = match stage(trial, stages) {
        Some(stage) => share(stage.weight, serving, gate.update.tried(stage, &gate.budget)),
        None => share(last.weight, serving, 1).max(share(100, serving, gate.replicas)),
    };
    Some(Split { revision: gate.wanted.revision, weight })
}

/// On the way back, what was tried gets only what the good copies cannot take.
fn back(memory: &Memory, survey: &Survey<'_>, gate: &Gate<'_>, serving: u32) -> Option<Split> {
    memory.good.filter(|good| good.component == gate.wanted.revision)?;
    let is_tried = |revision: ComponentHash| revision != gate.wanted.revision;
    let mut tried =
        survey.copies.iter().filter(|it| it.traffic == Traffic::Active && is_tried(it.instance.revision));
    let revision = tried.next()?.instance.revision;
    Some(Split { revision, weight: 100 - share(100, serving, gate.replicas) })
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
