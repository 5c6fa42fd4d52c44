//! `plimsoll get`: objects as tables, JSON, YAML or names.

use anyhow::bail;
use clap::{Args, ValueEnum};
use plimsoll_api::{EVENTS, Event, INSTANCES, Instance};
use plimsoll_model::id::ObjectName;
use plimsoll_model::{App, Kind, Object};
use serde_json::Value;

use crate::Ended;
use crate::client::{Client, Where, app_of};
use crate::follow::pause;
use crate::table::{ago, outcome, state, state_name, table, text};
use crate::what::{plural, project_of};

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
    /// The collection: apps, instances, events, projects, targets, secrets, revisions, rejections, plans; or KIND/NAME
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

    /// The collection, and the one object of it that is asked for.
    fn what(&self) -> (String, Option<&str>) {
        match self.kind.split_once('/') {
            Some((kind, name)) => (plural(kind), Some(name)),
            None => (plural(&self.kind), self.name.as_ref().map(ObjectName::as_str)),
        }
    }

    /// The objects as they are now.
    fn items(&self, client: &Client) -> anyhow::Result<Vec<Value>> {
        let (plural, name) = self.what();
        let project = project_of(&plural, &self.place.project).filter(|_| !self.all_projects);
        let mut items = client.list(project, &plural)?;
        if let Some(name) = name {
            items.retain(|it| it["metadata"]["name"] == name);
            if items.is_empty() {
                bail!(
                    "there is no {} of that name; see `plimsoll get {plural}`",
                    plural.trim_end_matches('s')
                );
            }
        }
        Ok(items)
    }

    fn text(&self, items: &[Value]) -> anyhow::Result<String> {
        let (plural, name) = self.what();
        // One object that was asked for is no list.
        let data = match (name, items) {
            (Some(_), [one]) => one.clone(),
            _ => Value::from(items),
        };
        Ok(match self.output {
            Output::Json => serde_json::to_string_pretty(&data)? + "\n",
            Output::Yaml => yaml_serde::to_string(&data)?,
            Output::Name => {
                let names: Vec<_> = items.iter().map(|it| text(&it["metadata"]["name"])).collect();
                names.iter().flat_map(|name| [&plural, "/", name, "\n"]).collect()
            }
            Output::Table => match plural.as_str() {
                App::PLURAL => app_table(items)?,
                INSTANCES => instance_table(items)?,
                EVENTS => event_table(items)?,
                _ => plain_table(items),
            },
        })
    }
}

fn instance_table(items: &[Value]) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for item in items {
        let it: Instance = serde_json::from_value(item["spec"].clone())?;
        let state = match it.state {
            Some(state) => state_name(state).to_owned(),
            None => "orphan: nothing declared owns it".to_owned(),
        };
        let component = it.component.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let project = text(&item["metadata"]["project"]).to_owned();
        let cells = [project, it.app.to_string(), component, it.id.to_string(), it.target.to_string()];
        rows.push([&cells[..], &[it.restarts.to_string(), state]].concat());
    }
    Ok(table(&["PROJECT", "APP", "COMPONENT", "INSTANCE", "TARGET", "RESTARTS", "STATE"], &rows))
}

fn event_table(items: &[Value]) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for item in items {
        let event: Event = serde_json::from_value(item["spec"].clone())?;
        rows.push(vec![
            text(&item["metadata"]["project"]).to_owned(),
            event.app.to_string(),
            ago(event.at.0),
            event.what,
        ]);
    }
    Ok(table(&["PROJECT", "APP", "AGE", "WHAT"], &rows))
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
        rows.push([&cells[..], &[ago(app.meta.created.0), first_wait(&app)]].concat());
    }
    Ok(table(&["PROJECT", "APP", "READY", "STATE", "AGE", "WAITS FOR"], &rows))
}

fn plain_table(items: &[Value]) -> String {
    let row = |it: &Value| {
        let meta = &it["metadata"];
        let created = ago(meta["created"].as_u64().unwrap_or_default());
        vec![text(&meta["project"]).to_owned(), text(&meta["name"]).to_owned(), created]
    };
    table(&["PROJECT", "NAME", "AGE"], &items.iter().map(row).collect::<Vec<_>>())
}

/// What an App waits for first; `why` tells the rest.
fn first_wait(app: &Object<App>) -> String {
    let wait = outcome(app).and_then(|outcome| outcome.waits.first()).map(|waited| &waited.wait);
    wait.map_or_else(String::new, |wait| {
        let component = wait.component().map(|it| format!("{it}: ")).unwrap_or_default();
        format!("{component}{}", wait.reason())
    })
}
