//! Who may do what in a project, and how much of it.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::{AppSpec, Component, Resources};
use crate::id::ProjectName;
use crate::operations::{Operations, Power};
use crate::quantity::{Bytes, Cpu};

/// What a member of a project is there. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads everything but the values of Secrets, which nobody reads.
    Viewer,
    /// Declares, operates and deletes Apps and Secrets.
    Deployer,
    /// Decides who else is a member, and gives out tokens for the project.
    Admin,
}

impl Role {
    /// What the role is for.
    pub fn allows(self, verb: Verb) -> bool {
        match verb {
            Verb::Read => true,
            Verb::Deploy | Verb::Write => self >= Self::Deployer,
            Verb::Manage => self >= Self::Admin,
        }
    }
}
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
        })
    }
}

/// What somebody does with the objects of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Look at them and at what their copies say.
    Read,
    /// Say which bytes the images of Apps stand for, of the repositories that they declare.
    Deploy,
    /// Declare, operate and delete them.
    Write,
    /// Change the project's members, and tokens for it.
    Manage,
}
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Write => "write",
            Self::Manage => "manage",
        })
    }
}

/// What a token is restricted to, of all that its user may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restriction {
    /// Only in these projects; everywhere if there is none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 100))]
    pub projects: BTreeSet<ProjectName>,
    /// Only this; everything if there is none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub verbs: BTreeSet<Verb>,
}

impl Restriction {
    /// Whether it leaves something to be done in a project.
    pub fn admits(&self, project: &ProjectName, verb: Verb) -> bool {
        (self.projects.is_empty() || self.projects.contains(project))
            && (self.verbs.is_empty() || self.verbs.contains(&verb) || self.implies(verb))
    }

    /// Whoever may declare an image may say which bytes of it.
    fn implies(&self, verb: Verb) -> bool {
        verb == Verb::Deploy && self.verbs.contains(&Verb::Write)
    }

    /// Whether whoever has this token may give out one that is restricted like the other.
    pub fn covers(&self, other: &Self) -> bool {
        let projects = self.projects.is_empty()
            || (!other.projects.is_empty() && other.projects.is_subset(&self.projects));
        let has = |verb: &Verb| self.verbs.contains(verb) || self.implies(*verb);
        let verbs = self.verbs.is_empty() || (!other.verbs.is_empty() && other.verbs.iter().all(has));
        projects && verbs
    }
}

/// How much the Apps of a project may declare together; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
    /// The sum of the copies' limits of CPU time; a component without one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// The sum of the copies' limits of memory; a component without one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Volumes, one for each copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<u64>,
    /// Routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<u64>,
}

impl Quota {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What Apps declare: the amounts that a [`Quota`] limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// Copies.
    pub instances: u64,
    /// CPU time in thousandths of a core.
    pub millicpu: u64,
    /// Copies without a limit of CPU time.
    pub without_cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Copies without a limit of memory.
    pub without_memory: u64,
    /// Volumes.
    pub volumes: u64,
    /// Routes.
    pub routes: u64,
}

impl Demand {
    /// What an App declares. One that is switched off needs nothing but its volumes and routes, which it keeps.
    pub fn of(spec: &AppSpec, operations: &Operations) -> Self {
        let mut sum = Self::default();
        for (name, component) in &spec.components {
            let declared =
                operations.replicas.get(name).copied().unwrap_or_else(|| component.most_replicas());
            let (slots, limits) = (u64::from(declared), &component.resources);
            let running = if operations.power == Power::Off { 0 } else { slots };
            sum.instances += running;
            match limits.cpu {
                Some(cpu) => sum.millicpu += running * cpu.millicores,
                None => sum.without_cpu += running,
            }
            match limits.memory {
                Some(memory) => sum.memory = sum.memory.saturating_add(running.saturating_mul(memory.bytes)),
                None => sum.without_memory += running,
            }
            if running > 0 {
                sum = sum.plus(Self::of_tasks(component));
            }
            sum.volumes += slots * u64::try_from(component.volumes.len()).unwrap_or(u64::MAX);
            sum.routes += u64::try_from(component.routes.len()).unwrap_or(u64::MAX);
        }
        sum
    }

    /// What the hooks of a component need beside its copies: one task runs at a time.
    fn of_tasks(component: &Component) -> Self {
        let limits = || component.hooks.iter().map(|(_, hook)| hook.resources.unwrap_or(component.resources));
        let is_any = |of: fn(&Resources) -> bool| u64::from(limits().any(|it| of(&it)));
        Self {
            instances: is_any(|_| true),
            millicpu: limits().filter_map(|it| it.cpu).map(|cpu| cpu.millicores).max().unwrap_or(0),
            without_cpu: is_any(|it| it.cpu.is_none()),
            memory: limits().filter_map(|it| it.memory).map(|memory| memory.bytes).max().unwrap_or(0),
            without_memory: is_any(|it| it.memory.is_none()),
            ..Self::default()
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            instances: self.instances.saturating_add(other.instances),
            millicpu: self.millicpu.saturating_add(other.millicpu),
            without_cpu: self.without_cpu.saturating_add(other.without_cpu),
            memory: self.memory.saturating_add(other.memory),
            without_memory: self.without_memory.saturating_add(other.without_memory),
            volumes: self.volumes.saturating_add(other.volumes),
            routes: self.routes.saturating_add(other.routes),
        }
    }

