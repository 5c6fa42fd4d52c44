//! The person's own settings: which control planes there are, and which one commands mean.
//!
//! A setting is taken from the option, else from the environment, else from the context of this file, else from the usual place.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use plimsoll_model::id::ProjectName;
use serde::{Deserialize, Serialize};

use crate::Ended;
use crate::follow::talk;
use crate::table::table;

/// The file, as a person may write it. What it does not know it refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The context that commands mean unless they name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_context: Option<String>,
    /// Contexts by name.
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// One control plane, and who one is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Context {
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// The fingerprint of its certificate: `sha256:` and 64 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    /// The file with the authority, or the certificate, by which it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The file with one's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The data directory of a control plane on this machine, instead of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The project that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<ProjectName>,
}

/// Where the file is: `PLIMSOLL_CONFIG`, or below the XDG configuration directory.
fn path() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PLIMSOLL_CONFIG")
        .or_else(|| variable("XDG_CONFIG_HOME").map(|home| home.join("plimsoll/config.toml")))
        .or_else(|| variable("HOME").map(|home| home.join(".config/plimsoll/config.toml")))
        .context("there is no HOME, so there is no place for settings: name a file with PLIMSOLL_CONFIG")
}

impl Config {
    /// The file as it is; an empty one if there is none.
    fn read() -> anyhow::Result<(Self, PathBuf)> {
        let path = path()?;
        let config = match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        Ok((config, path))
    }

    /// Keeps the token of a login in a file of its own, and names it in a context, which becomes the current one.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn keep(
        place: &crate::place::Where,
        name: Option<&str>,
        token: &str,
    ) -> anyhow::Result<(String, PathBuf)> {
        let given = place.given()?;
        let (mut config, path) = Self::read()?;
        let host = given.server.as_deref().unwrap_or_default().split("://").last().unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let known = |it: &&str| config.contexts.get(*it).is_some_and(|it| it.server == given.server);
        let current = config.current_context.as_deref().filter(known);
        let name = name.or(place.named_context()).or(current).unwrap_or(host).to_owned();
        let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
        if !name.chars().all(is_plain) || name.starts_with('.') || name.is_empty() {
            bail!("{name:?} cannot be the name of a file: give another one with --as");
        }
        let file = path.with_file_name("tokens").join(&name);
        let fail = || format!("{} cannot be written", file.display());
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).with_context(fail)?;
        }
        let mut options = OpenOptions::new();
        let mut kept =
            options.create(true).truncate(true).write(true).mode(0o600).open(&file).with_context(fail)?;
        writeln!(kept, "{token}").and_then(|()| kept.sync_all()).with_context(fail)?;
        let context = Context { token_file: Some(file.clone()), ..given };
        config.contexts.insert(name.clone(), context);
        config.current_context = Some(name.clone());
        config.write(&path)?;
        Ok((name, file))
    }

    /// The names of all contexts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn names() -> anyhow::Result<Vec<String>> {
        Ok(Self::read()?.0.contexts.into_keys().collect())
    }

    /// The context that commands mean, by the name that is asked for or that of the file.
    ///
    /// # Errors
    /// When the file cannot be read, or has no context of that name.
    pub(crate) fn context(wanted: Option<&str>) -> anyhow::Result<Context> {
        if wanted.is_none() && path().is_err() {
            return Ok(Context::default());
        }
        let (config, path) = Self::read()?;
        let Some(name) = wanted.or(config.current_context.as_deref()) else { return Ok(Context::default()) };
        let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
        let missing = || format!("{} has no context {name}; it has {}", path.display(), known.join(", "));
        config.contexts.get(name).cloned().with_context(missing)
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let fail = || format!("{} cannot be written", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(fail)?;
        }
        // Written beside it and put in its place, so that nobody ever reads half of it.
        let draft = path.with_extension("draft");
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&draft).with_context(fail)?;
        file.write_all(toml::to_string(self)?.as_bytes()).with_context(fail)?;
        file.sync_all().with_context(fail)?;
        std::fs::rename(&draft, path).with_context(fail)
    }
}

