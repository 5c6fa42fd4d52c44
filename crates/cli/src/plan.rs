//! `plimsoll plan`: the Path from what is there to what a file declares.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::bail;
use clap::{Args, ValueEnum};
use plimsoll_api::{Planned, identity};
use plimsoll_manifest::{Declared, Document};
use plimsoll_model::App;
use plimsoll_model::id::{ObjectName, ProjectName, TargetName, Uid};
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::step::{Action, Cause, Step};
use plimsoll_plan::{Context, Input, Path, SecretView, path};

use crate::Ended;
use crate::bundle::Files;
use crate::follow::talk;
use crate::place::Where;

/// Print every step from what is there to what a file declares
#[derive(Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    place: Where,
    /// Plan from an empty machine, whatever runs
    #[arg(long)]
    from_empty: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Exit with 2 when there is anything to do
    #[arg(long)]
    exit_code: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What a file declares beside Apps, as far as plans depend on it.
struct Surroundings {
    targets: BTreeMap<TargetName, TargetSpec>,
    secrets: BTreeMap<ObjectName, SecretView>,
}

impl Plan {
    #[expect(clippy::print_stdout, reason = "the Path is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let bundle = self.files.read()?;
        let name = bundle.name();
        let documents = bundle.documents()?;
        let client = if self.from_empty { None } else { self.place.find_client()? };
        if client.is_none() && !self.from_empty {
            talk("no control plane runs here: this is the plan from an empty machine");
        }
        let planned = match client {
            Some(client) => client.plan(&documents, &self.place.project())?,
            None => from_empty(&documents, &self.place.project())?,
        };
        if planned.is_empty() {
            bail!("{name} declares no App, so there is nothing to plan");
        }
        match self.output {
            Output::Json => println!("{}", json(&planned)?),
            Output::Text => print!("{}", text(&planned)),
        }
        let changes = planned.iter().any(|it| !it.path.plans.is_empty());
        Ok(if self.exit_code && changes { Ended::Changes } else { Ended::Done })
    }
}

/// The plans of all Apps, for people.
pub(crate) fn text(planned: &[Planned]) -> String {
    let apps: String = planned.iter().map(|it| text_of(&it.key.name, &it.path)).collect();
    let path = identity(planned).0;
    format!("{apps}path {path}\n")
}

fn from_empty(documents: &[Document], project: &ProjectName) -> anyhow::Result<Vec<Planned>> {
    let surroundings = surroundings(documents)?;
    let mut planned = Vec::new();
    for document in documents {
        if let Document::App(app) = document {
            let input = input(app, project, &surroundings)?;
            planned.push(Planned { key: input.key.clone(), path: path(&input) });
        }
    }
    Ok(planned)
}

fn surroundings(documents: &[Document]) -> anyhow::Result<Surroundings> {
    let mut found =
        Surroundings { targets: BTreeMap::from([(local()?, TargetSpec::local())]), secrets: BTreeMap::new() };
    for document in documents {
        match document {
            Document::Target(target) => {
                found.targets.insert(target.metadata.name.as_str().parse()?, target.spec.clone());
            }
            Document::Secret(secret) => {
                let view = SecretView { version: Generation(1), keys: secret.data.keys().cloned().collect() };
                found.secrets.insert(secret.metadata.name.clone(), view);
            }
            Document::App(_) | Document::Project(_) => {}
        }
    }
    Ok(found)
}

fn local() -> anyhow::Result<TargetName> {
    Ok("local".parse()?)
}

fn input(app: &Declared<App>, project: &ProjectName, surroundings: &Surroundings) -> anyhow::Result<Input> {
    let spec = app.spec.clone();
    let target = spec.target.clone().map_or_else(local, Ok)?;
    let project = app.metadata.project.clone().unwrap_or_else(|| project.clone());
    let mut context = Context::bare(target.clone(), TargetSpec::default());
    context.target_spec = surroundings.targets.get(&target).cloned();
    context.secrets.clone_from(&surroundings.secrets);
    let uid: Uid = "planned".parse()?;
    let key = ObjectKey::in_project(project, app.metadata.name.clone());
    let operations = app.operations.clone().unwrap_or_default();
    Ok(Input { operations, ..Input::first(key, uid, spec, context) })
}

fn json(planned: &[Planned]) -> anyhow::Result<String> {
    let apps = planned.iter().map(|Planned { key, path }| {
        serde_json::json!({
            "app": key.name,
            "project": key.project,
            "hash": path.hash,
            "revision": path.revision,
            "plans": path.plans,
            "waiting": path.waits.iter().map(|wait| serde_json::json!({
                "component": wait.component(),
                "message": wait.reason().to_string(),
                "next": wait.reason().next_step(),
            })).collect::<Vec<_>>(),
        })
    });
    let value = serde_json::json!({"path": identity(planned), "apps": apps.collect::<Vec<_>>()});
    Ok(serde_json::to_string_pretty(&value)?)
}

pub(crate) fn text_of(name: &ObjectName, path: &Path) -> String {
    use std::fmt::Write as _;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    // Writing to a String cannot fail.
    match path.plans.len() {
        0 => writeln!(out, "app {name}: nothing to do").ok(),
        1 => writeln!(out, "app {name}: 1 plan").ok(),
        plans => writeln!(out, "app {name}: {plans} plans").ok(),
    };
    for plan in &path.plans {
        writeln!(out, "  plan {}", plan.no).ok();
        for step in &plan.steps {
            writeln!(out, "    {}", line(step, color)).ok();
        }
    }
    for wait in &path.waits {
        let component = wait.component().map(|it| format!("{it}: ")).unwrap_or_default();
        writeln!(out, "  waits: {component}{}", wait.reason()).ok();
        writeln!(out, "    next: {}", wait.reason().next_step()).ok();
    }
    if path.waits.is_empty() {
        writeln!(out, "  settled").ok();
    }
    out
}

/// What a table is about: shares of traffic, where it divides any.
fn published(action: &Action) -> String {
    let Action::Publish { table } = action else { return "addresses and routes".to_owned() };
    let shares = table.services.iter().filter_map(|(name, service)| Some((name, service.split?.others)));
    let shares: Vec<String> = shares.map(|(name, weight)| format!("{name} {weight} %")).collect();
    if shares.is_empty() { "addresses and routes".to_owned() } else { shares.join(", ") }
}

fn line(step: &Step, color: bool) -> String {
    let (sign, code) = match step.action {
        Action::Create { .. } | Action::Admit { .. } => ('+', 32),
        Action::Publish { .. } => ('~', 33),
        Action::Stop { .. }
        | Action::Remove { .. }
        | Action::Drain { .. }
        | Action::Expel { .. }
        | Action::Withdraw
        | Action::Close => ('-', 31),
    };
    let what = match (&step.component, step.slot) {
        (Some(component), Some(slot)) => format!("{component}/{slot}"),
        (Some(component), None) => component.to_string(),
        (None, _) => published(&step.action),
    };
    let cause = match step.cause {
        Cause::Rollout => "rollout",
        Cause::Rollback => "rollback",
        Cause::Heal => "heal",
        Cause::Scale => "scale",
        Cause::Retire => "retire",
        Cause::Routing => "routing",
    };
    let text = format!("{sign} {:<8} {what:<24} {cause}", step.action.verb());
    if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text }
}
