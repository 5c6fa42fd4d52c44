//! Status of an App: what the planner must remember, and what people want to see.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::hook::HookPoint;
use crate::id::{
    BindingsHash, ComponentHash, ComponentName, InstanceId, ObjectName, PlanHash, PlanNo, RevisionNo, Slot,
    TargetName,
};
use crate::object::Timestamp;
use crate::operations::RolloutRef;
use crate::quantity::Span;
use crate::wait::Wait;
use crate::world::{Exit, Limit, NodeTime, ServiceIp};

/// Everything the system keeps about an App. Written by the App's reconciler and by nobody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The current plan.
    pub plan: Option<PlanRef>,
    /// The newest App revision.
    pub revision: Option<RevisionNo>,
    /// What the planner remembers of each component.
    #[serde(default)]
    pub memory: BTreeMap<ComponentName, Memory>,
    /// Component revisions that failed through their own fault, by the name of their Rejection.
    #[serde(default)]
    pub rejected: BTreeMap<ObjectName, Rejected>,
    /// Targets that may still hold something of the App.
    #[serde(default)]
    pub targets: Vec<TargetName>,
    /// Names of the Claims it holds.
    #[serde(default)]
    pub claims: BTreeSet<ObjectName>,
    /// What people want to see of each component.
    #[serde(default)]
    pub components: BTreeMap<ComponentName, ComponentStatus>,
    /// How the latest reconcile ended.
    pub outcome: Option<OutcomeRecord>,
}

/// A component revision that is not started again, unless a person lifts its Rejection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The component.
    pub component: ComponentName,
    /// What was rejected.
    pub revision: ComponentHash,
}

/// The plan that is being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    /// Its number.
    pub no: PlanNo,
    /// Its content.
    pub hash: PlanHash,
}

/// What the planner must remember of a component, because no observation tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The last component revision that passed its gate, and the App revision that holds its content.
    pub good: Option<Good>,
    /// The rollout under way.
    pub rollout: Option<Rollout>,
    /// The component's stable address, for life.
    pub address: Option<ServiceIp>,
    /// How many copies are wanted, where that follows what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// The hook's task under way, or that failed and is looked at: there is one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRecord>,
    /// The task whose end nobody saw, for as long as no other one has been started in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<TaskRecord>,
    /// The hooks that have succeeded, the latest last: each once for a revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<HookDone>,
}

impl Memory {
    /// Successes of hooks that are remembered: who goes back further has them run anew.
    const MOST_DONE: usize = 200;

    /// Whether a hook has succeeded for a revision.
    pub fn has_done(&self, done: HookDone) -> bool {
        self.done.contains(&done)
    }

    /// Records that a hook has succeeded, once.
    pub fn record_done(&mut self, done: HookDone) {
        if !self.has_done(done) {
            self.done.push(done);
            self.done.drain(..self.done.len().saturating_sub(Self::MOST_DONE));
        }
    }
}

/// The number of copies that is wanted, and what may change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Copies wanted.
    pub wanted: u32,
    /// Time since that changed; absent while it never has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Clock>,
    /// Another number that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

impl Scaling {
    /// The beginning.
    pub fn at(wanted: u32) -> Self {
        Self { wanted, changed: None, pending: None }
    }
}

/// Another number of copies that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Of the numbers asked for so far, the one that changes least.
    pub to: u32,
    /// Time for which more, or fewer, have been asked for.
    pub clock: Clock,
}

/// A hook that has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookDone {
    /// For which component revision.
    pub revision: ComponentHash,
    /// Which.
    pub hook: HookPoint,
}

/// The task of a hook that was started and has not succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRecord {
    /// Its id.
    pub instance: InstanceId,
    /// Which hook it is.
    pub hook: HookPoint,
    /// The rollout that it is part of.
    pub rollout: RolloutRef,
    /// How long it may run.
    pub deadline: Span,
    /// How long it has, and those before it that were lost.
    pub clock: Clock,
}

/// A component revision that passed its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// What it was.
    pub component: ComponentHash,
    /// Where its content is kept.
    pub revision: RevisionNo,
}

/// A rollout under way: towards one component revision with one set of bindings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The component revision it leads to.
    pub to: ComponentHash,
    /// The bindings it leads to.
    pub bindings: BindingsHash,
    /// The most copies that were ready at once so far; one more is progress.
    pub best: u32,
    /// Time without progress that counts against the component.
    pub clock: Clock,
    /// Set once the gate failed and nothing can or may be rolled back.
    pub failed: Option<String>,
    /// The number of the App's plan when it began.
    #[serde(default)]
    pub began: PlanNo,
    /// Where it stands, while new copies are tried beside all old ones and until all are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// How far new copies have been tried beside the old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The step, from 0; as many as there are once all are over and the old copies are replaced.
    pub step: u32,
    /// Time for which all new copies of the step have been in place.
    pub clock: Clock,
    /// Time for which copies of a third revision have served in the place of old ones that do not.
    #[serde(default = "Clock::zero", skip_serializing_if = "Clock::is_zero")]
    pub stuck: Clock,
}

impl Trial {
    /// The beginning of a step.
    pub fn at(step: u32) -> Self {
        Self { step, clock: Clock::ZERO, stuck: Clock::ZERO }
    }
}

