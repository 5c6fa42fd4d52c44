//! Which copies come and which go, within the budgets.
//!
//! Two numbers are kept at every step: copies alive never exceed replicas + surge, and no copy that serves is
//! taken away while that would leave fewer than replicas - unavailable.

use std::collections::BTreeSet;

use plimsoll_model::id::{InstanceId, Slot};
use plimsoll_model::step::Cause;
use plimsoll_model::update::{Budget, Strategy};
use plimsoll_model::world::Phase;

use crate::survey::{Copy, Survey};

/// What may be done with a component's copies now.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) budget: Budget,
    pub(crate) strategy: Strategy,
    /// Copies that serve and may be taken away.
    pub(crate) spare: u32,
    /// Copies that may come to life.
    pub(crate) room: u32,
    /// Copies may be created at all: providers are ready, drivers answer.
    pub(crate) may_create: bool,
    /// Old copies may be replaced: not paused, not failed, providers not rolling.
    pub(crate) may_replace: bool,
    /// Copies may be taken away even if nothing takes their place: power off, removal, deletion. Held back
    /// while consumers of the component still run.
    pub(crate) retire_all: Option<Hold>,
}

impl Rules {
    /// Copies that may be taken away and that may come, of those that are there: alive within replicas + surge, serving
    /// at least replicas - unavailable.
    pub(crate) fn margins(survey: &Survey<'_>, budget: &Budget, strategy: Strategy) -> (u32, u32) {
        let floor = budget.replicas.saturating_sub(budget.unavailable);
        let surge = if strategy == Strategy::Recreate { 0 } else { budget.surge };
        let ceiling = budget.replicas.saturating_add(surge);
        (survey.available().saturating_sub(floor), ceiling.saturating_sub(survey.live()))
    }
}

/// Whether a component that must end may end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It may.
    Free,
    /// Its consumers end first.
    Consumers,
}

/// Decisions about a component's copies.
#[derive(Debug, Default)]
pub(crate) struct Moves<'a> {
    /// Slots that get a new copy.
    pub(crate) create: Vec<(Slot, Cause)>,
    /// Stopped copies that are started again.
    pub(crate) revive: Vec<(&'a InstanceId, Cause)>,
    /// Copies that are to end, each with the reason.
    pub(crate) retire: Vec<(&'a InstanceId, Cause)>,
}

/// Decides.
pub(crate) fn decide<'a>(
    survey: &Survey<'a>,
    rules: &Rules,
    replace: Cause,
    desired_before: u32,
) -> Moves<'a> {
    let mut moves = Moves::default();
    match rules.retire_all {
        Some(Hold::Consumers) => return moves,
        Some(Hold::Free) => {
            moves.retire = survey.copies.iter().map(|copy| (copy.id, Cause::Retire)).collect();
            return moves;
        }
        None => {}
    }
    retire(survey, rules, replace, &mut moves);
    if rules.may_create {
        create(survey, rules, replace, desired_before, &mut moves);
    }
    moves
}

fn retire<'a>(survey: &Survey<'a>, rules: &Rules, replace: Cause, moves: &mut Moves<'a>) {
    let mut spare = rules.spare;
    // Copies already on their way out stay on it.
    for copy in survey.copies.iter().filter(|copy| matches!(copy.instance.phase, Phase::Stopping { .. })) {
        moves.retire.push((copy.id, if copy.fresh { Cause::Scale } else { replace }));
    }
    let mut candidates: Vec<(&Copy<'a>, Cause)> = Vec::new();
    let mut kept = BTreeSet::new();
    for copy in by_worth(survey) {
        let cause = if copy.slot().0 >= rules.budget.replicas {
            Cause::Scale
        } else if copy.fresh && kept.insert(copy.slot()) {
            continue;
        } else if copy.fresh {
            Cause::Scale
        } else if rules.may_replace {
            replace
        } else {
            continue;
        };
        candidates.push((copy, cause));
    }
    // What does not serve goes first and costs nothing; then copies whose successor already serves.
    candidates.sort_by_key(|(copy, _)| {
        let succeeded = survey.fresh().any(|it| it.slot() == copy.slot() && survey.is_available(it));
        (survey.is_available(copy), !succeeded, copy.slot())
    });
    for (copy, cause) in candidates {
        if moves.retire.iter().any(|(id, _)| *id == copy.id) || copy.instance.phase == Phase::Unknown {
            continue;
        }
        if survey.is_available(copy) && rules.strategy != Strategy::Recreate {
            if spare == 0 {
                continue;
            }
            spare -= 1;
        }
        moves.retire.push((copy.id, cause));
    }
}

/// Fresh copies, the most useful first, so that of two in one slot the better one is kept.
fn by_worth<'s, 'a>(survey: &'s Survey<'a>) -> Vec<&'s Copy<'a>> {
    let mut copies: Vec<_> = survey.copies.iter().collect();
    copies.sort_by_key(|copy| {
        (copy.slot(), !survey.is_available(copy), !copy.instance.is_ready(), !copy.is_live(), copy.id)
    });
    copies
}

fn create<'a>(
    survey: &Survey<'a>,
    rules: &Rules,
    replace: Cause,
    desired_before: u32,
    moves: &mut Moves<'a>,
) {
    let Budget { replicas, surge, .. } = rules.budget;
    let mut room = rules.room;
    if rules.strategy == Strategy::Recreate && survey.has_live_stale() {
        return;
    }
    // Empty slots come before slots that an old copy still fills.
    let occupied = |slot: Slot| survey.copies.iter().any(|copy| copy.slot() == slot && copy.is_live());
    let mut slots: Vec<Slot> = (0..replicas).map(Slot).collect();
    slots.sort_by_key(|slot| occupied(*slot));
    for slot in slots {
        if room == 0 {
            return;
        }
        let mut here = survey.copies.iter().filter(|copy| copy.slot() == slot);
        if here.clone().any(|copy| copy.fresh && copy.is_live()) {
            continue;
        }
        if let Some(stopped) = here.clone().find(|copy| copy.fresh) {
            // A stopped copy that still receives requests would be started under its drain.
            if stopped.is_drained() && !moves.retire.iter().any(|(id, _)| *id == stopped.id) {
                // One that nobody wanted before is not healed: a person wants it again.
                let cause = if slot.0 >= desired_before { Cause::Scale } else { Cause::Heal };
                moves.revive.push((stopped.id, cause));
                room -= 1;
            }
            continue;
        }
        let old_is_live = here.any(Copy::is_live);
        if old_is_live && (!rules.may_replace || surge == 0) {
            continue;
        }
        let cause = match replace {
            Cause::Heal if slot.0 >= desired_before => Cause::Scale,
            cause => cause,
        };
        moves.create.push((slot, cause));
        room -= 1;
    }
}
