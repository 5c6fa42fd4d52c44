//! The App: components that belong together, as people declare them.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::hook::Hooks;
use crate::id::{ComponentName, Digest, KeyName, ObjectName, PartName, RuntimeName, TargetName};
use crate::image::ImageRef;
use crate::quantity::{Bytes, Cpu, Span};
use crate::relation::{Consume, Provide};
use crate::scale::Scale;
use crate::secret::SecretRef;
use crate::source::Source;
use crate::update::Update;

/// Copies of one component at most.
pub const MOST_COPIES: u32 = 1000;

/// What should run: the components of one App and where they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppSpec {
    /// Where instances run; the project's default target when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// The workloads, by name.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 200))]
    pub components: BTreeMap<ComponentName, Component>,
}

impl AppSpec {
    /// Programs and sources that were uploaded for it, listings of trees unopened.
    pub fn content(&self) -> impl Iterator<Item = Digest> {
        let programs = self.components.values().filter_map(|it| it.program.as_ref()?.digest);
        programs.chain(self.components.values().filter_map(|it| it.source.as_ref()?.digest))
    }
}

/// One workload of an App: a long-running service with any number of equal copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// A container image, such as `postgres:16`. Together with a `program`, the program runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// What its image is built from, in the place of an `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// A program of files, run by one of the Target's runtimes or by `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// The command line, instead of the runtime's or the image's entry point; `{file}` stands for the program's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
    /// Arguments after the command or, for an image, after its entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Working directory, relative to the instance's own directory; for an image, an absolute path in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// How many equal copies run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub replicas: Option<u32>,
    /// How the number of copies follows what they have to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// The program's own ports, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), extend("additionalProperties" = {"type": "integer", "minimum": 1, "maximum": 65535}))]
    pub ports: BTreeMap<PartName, u16>,
    /// Environment variables. Literals may hold `${relation.key}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 500))]
    pub env: BTreeMap<KeyName, EnvValue>,
    /// Files written before the program starts, by path: relative to the instance's own directory, or absolute for
    /// an image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 200))]
    pub files: BTreeMap<String, FileContent>,
    /// Directories that outlive instances and revisions, one for each slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub volumes: BTreeMap<PartName, Volume>,
    /// Limits of each copy.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What must be free on the target for each copy when a program is loaded; its limits, where nothing is said.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub reserve: Reserve,
    /// What a copy may do, where it runs as a container.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// When a copy is ready, and when it must be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What others may consume from this component, by endpoint name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub provides: BTreeMap<PartName, Provide>,
    /// What this component needs from others; it starts when they are ready.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub consumes: BTreeMap<PartName, Consume>,
    /// Host and path combinations that lead to this component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub routes: Vec<Route>,
    /// How a new revision replaces the old one.
    #[serde(default, skip_serializing_if = "Update::is_default")]
    pub update: Update,
    /// Tasks that run once for each new revision.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// How long a copy may take to end after the request to stop, before it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
}

impl Component {
    /// Whether all it runs is an image's own: paths are those in the image then.
    pub fn is_image_alone(&self) -> bool {
        (self.image.is_some() || self.source.is_some()) && self.program.is_none()
    }

    /// Copies to run unless `operations` say otherwise; with `scale` the number that it begins with.
    pub fn replicas(&self) -> u32 {
        let declared = self.replicas.unwrap_or(1);
        self.scale.as_ref().map_or(declared, |scale| declared.clamp(scale.min, scale.max.max(scale.min)))
    }

    /// The most copies that it declares.
    pub fn most_replicas(&self) -> u32 {
        self.scale.as_ref().map_or_else(|| self.replicas(), |scale| scale.max)
    }

    /// What each copy is sure to have: what is reserved for it, or else its limits.
    pub fn reserve(&self) -> Reserve {
        Reserve {
            cpu: self.reserve.cpu.or(self.resources.cpu),
            memory: self.reserve.memory.or(self.resources.memory),
        }
    }

    /// Time between the request to stop and the kill.
    pub fn grace(&self) -> Span {
        self.grace.unwrap_or(Span::seconds(10))
    }
}

/// Where a program's files come from. Exactly one of `file`, `directory` and `inline` is given; the server
/// takes a `file` or `directory` only together with the `digest` of the uploaded content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Program {
    /// One file, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A directory tree, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The program's text itself, up to 256 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub inline: Option<String>,
    /// SHA-256 of the uploaded content; filled in by the CLI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The file of a `directory` that `{file}` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Which of the Target's runtimes runs it, such as `python`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// Whether each copy gets it by itself at every start, from `$PLIMSOLL_PROGRAM_URL` with the credential `$TOKEN` that is
    /// good for that copy alone. Where the command line has a `{file}` all the same, the node puts that in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetch: bool,
}

