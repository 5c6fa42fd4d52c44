//! `plimsoll patch`: a change of a part of an object.

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use plimsoll_api::Origin;
use plimsoll_model::ObjectKey;
use serde_json::Value;

use crate::Ended;
use crate::bundle::text_of;
use crate::follow::talk;
use crate::place::Where;
use crate::what::{What, project_of};

/// Change a part of an object
#[derive(Args)]
pub(crate) struct Patch {
    /// The object: KIND/NAME, or the name of an App
    what: What,
    /// The change, as JSON or YAML
    #[arg(required_unless_present = "patch_file", conflicts_with = "patch_file")]
    patch: Option<String>,
    /// A file with the change; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    patch_file: Option<String>,
    /// What the change is: an RFC 7396 merge patch, or an RFC 6902 list of operations
    #[arg(long = "type", value_enum, default_value_t = Form::Merge)]
    form: Form,
    /// Check the change, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Merge,
    Json,
}

impl Form {
    fn media(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

impl Patch {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let What { resource, name } = &self.what;
        if !matches!(resource.origin, Origin::Declared(_)) {
            bail!("{} are not declared, so there is nothing to change", resource.plural);
        }
        let text = match (&self.patch, &self.patch_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(file)) => text_of(file)?,
            (None, None) => bail!("give a change, or --patch-file"),
        };
        let patch: Value = yaml_serde::from_slice(&text).context("the patch is neither JSON nor YAML")?;
        let project = project_of(resource, &self.place.project()).cloned();
        let key = ObjectKey { project, name: name.parse().context("that is no name")? };
        let query = if self.dry_run { "?dryRun=All" } else { "" };
        self.place.client()?.patch(&key, resource.plural, self.form.media(), query, &patch)?;
        let said = if self.dry_run { "can be changed so" } else { "changed" };
        talk(&format!("{} {key} {said}", resource.kind.to_lowercase()));
        Ok(Ended::Done)
    }
}
