//! `plimsoll get`: objects as tables, JSON, YAML or names.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_api::{EVENTS, Event, INSTANCES, Instance, Resource};
use plimsoll_model::id::ObjectName;
use plimsoll_model::object::Timestamp;
use plimsoll_model::{App, Kind as _, Object};
use serde_json::{Value, json};

use crate::Ended;
use crate::client::{Client, Where, app_of};
use crate::follow::pause;
use crate::table::{ago, outcome, state, state_name, table, text};
use crate::what::{project_of, resource};

/// How objects are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
    Name,
    /// Kubernetes' `JSONPath`, as far as RFC 9535 has it too.
    JsonPath(String),
    /// Headings and paths.
    Columns(Vec<(String, String)>),
}

impl FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("table" | "wide", "") => Self::Table,
            ("json", "") => Self::Json,
            ("yaml", "") => Self::Yaml,
            ("name", "") => Self::Name,
            ("jsonpath", path) if !path.is_empty() => Self::JsonPath(path.to_owned()),
            ("custom-columns", columns) if !columns.is_empty() => {
                let column = |text: &str| {
                    let (heading, path) =
                        text.split_once(':').with_context(|| format!("{text:?} is not NAME:PATH"))?;
                    anyhow::Ok((heading.to_owned(), path.to_owned()))
                };
                Self::Columns(columns.split(',').map(column).collect::<Result<_, _>>()?)
            }
            _ => bail!("choose table, json, yaml, name, jsonpath=PATH or custom-columns=NAME:PATH,…"),
        })
    }
}

/// List objects, or print one
#[derive(Args)]
pub(crate) struct Get {
    /// The collection, or KIND/NAME; `plimsoll api-resources` lists them
    #[arg(default_value = "apps")]
    kind: String,
    /// Only this object
    name: Option<ObjectName>,
    #[command(flatten)]
    place: Where,
    /// Objects of all projects
    #[arg(short = 'A', long)]
    all_projects: bool,
    /// Only objects with such labels: `a=b`, `a!=b`, `a in (b,c)`, `a`, `!a`, joined by commas
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Only objects with such fields: `spec.target=local`
    #[arg(long, value_name = "FIELDS")]
    field_selector: Option<String>,
    /// How to print them: table, json, yaml, name, jsonpath=PATH, custom-columns=NAME:PATH,…
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Print who has set which field, too
    #[arg(long)]
    show_managed_fields: bool,
    /// Print them again whenever they change, until interrupted
    #[arg(short, long)]
    watch: bool,
}

impl Get {
    #[expect(clippy::print_stdout, reason = "the objects are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (resource, name) = self.what()?;
        let client = self.place.client()?;
        let mut shown = None;
        loop {
            let mut items = self.items(&client, &resource, name)?;
            if !self.show_managed_fields {
                items.iter_mut().filter_map(|it| it["metadata"].as_object_mut()).for_each(|metadata| {
                    metadata.remove("managedFields");
                });
            }
            // Ages change all the time; that is no news.
            if shown.as_ref() != Some(&items) {
                print!("{}", self.text(&resource, name, &items)?);
                shown = Some(items);
            }
            if !self.watch {
                return Ok(Ended::Done);
            }
            pause();
        }
    }

    /// The collection, and the one object of it that is asked for.
    fn what(&self) -> anyhow::Result<(Resource, Option<&str>)> {
        Ok(match self.kind.split_once('/') {
            Some((kind, name)) => (resource(kind)?, Some(name)),
            None => (resource(&self.kind)?, self.name.as_ref().map(ObjectName::as_str)),
        })
    }

    /// The objects as they are now.
    fn items(&self, client: &Client, resource: &Resource, name: Option<&str>) -> anyhow::Result<Vec<Value>> {
        let project = self.place.project();
        let project = project_of(resource, &project).filter(|_| !self.all_projects);
        if let (Some(name), false) = (name, self.all_projects) {
            let kind = resource.kind.to_lowercase();
            let found = client.find(project, resource.plural, name)?;
            let missing = || format!("there is no {kind} {name}; see `plimsoll get {}`", resource.plural);
            return Ok(vec![found.with_context(missing)?]);
        }
        let mut query = String::new();
        for (parameter, text) in [("labelSelector", &self.selector), ("fieldSelector", &self.field_selector)]
        {
            if let Some(text) = text {
                query.push_str(&format_args!("&{parameter}={}", encoded(text)).to_string());
            }
        }
        let mut items = client.select(project, resource.plural, query.trim_start_matches('&'))?;
        items.retain(|it| name.is_none_or(|name| it["metadata"]["name"] == name));
        Ok(items)
    }

    fn text(&self, resource: &Resource, name: Option<&str>, items: &[Value]) -> anyhow::Result<String> {
        // One object that was asked for is no list.
        let data = match (name, items) {
            (Some(_), [one]) => one.clone(),
            _ => {
                json!({"apiVersion": "plimsoll.dev/v1", "kind": format!("{}List", resource.kind), "items": items})
            }
        };
        let plural = resource.plural;
        Ok(match &self.output {
            Output::Json => serde_json::to_string_pretty(&data)? + "\n",
            Output::Yaml => yaml_serde::to_string(&data)?,
            Output::Name => {
                let names: Vec<_> = items.iter().map(|it| text(&it["metadata"]["name"])).collect();
                names.iter().flat_map(|name| [plural, "/", name, "\n"]).collect()
            }
            Output::JsonPath(path) => path_text(path, &data)? + "\n",
            Output::Columns(columns) => {
                let headings: Vec<&str> = columns.iter().map(|(heading, _)| heading.as_str()).collect();
                let row = |item: &Value| {
                    let cells = columns.iter().map(|(_, path)| path_text(path, item));
                    cells
                        .map(|cell| cell.map(|it| if it.is_empty() { "<none>".into() } else { it }))
                        .collect()
                };
                table(&headings, &items.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?)
            }
            Output::Table => match plural {
                App::PLURAL => app_table(items)?,
                INSTANCES => instance_table(items)?,
                EVENTS => event_table(items)?,
                _ => plain_table(items),
            },
        })
    }
}

/// A text as a part of a query.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What a path leads to, joined by spaces. Braces around it and a missing `$` are as Kubernetes writes it.
fn path_text(path: &str, data: &Value) -> anyhow::Result<String> {
    let inner = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let dot = if inner.starts_with(['.', '[']) { "" } else { "." };
    let parsed = serde_json_path::JsonPath::parse(&format!("${dot}{inner}"));
    let parsed = parsed
        .with_context(|| format!("{path:?} is no JSONPath, such as .metadata.name or .items[*].spec"))?;
    let found = parsed.query(data).all();
    let texts = found.into_iter().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
    Ok(texts.collect::<Vec<_>>().join(" "))
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
        let created = text(&meta["creationTimestamp"]).parse().map_or(0, |it: Timestamp| it.0);
        vec![text(&meta["project"]).to_owned(), text(&meta["name"]).to_owned(), ago(created)]
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