/// Value of an environment variable: a literal (numbers and booleans are taken as their text) or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "RawEnvValue", into = "RawEnvValue")]
pub enum EnvValue {
    /// Literal text, which may hold `${…}`.
    Text(String),
    /// One key of a Secret of the same project.
    Secret(SecretRef),
}

/// The document forms of [`EnvValue`].
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "EnvValue")]
enum RawEnvValue {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Secret(SecretValue),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecretValue {
    secret: SecretRef,
}

impl From<RawEnvValue> for EnvValue {
    fn from(raw: RawEnvValue) -> Self {
        match raw {
            RawEnvValue::Text(text) => Self::Text(text),
            RawEnvValue::Integer(number) => Self::Text(number.to_string()),
            RawEnvValue::Boolean(truth) => Self::Text(truth.to_string()),
            RawEnvValue::Secret(value) => Self::Secret(value.secret),
        }
    }
}
impl From<EnvValue> for RawEnvValue {
    fn from(value: EnvValue) -> Self {
        match value {
            EnvValue::Text(text) => Self::Text(text),
            EnvValue::Secret(secret) => Self::Secret(SecretValue { secret }),
        }
    }
}

/// Content of a declared file: exactly one of `content` and `secret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileContent {
    /// Literal text, which may hold `${…}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub content: Option<String>,
    /// One key of a Secret of the same project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

/// A directory that outlives instances and revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Where the program sees it; a process sees it relative to its working directory.
    pub path: String,
    /// Room wanted, where the target can limit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
}

/// Limits of one copy. What a target cannot enforce is reported as a condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// CPU time per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory, including page cache where the kernel counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub pids: Option<u32>,
}

impl Resources {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one copy is sure to have. Copies are not limited to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reserve {
    /// CPU time per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl Reserve {
    /// True when nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a container may do. It never gains more than it has at its start, whatever it executes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Security {
    /// User and group by name or number, such as `1000:1000`, instead of the image's. A `program` in an image runs as its
    /// project's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub user: Option<String>,
    /// Whether its root file system is read-only; `/tmp` and `/run` can still be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The kernel's capabilities it has, all of them. Default: what images need to give files and themselves to
    /// other users, and low ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 13))]
    pub capabilities: Option<BTreeSet<Capability>>,
}

impl Security {
    /// True when nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The capabilities it has.
    pub fn capabilities(&self) -> BTreeSet<Capability> {
        self.capabilities.clone().unwrap_or_else(|| Capability::USUAL.into())
    }
}

/// What a container may be allowed, of what engines give by themselves; devices are not among it. See capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the kernel's names, explained there")]
pub enum Capability {
    AuditWrite,
    Chown,
    DacOverride,
    Fowner,
    Fsetid,
    Kill,
    NetBindService,
    NetRaw,
    Setfcap,
    Setgid,
    Setpcap,
    Setuid,
    SysChroot,
}

impl Capability {
    /// What a container has unless it is declared otherwise.
    pub const USUAL: [Self; 8] = [
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Fsetid,
        Self::Kill,
        Self::NetBindService,
        Self::Setgid,
        Self::Setuid,
    ];

    /// Its name, as engines and the kernel have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuditWrite => "AUDIT_WRITE",
            Self::Chown => "CHOWN",
            Self::DacOverride => "DAC_OVERRIDE",
            Self::Fowner => "FOWNER",
            Self::Fsetid => "FSETID",
            Self::Kill => "KILL",
            Self::NetBindService => "NET_BIND_SERVICE",
            Self::NetRaw => "NET_RAW",
            Self::Setfcap => "SETFCAP",
            Self::Setgid => "SETGID",
            Self::Setpcap => "SETPCAP",
            Self::Setuid => "SETUID",
            Self::SysChroot => "SYS_CHROOT",
        }
    }
}

/// A host and path that lead to a port of the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Host name, which may hold `${…}`; a leading `*.` matches one label.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Path prefix, matched by whole segments.
    #[serde(default = "root_path")]
    #[schemars(length(max = 1024))]
    pub path: String,
    /// Name of the port.
    pub port: PartName,
    /// How the route is encrypted. Requests that come in the clear are sent on to `https`, unless it is off.
    #[serde(default)]
    pub tls: TlsMode,
    /// For how long browsers shall not come in the clear any more (`Strict-Transport-Security`). They keep to that even when
    /// it is taken back here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Span>,
}

fn root_path() -> String {
    "/".to_owned()
}

/// How a route is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Plain HTTP.
    #[default]
    Off,
    /// With a certificate that is got and renewed by itself: from the authority that the server is set up with, or, for
    /// names that mean this machine (`localhost`), from one of its own.
    Auto,
    /// With the certificate of this Secret: the chain is its key `tls.crt`, the certificate's key `tls.key`, both as PEM.
    Secret(ObjectName),
}

impl TlsMode {
    /// Whether connections are encrypted.
    pub fn is_on(&self) -> bool {
        *self != Self::Off
    }
}
