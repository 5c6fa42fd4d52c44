//! Commands that only look: get, describe, why, logs.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::{Args, ValueEnum};
use plimsoll_model::id::{ComponentName, InstanceId, ObjectName};
use plimsoll_model::kind::{AppRevisions, Plans, Rejection};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, RejectionRecord};
use plimsoll_model::status::{InstanceState, OutcomeState};
use plimsoll_model::step::{Plan, Step};
use plimsoll_model::wait::{Owner, Reason};
use plimsoll_model::{App, Kind, Object, ObjectKey};
use serde_json::Value;

use crate::Ended;
use crate::client::{Client, Where, app_of};
use crate::follow::{Course, course, pause, talk};
use crate::verbs::OfApp;

/// How objects are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
    Name,
}

/// List objects, or print one
#[derive(Args)]
pub(crate) struct Get {
    /// The collection: apps, projects, targets, secrets, revisions, rejections, plans
    #[arg(default_value = "apps")]
    kind: String,
    /// Only this object
    name: Option<ObjectName>,
    #[command(flatten)]
    place: Where,
    /// Objects of all projects
    #[arg(short = 'A', long)]
    all_projects: bool,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Print them again whenever they change, until interrupted
    #[arg(short, long)]
    watch: bool,
}

impl Get {
    #[expect(clippy::print_stdout, reason = "the objects are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let mut shown = None;
        loop {
            let items = self.items(&client)?;
            // Ages change all the time; that is no news.
            if shown.as_ref() != Some(&items) {
                print!("{}", self.text(&items)?);
                shown = Some(items);
            }
            if !self.watch {
                return Ok(Ended::Done);
            }
            pause();
        }
    }

    fn plural(&self) -> String {
        if self.kind.ends_with('s') { self.kind.clone() } else { format!("{}s", self.kind) }
    }

    /// The objects as they are now.
    fn items(&self, client: &Client) -> anyhow::Result<Vec<Value>> {
        let plural = self.plural();
        let of_installation = matches!(plural.as_str(), "projects" | "targets" | "claims");
        let project = (!self.all_projects && !of_installation).then_some(&self.place.project);
        let mut items = client.list(project, &plural)?;
        if let Some(name) = &self.name {
            items.retain(|it| it["metadata"]["name"] == name.as_str());
            if items.is_empty() {
                bail!("there is no {} {name}; see `plimsoll get {plural}`", self.kind);
            }
        }
        Ok(items)
    }

    fn text(&self, items: &[Value]) -> anyhow::Result<String> {
        let plural = self.plural();
        Ok(match self.output {
            Output::Json => serde_json::to_string_pretty(items)? + "\n",
            Output::Yaml => yaml_serde::to_string(items)?,
            Output::Name => {
                let names: Vec<_> = items.iter().map(|it| text(&it["metadata"]["name"])).collect();
                names.iter().flat_map(|name| [&plural, "/", name, "\n"]).collect()
            }
            Output::Table if plural == App::PLURAL => app_table(items)?,
            Output::Table => plain_table(items),
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Rows under a heading, each column as wide as its widest cell.
fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([heading[column].len()]).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(heading.to_vec())).chain(rows).collect()
}

fn app_table(items: &[Value]) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for item in items {
        let app = app_of(item.clone())?;
        let components = app.status.iter().flat_map(|status| status.value.components.values());
        let (ready, desired) = components.fold((0, 0), |sum, it| (sum.0 + it.ready, sum.1 + it.desired));
        let project = app.meta.key.project.as_ref().map(ToString::to_string).unwrap_or_default();
        let cells =
            [project, app.meta.key.name.to_string(), format!("{ready}/{desired}"), state(&app).into()];
        rows.push([&cells[..], &[ago(app.meta.created.0)]].concat());
    }
    Ok(table(&["PROJECT", "APP", "READY", "STATE", "AGE"], &rows))
}

fn plain_table(items: &[Value]) -> String {
    let row = |it: &Value| {
        let meta = &it["metadata"];
        let created = ago(meta["created"].as_u64().unwrap_or_default());
        vec![text(&meta["project"]).to_owned(), text(&meta["name"]).to_owned(), created]
    };
    table(&["PROJECT", "NAME", "AGE"], &items.iter().map(row).collect::<Vec<_>>())
}

/// An App's state in one word.
fn state(app: &Object<App>) -> &'static str {
    if app.meta.deleting.is_some() {
        return "deleting";
    }
    let outcome = app.status.as_ref().filter(|it| it.of == app.meta.generation);
    match outcome.and_then(|it| it.value.outcome.as_ref()).map(|it| it.state) {
        Some(OutcomeState::Settled) => "settled",
        Some(OutcomeState::Advanced) | None => "working",
        Some(OutcomeState::Waiting) => "waiting",
        Some(OutcomeState::Stalled) => "stalled",
    }
}

