//! `plimsoll get`: objects as tables, JSON, YAML or names.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_api::{EVENTS, Event, INSTANCES, Instance, Origin, Resource};
use plimsoll_model::id::{ObjectName, ProjectName};
use plimsoll_model::kind::{Certificate, CertificateSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::{App, Kind as _, Object};
use serde_json::{Value, json};

use crate::Ended;
use crate::client::{Client, app_of};
use crate::news::News;
use crate::place::Where;
use crate::showing::Showing;
use crate::table::{Table, ago, outcome, state, state_of, text};
use crate::what::{project_of, resource};

/// How objects are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Table,
    /// A table with more columns.
    Wide,
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
            ("table", "") => Self::Table,
            ("wide", "") => Self::Wide,
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
            _ => bail!("choose table, wide, json, yaml, name, jsonpath=PATH or custom-columns=NAME:PATH,…"),
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
    /// How to print them: table, wide, json, yaml, name, jsonpath=PATH, custom-columns=NAME:PATH,…
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Print who has set which field, too
    #[arg(long)]
    show_managed_fields: bool,
    /// Then print each that changes, until interrupted
    #[arg(short, long)]
    watch: bool,
}

impl Get {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (resource, name) = self.what()?;
        let client = self.place.client()?;
        if !self.watch {
            let items = self.existing(&client, &resource, name)?.0;
            self.print(&resource, name, &items)?;
        } else if resource.origin == Origin::Derived {
            self.look_again(&client, &resource, name)?;
        } else {
            Showing::follow(&self, client, &resource, name)?;
        }
        Ok(Ended::Done)
    }

    #[expect(clippy::print_stdout, reason = "the objects are this command's data")]
    pub(crate) fn print(
        &self,
        resource: &Resource,
        name: Option<&str>,
        items: &[Value],
    ) -> anyhow::Result<()> {
        print!("{}", self.text(resource, name, items)?);
        Ok(())
    }

    /// Prints what is read off other objects again and again, whenever it is not what was printed.
    fn look_again(&self, client: &Client, resource: &Resource, name: Option<&str>) -> anyhow::Result<()> {
        let project = self.place.project();
        let news = News::of(client, Some(&project).filter(|_| !self.all_projects), App::PLURAL)?;
        let mut shown = None;
        loop {
            let items = self.items(client, resource, name)?.0;
            // Ages change all the time; that is no news.
            if shown.as_ref() != Some(&items) {
                self.print(resource, name, &items)?;
                shown = Some(items);
            }
            news.wait(|| false);
        }
    }

    /// Takes away what people do not read unless they ask for it.
    pub(crate) fn tidy(&self, item: &mut Value) {
        if !self.show_managed_fields
            && let Some(metadata) = item["metadata"].as_object_mut()
        {
            metadata.remove("managedFields");
        }
    }

    /// The collection, and the one object of it that is asked for.
    fn what(&self) -> anyhow::Result<(Resource, Option<&str>)> {
        Ok(match self.kind.split_once('/') {
            Some((kind, name)) => (resource(kind)?, Some(name)),
            None => (resource(&self.kind)?, self.name.as_ref().map(ObjectName::as_str)),
        })
    }

    /// The same, where the one that is asked for must be there.
    pub(crate) fn existing(
        &self,
        client: &Client,
        resource: &Resource,
        name: Option<&str>,
    ) -> anyhow::Result<(Vec<Value>, String)> {
        let found = self.items(client, resource, name)?;
        if let (Some(name), true) = (name, found.0.is_empty()) {
            let (kind, plural) = (resource.kind.to_lowercase(), resource.plural);
            bail!("there is no {kind} {name}; see `plimsoll get {plural}`");
        }
        Ok(found)
    }

    /// The control plane that is asked.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        self.place.client()
    }

    /// The project whose objects these are; none for those of the installation or of all projects.
    pub(crate) fn project(&self, resource: &Resource) -> Option<ProjectName> {
        project_of(resource, &self.place.project()).filter(|_| !self.all_projects).cloned()
    }

    /// The objects as they are now, and the version from which a watch goes on.
    pub(crate) fn items(
        &self,
        client: &Client,
        resource: &Resource,
        name: Option<&str>,
    ) -> anyhow::Result<(Vec<Value>, String)> {
        let project = self.project(resource);
        let project = project.as_ref();
        if let (Some(name), false) = (name, self.all_projects) {
            let version = client.version_of(project, resource.plural)?;
            let mut found = client.find(project, resource.plural, name)?;
            if let Some(found) = &mut found {
                self.tidy(found);
            }
            return Ok((found.into_iter().collect(), version));
        }
        let (mut items, version) = client.select_at(project, resource.plural, &self.query())?;
        items.retain(|it| name.is_none_or(|name| it["metadata"]["name"] == name));
        for item in &mut items {
            self.tidy(item);
        }
        Ok((items, version))
    }

    /// What selects, as a part of a query.
    pub(crate) fn query(&self) -> String {
        let mut query = String::new();
        for (parameter, text) in [("labelSelector", &self.selector), ("fieldSelector", &self.field_selector)]
        {
            if let Some(text) = text {
                query.push_str(&format_args!("&{parameter}={}", encoded(text)).to_string());
            }
        }
        query
    }

    /// The objects as a table, if that is how they are to be printed.
    pub(crate) fn table(&self, resource: &Resource, items: &[Value]) -> anyhow::Result<Option<Table>> {
        let is_wide = match &self.output {
            Output::Table => false,
            Output::Wide => true,
            Output::Columns(columns) => return custom_table(columns, items).map(Some),
            _ => return Ok(None),
        };
        Ok(Some(match resource.plural {
            App::PLURAL => app_table(items, is_wide)?,
            INSTANCES => instance_table(items, is_wide)?,
            EVENTS => event_table(items)?,
            Certificate::PLURAL => certificate_table(items)?,
            _ => plain_table(items, is_wide),
        }))
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
            Output::Table | Output::Wide | Output::Columns(_) => {
                self.table(resource, items)?.map(|table| table.text()).unwrap_or_default()
            }
        })
    }
}

