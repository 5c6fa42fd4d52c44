//! Clients of the systems that came before, beside the API.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::ValueEnum;
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
pub(crate) enum System {
    /// The Jolie cloud deployer's
    Jolie,
}

/// Which clients are served, and how.
pub(crate) struct Compatible {
    pub(crate) system: System,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) project: Option<ProjectName>,
    pub(crate) allow: Vec<Allowed>,
    pub(crate) runtime: Option<RuntimeName>,
}

impl Compatible {
    /// Serves them beside the API.
    pub(crate) async fn serve(self, server: &Arc<Server>, serving: &mut Serving) -> anyhow::Result<()> {
        let System::Jolie = self.system;
        let is_named = self.project.is_some();
        let settings = Settings {
            listen: self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, PORT).into()),
            project: self.project.unwrap_or_else(|| "default".parse().expect("a valid project name")),
            allow: self.allow,
            runtime: self.runtime.unwrap_or_else(|| "jolie".parse().expect("a valid runtime name")),
        };
        let (compat, listener) = Compat::bind(server.clone(), settings, is_named).await?;
        talk(&format!("clients of the Jolie deployer are served on http://{}", listener.local_addr()?));
        serving.for_copies(compat.routes_for_copies());
        serving.beside(listener, CONNECTIONS, compat.routes());
        Ok(())
    }
}
