//! Which control plane a command means: by options, variables, the context, or the usual place on this machine.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{ObjectName, ProjectName};

use crate::client::Client;
use crate::config::{Config, Context as Settings};
use crate::transport::Trust;

/// Which control plane, and which of its projects.
#[derive(Args, Clone, Default)]
pub(crate) struct Where {
    /// The data directory of a control plane on this machine [default: plimsoll in the XDG data directory]
    #[arg(long, env = "PLIMSOLL_DATA_DIR", value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// The control plane's address, instead; the token is in `PLIMSOLL_TOKEN` or the file `PLIMSOLL_TOKEN_FILE`
    #[arg(long, env = "PLIMSOLL_SERVER", value_name = "URL", global = true)]
    server: Option<String>,
    /// The fingerprint of its certificate, as the server says it when it starts; else authorities decide
    #[arg(long, env = "PLIMSOLL_FINGERPRINT", value_name = "sha256:HEX", global = true, hide = true)]
    fingerprint: Option<String>,
    /// The context of your settings that says what no option does; `plimsoll config` makes them
    #[arg(long, env = "PLIMSOLL_CONTEXT", value_name = "NAME", global = true)]
    context: Option<String>,
    /// The project [default: that of the context, or default]
    #[arg(short, long, env = "PLIMSOLL_PROJECT", global = true)]
    project: Option<ProjectName>,
    /// Only this machine is meant, whatever the context says.
    #[arg(skip)]
    is_local: bool,
}

/// The project that is meant if nobody says another one.
const USUAL_PROJECT: &str = "default";

impl Where {
    /// The same, but for a control plane of this machine: contexts are for the others.
    pub(crate) fn local(self) -> Self {
        Self { is_local: true, ..self }
    }

    /// What the settings say where no option and no variable does.
    fn context(&self) -> anyhow::Result<Settings> {
        if self.is_local { Ok(Settings::default()) } else { Config::context(self.context.as_deref()) }
    }

    /// The data directory: the given one, else this one, else the usual one.
    pub(crate) fn data_or(&self, other: Option<PathBuf>) -> anyhow::Result<PathBuf> {
        match (&self.data_dir, other) {
            (None, Some(other)) => Ok(other),
            _ => self.data(),
        }
    }

