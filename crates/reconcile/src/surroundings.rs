//! What surrounds an App: read from the store, handed to the planner as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plimsoll_model::app::EnvValue;
use plimsoll_model::id::{ComponentName, Digest, ObjectName, PlanNo, RevisionNo, TargetName, Uid};
use plimsoll_model::kind::{AppRevisions, Certificate, CertificateSpec, Claim, ClaimSpec, ImageSpec};
use plimsoll_model::operations::Power;
use plimsoll_model::relation::EndpointRef;
use plimsoll_model::step::Plan;
use plimsoll_model::template::{self, Part};
use plimsoll_model::{App, AppSpec, Component, Metadata, Object, ObjectKey, Project, Secret, Target};
use plimsoll_plan::{CertificateView, Context, EndpointView, ImageView, SecretView};
use plimsoll_store::{Scope, Store, StoreError};

use crate::builds::known_builds;
use crate::images::known_image;

/// Where an App runs when neither it nor its project says so.
pub const DEFAULT_TARGET: &str = "local";

/// Reads an App's surroundings.
pub(crate) async fn gather(store: &Store, app: &Object<App>) -> Result<Context, StoreError> {
    let others = neighbours(store, app).await?;
    let target = target_of(store, app).await?;
    let target_key =
        ObjectKey::of_installation(target.as_str().parse().expect("a target name is an object name"));
    let target_spec = store.get::<Target>(&Scope::All, &target_key).await?.map(|it| it.spec);
    let mut context = match target_spec {
        Some(spec) => Context::bare(target, spec),
        None => Context {
            target_spec: None,
            ..Context::bare(target, plimsoll_model::kind::TargetSpec::default())
        },
    };
    context.endpoints = endpoints(&app.spec, &others);
    context.cycle = cycle(app, &others);
    for number in known_revisions(app) {
        let key = app.meta.key.sibling(revision_name(&app.meta, number));
        if let Some(revision) = store.get::<AppRevisions>(&Scope::All, &key).await? {
            context.revisions.insert(number, revision.spec);
        }
    }
    // What was good may be made again, with what it needs.
    let specs = context.revisions.values().map(|revision| &revision.declaration).chain([&app.spec]);
    let secrets: BTreeSet<ObjectName> = specs.flat_map(|spec| secrets(spec, &context.endpoints)).collect();
    for name in secrets {
        if let Some(secret) = store.get::<Secret>(&Scope::All, &app.meta.key.sibling(name.clone())).await? {
            let keys = secret.spec.data.keys().cloned().collect();
            context.secrets.insert(name, SecretView { version: secret.meta.generation, keys });
        }
    }
    if let Some(target) = &context.target_spec {
        for sought in plimsoll_plan::resolve::sought(&app.spec, target) {
            if let Some(known) = known_image(store, &app.meta.key, &sought).await? {
                let ImageSpec { digest, tag, since, problem, before, .. } = known;
                let is_first = before.is_empty();
                context.images.insert(sought, ImageView { digest, tag, since, is_first, problem });
            }
        }
    }
    context.builds = known_builds(store, app, context.target_spec.as_ref()).await?;
    context.taken = taken(store, app, &context.target).await?;
    for host in encrypted_hosts(&app.spec) {
        let key = ObjectKey::of_installation(certificate_name(host));
        if let Some(known) = store.get::<Certificate>(&Scope::All, &key).await? {
            let CertificateSpec { fingerprint, mut problem, project, .. } = known.spec;
            if let Some(problem) = problem.as_mut().filter(|_| project != app.meta.key.project) {
                // Whose, and what their Secrets are called, others need not know.
                "another project has this host, and no certificate for it".clone_into(&mut problem.why);
            }
            let view = CertificateView { is_there: fingerprint.is_some(), problem };
            context.certificates.insert(host.to_owned(), view);
        }
    }
    Ok(context)
}

/// Hosts of an App's routes that are to be encrypted.
pub fn encrypted_hosts(spec: &AppSpec) -> impl Iterator<Item = &str> {
    let routes = spec.components.values().flat_map(|component| component.routes.iter());
    routes.filter(|route| route.tls.is_on()).map(|route| route.host.as_str())
}

/// The name of what is known of a host's certificate.
pub fn certificate_name(host: &str) -> ObjectName {
    let digest = Digest::of_bytes(host.as_bytes()).short();
    let readable = host.trim_start_matches("*.");
    let readable = readable.get(..200).unwrap_or(readable).trim_end_matches(['.', '-']);
    format!("{readable}.{}", &digest[..6]).parse().expect("a host and a digest form a name")
}

