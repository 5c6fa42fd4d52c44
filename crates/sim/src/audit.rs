//! A second opinion on every plan that is made current: written apart from the planner, from the same facts.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_driver::Sighting;
use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::{ComponentHash, ComponentName, InstanceId, ObjectName, Uid};
use plimsoll_model::kind::AppRevisions;
use plimsoll_model::object::Observed;
use plimsoll_model::operations::{Operations, Power};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, RejectionRecord};
use plimsoll_model::status::{AppStatus, HookDone};
use plimsoll_model::step::{Action, Cause, Plan, Scope, Step};
use plimsoll_model::update::Strategy;
use plimsoll_model::world::{Exit, Instance, MemberState, NodeView, Phase, RouterView};
use plimsoll_model::{App, AppSpec, Component, Kind};
use plimsoll_store::{Batch, KindName, Row, Write};

/// Requests may take this long to finish before their copy is stopped all the same.
const DRAIN: Span = Span::seconds(30);

type Seen = BTreeMap<(Scope, Uid), Option<Sighting>>;

/// What the auditor remembers of everything that was ever committed, whatever the planner remembers.
#[derive(Default)]
pub(crate) struct Audit {
    rejections: BTreeMap<ObjectName, RejectionRecord>,
    goods: BTreeMap<(Uid, ComponentName), ComponentHash>,
    /// The hooks of component revisions.
    hooks: BTreeMap<ComponentHash, BTreeSet<HookPoint>>,
    done: BTreeSet<(Uid, ComponentName, HookDone)>,
}

fn put<'a>(batch: &'a Batch, kind: &str) -> Option<&'a Row> {
    batch.writes.iter().find_map(|write| match write {
        Write::Put { kind: KindName(name), row, .. } if *name == kind => Some(&**row),
        _ => None,
    })
}

impl Audit {
    /// What is wrong with a batch that is about to be committed.
    pub(crate) fn findings(&self, batch: &Batch, seen: &Seen) -> Vec<String> {
        let Some(app) = put(batch, App::PLURAL) else { return Vec::new() };
        let declared = Declared {
            uid: app.meta.uid.clone(),
            spec: parse(&app.spec),
            operations: parse(&app.operations),
            deleting: app.meta.deleting.is_some(),
        };
        let status: Option<Observed<AppStatus>> = app.status.as_deref().map(parse);
        let mut findings = Vec::new();
        let hooks: BTreeMap<_, _> = self.hooks.clone().into_iter().chain(declared_hooks(batch)).collect();
        if let Some(status) = status {
            self.gates(&status.value, &declared, seen, &mut findings);
            self.hooks(&status.value, &declared, (&hooks, seen), &mut findings);
            if let Some(plan) = put(batch, "plans") {
                self.hooked(&parse(&plan.spec), &status.value, &hooks, &mut findings);
            }
        }
        if let Some(plan) = put(batch, "plans") {
            let plan = parse(&plan.spec);
            self.rejected(&plan, &declared, &mut findings);
            if let Some(Observed { value, .. }) = app.status.as_deref().map(parse::<Observed<AppStatus>>) {
                self.tried(&plan, &value, &declared, seen, &mut findings);
                self.divided(&plan, &value, &declared, seen, &mut findings);
            }
            steps(&plan, &declared, seen, &mut findings);
        }
        findings
    }

    /// Remembers what was committed.
    pub(crate) fn committed(&mut self, batch: &Batch) {
        if let Some(rejection) = put(batch, "rejections") {
            self.rejections.insert(rejection.meta.key.name.clone(), parse(&rejection.spec));
        }
        self.hooks.extend(declared_hooks(batch));
        let Some(app) = put(batch, App::PLURAL) else { return };
        let status: Option<Observed<AppStatus>> = app.status.as_deref().map(parse);
        for (name, memory) in status.into_iter().flat_map(|status| status.value.memory) {
            self.done.extend(memory.done.iter().map(|done| (app.meta.uid.clone(), name.clone(), *done)));
            if let Some(good) = memory.good {
                self.goods.insert((app.meta.uid.clone(), name), good.component);
            }
        }
    }

