//! Why a component is not where it should be, as typed waits.

use plimsoll_model::app::Component;
use plimsoll_model::id::ComponentName;
use plimsoll_model::quantity::Span;
use plimsoll_model::step::Scope;
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::world::{Phase, Presence, World};

use crate::replace::Moves;
use crate::survey::{Copy, DRAIN_LIMIT, Survey};

/// Slack on top of what a wait should take, so that a deadline passes only when something is wrong.
pub(crate) const SLACK: Span = Span::seconds(10);

/// How long a driver may stay silent before its objects count as stalled.
pub(crate) const UNREACHABLE_DEADLINE: Span = Span::seconds(60);

/// Waits that follow from the copies themselves.
pub(crate) fn of_copies(
    name: &ComponentName,
    component: Option<&Component>,
    survey: &Survey<'_>,
    moves: &Moves<'_>,
) -> Vec<Wait> {
    let ready_deadline = component.map_or(Span::seconds(60), |it| it.update.deadline());
    let grace = component.map_or(Span::seconds(10), Component::grace);
    let mut waits = Vec::new();
    let mut wait = |reason, deadline| waits.push(Wait::new(Some(name.clone()), reason, deadline));
    for copy in &survey.copies {
        let instance = copy.id.clone();
        let retired = moves.retire.iter().any(|(id, _)| *id == copy.id);
        match copy.instance.phase {
            Phase::Unknown => {
                let scope = Scope::Node(copy.target.clone());
                wait(Reason::Unreachable { scope }, UNREACHABLE_DEADLINE);
            }
            Phase::Stopping { .. } => wait(Reason::Stopping { instance }, grace.plus(SLACK)),
            Phase::Stopped | Phase::Done { .. } => {}
            _ if retired => {
                if !copy.is_drained() {
                    wait(Reason::Draining { instance }, DRAIN_LIMIT.plus(SLACK));
                }
            }
            Phase::Blocked { by } => {
                let target = copy.target.clone();
                wait(Reason::Blocked { instance, target, by }, UNREACHABLE_DEADLINE);
            }
            Phase::Backoff { .. } => wait(Reason::Crashing { instance }, ready_deadline),
            Phase::Unready { .. } => wait(Reason::NotReady { instance }, ready_deadline),
            Phase::Ready { .. } => {}
        }
    }
    waits
}

/// Waits for drivers that do not answer.
pub(crate) fn of_drivers(world: &World) -> Vec<Wait> {
    let mut waits = Vec::new();
    for (target, view) in &world.targets {
        let silent = [
            (matches!(view.node, Presence::Unknown), Scope::Node(target.clone())),
            (matches!(view.router, Presence::Unknown), Scope::Router(target.clone())),
        ];
        for (_, scope) in silent.into_iter().filter(|(unknown, _)| *unknown) {
            waits.push(Wait::new(None, Reason::Unreachable { scope }, UNREACHABLE_DEADLINE));
        }
    }
    waits
}

/// When to look again at the latest because of copies that time alone moves on.
pub(crate) fn look(copies: &[Copy<'_>]) -> Option<Span> {
    use crate::survey::Traffic;
    let drain = |copy: &Copy<'_>| match copy.traffic {
        Traffic::Draining { since, in_flight } if in_flight > 0 => Some(DRAIN_LIMIT.minus(since)),
        _ => None,
    };
    copies.iter().filter_map(drain).min()
}