/// Milliseconds since 1970 UTC.
#[expect(clippy::disallowed_methods, reason = "ages are for people")]
fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Time since a moment, for people.
fn ago(millis: u64) -> String {
    let seconds = now().saturating_sub(millis) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Print everything about an App that a person may want to know
#[derive(Args)]
pub(crate) struct Describe {
    #[command(flatten)]
    of: OfApp,
}

impl Describe {
    #[expect(clippy::print_stdout, reason = "the description is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.of.place.client()?;
        let app = client.app(&self.of.place.app(&self.of.app))?;
        println!("app {}  {}", app.meta.key, state(&app));
        let Some(status) = app.status.as_ref().map(|it| &it.value) else { return Ok(Ended::Done) };
        if !app.meta.labels.is_empty() {
            let labels: Vec<String> =
                app.meta.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            println!("labels {}", labels.join(" "));
        }
        if let (Some(plan), Some(revision)) = (status.plan, status.revision) {
            println!("revision {revision}, plan {} ({})", plan.no, plan.hash.short());
        }
        for (name, component) in &status.components {
            let revision = component.revision.map(|it| it.short()).unwrap_or_default();
            println!("\n{name}  {}/{} ready  {revision}", component.ready, component.desired);
            if let Some(ip) = status.memory.get(name).and_then(|memory| memory.address) {
                println!("  address {ip}");
            }
            if !component.unenforced.is_empty() {
                let limits: Vec<String> = component.unenforced.iter().map(ToString::to_string).collect();
                println!("  not enforced here: {}", limits.join(", "));
            }
            for copy in &component.instances {
                let (state, old) = (state_name(copy.state), Some(copy.revision) != component.revision);
                let old = if old { "  old revision" } else { "" };
                println!("  {}  {state}  {} restarts{old}", copy.id, copy.restarts);
            }
        }
        rejections(&client, &app)?;
        println!();
        print!("{}", chain(&client, &app, &mut BTreeSet::new())?);
        Ok(Ended::Done)
    }
}

fn state_name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Unknown => "unknown",
        InstanceState::Blocked => "blocked",
        InstanceState::Unready => "unready",
        InstanceState::Ready => "ready",
        InstanceState::Backoff => "backoff",
        InstanceState::Stopping => "stopping",
        InstanceState::Stopped => "stopped",
    }
}

#[expect(clippy::print_stdout, reason = "the description is this command's data")]
fn rejections(client: &Client, app: &Object<App>) -> anyhow::Result<()> {
    for it in client.list(app.meta.key.project.as_ref(), Rejection::PLURAL)? {
        if it["metadata"]["owner"] != app.meta.uid.as_str() {
            continue;
        }
        let (spec, evidence) = (&it["spec"], &it["spec"]["evidence"]);
        println!("\nrejected: {} ({})", text(&spec["component"]), text(&it["metadata"]["name"]));
        println!("  {}", text(&evidence["verdict"]));
        for (what, value) in [("probe", &evidence["probe"]), ("exit", &evidence["exit"])] {
            if !value.is_null() {
                println!("  {what}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        for line in evidence["log"].as_array().into_iter().flatten() {
            println!("  | {}", text(line));
        }
    }
    Ok(())
}

/// Print what was decided and done for an App, the oldest first
#[derive(Args)]
pub(crate) struct Events {
    #[command(flatten)]
    of: OfApp,
}

impl Events {
    #[expect(clippy::print_stdout, reason = "the events are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.of.place.client()?;
        let app = client.app(&self.of.place.app(&self.of.app))?;
        let mut events: Vec<(u64, String)> = Vec::new();
        for plural in [Plans::PLURAL, AppRevisions::PLURAL, Rejection::PLURAL] {
            for mut record in client.list(app.meta.key.project.as_ref(), plural)? {
                if record["metadata"]["owner"] == app.meta.uid.as_str() {
                    let at = record["metadata"]["created"].as_u64().unwrap_or_default();
                    events.push((at, event(plural, record["spec"].take())?));
                }
            }
        }
        events.sort();
        let rows: Vec<_> = events.into_iter().map(|(at, what)| vec![ago(at), what]).collect();
        print!("{}", table(&["AGE", "WHAT"], &rows));
        Ok(Ended::Done)
    }
}

/// A record as a sentence.
fn event(plural: &str, spec: Value) -> anyhow::Result<String> {
    Ok(match plural {
        Plans::PLURAL => {
            let plan: Plan = serde_json::from_value(spec)?;
            let step = |step: &Step| match (&step.component, step.slot) {
                (Some(component), Some(slot)) => format!("{} {component}/{}", step.action.verb(), slot.0),
                _ => step.action.verb().to_owned(),
            };
            let steps: Vec<String> = plan.steps.iter().map(step).collect();
            let deviation = plan.deviation.map(|it| format!(" ({it})")).unwrap_or_default();
            format!("plan {}{deviation}: {}", plan.no, steps.join(", "))
        }
        AppRevisions::PLURAL => {
            let revision: AppRevision = serde_json::from_value(spec)?;
            format!("revision {}", revision.number)
        }
        _ => {
            let rejection: RejectionRecord = serde_json::from_value(spec)?;
            let (component, revision) = (rejection.component, rejection.revision.short());
            format!("rejected {component} {revision}: {}", rejection.evidence.verdict)
        }
    })
}

/// Say why an App is not where it should be, down to whoever can do something about it
#[derive(Args)]
pub(crate) struct Why {
    /// The App: `app/NAME` or `NAME`
    what: String,
    #[command(flatten)]
    place: Where,
}

impl Why {
    #[expect(clippy::print_stdout, reason = "the answer is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let name = match self.what.split_once('/') {
            Some(("app" | "apps", name)) => name,
            Some((kind, _)) => bail!("`why` knows apps, not {kind}"),
            None => &self.what,
        };
        let client = self.place.client()?;
        let app = client.app(&self.place.app(&name.parse()?))?;
        print!("{}", chain(&client, &app, &mut BTreeSet::new())?);
        Ok(Ended::Done)
    }
}

