//! Options for clients of the systems that came before.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use plimsoll_api::Serving;
use plimsoll_compat::{Allowed, Compat, Settings};
use plimsoll_model::id::{ProjectName, RuntimeName};
use plimsoll_server::Server;
use serde::Deserialize;

use crate::follow::talk;

/// The port that these clients expect.
const PORT: u16 = 8000;

/// Connections at the same time; further ones wait.
const CONNECTIONS: usize = 256;

/// Whose clients are served
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum System {
    /// The Jolie cloud deployer's
    Jolie,
}

/// How clients of a system that came before are served
#[derive(Args, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct CompatOptions {
    /// Serve the clients of a system that came before, which show no tokens [default: none]
    #[arg(long, env = "PLIMSOLL_COMPAT", value_name = "SYSTEM")]
    compat: Option<System>,
    /// Where they are served [default: 127.0.0.1:8000]; anything but loopback needs --compat-project and --compat-allow
    #[arg(long, env = "PLIMSOLL_COMPAT_LISTEN", value_name = "ADDRESS:PORT", requires = "compat")]
    compat_listen: Option<SocketAddr>,
    /// The project that their programs are loaded into [default: default]; off loopback it must have a quota
    #[arg(long, env = "PLIMSOLL_COMPAT_PROJECT", value_name = "PROJECT", requires = "compat")]
    compat_project: Option<ProjectName>,
    /// The networks that may come in, beside this machine, such as 10.1.0.0/16
    #[arg(
        long,
        env = "PLIMSOLL_COMPAT_ALLOW",
        value_name = "NETWORK",
        value_delimiter = ',',
        requires = "compat"
    )]
    compat_allow: Vec<String>,
    /// The runtime of the target that runs their programs [default: jolie]
    #[arg(long, env = "PLIMSOLL_COMPAT_RUNTIME", value_name = "RUNTIME", requires = "compat")]
    compat_runtime: Option<RuntimeName>,
}

impl CompatOptions {
    /// These settings, and those of a file where nothing is said here.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            compat: self.compat.or(file.compat),
            compat_listen: self.compat_listen.or(file.compat_listen),
            compat_project: self.compat_project.or(file.compat_project),
            compat_allow: if self.compat_allow.is_empty() { file.compat_allow } else { self.compat_allow },
            compat_runtime: self.compat_runtime.or(file.compat_runtime),
        }
    }

    /// Serves them beside the API, if they are to be.
    pub(crate) async fn serve(self, server: &Arc<Server>, serving: &mut Serving) -> anyhow::Result<()> {
        if self.compat.is_none() {
            let has_more = self.compat_listen.is_some() || !self.compat_allow.is_empty();
            if has_more || self.compat_project.is_some() || self.compat_runtime.is_some() {
                bail!(
                    "compat-listen, -project, -allow and -runtime are about `compat`, which names no system"
                );
            }
            return Ok(());
        }
        let is_named = self.compat_project.is_some();
        let name = |text: &str| text.parse::<ProjectName>().expect("a valid project name");
        let usual = || "jolie".parse().expect("a valid runtime name");
        let settings = Settings {
            listen: self.compat_listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, PORT).into()),
            project: self.compat_project.unwrap_or_else(|| name("default")),
            allow: self.compat_allow.iter().map(|text| text.parse::<Allowed>()).collect::<Result<_, _>>()?,
            runtime: self.compat_runtime.unwrap_or_else(usual),
        };
        let (compat, listener) = Compat::bind(server.clone(), settings, is_named).await?;
        talk(&format!("clients of the Jolie deployer are served on http://{}", listener.local_addr()?));
        serving.for_copies(compat.routes_for_copies());
        serving.beside(listener, CONNECTIONS, compat.routes());
        Ok(())
    }
}
