//! Commands that change something: apply, delete, and the verbs for an App.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use plimsoll_api::Operation;
use plimsoll_manifest::{Document, Metadata, SecretDeclared};
use plimsoll_model::id::{ComponentName, KeyName, ManagerName, ObjectName, PathHash};
use plimsoll_model::operations::Power;
use plimsoll_model::quantity::Span;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{App, Attached, Kind, ObjectKey, Secret};
use serde_json::Value;

use crate::Ended;
use crate::bundle::{Bundle, Files, add_digests};
use crate::client::{Applied, Client};
use crate::follow::{Follower, talk};
use crate::get::encoded;
use crate::news::until_gone;
use crate::place::Where;
use crate::up::{self, Review};
use crate::what::{project_of, resource};

/// Bring what a file declares into the control plane
#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    place: Where,
    /// Do what `plimsoll plan` showed under this path, and nothing else
    #[arg(long, value_name = "HASH", value_parser = path_hash)]
    plan: Option<PathHash>,
    /// Wait until everything runs as declared; fails when it cannot
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; exit code 124
    #[arg(long, default_value = "10m")]
    timeout: Span,
    /// Check everything, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    fields: Fields,
}

/// Whose the fields are
#[derive(Args)]
struct Fields {
    /// Set only what the files say; what others have set stays theirs
    #[arg(long, conflicts_with = "plan")]
    server_side: bool,
    /// Who sets them
    #[arg(long, value_name = "NAME", default_value = "plimsoll", requires = "server_side")]
    field_manager: ManagerName,
    /// Take fields from others that have set them to something else
    #[arg(long, requires = "server_side")]
    force_conflicts: bool,
}

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let bundle = self.files.read()?;
        let client = self.place.client()?;
        let applied = if self.fields.server_side {
            self.fields.apply(&client, bundle, &self.place, self.dry_run)?
        } else if self.dry_run {
            let documents = bundle.documents()?;
            up::say(client.check(&documents, &self.place.project())?, true)
        } else {
            up::apply(&client, bundle, &self.place, self.plan.map_or(Review::Show, Review::Only))?
        };
        if self.dry_run {
            return Ok(Ended::Done);
        }
        if !self.wait {
            return Ok(Ended::Done);
        }
        wait(&client, up::apps_of(&applied), self.timeout)
    }
}

impl Fields {
    /// Applies each document for the manager: just the fields that it has.
    fn apply(
        &self,
        client: &Client,
        bundle: Bundle,
        place: &Where,
        dry_run: bool,
    ) -> anyhow::Result<Vec<Applied>> {
        let written = bundle.written()?;
        let documents = if dry_run { bundle.documents()? } else { up::uploaded(client, bundle, place)? };
        let mut query = format!("?fieldManager={}", encoded(self.field_manager.as_str()));
        if self.force_conflicts {
            query.push_str("&force=true");
        }
        if dry_run {
            query.push_str("&dryRun=All");
        }
        let mut applied = Vec::new();
        for (mut written, document) in written.into_iter().zip(documents) {
            if let Document::App(app) = &document {
                add_digests(&mut written, &app.spec);
            }
            let (kind, name) = (document.kind().name(), document.metadata().name.clone());
            let resource = resource(kind)?;
            let own = document.metadata().project.clone();
            let project = project_of(&resource, &place.project()).cloned();
            let project = project.map(|usual| own.unwrap_or(usual));
            let key = ObjectKey { project: project.clone(), name: name.clone() };
            let before = client.find(project.as_ref(), resource.plural, name.as_str())?;
            let media = "application/apply-patch+yaml";
            let after = client.patch(&key, resource.plural, media, &query, &written)?;
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            let change = match before {
                None => "created",
                Some(before) if version(&before) == version(&after) => "unchanged",
                Some(_) => "changed",
            };
            applied.push(Applied { kind: kind.to_owned(), project, name, change: change.to_owned() });
        }
        Ok(up::say(applied, dry_run))
    }
}

fn path_hash(text: &str) -> Result<PathHash, plimsoll_model::id::InvalidName> {
    text.parse().map(PathHash)
}

fn wait(client: &Client, apps: BTreeSet<ObjectKey>, limit: Span) -> anyhow::Result<Ended> {
    let limit = Duration::from_millis(limit.millis);
    up::rest(Follower::new(client, apps).until_rest(Some(limit), || false)?)
}

/// What a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Ready,
    Gone,
}

/// What `--for` says, also in the words of Kubernetes.
fn awaited(text: &str) -> Result<Awaited, &'static str> {
    match text.to_lowercase().as_str() {
        "ready" | "condition=ready" | "condition=ready=true" => Ok(Awaited::Ready),
        "delete" | "deleted" => Ok(Awaited::Gone),
        _ => Err("choose ready or delete"),
    }
}

