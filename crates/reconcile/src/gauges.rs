//! Numbers that others know, for the gates of rollouts.

use std::collections::BTreeMap;

use plimsoll_model::gate::{Ask, Query};
use plimsoll_model::kind::{GateSources, TargetSpec};
use plimsoll_model::{App, Object, ObjectKey};
use plimsoll_plan::AnswerView;

/// Who asks for numbers.
pub trait Gauges: Send + Sync + 'static {
    /// The latest answer to a question. `None` until there is one: it is asked for now, and whoever asks marks the App once it
    /// is there.
    fn reading(&self, app: &ObjectKey, sources: &GateSources, ask: &Ask) -> Option<AnswerView>;
}

/// Nobody is asked for anything.
#[derive(Debug, Clone, Copy)]
pub struct NoGauges;

impl Gauges for NoGauges {
    fn reading(&self, _: &ObjectKey, _: &GateSources, _: &Ask) -> Option<AnswerView> {
        None
    }
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
