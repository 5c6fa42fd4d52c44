//! `plimsoll plan`: the Path from an empty machine to what a file declares.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::bail;
use clap::{Args, ValueEnum};
use plimsoll_manifest::{Declared, Document};
use plimsoll_model::App;
use plimsoll_model::id::{Digest, ObjectName, ProjectName, TargetName, Uid};
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::status::AppStatus;
use plimsoll_model::step::{Action, Cause, Step};
use plimsoll_plan::{Context, Input, Path, SecretView, empty_world, path};

use crate::Ended;
use crate::source::Source;

/// Print every step from an empty machine to what a file declares
#[derive(Args)]
pub(crate) struct Plan {
    /// The file with the declarations; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
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
        let source = Source::read(&self.file)?;
        let documents = plimsoll_manifest::parse(&source.name, &source.text)?;
        let surroundings = surroundings(&documents)?;
        let apps: Vec<_> = documents
            .iter()
            .filter_map(|document| match document {
                Document::App(app) => Some(app),
                _ => None,
            })
            .collect();
        if apps.is_empty() {
            bail!("{} declares no App, so there is nothing to plan", self.file);
        }
        let mut changes = false;
        for app in apps {
            let mut spec = app.spec.clone();
            source.add_digests(&mut spec, |bytes| Ok(Digest::of_bytes(bytes)))?;
            let path = path(&input(app, spec, &surroundings)?);
            changes |= path.plans.iter().any(|plan| !plan.steps.is_empty());
            match self.output {
                Output::Json => println!("{}", json(&app.metadata.name, &path)?),
                Output::Text => print!("{}", text_of(&app.metadata.name, &path)),
            }
        }
        Ok(if self.exit_code && changes { Ended::Changes } else { Ended::Done })
    }
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

fn input(
    app: &Declared<App>,
    spec: plimsoll_model::AppSpec,
    surroundings: &Surroundings,
) -> anyhow::Result<Input> {
    let target = spec.target.clone().map_or_else(local, Ok)?;
    let project: ProjectName = app.metadata.project.clone().map_or_else(|| "default".parse(), Ok)?;
    let mut context = Context::bare(target.clone(), TargetSpec::default());
    context.target_spec = surroundings.targets.get(&target).cloned();
    context.secrets.clone_from(&surroundings.secrets);
    let uid: Uid = "planned".parse()?;
    Ok(Input {
        key: ObjectKey::in_project(project, app.metadata.name.clone()),
        uid,
        generation: Generation(1),
        deleting: false,
        spec,
        operations: app.operations.clone().unwrap_or_default(),
        status: AppStatus::default(),
        parent: None,
        world: empty_world(&target),
        context,
    })
}

fn json(name: &ObjectName, path: &Path) -> anyhow::Result<String> {
    let value = serde_json::json!({
        "app": name,
        "hash": path.hash,
        "revision": path.revision,
        "plans": path.plans,
        "waiting": path.waits.iter().map(|wait| serde_json::json!({
            "component": wait.component(),
            "message": wait.reason().to_string(),
            "next": wait.reason().next_step(),
        })).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&value)?)
}

fn text_of(name: &ObjectName, path: &Path) -> String {
    use std::fmt::Write as _;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    // Writing to a String cannot fail.
    writeln!(out, "App {name}: {} plans, path {}", path.plans.len(), path.hash.short()).ok();
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
        (None, _) => "addresses and routes".to_owned(),
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