/// Wait until an App runs as declared, or is gone
#[derive(Args)]
pub(crate) struct WaitCommand {
    /// The App
    app: ObjectName,
    #[command(flatten)]
    place: Where,
    /// What for: `ready` (or `condition=Ready`), or `delete`
    #[arg(long, default_value = "ready", value_parser = awaited, value_name = "WHAT")]
    r#for: Awaited,
    /// Wait no longer than this; exit code 124
    #[arg(long, default_value = "10m")]
    timeout: Span,
}

impl WaitCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (client, app) = (self.place.client()?, self.place.app(&self.app));
        if self.r#for == Awaited::Ready {
            client.app(&app)?;
            return wait(&client, BTreeSet::from([app]), self.timeout);
        }
        let until = Instant::now() + Duration::from_millis(self.timeout.millis);
        let name = app.name.as_str();
        let is_gone =
            until_gone(&client, app.project.as_ref(), App::PLURAL, name, || Instant::now() >= until)?;
        Ok(if is_gone { Ended::Done } else { Ended::TimedOut })
    }
}

/// An App and the control plane that has it
#[derive(Args)]
pub(crate) struct OfApp {
    /// The App
    pub(crate) app: ObjectName,
    #[command(flatten)]
    pub(crate) place: Where,
}

impl OfApp {
    /// Carries out one verb.
    pub(crate) fn operate(&self, operation: &Operation, said: &str) -> anyhow::Result<Ended> {
        self.place.client()?.operate(&self.place.app(&self.app), operation)?;
        talk(&format!("app {} {said}", self.app));
        Ok(Ended::Done)
    }
}

/// Run so many copies of a component, whatever its declaration says
#[derive(Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    of: OfApp,
    /// `COMPONENT=COPIES`; `COMPONENT=declared` follows the declaration again
    #[arg(value_name = "COMPONENT=COPIES")]
    change: String,
}

impl Scale {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let wrong = || anyhow!("{:?} is not COMPONENT=COPIES", self.change);
        let (component, copies) = self.change.split_once('=').ok_or_else(wrong)?;
        let replicas = match copies {
            "declared" => None,
            copies => Some(copies.parse::<u32>().ok().filter(|it| *it <= 1000).ok_or_else(wrong)?),
        };
        let component: ComponentName = component.parse()?;
        self.of.operate(&Operation::Scale { component, replicas }, "scaled")
    }
}

/// Values that programs may use and nobody may read
#[derive(Subcommand)]
pub(crate) enum SecretCommand {
    /// Replace the values of a Secret
    Set {
        /// The Secret
        name: ObjectName,
        /// `KEY=VALUE`; `KEY=-` reads the value from standard input
        #[arg(value_name = "KEY=VALUE", required = true)]
        values: Vec<String>,
        #[command(flatten)]
        place: Where,
    },
}

impl SecretCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let Self::Set { name, values, place } = self;
        let mut data: BTreeMap<KeyName, Sensitive<String>> = BTreeMap::new();
        for value in values {
            let (key, value) = value.split_once('=').context("a value is given as KEY=VALUE")?;
            let mut text = value.to_owned();
            if value == "-" {
                text.clear();
                std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
                text.truncate(text.trim_end_matches('\n').len());
            }
            data.insert(key.parse().context("that is no key")?, Sensitive::new(text));
        }
        let client = place.client()?;
        let known = client.find(Some(&place.project()), Secret::PLURAL, name.as_str())?;
        let attached = known.map(|it| serde_json::from_value::<Attached>(it["metadata"].clone()));
        let Attached { labels, annotations, .. } = attached.transpose()?.unwrap_or_default();
        let metadata = Metadata { name: name.clone(), project: None, labels, annotations };
        let document = Document::Secret(SecretDeclared { line: 1, metadata, data });
        for applied in client.apply(&[document], &place.project(), None)? {
            talk(&format!("secret {name} {}", applied.change));
        }
        Ok(Ended::Done)
    }
}

/// Switches an App on or off.
pub(crate) fn power(of: &OfApp, power: Power) -> anyhow::Result<Ended> {
    let said = if power == Power::On { "starts" } else { "stops; volumes and addresses stay" };
    of.operate(&Operation::Power(power), said)
}

/// Try again what was rejected
#[derive(Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    of: OfApp,
    /// Only these components
    #[arg(short, long)]
    component: Vec<ComponentName>,
}

impl Retry {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        self.of.operate(&Operation::Retry(self.component.clone()), "tries again what was rejected")
    }
}