    /// A hook is recorded as done once, of a task that was seen to succeed; and nothing is good before its last one has.
    fn hooks(
        &self,
        status: &AppStatus,
        declared: &Declared,
        (hooks, seen): (&BTreeMap<ComponentHash, BTreeSet<HookPoint>>, &Seen),
        findings: &mut Vec<String>,
    ) {
        let nodes = seen.iter().filter(|((_, app), _)| *app == declared.uid);
        let tasks: Vec<&Instance> = nodes
            .flat_map(|(_, sighting)| match sighting {
                Some(Sighting::Node(node)) => node.instances.values().collect(),
                _ => Vec::new(),
            })
            .collect();
        for (name, memory) in &status.memory {
            let of = |done| (declared.uid.clone(), name.clone(), done);
            for done in memory.done.iter().filter(|done| !self.done.contains(&of(**done))) {
                let is_seen = tasks.iter().any(|it| {
                    (it.component == *name && it.revision == done.revision && it.hook == Some(done.hook))
                        && it.phase == Phase::Done { exit: Exit::Code(0) }
                });
                let times = memory.done.iter().filter(|it| *it == done).count();
                if !is_seen || times > 1 {
                    findings
                        .push(format!("{}/{name}: {done:?} was not seen, or is there twice", declared.uid));
                }
            }
            let Some(good) = memory.good else { continue };
            let is_new = self.goods.get(&(declared.uid.clone(), name.clone())) != Some(&good.component);
            for hook in hooks.get(&good.component).into_iter().flatten().filter(|_| is_new) {
                if !memory.has_done(HookDone { revision: good.component, hook: *hook }) {
                    findings.push(format!("{}/{name} is good without its hook `{hook}`", declared.uid));
                }
            }
        }
    }

    /// No copy is made before the task that comes before it has succeeded, and no task is run that has.
    fn hooked(
        &self,
        plan: &Plan,
        status: &AppStatus,
        hooks: &BTreeMap<ComponentHash, BTreeSet<HookPoint>>,
        findings: &mut Vec<String>,
    ) {
        for step in &plan.steps {
            let (Action::Create { revision, launch, instance, .. }, Some(name)) =
                (&step.action, &step.component)
            else {
                continue;
            };
            let is_done = |hook| {
                let done = HookDone { revision: *revision, hook };
                self.done.contains(&(plan.app.clone(), name.clone(), done))
                    || status.memory.get(name).is_some_and(|memory| memory.has_done(done))
            };
            let has_before = hooks.get(revision).is_some_and(|it| it.contains(&HookPoint::Before));
            let is_early = match launch.hook {
                Some(hook) => is_done(hook),
                None => has_before && !is_done(HookPoint::Before),
            };
            if is_early {
                findings
                    .push(format!("plan {} of {} creates {instance} too early or again", plan.no, plan.key));
            }
        }
    }

    /// No copy of a rejected component revision is made, unless a person lifted that very rejection.
    fn rejected(&self, plan: &Plan, declared: &Declared, findings: &mut Vec<String>) {
        for step in &plan.steps {
            let (Action::Create { revision, .. }, Some(name)) = (&step.action, &step.component) else {
                continue;
            };
            let standing = self.rejections.iter().find(|(id, it)| {
                it.app == declared.uid
                    && it.component == *name
                    && it.revision == *revision
                    && declared.operations.retry.get(name) != Some(*id)
            });
            if let Some((id, _)) = standing {
                findings.push(format!("plan {} of {} starts what {id} rejects", plan.no, plan.key));
            }
        }
    }

    /// What is tried, or was rejected, never gets traffic as if it were good: a table that is published beside copies of it
    /// divides the traffic, and calls good what is.
    fn divided(
        &self,
        plan: &Plan,
        status: &AppStatus,
        declared: &Declared,
        seen: &Seen,
        findings: &mut Vec<String>,
    ) {
        for (name, component) in &declared.spec.components {
            let memory = status.memory.get(name);
            // What becomes good in this very commit is; whether it may is another finding.
            let now = memory.and_then(|memory| memory.good).map(|good| good.component);
            let before = self.goods.get(&(declared.uid.clone(), name.clone())).copied();
            let Some(good) = now.or(before) else { continue };
            let rollout = memory.and_then(|memory| memory.rollout.as_ref());
            let is_plain = rollout.is_some_and(|it| it.trial.is_none() && it.to != good);
            let off = declared.deleting || declared.operations.power == Power::Off;
            if component.update.stages().is_empty() || is_plain || off {
                continue;
            }
            for step in &plan.steps {
                let Action::Publish { table } = &step.action else { continue };
                let split = table.services.get(name).and_then(|service| service.split);
                let (Some(node), Some(router)) = views(seen, step, plan) else { continue };
                let serving = router.members.iter().filter(|(_, it)| it.state == MemberState::Active);
                let mine =
                    serving.filter_map(|(id, _)| node.instances.get(id)).filter(|it| it.component == *name);
                let is_beside = mine.map(|it| it.revision != good).collect::<BTreeSet<_>>().len() == 2;
                if is_beside && split.is_none_or(|split| split.good != good) {
                    findings.push(format!(
                        "plan {} of {}: {name} has {split:?}, good is {good:?}",
                        plan.no, plan.key
                    ));
                }
            }
        }
    }

