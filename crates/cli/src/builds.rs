//! `plimsoll builds` and `plimsoll build`: what sources are built to, and how.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use plimsoll_build::{Root, recipe};
use plimsoll_model::Kind as _;
use plimsoll_model::id::ObjectName;
use plimsoll_model::image::ImageRef;
use plimsoll_model::kind::{Build, BuildFault, BuildSpec, BuildState, BuiltImage};
use plimsoll_model::source::Language;

use crate::Ended;
use crate::follow::talk;
use crate::place::Where;
use crate::table::{ago, table};

/// Show how a source would be built
#[derive(Args)]
pub(crate) struct BuildCommand {
    /// Print the Dockerfile that the directory is built by: its own, or the one of its language
    #[arg(long, value_name = "DIR", required = true)]
    show: PathBuf,
    /// The recipe of this language, whatever the files say
    #[arg(long)]
    language: Option<Language>,
    /// The image that the recipe builds on
    #[arg(long)]
    base: Option<ImageRef>,
}

impl BuildCommand {
    #[expect(clippy::print_stdout, reason = "the text is this command's data")]
    pub(crate) fn run(&self) -> anyhow::Result<Ended> {
        print!("{}", self.text(&self.show)?);
        Ok(Ended::Done)
    }

    fn text(&self, directory: &Path) -> anyhow::Result<String> {
        let place = || directory.display().to_string();
        let own = directory.join("Dockerfile");
        if self.language.is_none() && self.base.is_none() && own.exists() {
            return std::fs::read_to_string(&own).with_context(|| own.display().to_string());
        }
        let root = Root::of(directory).with_context(|| format!("{} cannot be read", place()))?;
        Ok(recipe::write(&root, self.language, self.base.as_ref()).with_context(place)?.dockerfile)
    }
}

/// Print what sources were built to
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Builds {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    place: Where,
}

#[derive(Subcommand)]
enum What {
    /// Print what the latest attempt to build a source has said
    Log {
        /// The build, as `plimsoll builds` names it
        build: ObjectName,
        /// Go on with what is said, until it is built or not
        #[arg(short, long)]
        follow: bool,
    },
    /// Build a source again, though nothing of it has changed, or its newest commit
    Retry {
        /// The build, as `plimsoll builds` names it
        build: ObjectName,
    },
}

impl Builds {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (client, project) = (self.place.client()?, self.place.project());
        match self.what {
            None => {
                let mut rows = Vec::new();
                for item in client.list(Some(&project), Build::PLURAL)? {
                    let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    rows.push(row(name, &serde_json::from_value(item["spec"].clone())?));
                }
                print!("{}", table(&["BUILD", "SOURCE", "COMMIT", "IMAGE", "AGE", "STATE"], &rows));
            }
            Some(What::Log { build, follow }) => {
                let path = format!("projects/{project}/builds/{build}/log?follow={follow}");
                let mut out = std::io::stdout().lock();
                client.copy("GET", &path, b"", &mut out)?;
                out.flush()?;
            }
            Some(What::Retry { build }) => {
                client.retry_build(&project, &build)?;
                talk(&format!("build {build} is tried again"));
            }
        }
        Ok(Ended::Done)
    }
}

fn row(name: String, spec: &BuildSpec) -> Vec<String> {
    let dash = || "-".to_owned();
    let (image, commit, age) = match &spec.built {
        Some(BuiltImage { image, commit, at }) => {
            let commit = commit.as_ref().map_or_else(dash, |it| it.as_str().chars().take(12).collect());
            (image.short(), commit, ago(at.0))
        }
        None => (dash(), dash(), dash()),
    };
    let state = match &spec.state {
        BuildState::Building { .. } => "building".to_owned(),
        BuildState::Built => "built".to_owned(),
        BuildState::Failed(failure) => match failure.fault {
            BuildFault::Source => format!("failed: {}", failure.why),
            BuildFault::Surroundings => format!("tried again: {}", failure.why),
        },
    };
    vec![name, spec.source.to_string(), commit, image, age, state]
}