/// A text as a part of a query.
pub(crate) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
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

/// One column for each path.
fn custom_table(columns: &[(String, String)], items: &[Value]) -> anyhow::Result<Table> {
    let row = |item: &Value| {
        let cells = columns.iter().map(|(_, path)| path_text(path, item));
        cells.map(|cell| cell.map(|it| if it.is_empty() { "<none>".into() } else { it })).collect()
    };
    let rows = items.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Table::new(columns.iter().map(|(heading, _)| heading.as_str()), rows))
}

fn instance_table(items: &[Value], is_wide: bool) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for item in items {
        let it: Instance = serde_json::from_value(item["spec"].clone())?;
        let state = match it.state {
            Some(state) => state_of(state, it.hook, it.exit),
            None => "orphan: nothing declared owns it".to_owned(),
        };
        let component = it.component.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let project = text(&item["metadata"]["project"]).to_owned();
        let cells = [project, it.app.to_string(), component, it.id.to_string(), it.target.to_string()];
        let mut row = [&cells[..], &[it.restarts.to_string(), state]].concat();
        if is_wide {
            row.push(it.slot.map_or_else(|| "-".to_owned(), |it| it.0.to_string()));
            row.push(it.revision.map_or_else(|| "-".to_owned(), |it| it.short()));
        }
        rows.push(row);
    }
    let headings =
        ["PROJECT", "APP", "COMPONENT", "INSTANCE", "TARGET", "RESTARTS", "STATE", "SLOT", "REVISION"];
    Ok(Table::new(headings.into_iter().take(if is_wide { 9 } else { 7 }), rows))
}