/// The current plan, where it is still kept.
pub(crate) async fn current_plan(store: &Store, app: &Object<App>) -> Result<Option<Plan>, StoreError> {
    let Some(current) = app.status.as_ref().and_then(|status| status.value.plan) else { return Ok(None) };
    let key = app.meta.key.sibling(plan_name(&app.meta, current.no));
    Ok(store.get::<plimsoll_model::kind::Plans>(&Scope::All, &key).await?.map(|plan| plan.spec))
}

/// Name of one of an App's records. It holds the App's identity, not only its name: records of an earlier App
/// of the same name can never be in the way.
pub(crate) fn record_name(app: &Metadata, what: impl fmt::Display) -> ObjectName {
    record_of(&app.uid, &app.key.name, what)
}

fn record_of(app: &Uid, name: &ObjectName, what: impl fmt::Display) -> ObjectName {
    let identity = Digest::of_json(app).short();
    format!("{name}.{}.{what}", &identity[..6]).parse().expect("names and a number form a name")
}

/// What the name of a tombstone ends with.
pub(crate) const GONE: &str = "gone";

pub(crate) fn plan_name(app: &Metadata, no: PlanNo) -> ObjectName {
    record_name(app, format_args!("p{no}"))
}

pub(crate) fn revision_name(app: &Metadata, number: RevisionNo) -> ObjectName {
    record_name(app, format_args!("r{number}"))
}

/// What names of claims on routes begin with.
const ROUTE: &str = "route.";

/// Name of the claim on a host and path of a target's router.
pub fn route_claim(target: &TargetName, host: &str, path: &str) -> ObjectName {
    let digest = Digest::of_json(&(target, host, path)).short();
    format!("{ROUTE}{digest}").parse().expect("a word and a digest form a name")
}

/// Whether a claim is one on a route.
pub(crate) fn is_of_route(claim: &ObjectName) -> bool {
    claim.as_str().starts_with(ROUTE)
}

pub(crate) async fn target_of(store: &Store, app: &Object<App>) -> Result<TargetName, StoreError> {
    if let Some(target) = &app.spec.target {
        return Ok(target.clone());
    }
    if let Some(project) = &app.meta.key.project {
        let key =
            ObjectKey::of_installation(project.as_str().parse().expect("a project name is an object name"));
        if let Some(target) = store.get::<Project>(&Scope::All, &key).await?.and_then(|it| it.spec.target) {
            return Ok(target);
        }
    }
    Ok(DEFAULT_TARGET.parse().expect("a valid target name"))
}

fn known_revisions(app: &Object<App>) -> BTreeSet<RevisionNo> {
    let status = app.status.as_ref().map(|status| &status.value);
    let good = status.into_iter().flat_map(|status| status.memory.values().filter_map(|memory| memory.good));
    good.map(|good| good.revision).chain(status.and_then(|status| status.revision)).collect()
}

/// The other Apps that this one consumes, and those that they consume in turn, by name.
async fn neighbours(
    store: &Store,
    app: &Object<App>,
) -> Result<BTreeMap<ObjectName, Object<App>>, StoreError> {
    let consumed = |spec: &AppSpec| -> Vec<ObjectName> {
        let all = spec.components.values().flat_map(|component| component.consumes.values());
        all.filter_map(|consume| consume.from.app.clone()).collect()
    };
    let mut found = BTreeMap::new();
    let mut open = consumed(&app.spec);
    while let Some(name) = open.pop() {
        if name == app.meta.key.name || found.contains_key(&name) {
            continue;
        }
        if let Some(other) = store.get::<App>(&Scope::All, &app.meta.key.sibling(name.clone())).await? {
            open.extend(consumed(&other.spec));
            found.insert(name, other);
        }
    }
    Ok(found)
}

/// The endpoints of other Apps that this one names.
fn endpoints(
    spec: &AppSpec,
    others: &BTreeMap<ObjectName, Object<App>>,
) -> BTreeMap<EndpointRef, EndpointView> {
    let consumed = spec.components.values().flat_map(|component| component.consumes.values());
    let mut found = BTreeMap::new();
    for from in consumed.map(|consume| &consume.from) {
        let Some(other) = from.app.as_ref().and_then(|name| others.get(name)) else { continue };
        let Some(component) = other.spec.components.get(&from.component) else { continue };
        let Some(provide) = component.provides.get(&from.endpoint) else { continue };
        if other.meta.deleting.is_some() {
            continue;
        }
        let status = other.status.as_ref().map(|status| &status.value);
        let memory = status.and_then(|status| status.memory.get(&from.component));
        let available =
            status.and_then(|status| status.components.get(&from.component)).map_or(0, |it| it.available);
        let only = || component.ports.keys().next().cloned();
        let view = EndpointView {
            interface: provide.interface.clone(),
            address: memory.and_then(|memory| memory.address),
            ports: component.ports.clone(),
            port: provide.port.clone().or_else(only),
            data: provide.data.clone(),
            ready: available > 0 && other.operations.power == Power::On,
        };
        found.insert(from.clone(), view);
    }
    found
}

