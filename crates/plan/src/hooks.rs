//! Hooks: one task for each revision, of which exactly one success is recorded.
//!
//! ```text
//!            first new copy may start                    all copies good for the soak time
//!   before ──▶ succeeded ──▶ rolling … soaking ──▶ after ──▶ succeeded ──▶ good
//!     └──▶ failed: the gate has failed                └──▶ failed: the gate has failed
//! ```
//!
//! A task is an instance that its agent does not start again. It counts as done by what its agent says of it, whoever asked
//! for it and whatever is worked towards by then; what is done is remembered before the task is removed. One task of a
//! component runs at a time: what one begins is not cut off because something else was declared meanwhile.

use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::{ComponentName, InstanceId, TargetName};
use plimsoll_model::operations::RolloutRef;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{ComponentRevision, Evidence};
use plimsoll_model::status::{HookDone, Memory, Rollout, TaskRecord};
use plimsoll_model::world::{Exit, Instance, NodeTime, Phase, World};

/// The task of a hook as it is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) target: &'a TargetName,
    pub(crate) instance: &'a Instance,
    pub(crate) hook: HookPoint,
}

impl Task<'_> {
    /// What it has done, if it has succeeded. One that was asked to end has not, whatever it says.
    pub(crate) fn done(&self) -> Option<HookDone> {
        let done = HookDone { revision: self.instance.revision, hook: self.hook };
        (self.instance.phase == Phase::Done { exit: Exit::Code(0) }).then_some(done)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.instance.is_live()
    }

    /// Its end says nothing about its program: nobody saw it.
    fn is_lost(&self) -> bool {
        self.instance.phase == Phase::Done { exit: Exit::Lost }
    }
}

/// All tasks of a component, wherever they are.
pub(crate) fn tasks<'a>(world: &'a World, component: &ComponentName) -> Vec<Task<'a>> {
    let nodes = world.targets.iter().filter_map(|(target, view)| Some((target, view.node.present()?)));
    let instances = nodes.flat_map(|(target, node)| node.instances.iter().map(move |it| (target, it)));
    let mine = instances.filter(|(_, (_, instance))| instance.component == *component);
    mine.filter_map(|(target, (id, instance))| Some(Task { id, target, instance, hook: instance.hook? }))
        .collect()
}

/// The task that is on record.
pub(crate) fn recorded<'s, 'a>(record: &TaskRecord, tasks: &'s [Task<'a>]) -> Option<&'s Task<'a>> {
    tasks.iter().find(|task| *task.id == record.instance)
}

/// Remembers what has succeeded, and for how long the task that is on record has run: the time in which something outside of it
/// is to blame does not count.
pub(crate) fn learn(memory: &mut Memory, tasks: &[Task<'_>], now: Option<&NodeTime>) {
    tasks.iter().filter_map(Task::done).for_each(|done| memory.record_done(done));
    let Some(record) = &mut memory.task else { return };
    let task = recorded(record, tasks);
    let runs = task.is_some_and(|task| matches!(task.instance.phase, Phase::Unready { .. }));
    record.clock.run(runs, now);
    if task.is_some_and(|task| task.done().is_some()) {
        memory.task = None;
    } else if task.is_some_and(Task::is_lost) && record.clock.reading(now) < record.deadline {
        // It is run again, as another task, in the time that is left.
        memory.lost = memory.task.take();
    }
}

/// Forgets the record of a task that belongs to no rollout any more, once it has ended.
pub(crate) fn forget(memory: &mut Memory, tasks: &[Task<'_>], blind: bool) {
    let rollout = memory.rollout.as_ref().map(Rollout::reference);
    memory.lost.take_if(|lost| Some(lost.rollout) != rollout);
    let Some(record) = &memory.task else { return };
    let is_wanted = rollout == Some(record.rollout);
    let task = recorded(record, tasks);
    let may_run = task.map_or(blind, Task::is_live);
    if !is_wanted && !may_run {
        memory.task = None;
    }
}

/// How far a hook of a rollout is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is none, or it has succeeded.
    Over,
    /// Its task is to be started, or under way for so long at most.
    Open { left: Option<Span> },
    /// Its task has failed.
    Failed(Evidence),
}

/// What is looked at to say how far a hook is.
#[derive(Clone, Copy)]
pub(crate) struct Hooks<'a> {
    pub(crate) revision: &'a ComponentRevision,
    pub(crate) tasks: &'a [Task<'a>],
    pub(crate) now: Option<&'a NodeTime>,
}

impl Hooks<'_> {
    /// How far a hook is of what is rolled out.
    pub(crate) fn progress(&self, hook: HookPoint, memory: &Memory, rollout: RolloutRef) -> Progress {
        let is_good = memory.good.is_some_and(|good| good.component == rollout.revision);
        let is_done = memory.has_done(HookDone { revision: rollout.revision, hook });
        if !self.revision.tasks.contains_key(&hook) || is_good || is_done {
            return Progress::Over;
        }
        let record = memory.task.as_ref().filter(|it| it.rollout == rollout && it.hook == hook);
        let Some((record, task)) = record.and_then(|it| Some((it, recorded(it, self.tasks)?))) else {
            return Progress::Open { left: None };
        };
        let left = record.deadline.minus(record.clock.reading(self.now));
        let verdict = match (task.instance.phase, task.instance.last_exit) {
            (Phase::Done { exit }, _) => format!("hook `{hook}` failed: {exit}"),
            (Phase::Stopped, _) if left > Span::ZERO => format!("hook `{hook}` was ended"),
            (Phase::Stopped, _) => format!("hook `{hook}` did not end within {}", record.deadline),
            _ if left == Span::ZERO => format!("hook `{hook}` did not end within {}", record.deadline),
            _ => return Progress::Open { left: task.is_live().then_some(left) },
        };
        Progress::Failed(Evidence {
            verdict,
            instance: Some(task.id.clone()),
            probe: None,
            exit: task.instance.last_exit,
            log: Vec::new(),
        })
    }
}
