//! A component's copies in sides: two while new copies are tried beside all old ones, one otherwise.

use plimsoll_model::app::Component;
use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::ComponentName;
use plimsoll_model::revision::ComponentRevision;
use plimsoll_model::status::{Good, Memory};
use plimsoll_model::step::Cause;
use plimsoll_model::update::{Budget, OnFailure, Strategy};
use plimsoll_model::wait::Reason;

use super::{Planner, Subject};
use crate::bindings::{self, Bindings};
use crate::replace::{self, Hold, Moves, Rules};
use crate::survey::{Survey, Wanted, count};
use crate::trial;

/// Copies of a component that are planned together, and what new ones among them are made of.
pub(super) struct Side<'a> {
    pub(super) survey: Survey<'a>,
    pub(super) moves: Moves<'a>,
    pub(super) made_of: Option<MadeOf<'a>>,
}

/// What copies are made of: a revision, and what they are given if that is known.
pub(super) type MadeOf<'a> = (&'a ComponentRevision, Result<Bindings, Vec<Reason>>);

impl<'a> Planner<'a> {
    /// The component's copies with what becomes of them: two sides while new ones are tried, one otherwise.
    pub(super) fn sides(
        &self,
        memory: &Memory,
        subject: &Subject<'a>,
        hook: Option<HookPoint>,
    ) -> Vec<Side<'a>> {
        if subject.declared.is_none() {
            let moves = replace::decide(&subject.survey, &self.retire_rules(subject), Cause::Retire, 0);
            return vec![Side { survey: subject.survey.clone(), moves, made_of: None }];
        }
        let rules = self.rules(memory, subject);
        if hook == Some(HookPoint::Before) && rules.retire_all.is_none() {
            return vec![self.kept(memory, subject, &rules)];
        }
        if let Some(sides) = self.tried(memory, subject, &rules) {
            return sides;
        }
        let before = self.input.status.components.get(subject.name).map_or(0, |it| it.desired);
        let moves = replace::decide(&subject.survey, &rules, replace_cause(memory, subject), before);
        let made_of = subject.goal.as_ref().map(|goal| (goal.revision, subject.bindings.clone()));
        vec![Side { survey: subject.survey.clone(), moves, made_of }]
    }

    /// What may be done with the copies of a component now, and whether its hooks may begin.
    pub(super) fn rules(&self, memory: &Memory, subject: &Subject<'a>) -> Rules {
        let Some(declared) = subject.declared else { return self.retire_rules(subject) };
        let halted = memory.rollout.as_ref().is_some_and(|rollout| rollout.failed.is_some())
            && declared.update.on_failure == OnFailure::Halt;
        let may_create = subject.bindings.is_ok()
            && subject.unready.is_empty()
            && !subject.survey.blind
            && self.input.context.cycle.is_none();
        let budget = subject.budget();
        let (spare, room) = Rules::margins(&subject.survey, &budget, declared.update.strategy);
        Rules {
            budget,
            strategy: declared.update.strategy,
            spare,
            room,
            may_create,
            may_replace: may_create
                && !halted
                && !self.input.operations.paused
                && subject.rolling_first.is_none()
                && !subject.undivided,
            retire_all: (self.off() || subject.replicas == 0).then(|| self.hold(subject)),
        }
    }

    /// The copies of a component until the task before a rollout has succeeded: none is replaced, and what is lost of what was
    /// good is made again as it was.
    fn kept(&self, memory: &Memory, subject: &Subject<'a>, rules: &Rules) -> Side<'a> {
        let was_good = self.was_good(memory, subject);
        let survey = match memory.good.filter(|_| was_good.is_some()) {
            Some(good) => self.survey_of(good, subject),
            None => subject.survey.clone(),
        };
        let may_create = rules.may_create && was_good.as_ref().is_some_and(|(_, bindings)| bindings.is_ok());
        let rules = Rules { may_create, may_replace: false, ..rules.clone() };
        let before = self.input.status.components.get(subject.name).map_or(0, |it| it.desired);
        let moves = replace::decide(&survey, &rules, Cause::Heal, before);
        Side { survey, moves, made_of: was_good }
    }

    /// What copies of the good revision are made of.
    fn was_good(&self, memory: &Memory, subject: &Subject<'a>) -> Option<MadeOf<'a>> {
        let (input, context) = (self.input, &self.input.context);
        let before = context.revisions.get(&memory.good?.revision)?;
        let revision = before.components.get(subject.name)?;
        let was_declared = before.declaration.components.get(subject.name)?;
        let restarts = input.operations.restarts.get(subject.name).copied().unwrap_or(0);
        let bindings =
            bindings::resolve(subject.name, was_declared, revision, &self.endpoints, context, restarts);
        Some((revision, bindings))
    }

    /// All copies, compared with the good revision: what one was given is no reason to replace it when it is about to be replaced.
    fn survey_of(&self, good: Good, subject: &Subject<'a>) -> Survey<'a> {
        let target = &self.input.context.target;
        let wanted = Wanted { target, revision: good.component, bindings: None };
        Survey::take(&self.input.world, subject.name, subject.survey.routed, Some(wanted))
    }

    /// The old side, which stays complete, and the new one, while it is tried.
    fn tried(&self, memory: &Memory, subject: &Subject<'a>, rules: &Rules) -> Option<Vec<Side<'a>>> {
        let (declared, goal) = (subject.declared?, subject.goal.as_ref()?);
        let trial = memory.rollout.as_ref()?.trial.as_ref().filter(|_| rules.retire_all.is_none())?;
        let stage = trial::stage(trial, declared.update.stages())?;
        let good = memory.good?;
        let (old, old_bindings) = self.was_good(memory, subject)?;
        let old_side = self.survey_of(good, subject).of(good.component, true);
        let before = self.input.status.components.get(subject.name).map_or(0, |it| it.desired);
        let keep = Rules {
            may_create: rules.may_create && old_bindings.is_ok(),
            may_replace: false,
            ..rules.clone()
        };
        let kept = replace::decide(&old_side, &keep, Cause::Heal, before);
        let budget = Budget { replicas: declared.update.tried(stage, &rules.budget), ..rules.budget };
        let new_side = subject.survey.of(good.component, false);
        let try_out = Rules {
            budget,
            spare: rules.spare.saturating_sub(count(kept.retire.iter())),
            // Slots have one copy of each side; ids are by slot, so that one plan makes one copy in each.
            room: if kept.create.is_empty() && kept.revive.is_empty() {
                rules.room.min(budget.replicas.saturating_sub(new_side.live()))
            } else {
                0
            },
            may_create: rules.may_replace,
            ..rules.clone()
        };
        let moves = replace::decide(&new_side, &try_out, Cause::Rollout, before);
        Some(vec![
            Side { survey: old_side, moves: kept, made_of: Some((old, old_bindings)) },
            Side { survey: new_side, moves, made_of: Some((goal.revision, subject.bindings.clone())) },
        ])
    }

    fn retire_rules(&self, subject: &Subject<'_>) -> Rules {
        Rules {
            budget: Budget { replicas: 0, surge: 0, unavailable: 0 },
            strategy: Strategy::Recreate,
            spare: 0,
            room: 0,
            may_create: false,
            may_replace: false,
            retire_all: Some(self.hold(subject)),
        }
    }

    /// A component ends only after those that consume it: on the way down by the declaration, and when it left
    /// the declaration, after every rollout that may still hold copies which knew it.
    fn hold(&self, subject: &Subject<'_>) -> Hold {
        let live = |name: &ComponentName| Survey::take(&self.input.world, name, false, None).live() > 0;
        let consumes = |component: &Component| {
            component.consumes.values().any(|it| it.from.app.is_none() && it.from.component == *subject.name)
        };
        let mut consumers = self.input.spec.components.iter().filter(|(_, component)| consumes(component));
        let left = !self.input.spec.components.contains_key(subject.name);
        let others_roll = || left && self.memory.values().any(|memory| memory.rollout.is_some());
        if self.off() && consumers.any(|(name, _)| live(name)) || !self.off() && others_roll() {
            Hold::Consumers
        } else {
            Hold::Free
        }
    }
}

fn replace_cause(memory: &Memory, subject: &Subject<'_>) -> Cause {
    match &subject.goal {
        Some(goal) if goal.rejected.is_some() && memory.rollout.is_some() => Cause::Rollback,
        _ if memory.rollout.is_some() => Cause::Rollout,
        _ => Cause::Heal,
    }
}