/// Your own settings: contexts, and which one commands mean
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the settings, and with --show-origin where each one that commands would use comes from
    View {
        /// Print each setting with its origin
        #[arg(long)]
        show_origin: bool,
        #[command(flatten)]
        place: crate::place::Where,
    },
    /// List the contexts
    GetContexts,
    /// Make a context, or change one
    SetContext(SetContext),
    /// Mean another context from now on
    UseContext {
        /// Its name
        name: String,
    },
    /// Forget a context
    DeleteContext {
        /// Its name
        name: String,
    },
}

/// Make a context, or change one
#[derive(Args)]
pub(crate) struct SetContext {
    /// Its name
    name: String,
    /// The control plane's address
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The fingerprint of its certificate, as the server says it when it starts
    #[arg(long, value_name = "sha256:HEX", conflicts_with = "ca_file")]
    fingerprint: Option<String>,
    /// The authority, or the certificate itself, by which it is known, as PEM; it stays where it is
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The file with your token; it stays where it is
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The data directory of a control plane on this machine, instead of both
    #[arg(long, value_name = "DIR", conflicts_with_all = ["server", "token_file"])]
    data_dir: Option<PathBuf>,
    /// The project that is meant
    #[arg(short, long)]
    project: Option<ProjectName>,
}

impl ConfigCommand {
    #[expect(clippy::print_stdout, reason = "the settings are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (mut config, path) = Config::read()?;
        match self {
            Self::View { show_origin: true, place } => {
                print!("{}", table(&["SETTING", "VALUE", "FROM"], &place.origins()?));
            }
            Self::View { show_origin: false, .. } => print!("{}", toml::to_string(&config)?),
            Self::GetContexts => {
                let text = |it: &Option<PathBuf>| {
                    it.as_ref().map_or_else(|| "-".to_owned(), |it| it.display().to_string())
                };
                let row = |(name, it): (&String, &Context)| {
                    let is_current = config.current_context.as_ref() == Some(name);
                    vec![
                        if is_current { "*" } else { "" }.to_owned(),
                        name.clone(),
                        it.server.clone().unwrap_or_else(|| text(&it.data_dir)),
                        it.project.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                    ]
                };
                print!(
                    "{}",
                    table(
                        &["", "NAME", "WHERE", "PROJECT"],
                        &config.contexts.iter().map(row).collect::<Vec<_>>()
                    )
                );
            }
            Self::SetContext(change) => {
                let context = config.contexts.entry(change.name.clone()).or_default();
                if change.data_dir.is_some() {
                    (context.server, context.token_file) = (None, None);
                }
                if change.server.is_some() || change.token_file.is_some() {
                    context.data_dir = None;
                }
                context.server = change.server.or(context.server.take());
                if change.fingerprint.is_some() || change.ca_file.is_some() {
                    (context.fingerprint, context.ca_file) = (change.fingerprint, change.ca_file);
                }
                context.token_file = change.token_file.or(context.token_file.take());
                context.data_dir = change.data_dir.or(context.data_dir.take());
                context.project = change.project.or(context.project.take());
                config.current_context.get_or_insert(change.name.clone());
                config.write(&path)?;
                talk(&format!("context {} is in {}", change.name, path.display()));
            }
            Self::UseContext { name } => {
                known(&config, &name)?;
                config.current_context = Some(name.clone());
                config.write(&path)?;
                talk(&format!("commands mean {name} now"));
            }
            Self::DeleteContext { name } => {
                known(&config, &name)?;
                config.contexts.remove(&name);
                config.current_context = config.current_context.filter(|current| *current != name);
                config.write(&path)?;
                talk(&format!("context {name} is forgotten"));
            }
        }
        Ok(Ended::Done)
    }
}

fn known(config: &Config, name: &str) -> anyhow::Result<()> {
    if !config.contexts.contains_key(name) {
        let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
        bail!("there is no context {name}; there are {}", known.join(", "));
    }
    Ok(())
}
