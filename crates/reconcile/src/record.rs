//! What is written down of a pass: the new status, and with it, in one batch, whatever the decision makes.

use std::collections::BTreeSet;

use plimsoll_model::id::{Digest, ObjectName, PlanNo, TargetName, Uid};
use plimsoll_model::kind::{AppRevisions, Claim, ClaimSpec, Plans, Rejection, Usage, UsageSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::status::{AppStatus, Outcome, OutcomeRecord, OutcomeState, PlanRef, Waited};
use plimsoll_model::step::Plan;
use plimsoll_model::wait::Wait;
use plimsoll_model::world::{ServiceIp, World};
use plimsoll_model::{App, Attached, Kind, Object, ObjectKey};
use plimsoll_plan::{Course, Decision, Input};
use plimsoll_store::{Batch, KindName, New, Query, Scope, Store, StoreError};

use crate::surroundings::{is_of_route, literal_routes, plan_name, revision_name, route_claim};

/// Plans kept of each App, for people who ask what happened.
const KEPT_PLANS: u64 = 20;

/// Name of the claim on a loopback address.
pub(crate) fn address_claim(target: &TargetName, ip: ServiceIp) -> ObjectName {
    let ip = ip.to_string().replace('.', "-");
    format!("ip.{target}.{ip}").parse().expect("a target and an address form a name")
}

/// The claims an App should hold: the addresses it remembers, the routes it declares and, until the router
/// has dropped them, the routes it has there.
pub(crate) fn claims(input: &Input, decision: &Decision) -> BTreeSet<ObjectName> {
    let context = &input.context;
    let addresses = decision.memory.values().filter_map(|memory| memory.address);
    let addresses = addresses.map(|ip| address_claim(&context.target, ip));
    let declared = literal_routes(&input.spec)
        .filter(|(host, path)| !context.taken.contains_key(&((*host).to_owned(), (*path).to_owned())));
    let declared = declared.map(|(host, path)| route_claim(&context.target, host, path));
    let published = published_routes(&input.world);
    let held = published.filter(|claim| input.status.claims.contains(claim));
    let declared: Vec<_> = if input.deleting { Vec::new() } else { declared.collect() };
    // What a router has that does not answer is not known: whatever was held may still be led to this App.
    let is_silent = input.world.targets.values().any(|view| view.router.is_unknown());
    let kept = input.status.claims.iter().filter(|claim| is_silent && is_of_route(claim)).cloned();
    addresses.chain(declared).chain(held).chain(kept).collect()
}

fn published_routes(world: &World) -> impl Iterator<Item = ObjectName> {
    world.targets.iter().flat_map(|(target, view)| {
        let routes = view.router.present().into_iter().flat_map(|router| &router.table.routes);
        routes.map(move |route| route_claim(target, &route.host, &route.path))
    })
}

/// The status after a decision.
pub(crate) fn status(old: &AppStatus, input: &Input, decision: &Decision) -> AppStatus {
    let mut targets: Vec<TargetName> = vec![input.context.target.clone()];
    let deserted = |target: &TargetName| {
        input.world.targets.get(target).is_some_and(|view| {
            let empty = view.node.present().is_some_and(|node| node.instances.is_empty());
            let silent = view.router.present().is_some_and(|router| router.table.is_empty());
            empty && silent
        })
    };
    targets.extend(old.targets.iter().filter(|it| **it != input.context.target && !deserted(it)).cloned());
    let plan = match &decision.course {
        Course::Adopt(plan) => Some(PlanRef { no: plan.no, hash: plan.hash() }),
        Course::Rest | Course::Continue(_) => old.plan,
    };
    AppStatus {
        plan,
        revision: decision.revision,
        memory: decision.memory.clone(),
        rejected: decision.rejected.clone(),
        targets,
        claims: claims(input, decision),
        components: decision.components.clone(),
        outcome: old.outcome.clone(),
    }
}

/// The outcome as it is to be stored: times are kept where the rest is the same.
pub(crate) fn outcome(
    old: Option<&OutcomeRecord>,
    new: &Outcome,
    at: Timestamp,
    site: String,
) -> OutcomeRecord {
    let (state, waits): (_, &[Wait]) = match new {
        Outcome::Settled | Outcome::Gone => (OutcomeState::Settled, &[]),
        Outcome::Advanced => (OutcomeState::Advanced, &[]),
        Outcome::Waiting(waits) => (OutcomeState::Waiting, waits),
        Outcome::Stalled(waits) => (OutcomeState::Stalled, waits),
    };
    let since = |wait: &Wait| {
        let known = old.and_then(|old| old.waits.iter().find(|waited| waited.wait == *wait));
        known.map_or(at, |waited| waited.since)
    };
    let waits: Vec<Waited> =
        waits.iter().map(|wait| Waited { wait: wait.clone(), since: since(wait) }).collect();
    match old {
        Some(old) if old.state == state && old.waits == waits => old.clone(),
        _ => OutcomeRecord { state, since: at, waits, site },
    }
}

/// Everything a decision writes, except when nothing changed: then the batch is empty.
pub(crate) async fn batch(
    store: &Store,
    app: &Object<App>,
    input: &Input,
    decision: &Decision,
    status: AppStatus,
    at: Timestamp,
) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    let unchanged =
        app.status.as_ref().is_some_and(|old| old.value == status && old.of == app.meta.generation);
    let child =
        |suffix: &str, name: ObjectName| (child_uid(&app.meta.uid, suffix), app.meta.key.sibling(name));
    if let Some(revision) = &decision.new_revision {
        let (uid, key) = child(&format!("r{}", revision.number), revision_name(&app.meta, revision.number));
        batch = batch.create(record::<AppRevisions>(app, uid, key, revision.clone(), at));
    }
    for (name, rejection) in &decision.rejections {
        let (uid, key) = child(&name.as_str().replace('.', "-"), name.clone());
        batch = batch.create(record::<Rejection>(app, uid, key, rejection.clone(), at));
    }
    if let Course::Adopt(plan) = &decision.course {
        let (uid, key) = child(&format!("p{}", plan.no), plan_name(&app.meta, plan.no));
        batch = batch.create(record::<Plans>(app, uid, key, Plan::clone(plan), at));
        if let Some(oldest) = plan.no.0.checked_sub(KEPT_PLANS) {
            let key = app.meta.key.sibling(plan_name(&app.meta, PlanNo(oldest)));
            if let Some(old) = store.get::<Plans>(&Scope::All, &key).await? {
                batch = batch.delete(&old);
            }
        }
    }
    let held = &input.status.claims;
    for name in status.claims.difference(held) {
        let spec = ClaimSpec { app: app.meta.uid.clone(), key: app.meta.key.clone() };
        let key = ObjectKey::of_installation(name.clone());
        batch = batch.create(record::<Claim>(app, child_uid(&app.meta.uid, name.as_str()), key, spec, at));
    }
    for name in held.difference(&status.claims) {
        let key = ObjectKey::of_installation(name.clone());
        match store.get::<Claim>(&Scope::All, &key).await? {
            Some(claim) => batch = batch.delete(&claim),
            None => return Err(StoreError::Conflict { kind: KindName(Claim::PLURAL), key }),
        }
    }
    if unchanged && batch.is_empty() { Ok(batch) } else { Ok(batch.report(app, status, at)) }
}

