//! `plimsoll describe` and `plimsoll events`: everything about one object, and its history.

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;
use plimsoll_api::{EVENTS, Event, INSTANCES, Instance};
use plimsoll_model::kind::Rejection;
use plimsoll_model::{App, Kind, Object};

use crate::Ended;
use crate::client::Client;
use crate::place::Where;
use crate::table::{ago, state, state_of, table, text};
use crate::verbs::OfApp;
use crate::what::{What, project_of};
use crate::why::chain;

/// Print everything about an object that a person may want to know
#[derive(Args)]
pub(crate) struct Describe {
    /// The object: KIND/NAME, or the NAME of an App
    what: What,
    #[command(flatten)]
    place: Where,
}

impl Describe {
    #[expect(clippy::print_stdout, reason = "the description is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let What { resource, name } = self.what;
        let plural = resource.plural;
        match plural {
            App::PLURAL => {}
            INSTANCES => {
                let instance = client.instance(&self.place.project(), &name)?;
                print!("{}", of_instance(&client, &self.place, &instance)?);
                return Ok(Ended::Done);
            }
            _ => {
                let found = client.find(project_of(&resource, &self.place.project()), plural, &name)?;
                let found =
                    found.with_context(|| format!("there is no {name}; see `plimsoll get {plural}`"))?;
                print!("{}", yaml_serde::to_string(&found)?);
                return Ok(Ended::Done);
            }
        }
        let app = client.app(&self.place.app(&name.parse()?))?;
        println!("app {}  {}", app.meta.key, state(&app));
        if !app.meta.attached.labels.is_empty() {
            let labels: Vec<String> =
                app.meta.attached.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            println!("labels {}", labels.join(" "));
        }
        let Some(status) = app.status.as_ref().map(|it| &it.value) else { return Ok(Ended::Done) };
        if let (Some(plan), Some(revision)) = (status.plan, status.revision) {
            println!("revision {revision}, plan {} ({})", plan.no, plan.hash.short());
        }
        for (name, component) in &status.components {
            let revision = component.revision.map(|it| it.short()).unwrap_or_default();
            println!("\n{name}  {}/{} ready  {revision}", component.ready, component.desired);
            if let Some(ip) = status.memory.get(name).and_then(|memory| memory.address) {
                println!("  address {ip}");
            }
            if component.limited {
                println!("  more than {} copies are asked for, and no more are allowed", component.desired);
            }
            if !component.unenforced.is_empty() {
                let limits: Vec<String> = component.unenforced.iter().map(ToString::to_string).collect();
                println!("  not enforced here: {}", limits.join(", "));
            }
            for copy in &component.instances {
                let state = state_of(copy.state, copy.hook, copy.exit);
                let old = Some(copy.revision) != component.revision;
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

/// Lines of its log that are shown of a copy.
const LAST_WORDS: usize = 10;

/// A copy, why it is as it is, and what it said last.
fn of_instance(client: &Client, place: &Where, it: &Instance) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    // Writing to a String cannot fail.
    let mut out = String::new();
    writeln!(
        out,
        "instance {}  {}",
        it.id,
        it.state.map_or_else(|| "orphan".to_owned(), |state| state_of(state, it.hook, it.exit))
    )
    .ok();
    let component = it.component.as_ref().map(|component| format!("/{component}")).unwrap_or_default();
    let slot = it.slot.map(|slot| format!("/{}", slot.0)).unwrap_or_default();
    writeln!(out, "of app {}{component}{slot} on {}, {} restarts", it.app, it.target, it.restarts).ok();
    writeln!(out, "\n{}", crate::why::of_instance(client, place, it)?.trim_end()).ok();
    if !it.orphan {
        let query = format!("tail={LAST_WORDS}&after=0&instance={}", it.id);
        for line in client.logs(&place.app(&it.app), &query)? {
            writeln!(out, "| {}", line.text).ok();
        }
    }
    Ok(out)
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
        let mut rows = Vec::new();
        for mut item in client.list(app.meta.key.project.as_ref(), EVENTS)? {
            let event: Event = serde_json::from_value(item["spec"].take())?;
            if event.app == app.meta.key.name {
                rows.push(vec![ago(event.at.0), event.what]);
            }
        }
        print!("{}", table(&["AGE", "WHAT"], &rows));
        Ok(Ended::Done)
    }
}