    /// One without the other, which is a part of it.
    #[must_use]
    pub fn minus(self, part: Self) -> Self {
        Self {
            instances: self.instances.saturating_sub(part.instances),
            millicpu: self.millicpu.saturating_sub(part.millicpu),
            without_cpu: self.without_cpu.saturating_sub(part.without_cpu),
            memory: self.memory.saturating_sub(part.memory),
            without_memory: self.without_memory.saturating_sub(part.without_memory),
            volumes: self.volumes.saturating_sub(part.volumes),
            routes: self.routes.saturating_sub(part.routes),
        }
    }

    /// What of this is above a quota and above `before`, as sentence parts: what does not grow is not refused.
    pub fn above(&self, quota: &Quota, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: &str, limit: Option<u64>, now: u64, before: u64| {
            if let Some(limit) = limit.filter(|limit| now > *limit && now > before) {
                found.push(format!("{what}: {now} of {limit}"));
            }
        };
        check("instances", quota.instances, self.instances, before.instances);
        check("volumes", quota.volumes, self.volumes, before.volumes);
        check("routes", quota.routes, self.routes, before.routes);
        let (cpu, memory) = (quota.cpu.map(|it| it.millicores), quota.memory.map(|it| it.bytes));
        check("thousandths of a CPU", cpu, self.millicpu, before.millicpu);
        check("bytes of memory", memory, self.memory, before.memory);
        check("copies without a limit of CPU", cpu.map(|_| 0), self.without_cpu, before.without_cpu);
        check(
            "copies without a limit of memory",
            memory.map(|_| 0),
            self.without_memory,
            before.without_memory,
        );
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_out_no_more_than_it_has() {
        let only = |projects: &[&str], verbs: &[Verb]| Restriction {
            projects: projects.iter().map(|it| it.parse().unwrap()).collect(),
            verbs: verbs.iter().copied().collect(),
        };
        let (all, p) = (only(&[], &[]), only(&["p"], &[Verb::Read, Verb::Write]));
        assert!(all.covers(&all) && all.covers(&p) && p.covers(&p));
        assert!(p.covers(&only(&["p"], &[Verb::Read])));
        assert!(p.covers(&only(&["p"], &[Verb::Deploy])) && !only(&["p"], &[Verb::Deploy]).covers(&p));
        assert!(!p.covers(&all) && !p.covers(&only(&["p", "q"], &[Verb::Read])));
        assert!(!p.covers(&only(&["p"], &[])) && !p.covers(&only(&["p"], &[Verb::Manage])));
        let (project, other) = ("p".parse().unwrap(), "q".parse().unwrap());
        assert!(
            p.admits(&project, Verb::Write)
                && !p.admits(&project, Verb::Manage)
                && !p.admits(&other, Verb::Read)
        );
    }

    #[test]
    fn what_may_come_counts_unless_a_person_says_how_many() {
        let web = serde_json::json!({"command": ["x"], "scale": {"max": 7, "on": {"requests": 1}},
                                     "hooks": {"before": {"command": ["m"]}}, "resources": {"cpu": "100m"}});
        let spec: AppSpec = serde_json::from_value(serde_json::json!({"components": {"web": web}})).unwrap();
        let mut operations = Operations::default();
        let demand = Demand::of(&spec, &operations);
        assert_eq!((demand.instances, demand.millicpu, demand.without_memory), (8, 800, 8));
        operations.replicas.insert("web".parse().unwrap(), 2);
        assert_eq!(Demand::of(&spec, &operations).instances, 3);
    }

    #[test]
    fn what_shrinks_is_never_refused() {
        let quota = Quota { instances: Some(2), memory: Some(Bytes { bytes: 100 }), ..Quota::default() };
        let demand = |instances, memory| Demand { instances, memory, ..Demand::default() };
        assert!(demand(2, 100).above(&quota, &demand(0, 0)).is_empty());
        assert_eq!(demand(3, 101).above(&quota, &demand(2, 100)).len(), 2);
        assert!(demand(3, 50).above(&quota, &demand(4, 50)).is_empty());
        let unlimited = Demand { without_memory: 1, ..Demand::default() };
        assert_eq!(unlimited.above(&quota, &Demand::default()), ["copies without a limit of memory: 1 of 0"]);
    }
}
