//! What a copy is given beside its revision: relation data, secret versions, its own address.

use std::collections::BTreeMap;

use plimsoll_model::app::{Component, EnvValue, FileContent};
use plimsoll_model::hook::{HookPoint, Task};
use plimsoll_model::id::{BindingsHash, ComponentName, Digest, KeyName, PartName};
use plimsoll_model::relation::EndpointRef;
use plimsoll_model::revision::ComponentRevision;
use plimsoll_model::secret::SecretRef;
use plimsoll_model::step::{Fragment, Launch, Rendered, VolumeMount};
use plimsoll_model::template::{self, Part};
use plimsoll_model::wait::Reason;
use plimsoll_model::world::ServiceIp;

use crate::input::{Context, EndpointView};

/// Relation data by relation and key.
type Relations = BTreeMap<PartName, BTreeMap<KeyName, Rendered>>;

/// Everything a copy needs that is not in its revision.
#[derive(Debug, Clone)]
pub(crate) struct Bindings {
    pub(crate) hash: BindingsHash,
    relations: Relations,
}

/// Where a component's own `${host}` and `${port:…}` point.
struct Address<'a> {
    ip: Option<ServiceIp>,
    ports: &'a BTreeMap<PartName, u16>,
}

/// Resolves what a component consumes and needs, or says what is missing.
pub(crate) fn resolve(
    name: &ComponentName,
    component: &Component,
    revision: &ComponentRevision,
    endpoints: &BTreeMap<EndpointRef, EndpointView>,
    context: &Context,
    restarts: u32,
) -> Result<Bindings, Vec<Reason>> {
    let mut missing = Vec::new();
    let mut relations = Relations::new();
    for (relation, consume) in &component.consumes {
        match endpoints.get(&consume.from) {
            None => missing.push(Reason::ProviderMissing { from: consume.from.clone() }),
            Some(endpoint) if endpoint.interface != consume.interface => {
                missing.push(Reason::InterfaceMismatch {
                    from: consume.from.clone(),
                    wanted: consume.interface.clone(),
                    provided: endpoint.interface.clone(),
                });
            }
            Some(endpoint) => match relation_data(endpoint, context) {
                Some(Ok(data)) => {
                    relations.insert(relation.clone(), data);
                }
                Some(Err(reason)) => missing.push(reason),
                None => missing.push(Reason::ProviderNotReady { from: consume.from.clone() }),
            },
        }
    }
    let mut secrets = BTreeMap::new();
    for secret in named_secrets(revision) {
        match version(&secret, context) {
            Ok(version) => {
                secrets.insert(secret, version);
            }
            Err(reason) => missing.push(reason),
        }
    }
    missing.extend(missing_values(parts(revision), &relations));
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Err(missing);
    }
    let secrets: Vec<_> = secrets.iter().collect();
    let hash = BindingsHash(Digest::of_json(&(name, on_node(&relations), secrets, restarts)));
    Ok(Bindings { hash, relations })
}

/// Relation data with addresses as a process of the node has them: what is hashed does not depend on where a consumer
/// runs, which is its revision's.
fn on_node(relations: &Relations) -> Relations {
    let mut relations = relations.clone();
    for rendered in relations.values_mut().flat_map(BTreeMap::values_mut) {
        for fragment in &mut rendered.0 {
            if let Fragment::Host(ip) = fragment {
                *fragment = Fragment::Text(ip.to_string());
            }
        }
    }
    relations
}

/// Data of one endpoint as a consumer sees it; `None` until the provider's address is planned.
fn relation_data(
    endpoint: &EndpointView,
    context: &Context,
) -> Option<Result<BTreeMap<KeyName, Rendered>, Reason>> {
    let ip = endpoint.address?;
    let port = endpoint.port.as_ref().and_then(|port| endpoint.ports.get(port))?;
    let key = |text: &str| text.parse::<KeyName>().expect("a literal key");
    let mut data = BTreeMap::from([
        (key("type"), Rendered::text(endpoint.interface.as_str())),
        (key("host"), Rendered(vec![Fragment::Host(ip)])),
        (key("port"), Rendered::text(port.to_string())),
    ]);
    let address = Address { ip: Some(ip), ports: &endpoint.ports };
    for (name, text) in &endpoint.data {
        match render(text, &address, &Relations::new(), context) {
            Ok(rendered) => data.insert(name.clone(), rendered),
            Err(reason) => return Some(Err(reason)),
        };
    }
    Some(Ok(data))
}

fn version(secret: &SecretRef, context: &Context) -> Result<plimsoll_model::Generation, Reason> {
    match context.secrets.get(&secret.name) {
        Some(view) if view.keys.contains(&secret.key) => Ok(view.version),
        _ => Err(Reason::SecretMissing { secret: secret.clone() }),
    }
}

/// The pieces of every template in a revision's environment and files.
fn parts(revision: &ComponentRevision) -> impl Iterator<Item = Part> {
    let files = revision.files.values().filter_map(|file| file.content.as_ref());
    parts_of_env(&revision.env).chain(files.flat_map(|text| template::parse(text).unwrap_or_default()))
}

fn parts_of_env(env: &BTreeMap<KeyName, EnvValue>) -> impl Iterator<Item = Part> {
    let texts = env.values().filter_map(|value| match value {
        EnvValue::Text(text) => Some(text),
        EnvValue::Secret(_) => None,
    });
    texts.flat_map(|text| template::parse(text).unwrap_or_default())
}

