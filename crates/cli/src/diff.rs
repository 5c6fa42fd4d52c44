//! `plimsoll diff` and `plimsoll edit`: declarations beside what is declared already.

use std::io::{Read as _, Write as _};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_api::{Origin, Resource};
use plimsoll_manifest::Document;
use plimsoll_model::id::ProjectName;
use plimsoll_model::{Kind as _, ObjectKey, Secret};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::Ended;
use crate::bundle::Files;
use crate::client::{Client, as_json};
use crate::follow::talk;
use crate::place::Where;
use crate::what::{What, project_of, resource};

/// Show how a file differs from what is declared
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    place: Where,
    /// Exit with 2 when there is a difference
    #[arg(long)]
    exit_code: bool,
}

impl Diff {
    #[expect(clippy::print_stdout, reason = "the differences are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let documents = self.files.read()?.documents()?;
        let client = self.place.client()?;
        let mut differs = false;
        for document in &documents {
            let text = of_document(&client, document, &self.place.project())?;
            differs |= !text.is_empty();
            print!("{text}");
        }
        Ok(if differs && self.exit_code { Ended::Changes } else { Ended::Done })
    }
}

/// How a document differs from the object that there is; nothing if it does not.
fn of_document(client: &Client, document: &Document, project: &ProjectName) -> anyhow::Result<String> {
    let resource = resource(document.kind().name())?;
    let metadata = document.metadata();
    let own = metadata.project.clone();
    let project = project_of(&resource, project).map(|usual| own.unwrap_or_else(|| usual.clone()));
    let key = ObjectKey { project, name: metadata.name.clone() };
    let now = client.find(key.project.as_ref(), resource.plural, key.name.as_str())?;
    let wanted = as_json(document)?;
    // Operations that a file does not name stay as they are.
    let has_operations = wanted.get("operations").is_some();
    let before =
        now.as_ref().map(|it| declared(&resource, it, has_operations)).transpose()?.unwrap_or_default();
    let after = declared(&resource, &wanted, has_operations)?;
    if before == after {
        return Ok(String::new());
    }
    let name = format!("{}/{key}", resource.plural);
    let from = if now.is_some() { format!("{name} (declared)") } else { "/dev/null".to_owned() };
    let diff = TextDiff::from_lines(&before, &after);
    Ok(diff.unified_diff().context_radius(3).header(&from, &format!("{name} (file)")).to_string())
}

/// What people declare of an object, as text. Values of a Secret are not shown, its keys are.
fn declared(resource: &Resource, object: &Value, with_operations: bool) -> anyhow::Result<String> {
    let mut shown = Map::new();
    for part in ["labels", "annotations"] {
        if let Some(attached) = object["metadata"][part].as_object().filter(|it| !it.is_empty()) {
            shown.insert(part.into(), Value::Object(attached.clone()));
        }
    }
    let mut spec = object["spec"].clone();
    if resource.plural == Secret::PLURAL
        && let Some(data) = spec["data"].as_object_mut()
    {
        data.values_mut().for_each(|value| *value = Value::Null);
    }
    shown.insert("spec".into(), spec);
    if with_operations {
        shown.insert("operations".into(), object["operations"].clone());
    }
    Ok(yaml_serde::to_string(&Value::Object(shown))?)
}

/// Edit what is declared of an object, in $VISUAL or $EDITOR
#[derive(Args)]
pub(crate) struct Edit {
    /// The object: KIND/NAME, or the name of an App
    what: What,
    #[command(flatten)]
    place: Where,
}

impl Edit {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let What { resource, name } = &self.what;
        if !matches!(resource.origin, Origin::Declared(_)) {
            bail!("{} are not declared, so there is nothing to edit", resource.plural);
        }
        if resource.plural == Secret::PLURAL {
            bail!(
                "nobody reads the values of a Secret: set them with `plimsoll secret set {name} KEY=VALUE`"
            );
        }
        let client = self.place.client()?;
        let project = project_of(resource, &self.place.project()).cloned();
        let key = ObjectKey { project, name: name.parse().context("that is no name")? };
        let mut object = client.object(&key, resource.plural)?;
        let version = object["metadata"]["resourceVersion"].clone();
        let fields = object.as_object_mut().context("the server answered something else than an object")?;
        fields.remove("status");
        let kept = ["name", "project", "labels", "annotations"];
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|field, value| kept.contains(&field.as_str()) && !value.is_null());
        }
        fields.retain(|_, value| !value.is_null());
        let before = yaml_serde::to_string(&object)?;
        let (after, file) = edited(&before)?;
        if after == before {
            std::fs::remove_file(&file).ok();
            talk("nothing was changed");
            return Ok(Ended::Done);
        }
        let keep = || format!("your text is in {}", file.display());
        let mut wanted: Value = yaml_serde::from_str(&after).with_context(keep)?;
        // Refused if somebody else wrote while the editor was open.
        wanted["metadata"]["resourceVersion"] = version;
        client.put(&key, resource.plural, &wanted).with_context(keep)?;
        std::fs::remove_file(&file).ok();
        talk(&format!("{} {key} changed", resource.kind.to_lowercase()));
        Ok(Ended::Done)
    }
}

/// A text as a person leaves it in their editor, and the file that it is in.
fn edited(text: &str) -> anyhow::Result<(String, std::path::PathBuf)> {
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // Others may not read it: declarations are not for everybody.
    let mut file = tempfile::Builder::new().prefix("plimsoll-").suffix(".yaml").tempfile()?;
    file.write_all(text.as_bytes())?;
    // The editor may be a command line, as it may be for git.
    let script = format!("{editor} \"$1\"");
    let status = Command::new("sh").args(["-c", &script, "sh"]).arg(file.path()).status();
    let status = status.with_context(|| format!("{editor} cannot be started: set EDITOR"))?;
    if !status.success() {
        bail!("{editor} ended with {status}: nothing was changed");
    }
    let (_, path) = file.keep()?;
    let mut after = String::new();
    std::fs::File::open(&path)?.read_to_string(&mut after)?;
    Ok((after, path))
}
