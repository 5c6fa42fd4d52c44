//! A second opinion on every plan that is made current: written apart from the planner, from the same facts.

use std::collections::BTreeMap;

use plimsoll_driver::Sighting;
use plimsoll_model::id::{ComponentName, InstanceId, Uid};
use plimsoll_model::operations::{Operations, Power};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Cause, Plan, Scope};
use plimsoll_model::update::Strategy;
use plimsoll_model::world::{Instance, MemberState, NodeView, Phase, RouterView};
use plimsoll_model::{App, AppSpec, Component, Kind};
use plimsoll_store::{Batch, KindName, Write};

/// Requests may take this long to finish before their copy is stopped all the same.
const DRAIN: Span = Span::seconds(30);

type Seen = BTreeMap<(Scope, Uid), Option<Sighting>>;

/// What is wrong with the plan that a batch makes current, if it makes one.
pub(crate) fn batch(batch: &Batch, seen: &Seen) -> Vec<String> {
    let put = |kind: &str| {
        batch.writes.iter().find_map(|write| match write {
            Write::Put { kind: KindName(name), row, .. } if *name == kind => Some(row),
            _ => None,
        })
    };
    let (Some(plan), Some(app)) = (put("plans"), put(App::PLURAL)) else { return Vec::new() };
    let plan: Plan = parse(&plan.spec);
    let declared = Declared {
        spec: parse(&app.spec),
        operations: parse(&app.operations),
        deleting: app.meta.deleting.is_some(),
    };
    let mut findings = Vec::new();
    for step in &plan.steps {
        let node = view(seen, &Scope::Node(step.target.clone()), &plan.app);
        let router = view(seen, &Scope::Router(step.target.clone()), &plan.app);
        let node = node.and_then(|sighting| match sighting {
            Sighting::Node(node) => Some(node),
            Sighting::Router(_) => None,
        });
        let router = router.and_then(|sighting| match sighting {
            Sighting::Router(router) => Some(router),
            Sighting::Node(_) => None,
        });
        if let Some(finding) = step_finding(&step.action, node, router) {
            findings.push(format!("plan {} of {}: {finding}", plan.no, plan.key));
        }
    }
    budgets(&plan, &declared, seen, &mut findings);
    findings
}

struct Declared {
    spec: AppSpec,
    operations: Operations,
    deleting: bool,
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("a row that was just encoded")
}

fn view<'a>(seen: &'a Seen, scope: &Scope, app: &Uid) -> Option<&'a Sighting> {
    seen.get(&(scope.clone(), app.clone())).and_then(Option::as_ref)
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
        Action::Remove { instance } => {
            let stopped = node?.instances.get(instance)?.phase == Phase::Stopped;
            (!stopped).then(|| format!("removes {instance}, which has not ended"))
        }
        Action::Stop { instance, .. } => {
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
        let here = || instances.iter().filter(|(_, it)| it.component == *name);
        let live = here().filter(|(_, it)| it.is_live()).count();
        let Numbers { replicas, surge, unavailable } = numbers(name, component, &declared.operations);
        let steps = || plan.steps.iter().filter(|step| step.component.as_ref() == Some(name));
        let creates = steps().filter(|step| matches!(step.action, Action::Create { .. })).count();
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
    let surge = component.update.surge.map_or(surge, |it| it as usize);
    let unavailable = component.update.unavailable.map_or(unavailable, |it| it as usize);
    let surge = if component.update.strategy == Strategy::Recreate { 0 } else { surge };
    Numbers { replicas, surge, unavailable }
}