/// Every secret that a revision's environment and files name.
fn named_secrets(revision: &ComponentRevision) -> Vec<SecretRef> {
    let in_text = parts(revision).filter_map(|part| match part {
        Part::Secret(secret) => Some(secret),
        _ => None,
    });
    let whole = revision.env.values().filter_map(|value| match value {
        EnvValue::Secret(secret) => Some(secret.clone()),
        EnvValue::Text(_) => None,
    });
    let files = revision.files.values().filter_map(|file| file.secret.clone());
    in_text.chain(whole).chain(files).collect()
}

/// Values that a revision asks of relations that do not have them.
fn missing_values(parts: impl Iterator<Item = Part>, relations: &Relations) -> Vec<Reason> {
    let asked = parts.filter_map(|part| match part {
        Part::Relation(relation, key) => Some((relation, key)),
        _ => None,
    });
    // A relation that is missing as a whole has its own reason already.
    let missing =
        asked.filter(|(relation, key)| relations.get(relation).is_some_and(|data| !data.contains_key(key)));
    missing.map(|(relation, key)| Reason::RelationValueMissing { relation, key }).collect()
}

/// Fills in a template. Names that cannot be known here were refused by validation.
fn render(
    text: &str,
    address: &Address<'_>,
    relations: &Relations,
    context: &Context,
) -> Result<Rendered, Reason> {
    let mut out = Vec::new();
    for part in template::parse(text).unwrap_or_default() {
        match part {
            Part::Text(text) => out.push(Fragment::Text(text)),
            Part::Host => out.push(address.ip.map_or(Fragment::Text(String::new()), Fragment::Host)),
            Part::Port(name) => {
                let port = address.ports.get(&name).map(ToString::to_string).unwrap_or_default();
                out.push(Fragment::Text(port));
            }
            Part::Secret(secret) => {
                let version = version(&secret, context)?;
                out.push(Fragment::Secret { secret, version });
            }
            Part::Relation(name, key) => {
                let value = relations.get(&name).and_then(|data| data.get(&key));
                out.extend(value.cloned().unwrap_or_default().0);
            }
        }
    }
    Ok(Rendered(out))
}

impl Bindings {
    /// How a copy of `revision` is started with these bindings.
    pub(crate) fn launch(
        &self,
        revision: &ComponentRevision,
        ip: Option<ServiceIp>,
        context: &Context,
    ) -> Result<Launch, Reason> {
        let address = Address { ip, ports: &revision.ports };
        let mut env = self.relation_env();
        for (name, value) in &revision.env {
            let rendered = match value {
                EnvValue::Text(text) => render(text, &address, &self.relations, context)?,
                EnvValue::Secret(secret) => secret_text(secret, context)?,
            };
            env.insert(name.clone(), rendered);
        }
        let mut files = BTreeMap::new();
        for (path, file) in &revision.files {
            let FileContent { content, secret } = file;
            let rendered = match (content, secret) {
                (Some(text), _) => render(text, &address, &self.relations, context)?,
                (None, Some(secret)) => secret_text(secret, context)?,
                (None, None) => Rendered::default(),
            };
            files.insert(path.clone(), rendered);
        }
        let volumes = revision.volumes.iter().map(|(name, volume)| {
            (name.clone(), VolumeMount { path: volume.path.clone(), size: volume.size })
        });
        Ok(Launch {
            image: revision.image.clone(),
            engine: revision.image.as_ref().and_then(|_| context.target_spec.as_ref()?.engine.clone()),
            content: revision.content.clone(),
            argv: revision.argv.clone(),
            args: revision.args.clone(),
            workdir: revision.workdir.clone(),
            env,
            files,
            bindings: self.relations.clone(),
            ports: revision.ports.clone(),
            volumes: volumes.collect(),
            resources: revision.resources,
            security: revision.security.clone(),
            health: revision.health.clone(),
            grace: revision.grace,
            hook: None,
        })
    }

    /// How the task of a hook of `revision` is started: as a copy is, without what only one that serves can have. What it
    /// alone asks for is no part of what copies are given, and replaces none when it changes.
    pub(crate) fn launch_task(
        &self,
        revision: &ComponentRevision,
        (hook, task): (HookPoint, &Task),
        ip: Option<ServiceIp>,
        context: &Context,
    ) -> Result<Launch, Reason> {
        if let Some(missing) = missing_values(parts_of_env(&task.env), &self.relations).pop() {
            return Err(missing);
        }
        let mut env = revision.env.clone();
        env.extend(task.env.clone());
        let revision = ComponentRevision { env, ..revision.clone() };
        let launch = self.launch(&revision, ip, context)?;
        Ok(Launch {
            argv: task.argv.clone(),
            args: task.args.clone(),
            ports: BTreeMap::new(),
            volumes: BTreeMap::new(),
            resources: task.resources,
            health: None,
            hook: Some(hook),
            ..launch
        })
    }

    /// Relation data as environment: `DB_HOST` for key `host` of relation `db`. Declared variables win.
    fn relation_env(&self) -> BTreeMap<KeyName, Rendered> {
        let upper = |text: &str| text.to_uppercase().replace(['-', '.'], "_");
        let mut env = BTreeMap::new();
        for (relation, data) in &self.relations {
            for (key, value) in data {
                let name = format!("{}_{}", upper(relation.as_str()), upper(key.as_str()));
                // A relation name may begin with a digit; a variable may not, and is then left out.
                if let Ok(name) = name.parse() {
                    env.insert(name, value.clone());
                }
            }
        }
        env
    }
}

fn secret_text(secret: &SecretRef, context: &Context) -> Result<Rendered, Reason> {
    let version = version(secret, context)?;
    Ok(Rendered(vec![Fragment::Secret { secret: secret.clone(), version }]))
}
