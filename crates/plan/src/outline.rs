//! What identifies a change, and how two changes differ.
//!
//! An outline has no ids, ports and times: two runs of the same change have the same one. What only heals or routes is
//! not in it, so that a copy that died between review and apply makes no other change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plimsoll_model::id::{
    BindingsHash, ComponentHash, ComponentName, Digest, ObjectName, PathHash, RevisionNo, Slot,
};
use plimsoll_model::object::Generation;
use plimsoll_model::step::{Action, Cause, Plan, Step};
use serde::{Deserialize, Serialize};

use crate::input::Input;

/// A change: the declaration, where it comes from and leads to, the versions of what it is given, and its steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    generation: Generation,
    from: Option<RevisionNo>,
    to: Option<RevisionNo>,
    secrets: BTreeMap<ObjectName, Generation>,
    starts: BTreeSet<Start>,
    steps: BTreeSet<StepOutline>,
}

/// What new copies of a component run and are given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Start {
    component: Option<ComponentName>,
    revision: ComponentHash,
    bindings: BindingsHash,
}

/// A step of a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepOutline {
    acts: Move,
    cause: Cause,
    after: BTreeSet<Move>,
}

/// Who does what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Move {
    component: Option<ComponentName>,
    slot: Option<Slot>,
    verb: String,
}

impl Move {
    fn of(step: &Step) -> Self {
        Self { component: step.component.clone(), slot: step.slot, verb: step.action.verb().to_owned() }
    }
}

impl Outline {
    pub(crate) fn of(input: &Input, to: Option<RevisionNo>, plans: &[Plan]) -> Self {
        let (mut starts, mut steps) = (BTreeSet::new(), BTreeSet::new());
        for plan in plans {
            for step in plan.steps.iter().filter(|step| is_change(step)) {
                let before = step
                    .after
                    .iter()
                    .filter_map(|no| usize::try_from(no.0).ok().and_then(|no| plan.steps.get(no)));
                let after = before.filter(|step| is_change(step)).map(Move::of).collect();
                steps.insert(StepOutline { acts: Move::of(step), cause: step.cause, after });
                if let Action::Create { revision, bindings, .. } = &step.action {
                    let component = step.component.clone();
                    starts.insert(Start { component, revision: *revision, bindings: *bindings });
                }
            }
        }
        Self {
            generation: input.generation,
            from: input.status.revision,
            to,
            secrets: input.context.secrets.iter().map(|(name, it)| (name.clone(), it.version)).collect(),
            starts,
            steps,
        }
    }

    /// The change's identity.
    pub fn hash(&self) -> PathHash {
        PathHash(Digest::of_json(self))
    }

    /// How `now` differs from this change; empty if they are the same.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        if self.generation != now.generation {
            found.push(Difference::Generation { was: self.generation, now: now.generation });
        }
        if (self.from, self.to) != (now.from, now.to) {
            found.push(Difference::Revisions { was: (self.from, self.to), now: (now.from, now.to) });
        }
        let names: BTreeSet<&ObjectName> = self.secrets.keys().chain(now.secrets.keys()).collect();
        let secrets = names.into_iter().filter(|name| self.secrets.get(*name) != now.secrets.get(*name));
        found.extend(secrets.map(|name| Difference::Secret(name.clone())));
        let starts: BTreeSet<_> =
            self.starts.symmetric_difference(&now.starts).map(|it| &it.component).collect();
        found.extend(starts.into_iter().flatten().map(|component| Difference::Start(component.clone())));
        found.extend(self.steps.difference(&now.steps).cloned().map(Difference::Gone));
        found.extend(now.steps.difference(&self.steps).cloned().map(Difference::New));
        found
    }
}

/// Whether a step belongs to what people review. How the copies that are replaced go depends on how they are when it
/// happens: one that has died needs no drain and no stop.
fn is_change(step: &Step) -> bool {
    match step.cause {
        Cause::Heal | Cause::Routing => false,
        Cause::Rollout | Cause::Rollback => matches!(step.action, Action::Create { .. }),
        Cause::Scale | Cause::Retire => !matches!(step.action, Action::Drain { .. } | Action::Expel { .. }),
    }
}

/// One way in which a change is not what was reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The App was declared anew in between.
    Generation {
        /// As reviewed.
        was: Generation,
        /// Now.
        now: Generation,
    },
    /// It leads from and to other revisions.
    Revisions {
        /// From and to, as reviewed.
        was: (Option<RevisionNo>, Option<RevisionNo>),
        /// From and to, now.
        now: (Option<RevisionNo>, Option<RevisionNo>),
    },
    /// A secret has other values.
    Secret(ObjectName),
    /// New copies of a component run something else, or are given something else.
    Start(ComponentName),
    /// A step was reviewed and is not there any more.
    Gone(StepOutline),
    /// A step is there that nobody reviewed.
    New(StepOutline),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |revision: Option<RevisionNo>| revision.map_or_else(|| "nothing".into(), |it| it.to_string());
        match self {
            Self::Generation { was, now } => {
                write!(f, "~ the declaration is number {} now, it was {}", now.0, was.0)
            }
            Self::Revisions { was, now } => write!(
                f,
                "~ it leads from {} to {} now, it was from {} to {}",
                number(now.0),
                number(now.1),
                number(was.0),
                number(was.1)
            ),
            Self::Secret(name) => write!(f, "~ secret {name} has another version"),
            Self::Start(component) => {
                write!(f, "~ new copies of {component} run or are given something else")
            }
            Self::Gone(step) => write!(f, "- {step}"),
            Self::New(step) => write!(f, "+ {step}"),
        }
    }
}

impl fmt::Display for StepOutline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.acts)?;
        let after: Vec<String> = self.after.iter().map(ToString::to_string).collect();
        if after.is_empty() { Ok(()) } else { write!(f, " after {}", after.join(", ")) }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verb)?;
        if let Some(component) = &self.component {
            write!(f, " {component}")?;
        }
        if let Some(slot) = self.slot {
            write!(f, "/{}", slot.0)?;
        }
        Ok(())
    }
}
