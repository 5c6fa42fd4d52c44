//! Kinds that nobody writes: instances, read off statuses and the look for orphans, and events, read off the records
//! that are kept of what was declared, decided and rejected.

use std::collections::BTreeMap;

use plimsoll_model::App;
use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::{
    ComponentHash, ComponentName, InstanceId, ObjectName, ProjectName, Slot, TargetName, Uid,
};
use plimsoll_model::kind::{AppRevisions, Plans, Rejection};
use plimsoll_model::object::{Metadata, Timestamp};
use plimsoll_model::status::InstanceState;
use plimsoll_model::step::{Plan, Step};
use plimsoll_model::world::Exit;
use plimsoll_server::Server;
use plimsoll_store::{Query, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objects::View;
use crate::problem::{Problem, Sort};

/// The collection of copies.
pub const INSTANCES: &str = "instances";

/// The collection of events.
pub const EVENTS: &str = "events";

/// A copy, as the API sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The App it was made for.
    pub app: ObjectName,
    /// Its component; unknown of an orphan.
    pub component: Option<ComponentName>,
    /// Its position; unknown of an orphan.
    pub slot: Option<Slot>,
    /// Where it runs.
    pub target: TargetName,
    /// What it runs; unknown of an orphan.
    pub revision: Option<ComponentHash>,
    /// What it is doing; unknown of an orphan.
    pub state: Option<InstanceState>,
    /// Times it was started again in place.
    pub restarts: u32,
    /// The hook whose task it is; absent of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookPoint>,
    /// How a task that is done ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Nothing that is declared owns it. It is ended and removed ten minutes after it was first seen.
    pub orphan: bool,
}

/// Something that was declared, decided or found out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The App it is about.
    pub app: ObjectName,
    /// What, as a sentence.
    pub what: String,
}

/// A derived object in the form of all others.
fn sent(
    kind: &str,
    name: &str,
    project: Option<&ProjectName>,
    created: Timestamp,
    spec: &impl Serialize,
) -> Result<Value, Problem> {
    let spec = serde_json::to_value(spec).map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
    Ok(json!({
        "apiVersion": "plimsoll.dev/v1",
        "kind": kind,
        "metadata": {"name": name, "project": project, "creationTimestamp": created},
        "spec": spec,
    }))
}

/// Copies of the Apps of a scope, and whatever is an orphan there.
async fn instances(server: &Server, scope: &Scope) -> Result<Vec<Value>, Problem> {
    let mut found = Vec::new();
    for app in server.store().list::<App>(scope, &Query::default()).await? {
        let components = app.status.iter().flat_map(|status| &status.value.components);
        for (component, copy) in
            components.flat_map(|(name, it)| it.instances.iter().map(move |copy| (name, copy)))
        {
            let instance = Instance {
                id: copy.id.clone(),
                app: app.meta.key.name.clone(),
                component: Some(component.clone()),
                slot: Some(copy.slot).filter(|_| copy.hook.is_none()),
                target: copy.target.clone(),
                revision: Some(copy.revision),
                state: Some(copy.state),
                restarts: copy.restarts,
                hook: copy.hook,
                exit: copy.exit,
                orphan: false,
            };
            found.push((app.meta.key.project.clone(), app.meta.created, instance));
        }
    }
    for orphan in server.orphans() {
        let plimsoll_model::step::Scope::Node(target) = orphan.scope else { continue };
        let (key, id) = (orphan.marked.key, orphan.marked.instance);
        if scope.admits(&key) {
            let instance = Instance {
                id,
                app: key.name,
                component: None,
                slot: None,
                target,
                revision: None,
                state: None,
                restarts: 0,
                hook: None,
                exit: None,
                orphan: true,
            };
            // Nothing is known of its time, and a list that changes by itself would be news to whoever watches it.
            found.push((key.project, Timestamp::default(), instance));
        }
    }
    let sent = found.into_iter().map(|(project, created, instance)| {
        sent("Instance", instance.id.as_str(), project.as_ref(), created, &instance)
    });
    sent.collect()
}

/// What happened to the Apps of a scope, the oldest first.
async fn events(server: &Server, scope: &Scope) -> Result<Vec<Value>, Problem> {
    let (store, all) = (server.store(), Query::default());
    let apps = store.list::<App>(scope, &all).await?;
    let apps: BTreeMap<&Uid, &ObjectName> =
        apps.iter().map(|app| (&app.meta.uid, &app.meta.key.name)).collect();
    let mut found = Vec::new();
    let mut add = |meta: &Metadata, what: String| {
        let app = meta.owner.as_ref().and_then(|owner| apps.get(owner));
        if let Some(app) = app {
            let event = Event { at: meta.created, app: (*app).clone(), what };
            found.push((event, meta.key.clone()));
        }
    };
    for plan in store.list::<Plans>(scope, &all).await? {
        add(&plan.meta, planned(&plan.spec));
    }
    for revision in store.list::<AppRevisions>(scope, &all).await? {
        add(&revision.meta, format!("revision {}", revision.spec.number));
    }
    for rejection in store.list::<Rejection>(scope, &all).await? {
        let (it, revision) = (&rejection.spec, rejection.spec.revision.short());
        add(&rejection.meta, format!("rejected {} {revision}: {}", it.component, it.evidence.verdict));
    }
    found.sort();
    let sent = found
        .into_iter()
        .map(|(event, key)| sent("Event", key.name.as_str(), key.project.as_ref(), event.at, &event));
    sent.collect()
}

/// A plan as a sentence.
fn planned(plan: &Plan) -> String {
    let step = |step: &Step| match (&step.component, step.slot) {
        (Some(component), Some(slot)) => format!("{} {component}/{}", step.action.verb(), slot.0),
        (Some(component), None) => format!("{} {component}", step.action.verb()),
        _ => step.action.verb().to_owned(),
    };
    let steps: Vec<String> = plan.steps.iter().map(step).collect();
    let deviation = plan.deviation.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
    format!("plan {}{deviation}: {}", plan.no, steps.join(", "))
}

/// Everything that a view of a derived collection shows.
pub(crate) async fn all(server: &Server, view: &View) -> Result<Vec<Value>, Problem> {
    let mut found = match view.resource.plural {
        INSTANCES => instances(server, &view.scope).await?,
        _ => events(server, &view.scope).await?,
    };
    found.retain(|it| view.selector.admits(it));
    Ok(found)
}