fn event_table(items: &[Value]) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for item in items {
        let event: Event = serde_json::from_value(item["spec"].clone())?;
        let project = text(&item["metadata"]["project"]).to_owned();
        rows.push(vec![project, event.app.to_string(), ago(event.at.0), event.what]);
    }
    Ok(Table::new(["PROJECT", "APP", "AGE", "WHAT"], rows))
}

fn app_table(items: &[Value], is_wide: bool) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for item in items {
        let app = app_of(item.clone())?;
        let components = app.status.iter().flat_map(|status| status.value.components.values());
        let (ready, desired) = components.fold((0, 0), |sum, it| (sum.0 + it.ready, sum.1 + it.desired));
        let project = app.meta.key.project.as_ref().map(ToString::to_string).unwrap_or_default();
        let cells =
            [project, app.meta.key.name.to_string(), format!("{ready}/{desired}"), state(&app).into()];
        let mut row = [&cells[..], &[ago(app.meta.created.0)]].concat();
        if is_wide {
            row.extend(more_of(&app));
        }
        row.push(first_wait(&app));
        rows.push(row);
    }
    let more: &[&str] = if is_wide { &["REVISION", "TARGETS", "ROUTES"] } else { &[] };
    let headings = ["PROJECT", "APP", "READY", "STATE", "AGE"].iter().chain(more).chain(&["WAITS FOR"]);
    Ok(Table::new(headings.copied(), rows))
}

/// An App's revision, targets and routes.
fn more_of(app: &Object<App>) -> [String; 3] {
    let status = app.status.as_ref().map(|status| &status.value);
    let revision = status.and_then(|it| it.revision).map_or_else(|| "-".to_owned(), |it| it.to_string());
    let targets =
        status.map(|it| it.targets.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default();
    let routes = app.spec.components.values().flat_map(|it| &it.routes);
    let routes = routes.map(|route| format!("{}{}", route.host, route.path)).collect::<Vec<_>>();
    let or_none = |cells: Vec<String>| if cells.is_empty() { "-".to_owned() } else { cells.join(",") };
    [revision, or_none(targets), or_none(routes)]
}

fn certificate_table(items: &[Value]) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for item in items {
        let it: CertificateSpec = serde_json::from_value(item["spec"].clone())?;
        let expires = it.expires.map_or_else(|| "-".to_owned(), |end| end.to_string());
        let problem = it.problem.map_or_else(String::new, |problem| problem.why);
        rows.push(vec![it.host, it.origin.to_string(), expires, problem]);
    }
    Ok(Table::new(["HOST", "FROM", "EXPIRES", "PROBLEM"], rows))
}

fn plain_table(items: &[Value], is_wide: bool) -> Table {
    let row = |it: &Value| {
        let meta = &it["metadata"];
        let created = text(&meta["creationTimestamp"]).parse().map_or(0, |it: Timestamp| it.0);
        let mut row = vec![text(&meta["project"]).to_owned(), text(&meta["name"]).to_owned(), ago(created)];
        if is_wide {
            let labels = meta["labels"].as_object().into_iter().flatten();
            let labels: Vec<_> = labels.map(|(name, value)| format!("{name}={}", text(value))).collect();
            row.push(meta["generation"].to_string());
            row.push(if labels.is_empty() { "-".to_owned() } else { labels.join(",") });
        }
        row
    };
    let headings = ["PROJECT", "NAME", "AGE", "GENERATION", "LABELS"];
    Table::new(headings.into_iter().take(if is_wide { 5 } else { 3 }), items.iter().map(row).collect())
}

/// What an App waits for first; `why` tells the rest.
fn first_wait(app: &Object<App>) -> String {
    let wait = outcome(app).and_then(|outcome| outcome.waits.first()).map(|waited| &waited.wait);
    wait.map_or_else(String::new, |wait| {
        let component = wait.component().map(|it| format!("{it}: ")).unwrap_or_default();
        format!("{component}{}", wait.reason())
    })
}
