//! Numbers that others know, for the gates of rollouts.

use std::collections::BTreeMap;

use plimsoll_model::gate::{Ask, Query};
use plimsoll_model::id::InstanceId;
use plimsoll_model::kind::{GateSources, TargetSpec};
use plimsoll_model::world::World;
use plimsoll_model::{App, Component, Object, ObjectKey};
use plimsoll_plan::{AnswerView, UsedView};

/// Who asks for numbers.
pub trait Gauges: Send + Sync + 'static {
    /// The latest answer to a question. `None` until there is one: it is asked for now, and whoever asks marks the App once it
    /// is there.
    fn reading(&self, app: &ObjectKey, sources: &GateSources, ask: &Ask) -> Option<AnswerView>;

    /// What copies use, of those of which it is known.
    fn used(&self, copies: &[InstanceId]) -> BTreeMap<InstanceId, UsedView>;
}

/// Nobody is asked for anything.
#[derive(Debug, Clone, Copy)]
pub struct NoGauges;

impl Gauges for NoGauges {
    fn reading(&self, _: &ObjectKey, _: &GateSources, _: &Ask) -> Option<AnswerView> {
        None
    }

    fn used(&self, _: &[InstanceId]) -> BTreeMap<InstanceId, UsedView> {
        BTreeMap::new()
    }
}

/// What copies use whose number follows that.
pub(crate) fn used(gauges: &dyn Gauges, app: &Object<App>, world: &World) -> BTreeMap<InstanceId, UsedView> {
    let is_asked = |name| {
        let component: Option<&Component> = app.spec.components.get(name);
        component.is_some_and(|it| it.scale.as_ref().is_some_and(|scale| scale.on.is_of_usage()))
    };
    let nodes = world.targets.values().filter_map(|view| view.node.present());
    let copies = nodes.flat_map(|node| &node.instances).filter(|(_, it)| is_asked(&it.component));
    let copies: Vec<InstanceId> = copies.map(|(id, _)| id.clone()).collect();
    if copies.is_empty() { BTreeMap::new() } else { gauges.used(&copies) }
}

/// What the rollouts that are under way need to know.
pub(crate) fn answers(
    gauges: &dyn Gauges,
    app: &Object<App>,
    target: Option<&TargetSpec>,
) -> BTreeMap<Ask, AnswerView> {
    let memory = app.status.iter().flat_map(|status| &status.value.memory);
    let rolling = memory.filter(|(_, memory)| memory.rollout.is_some());
    let components = rolling.filter_map(|(name, _)| app.spec.components.get(name));
    let asked = components.flat_map(|component| component.update.gate.queries.iter().filter_map(Query::asks));
    let sources = target.map(|target| &target.gates);
    asked
        .filter_map(|ask| {
            let reading = gauges.reading(&app.meta.key, sources?, &ask)?;
            Some((ask, reading))
        })
        .collect()
}