/// A circle of relations that leads through this App: the Apps in order, the first repeated at the end.
fn cycle(app: &Object<App>, others: &BTreeMap<ObjectName, Object<App>>) -> Option<Vec<ObjectName>> {
    type Place<'a> = (&'a ObjectName, &'a ComponentName);
    fn visit<'a>(
        apps: &BTreeMap<&'a ObjectName, &'a AppSpec>,
        at: Place<'a>,
        trail: &mut Vec<Place<'a>>,
        done: &mut BTreeSet<Place<'a>>,
    ) -> Option<Vec<ObjectName>> {
        if let Some(start) = trail.iter().position(|place| *place == at) {
            let mut names: Vec<ObjectName> =
                trail[start..].iter().chain([&at]).map(|(app, _)| (*app).clone()).collect();
            names.dedup();
            return Some(names);
        }
        if !done.insert(at) {
            return None;
        }
        let component = apps.get(at.0)?.components.get(at.1)?;
        trail.push(at);
        for consume in component.consumes.values() {
            let (app, _) = apps.get_key_value(consume.from.app.as_ref().unwrap_or(at.0)).unzip();
            let next = app.map(|app| (*app, &consume.from.component));
            if let Some(found) = next.and_then(|next| visit(apps, next, trail, done)) {
                return Some(found);
            }
        }
        trail.pop();
        None
    }
    let own = &app.meta.key.name;
    let mut apps: BTreeMap<&ObjectName, &AppSpec> =
        others.iter().map(|(name, it)| (name, &it.spec)).collect();
    apps.insert(own, &app.spec);
    app.spec.components.keys().find_map(|component| {
        let found = visit(&apps, (own, component), &mut Vec::new(), &mut BTreeSet::new())?;
        // A circle elsewhere is the others' concern: this App then waits for a provider that waits.
        found.contains(own).then_some(found)
    })
}

/// Every secret whose version matters: named by the App itself or by data of endpoints it consumes.
fn secrets(spec: &AppSpec, endpoints: &BTreeMap<EndpointRef, EndpointView>) -> BTreeSet<ObjectName> {
    let mut found = BTreeSet::new();
    let mut text = |text: &str| {
        let parts = template::parse(text).unwrap_or_default();
        found.extend(parts.into_iter().filter_map(|part| match part {
            Part::Secret(secret) => Some(secret.name),
            _ => None,
        }));
    };
    let mut direct = Vec::new();
    for component in spec.components.values() {
        let of_hooks = component.hooks.iter().flat_map(|(_, hook)| hook.env.values());
        for value in component.env.values().chain(of_hooks) {
            match value {
                EnvValue::Text(literal) => text(literal),
                EnvValue::Secret(secret) => direct.push(secret.name.clone()),
            }
        }
        for file in component.files.values() {
            file.content.iter().for_each(|literal| text(literal));
            direct.extend(file.secret.iter().map(|secret| secret.name.clone()));
        }
        component.provides.values().flat_map(|it| it.data.values()).for_each(|literal| text(literal));
    }
    endpoints.values().flat_map(|endpoint| endpoint.data.values()).for_each(|literal| text(literal));
    found.extend(direct);
    found
}

/// Literal host and path of every route, which are claimed so that only one App has them.
pub(crate) fn literal_routes(spec: &AppSpec) -> impl Iterator<Item = (&str, &str)> {
    let routes = spec.components.values().flat_map(|component: &Component| component.routes.iter());
    routes.filter(|route| !route.host.contains("${")).map(|route| (route.host.as_str(), route.path.as_str()))
}

async fn taken(
    store: &Store,
    app: &Object<App>,
    target: &TargetName,
) -> Result<BTreeMap<(String, String), Option<ObjectName>>, StoreError> {
    let mut taken = BTreeMap::new();
    for (host, path) in literal_routes(&app.spec) {
        let key = ObjectKey::of_installation(route_claim(target, host, path));
        let claim = store.get::<Claim>(&Scope::All, &key).await?;
        if let Some(claim) = claim.filter(|claim| claim.spec.app != app.meta.uid) {
            let owner = store.get::<App>(&Scope::All, &claim.spec.key).await?;
            let is_there = owner.is_some_and(|owner| owner.meta.uid == claim.spec.app);
            let ClaimSpec { app: uid, key } = claim.spec;
            // What was given up holds its routes by its tombstone.
            let name = if is_there { key.name } else { record_of(&uid, &key.name, GONE) };
            // Whose it is, other projects need not know.
            let is_own = key.project == app.meta.key.project;
            taken.insert((host.to_owned(), path.to_owned()), is_own.then_some(name));
        }
    }
    Ok(taken)
}