    /// The data directory: the given one, that of the context, or that of the XDG base directory specification.
    pub(crate) fn data(&self) -> anyhow::Result<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let given = self.data_dir.clone();
        let given = if given.is_some() { given } else { self.context()?.data_dir };
        given
            .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("plimsoll")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/share/plimsoll")))
            .context("there is no HOME, so there is no place for data: give one with --data-dir")
    }

    /// The project. Settings that cannot be read are a failure of whatever looks for the control plane, which comes with it.
    pub(crate) fn project(&self) -> ProjectName {
        let settings = || self.context().ok().and_then(|it| it.project);
        let given = self.project.clone().or_else(settings);
        given.unwrap_or_else(|| USUAL_PROJECT.parse().expect("a valid project name"))
    }

    /// A client of the control plane that runs there.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let settings = self.context()?;
        match (&self.server, &self.data_dir, &settings.server) {
            (Some(server), _, _) | (None, None, Some(server)) => {
                Client::at(server, given_token(&settings)?, self.trust(&settings)?)
            }
            _ => Client::of(&self.data()?),
        }
    }

    /// A client of the control plane that has no token yet.
    pub(crate) fn stranger(&self) -> anyhow::Result<Client> {
        let settings = self.context()?;
        match (&self.server, &self.data_dir, &settings.server) {
            (Some(server), _, _) | (None, None, Some(server)) => {
                Client::without_token(server, self.trust(&settings)?)
            }
            _ => Client::of(&self.data()?),
        }
    }

    /// Where a login is kept: the address of the control plane, by what it is known, and the project, as they were given.
    pub(crate) fn given(&self) -> anyhow::Result<Settings> {
        let settings = self.context()?;
        let server = self.server.clone().or(settings.server);
        let server = server.context("a login is for a control plane elsewhere: give --server")?;
        Ok(Settings {
            server: Some(server),
            fingerprint: self.fingerprint.clone().or(settings.fingerprint),
            project: self.project.clone().or(settings.project),
            ca_file: settings.ca_file,
            ..Settings::default()
        })
    }

    /// The context that was named, or the current one.
    pub(crate) fn named_context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// By what the control plane is known.
    fn trust(&self, settings: &Settings) -> anyhow::Result<Trust> {
        let fingerprint = self.fingerprint.as_deref().or(settings.fingerprint.as_deref());
        if let Some(text) = fingerprint {
            let digest = text.strip_prefix("sha256:").unwrap_or(text).parse();
            return Ok(Trust::Fingerprint(digest.context("that is no fingerprint: sha256: and 64 digits")?));
        }
        Ok(settings.ca_file.clone().map_or(Trust::Machine, Trust::File))
    }

    /// A client of the control plane that runs there, if one does.
    pub(crate) fn find_client(&self) -> anyhow::Result<Option<Client>> {
        if self.server.is_some() || (self.data_dir.is_none() && self.context()?.server.is_some()) {
            return self.client().map(Some);
        }
        // Whatever the reason: without an answer there is nobody to ask.
        Ok(Client::of(&self.data()?).ok())
    }

    /// Each setting that commands use, and where it comes from.
    pub(crate) fn origins(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let settings = self.context()?;
        let row = |name: &str, variable: &str, given: Option<String>, kept: Option<String>, usual: &str| {
            let in_variable = std::env::var(variable).ok().filter(|value| !value.is_empty());
            let (value, from) = match (given, kept) {
                (Some(value), _) if in_variable.as_ref() == Some(&value) => (value, variable.to_owned()),
                (Some(value), _) => (value, format!("option --{name}")),
                (None, Some(value)) => (value, "context".to_owned()),
                (None, None) => (usual.to_owned(), "default".to_owned()),
            };
            vec![name.to_owned(), value, from]
        };
        let path = |path: &PathBuf| path.display().to_string();
        let usual = Self { is_local: true, ..Self::default() }.data().map(|it| path(&it)).unwrap_or_default();
        Ok(vec![
            row("server", "PLIMSOLL_SERVER", self.server.clone(), settings.server.clone(), "-"),
            row(
                "token-file",
                "PLIMSOLL_TOKEN_FILE",
                std::env::var("PLIMSOLL_TOKEN_FILE").ok(),
                settings.token_file.as_ref().map(path),
                "-",
            ),
            row(
                "fingerprint",
                "PLIMSOLL_FINGERPRINT",
                self.fingerprint.clone(),
                settings.fingerprint.clone(),
                "-",
            ),
            row(
                "data-dir",
                "PLIMSOLL_DATA_DIR",
                self.data_dir.as_ref().map(path),
                settings.data_dir.as_ref().map(path),
                &usual,
            ),
            row(
                "project",
                "PLIMSOLL_PROJECT",
                self.project.as_ref().map(ToString::to_string),
                settings.project.as_ref().map(ToString::to_string),
                USUAL_PROJECT,
            ),
        ])
    }

    /// An App of the project.
    pub(crate) fn app(&self, name: &ObjectName) -> ObjectKey {
        ObjectKey::in_project(self.project(), name.clone())
    }
}

/// The token of the environment, or that of the context. It is no option: others on the machine can read those.
fn given_token(settings: &Settings) -> anyhow::Result<String> {
    if let Ok(token) = std::env::var("PLIMSOLL_TOKEN") {
        return Ok(token.trim().to_owned());
    }
    let file =
        std::env::var_os("PLIMSOLL_TOKEN_FILE").map(PathBuf::from).or_else(|| settings.token_file.clone());
    let file = file
        .context("there is no token: set PLIMSOLL_TOKEN, or PLIMSOLL_TOKEN_FILE to a file that holds it")?;
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(text.trim().to_owned())
}