/// Every wait of an App with its owner, its deadline and what to do; then those of the Apps it waits for.
fn chain(client: &Client, app: &Object<App>, seen: &mut BTreeSet<ObjectKey>) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let mut out = String::new();
    if !seen.insert(app.meta.key.clone()) {
        return Ok(out);
    }
    let outcome = app.status.as_ref().and_then(|status| status.value.outcome.as_ref());
    let waits = outcome.map(|it| &it.waits[..]).unwrap_or_default();
    if waits.is_empty() {
        // Writing to a String cannot fail.
        let answer = if course(app) == Course::Settled { "it is as declared" } else { "steps are under way" };
        writeln!(out, "app {}: {answer}", app.meta.key.name).ok();
    }
    let mut others = Vec::new();
    for waited in waits {
        let wait = &waited.wait;
        let component = wait.component().map(|it| format!("/{it}")).unwrap_or_default();
        writeln!(out, "app {}{component}: {}", app.meta.key.name, wait.reason()).ok();
        let (since, deadline) = (ago(waited.since.0), wait.deadline());
        let owner = owner_name(&wait.owner());
        writeln!(out, "  for {since}, fine for {deadline}; the move is {owner}'s").ok();
        writeln!(out, "  next: {}", wait.reason().next_step()).ok();
        if let Reason::ProviderNotReady { from } = wait.reason() {
            others.extend(from.app.clone());
        }
    }
    for name in others {
        let key = app.meta.key.sibling(name);
        out.push_str(&chain(client, &client.app(&key)?, seen)?);
    }
    Ok(out)
}

fn owner_name(owner: &Owner) -> String {
    match owner {
        Owner::Program => "the program".into(),
        Owner::Person => "a person".into(),
        Owner::Provider { from } => format!("its provider {from}"),
        Owner::Driver { scope } => scope.to_string(),
        Owner::Plimsoll => "Plimsoll".into(),
    }
}

/// Print what an App's copies said
#[derive(Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    of: OfApp,
    /// Only copies of this component
    #[arg(short, long)]
    component: Option<ComponentName>,
    /// Only this copy
    #[arg(short, long)]
    instance: Option<InstanceId>,
    /// So many of the latest lines
    #[arg(short, long, default_value_t = 200)]
    tail: usize,
    /// Only lines of this last time, such as `5m`
    #[arg(long)]
    since: Option<Span>,
    /// Go on with what is said from now on
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    #[expect(clippy::print_stdout, reason = "the lines are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.of.place.client()?;
        let app = self.of.place.app(&self.of.app);
        let component = self.component.iter().map(|it| format!("&component={it}"));
        let instance = self.instance.iter().map(|it| format!("&instance={it}"));
        let only: String = component.chain(instance).collect();
        let mut after = self.since.map_or(0, |since| now().saturating_sub(since.millis));
        let mut tail = self.tail;
        loop {
            let lines = client.logs(&app, &format!("tail={tail}&after={after}{only}"))?;
            for line in &lines {
                println!("{} {}", line.instance, line.text);
            }
            if !self.follow {
                if lines.is_empty() {
                    talk("nothing was said");
                }
                return Ok(Ended::Done);
            }
            after = lines.last().map_or(after, |line| line.at);
            tail = 100_000;
            pause();
        }
    }
}