    /// While steps of a trial are left, no copy of what was good is taken away, but for those beyond the replicas; and what
    /// is tried gets no more of the traffic than its step gives it.
    fn tried(
        &self,
        plan: &Plan,
        status: &AppStatus,
        declared: &Declared,
        seen: &Seen,
        findings: &mut Vec<String>,
    ) {
        for (name, component) in &declared.spec.components {
            let trial = status.memory.get(name).and_then(|memory| memory.rollout.as_ref()?.trial.as_ref());
            let stage = trial.and_then(|trial| component.update.stages().get(trial.step as usize));
            let off = declared.deleting || declared.operations.power == Power::Off;
            let Some(stage) = stage.filter(|_| !off) else { continue };
            let good = self.goods.get(&(declared.uid.clone(), name.clone()));
            for step in plan.steps.iter().filter(|step| step.component.as_ref() == Some(name)) {
                let (Action::Drain { instance } | Action::Stop { instance, .. }) = &step.action else {
                    continue;
                };
                let copy = views(seen, step, plan).0.and_then(|node| node.instances.get(instance));
                let is_good = copy.is_some_and(|it| Some(&it.revision) == good && it.is_ready());
                if is_good && !matches!(step.cause, Cause::Scale | Cause::Routing) {
                    findings.push(format!(
                        "plan {} of {}: {instance} goes before its trial is over",
                        plan.no, plan.key
                    ));
                }
            }
            let tables = plan.steps.iter().filter_map(|step| match &step.action {
                Action::Publish { table } => table.services.get(name)?.split,
                _ => None,
            });
            for split in tables.filter(|split| split.others > stage.weight) {
                findings.push(format!("plan {} of {}: {name} gets {} %", plan.no, plan.key, split.others));
            }
        }
    }

    /// What is newly called good was seen ready for the whole soak time, in all its copies.
    fn gates(&self, status: &AppStatus, declared: &Declared, seen: &Seen, findings: &mut Vec<String>) {
        for (name, memory) in &status.memory {
            let Some(good) = memory.good else { continue };
            let known = self.goods.get(&(declared.uid.clone(), name.clone())) == Some(&good.component);
            let Some(component) = declared.spec.components.get(name).filter(|_| !known) else { continue };
            let nodes = seen.iter().filter(|((_, app), _)| *app == declared.uid);
            let copies = nodes.flat_map(|(_, sighting)| match sighting {
                Some(Sighting::Node(node)) => node.instances.values().collect(),
                _ => Vec::new(),
            });
            let soaked = copies.filter(|it| {
                it.component == *name
                    && it.hook.is_none()
                    && it.revision == good.component
                    && it.ready_for().is_some_and(|time| time >= component.update.soak())
            });
            if soaked.count() < numbers(name, component, &declared.operations).replicas {
                findings.push(format!("{}/{name} passed its gate before its soak time", declared.uid));
            }
        }
    }
}

fn steps(plan: &Plan, declared: &Declared, seen: &Seen, findings: &mut Vec<String>) {
    for step in &plan.steps {
        let (node, router) = views(seen, step, plan);
        if let Some(finding) = step_finding(&step.action, node, router) {
            findings.push(format!("plan {} of {}: {finding}", plan.no, plan.key));
        }
    }
    budgets(plan, declared, seen, findings);
}

struct Declared {
    uid: Uid,
    spec: AppSpec,
    operations: Operations,
    deleting: bool,
}

/// The hooks of the component revisions that a batch records.
fn declared_hooks(batch: &Batch) -> BTreeMap<ComponentHash, BTreeSet<HookPoint>> {
    let revision: Option<AppRevision> = put(batch, AppRevisions::PLURAL).map(|row| parse(&row.spec));
    let components = revision.into_iter().flat_map(|revision| revision.components.into_values());
    components.map(|it| (it.hash(), it.tasks.keys().copied().collect())).collect()
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("a row that was just encoded")
}

/// What was seen of a plan's App where a step happens: on its node and in its router.
fn views<'a>(seen: &'a Seen, step: &Step, plan: &Plan) -> (Option<&'a NodeView>, Option<&'a RouterView>) {
    let sighting = |scope| seen.get(&(scope, plan.app.clone())).and_then(Option::as_ref);
    let node = match sighting(Scope::Node(step.target.clone())) {
        Some(Sighting::Node(node)) => Some(node),
        _ => None,
    };
    let router = match sighting(Scope::Router(step.target.clone())) {
        Some(Sighting::Router(router)) => Some(router),
        _ => None,
    };
    (node, router)
}

