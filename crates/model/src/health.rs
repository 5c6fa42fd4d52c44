//! Probes: what makes a copy ready, and what makes the agent restart it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::PartName;
use crate::quantity::Span;

/// Readiness of a copy, and, by default from the same probe, its liveness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// Ready when an HTTP GET answers 2xx and, if given, with the expected body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Ready when the port accepts a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Ready when the command exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// Time between two probes.
    #[serde(default = "default_every")]
    pub every: Span,
    /// Time one probe may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Failures in a row after which a ready copy is not ready any more.
    #[serde(default = "default_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    /// Time after the start in which failures do not count against liveness.
    #[serde(default = "default_start")]
    pub start: Span,
    /// When a copy must be restarted.
    #[serde(default, skip_serializing_if = "Live::is_default")]
    pub live: Live,
}

/// When the agent restarts a copy in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Live {
    /// Failures of the probe in a row after which the copy is restarted; 0 never restarts.
    #[serde(default = "default_live_failures")]
    #[schemars(range(max = 1000))]
    pub failures: u32,
}

impl Live {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
impl Default for Live {
    fn default() -> Self {
        Self { failures: default_live_failures() }
    }
}

fn default_every() -> Span {
    Span::seconds(2)
}
fn default_timeout() -> Span {
    Span::seconds(1)
}
fn default_failures() -> u32 {
    3
}
fn default_start() -> Span {
    Span::seconds(30)
}
fn default_live_failures() -> u32 {
    9
}

impl Health {
    /// The one probe that is declared.
    pub fn probe(&self) -> Option<Probe<'_>> {
        match (&self.http, &self.tcp, &self.exec) {
            (Some(http), None, None) => Some(Probe::Http(http)),
            (None, Some(tcp), None) => Some(Probe::Tcp(tcp)),
            (None, None, Some(exec)) => Some(Probe::Exec(exec)),
            _ => None,
        }
    }
}

/// The declared probe of a [`Health`].
#[derive(Debug, Clone, Copy)]
pub enum Probe<'a> {
    /// HTTP GET.
    Http(&'a HttpProbe),
    /// TCP connect.
    Tcp(&'a TcpProbe),
    /// A command in the copy's own environment.
    Exec(&'a ExecProbe),
}

/// An HTTP GET on a port of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Name of the port.
    pub port: PartName,
    /// Path and query.
    #[serde(default = "default_path")]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// The whole body expected, compared after white space at its end is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub body: Option<String>,
}

fn default_path() -> String {
    "/".to_owned()
}

/// A TCP connect to a port of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// Name of the port.
    pub port: PartName,
}

/// A command run beside the copy, as its user, in its environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// The command line; no shell is involved.
    #[schemars(length(min = 1, max = 256))]
    pub command: Vec<String>,
}
