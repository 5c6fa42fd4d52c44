//! The tasks of a component's hooks: what is started, ended and removed.

use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::InstanceId;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::{Clock, Memory, Rollout, TaskRecord};
use plimsoll_model::step::{Action, Cause, Scope};
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::world::Phase;

use super::{Planner, Subject};
use crate::hooks::{Progress, Task, recorded};
use crate::resolve::PERSON_DEADLINE;
use crate::waits::{SLACK, UNREACHABLE_DEADLINE};

impl<'a> Planner<'a> {
    /// Starts the task that is due, and ends and removes those that nobody wants.
    pub(super) fn tasks(
        &mut self,
        subject: &Subject<'a>,
        memory: &mut Memory,
        due: Option<HookPoint>,
        may_start: bool,
    ) {
        for task in &subject.tasks {
            self.end_task(subject, memory, task);
        }
        let Some(hook) = due else { return };
        let others = subject.tasks.iter().any(Task::is_live);
        let is_there = memory.task.as_ref().is_some_and(|it| recorded(it, &subject.tasks).is_some());
        if others || is_there {
            return;
        }
        if !may_start || !self.start_task(subject, memory, hook) {
            self.waits.push(Wait::new(Some(subject.name.clone()), Reason::HookDue { hook }, PERSON_DEADLINE));
        }
    }

    fn end_task(&mut self, subject: &Subject<'a>, memory: &Memory, task: &Task<'a>) {
        let record = memory.task.as_ref().filter(|it| it.instance == *task.id);
        let leaves = subject.declared.is_none();
        let is_over = record.is_some_and(|it| it.clock.reading(subject.survey.now) >= it.deadline);
        let is_wanted = record.is_some() && !leaves && !self.off() && !is_over;
        let goal = subject.goal.as_ref().map(|goal| goal.hash);
        // Its log is there for as long as what it was for is.
        let is_shown = !leaves
            && *task.target == self.input.context.target
            && (record.is_some() || task.done().is_some() && goal == Some(task.instance.revision));
        let instance = task.id.clone();
        let grace = subject.declared.map_or(Span::seconds(10), plimsoll_model::app::Component::grace);
        let action = match task.instance.phase {
            Phase::Done { .. } | Phase::Stopped if is_shown => None,
            Phase::Done { .. } | Phase::Stopped => Some(Action::Remove { instance }),
            Phase::Unknown | Phase::Stopping { .. } => None,
            _ => (!is_wanted).then_some(Action::Stop { instance, grace }),
        };
        let cause = if leaves || self.off() { Cause::Retire } else { Cause::Rollout };
        if let Some(action) = action {
            self.steps.task(task.target, subject.name, action, cause);
        }
        if let Some(record) = record.filter(|_| is_wanted && task.is_live()) {
            self.looks.push(record.deadline.minus(record.clock.reading(subject.survey.now)));
        }
        let (instance, target, deadline) =
            (task.id.clone(), task.target.clone(), record.map(|it| it.deadline));
        let (reason, deadline) = match task.instance.phase {
            Phase::Done { .. } | Phase::Stopped => return,
            Phase::Unknown => (Reason::Unreachable { scope: Scope::Node(target) }, UNREACHABLE_DEADLINE),
            Phase::Blocked { by } if is_wanted => {
                (Reason::Blocked { instance, target, by }, UNREACHABLE_DEADLINE)
            }
            _ if is_wanted => {
                let limit = deadline.unwrap_or_default().plus(SLACK);
                (Reason::HookRunning { hook: task.hook, instance }, limit)
            }
            _ => (Reason::Stopping { instance }, grace.plus(SLACK)),
        };
        self.waits.push(Wait::new(Some(subject.name.clone()), reason, deadline));
    }

    /// Starts the task of a hook; one that was started and is not there is started as the same one.
    fn start_task(&mut self, subject: &Subject<'a>, memory: &mut Memory, hook: HookPoint) -> bool {
        let (Some(goal), Ok(bindings)) = (&subject.goal, &subject.bindings) else { return false };
        let (Some(task), Some(rollout)) = (goal.revision.tasks.get(&hook), &memory.rollout) else {
            return false;
        };
        let context = &self.input.context;
        let launch = match bindings.launch_task(goal.revision, (hook, task), memory.address, context) {
            Ok(launch) => launch,
            Err(reason) => {
                self.waits.push(Wait::new(Some(subject.name.clone()), reason, PERSON_DEADLINE));
                return false;
            }
        };
        let rollout = Rollout::reference(rollout);
        let is_of_this = |it: &TaskRecord| it.rollout == rollout && it.hook == hook;
        let same = memory.task.take().filter(is_of_this);
        let lost = memory.lost.take().filter(is_of_this);
        let record = same.unwrap_or_else(|| TaskRecord {
            instance: InstanceId::of_task(&self.input.uid, subject.name, hook, self.input.plan_no().next()),
            hook,
            rollout,
            deadline: task.deadline,
            clock: lost.map_or(Clock::ZERO, |lost| lost.clock),
        });
        let create = Action::Create {
            instance: record.instance.clone(),
            revision: goal.hash,
            bindings: bindings.hash,
            launch: Box::new(launch),
        };
        memory.task = Some(record);
        self.steps.task(&context.target, subject.name, create, Cause::Rollout);
        true
    }

    /// The wait for a person who has to look at a task that failed, if one has.
    pub(super) fn failed_task(subject: &Subject<'_>, memory: &Memory) -> Option<Reason> {
        let (rollout, record) = (memory.rollout.as_ref()?, memory.task.as_ref()?);
        let progress = subject.hooks()?.progress(record.hook, memory, rollout.reference());
        let Progress::Failed(evidence) = progress else { return None };
        let (hook, instance) = (record.hook, record.instance.clone());
        Some(Reason::HookFailed { hook, instance, verdict: evidence.verdict })
    }
}