fn step_finding(action: &Action, node: Option<&NodeView>, router: Option<&RouterView>) -> Option<String> {
    match action {
        Action::Create { instance, .. } => {
            let Some(node) = node else {
                return Some(format!("creates {instance} on a node that did not answer"));
            };
            let there = node.instances.get(instance)?;
            (there.phase != Phase::Stopped).then(|| format!("creates {instance}, which is there"))
        }
        Action::Remove { instance } => (node?.instances.get(instance)?.is_live())
            .then(|| format!("removes {instance}, which has not ended")),
        Action::Stop { instance, .. } => {
            if node?.instances.get(instance)?.hook.is_some() {
                return None;
            }
            let Some(router) = router else {
                return Some(format!("stops {instance} though its traffic is unknown"));
            };
            let member = router.members.get(instance)?;
            let drained = match member.state {
                MemberState::Active => false,
                MemberState::Draining { since } => member.in_flight == 0 || since >= DRAIN,
            };
            (!drained).then(|| format!("stops {instance}, which is not drained"))
        }
        Action::Close
        | Action::Publish { .. }
        | Action::Admit { .. }
        | Action::Drain { .. }
        | Action::Expel { .. }
        | Action::Withdraw => None,
    }
}

/// Copies alive never exceed replicas + surge, and no serving copy is taken below replicas - unavailable.
fn budgets(plan: &Plan, declared: &Declared, seen: &Seen, findings: &mut Vec<String>) {
    let mut instances: BTreeMap<&InstanceId, &Instance> = BTreeMap::new();
    let mut active: Vec<&InstanceId> = Vec::new();
    for ((_, app), sighting) in seen {
        match sighting {
            Some(Sighting::Node(node)) if *app == plan.app => instances.extend(&node.instances),
            Some(Sighting::Router(router)) if *app == plan.app => {
                let serving = router.members.iter().filter(|(_, it)| it.state == MemberState::Active);
                active.extend(serving.map(|(id, _)| id));
            }
            _ => {}
        }
    }
    for (name, component) in &declared.spec.components {
        let here = || instances.iter().filter(|(_, it)| it.component == *name && it.hook.is_none());
        let live = here().filter(|(_, it)| it.is_live()).count();
        let Numbers { replicas, surge, unavailable } = numbers(name, component, &declared.operations);
        let steps = || plan.steps.iter().filter(|step| step.component.as_ref() == Some(name));
        let creates = steps().filter(|step| match &step.action {
            Action::Create { launch, .. } => launch.hook.is_none(),
            _ => false,
        });
        let creates = creates.count();
        if creates > 0 && live + creates > replicas + surge {
            findings.push(format!(
                "plan {} of {}: {live} copies of {name} and {creates} more",
                plan.no, plan.key
            ));
        }
        let off = declared.deleting || declared.operations.power == Power::Off || replicas == 0;
        if off || component.update.strategy == Strategy::Recreate {
            continue;
        }
        let routed = !component.provides.is_empty() || !component.routes.is_empty();
        let serves = |id: &InstanceId, it: &Instance| it.is_ready() && (!routed || active.contains(&id));
        let serving = here().filter(|(id, it)| serves(id, it)).count();
        let taken = steps().filter(|step| match &step.action {
            Action::Drain { instance } | Action::Stop { instance, .. } => {
                step.cause != Cause::Routing && instances.get(instance).is_some_and(|it| serves(instance, it))
            }
            _ => false,
        });
        let taken = taken.count();
        if taken > 0 && serving < taken + replicas.saturating_sub(unavailable) {
            let left = format!("{serving} of {replicas} copies of {name} serve and {taken} are taken away");
            findings.push(format!("plan {} of {}: {left}", plan.no, plan.key));
        }
    }
}

/// The numbers a component's copies are held to, from the declaration.
pub(crate) struct Numbers {
    pub(crate) replicas: usize,
    pub(crate) surge: usize,
    pub(crate) unavailable: usize,
}

pub(crate) fn numbers(name: &ComponentName, component: &Component, operations: &Operations) -> Numbers {
    let replicas = operations.replicas.get(name).copied().or(component.replicas).unwrap_or(1) as usize;
    let stateful = !component.volumes.is_empty();
    let (surge, unavailable) = if stateful { (0, 1) } else { (1, 0) };
    let surge = match component.update.strategy {
        Strategy::BlueGreen => replicas,
        Strategy::Canary => component.update.surge.map_or(replicas, |it| it as usize),
        Strategy::Rolling | Strategy::Recreate => component.update.surge.map_or(surge, |it| it as usize),
    };
    let unavailable = component.update.unavailable.map_or(unavailable, |it| it as usize);
    let surge = if component.update.strategy == Strategy::Recreate { 0 } else { surge };
    Numbers { replicas, surge, unavailable }
}