fn record<K: Kind<Operations = ()>>(
    app: &Object<App>,
    uid: Uid,
    key: ObjectKey,
    spec: K::Spec,
    at: Timestamp,
) -> New<K> {
    New {
        uid,
        key,
        owner: Some(app.meta.uid.clone()),
        at,
        attached: Attached::default(),
        spec,
        operations: (),
    }
}

/// Records are identified by their owner and what they record.
pub(crate) fn child_uid(owner: &Uid, what: &str) -> Uid {
    let digest = Digest::of_json(&(owner, what)).short();
    format!("record-{digest}").parse().expect("a word and a digest form a uid")
}

/// Deletes an App that is gone from the world, with its records and claims.
pub(crate) async fn forget(store: &Store, app: &Object<App>) -> Result<(), StoreError> {
    let mut batch = without(store, app).await?;
    // The status knows its claims; a reading that does not is older than the status, and a claim that is left
    // behind would keep its address or route from everybody for ever.
    for name in app.status.iter().flat_map(|status| &status.value.claims) {
        let key = ObjectKey::of_installation(name.clone());
        match store.get::<Claim>(&Scope::All, &key).await? {
            Some(claim) => batch = batch.delete(&claim),
            None => return Err(StoreError::Conflict { kind: KindName(Claim::PLURAL), key }),
        }
    }
    store.commit(&Scope::All, batch).await
}

/// What deletes an App with its records; its claims stay.
pub(crate) async fn without(store: &Store, app: &Object<App>) -> Result<Batch, StoreError> {
    let owned = Query::owned_by(app.meta.uid.clone());
    let mut batch = Batch::new().delete(app);
    for plan in store.list::<Plans>(&Scope::All, &owned).await? {
        batch = batch.delete(&plan);
    }
    for revision in store.list::<AppRevisions>(&Scope::All, &owned).await? {
        batch = batch.delete(&revision);
    }
    for rejection in store.list::<Rejection>(&Scope::All, &owned).await? {
        batch = batch.delete(&rejection);
    }
    if let Some(project) = &app.meta.key.project {
        // What is gone counts no more: whoever admits next adds up anew, and whoever does so now has to begin again.
        let key =
            ObjectKey::of_installation(project.as_str().parse().expect("a project's name is an object's"));
        batch = match store.get::<Usage>(&Scope::All, &key).await? {
            Some(usage) => {
                let spec = UsageSpec { sum: None, gone: usage.spec.gone.wrapping_add(1) };
                batch.declare(&usage, spec, ())
            }
            None => batch.create(New::<Usage> {
                uid: child_uid(&app.meta.uid, "usage"),
                key,
                owner: None,
                at: app.meta.created,
                attached: Attached::default(),
                spec: UsageSpec { sum: None, gone: 1 },
                operations: (),
            }),
        };
    }
    Ok(batch)
}