impl Rollout {
    /// Which one it is.
    pub fn reference(&self) -> RolloutRef {
        RolloutRef { revision: self.to, began: self.began }
    }
}

/// A stopwatch on the node's own clock. It stands while something else is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clock {
    /// It stands at this reading.
    Stopped {
        /// Time counted.
        spent: Span,
    },
    /// It runs.
    Running {
        /// Time counted before `from`.
        spent: Span,
        /// When it was started.
        from: NodeTime,
    },
}

impl Clock {
    /// A stopwatch at zero that does not run.
    pub const ZERO: Self = Self::Stopped { spent: Span::ZERO };

    fn zero() -> Self {
        Self::ZERO
    }

    fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Lets it run, or stand, from `now` on. One that runs goes on as it is, unless the node was started anew.
    pub fn run(&mut self, runs: bool, now: Option<&NodeTime>) {
        match (&*self, runs, now) {
            (Self::Running { from, .. }, true, Some(now)) if from.boot == now.boot => {}
            (_, true, Some(now)) => {
                *self = Self::Running { spent: self.reading(Some(now)), from: now.clone() };
            }
            (Self::Running { .. }, _, now) => *self = Self::Stopped { spent: self.reading(now) },
            (Self::Stopped { .. }, _, _) => {}
        }
    }

    /// The reading at `now`. Time across a reboot of the node does not count.
    pub fn reading(&self, now: Option<&NodeTime>) -> Span {
        match self {
            Self::Stopped { spent } => *spent,
            Self::Running { spent, from } => {
                spent.plus(now.and_then(|now| now.since(from)).unwrap_or_default())
            }
        }
    }
}

/// What people want to see of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Copies wanted.
    pub desired: u32,
    /// Copies that run the wanted revision with the wanted bindings and are ready.
    pub ready: u32,
    /// Copies that are ready, old ones too.
    pub available: u32,
    /// The revision worked towards.
    pub revision: Option<ComponentHash>,
    /// The step in which that is tried beside the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageStatus>,
    /// More copies are asked for than `scale.max` allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    /// Limits that were declared and that are not enforced where its copies run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unenforced: BTreeSet<Limit>,
    /// The copies.
    pub instances: Vec<InstanceStatus>,
}

/// What people want to see of a step in which new copies are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Which step, from 1.
    pub step: u32,
    /// Of how many.
    pub of: u32,
    /// Percent of the traffic that it gives to new copies.
    pub weight: u8,
    /// Whether it lasts until a person ends it.
    pub hold: bool,
}

/// What people want to see of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its id.
    pub id: InstanceId,
    /// Its position.
    pub slot: Slot,
    /// Where it runs.
    pub target: TargetName,
    /// What it runs.
    pub revision: ComponentHash,
    /// What it is doing.
    pub state: InstanceState,
    /// Times the agent started it again in place.
    pub restarts: u32,
    /// The hook whose task it is; absent of a copy of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookPoint>,
    /// How a task that is done ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// [`crate::world::Phase`] without its times, which change with every look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceState {
    /// The agent cannot say.
    Unknown,
    /// It cannot be started for a reason outside of it.
    Blocked,
    /// Running, not ready.
    Unready,
    /// Running and ready.
    Ready,
    /// Ended, to be started again.
    Backoff,
    /// Ending.
    Stopping,
    /// Ended.
    Stopped,
    /// The task of a hook that has ended by itself.
    Done,
}

impl From<&crate::world::Phase> for InstanceState {
    fn from(phase: &crate::world::Phase) -> Self {
        use crate::world::Phase;
        match phase {
            Phase::Unknown => Self::Unknown,
            Phase::Blocked { .. } => Self::Blocked,
            Phase::Unready { .. } => Self::Unready,
            Phase::Ready { .. } => Self::Ready,
            Phase::Backoff { .. } => Self::Backoff,
            Phase::Stopping { .. } => Self::Stopping,
            Phase::Stopped => Self::Stopped,
            Phase::Done { .. } => Self::Done,
        }
    }
}

/// How a reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Declared and observed agree.
    Settled,
    /// Steps were carried out, or somebody else's change got in between: look again at once.
    Advanced,
    /// Nothing is due; these waits, at least one, say why.
    Waiting(Vec<Wait>),
    /// Only a person can go on from here, or a wait outlasted its deadline.
    Stalled(Vec<Wait>),
    /// Nothing of the object is left.
    Gone,
}

/// An outcome as it is stored: rewritten only when it differs in more than times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeRecord {
    /// How it ended.
    pub state: OutcomeState,
    /// Since when it has ended this way.
    pub since: Timestamp,
    /// Why it is not settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Waited>,
    /// Source file and line that decided it, for those who look after Plimsoll itself.
    pub site: String,
}

/// [`Outcome`] without its waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutcomeState {
    /// Declared and observed agree.
    Settled,
    /// Steps are being carried out.
    Advanced,
    /// Nothing is due.
    Waiting,
    /// Only a person can go on, or a wait outlasted its deadline.
    Stalled,
}

/// A wait and when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    /// The wait.
    pub wait: Wait,
    /// When it began.
    pub since: Timestamp,
}
