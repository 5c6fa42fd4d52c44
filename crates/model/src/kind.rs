//! The kinds: what people may declare, and the records the system keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::access::{Demand, Quota, Restriction, Role};
use crate::app::{AppSpec, Reserve};
use crate::id::{
    CommitId, Digest, InstanceId, KeyName, ObjectName, PartName, ProjectName, RuntimeName, TargetName, Uid,
    UserName,
};
use crate::image::ImageRef;
use crate::object::{Kind, KindScope, ObjectKey, Timestamp};
use crate::operations::Operations;
use crate::revision::{AppRevision, RejectionRecord};
use crate::secret::SecretRef;
use crate::source::Source;
use crate::status::AppStatus;
use crate::step::{Plan, Scope};
use crate::version::VersionRange;

/// Declares the marker type of a kind.
macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $plural:literal, $scope:ident, $spec:ty, $operations:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl Kind for $name {
            const NAME: &'static str = stringify!($name);
            const PLURAL: &'static str = $plural;
            const SCOPE: KindScope = KindScope::$scope;
            type Spec = $spec;
            type Operations = $operations;
            type Status = $status;
        }
    };
}

kind!(
    /// Components that belong together.
    App, "apps", Project, AppSpec, Operations, AppStatus
);
kind!(
    /// A tenant.
    Project, "projects", Installation, ProjectSpec, (), ()
);
kind!(
    /// Where instances run.
    Target, "targets", Installation, TargetSpec, (), ()
);
kind!(
    /// Write-only values, sealed at rest; its generation is the version that bindings carry.
    Secret, "secrets", Project, SecretSpec, (), ()
);
kind!(
    /// Access to the API; only a hash of it is kept.
    Token, "tokens", Installation, TokenSpec, (), ()
);
kind!(
    /// What the Apps of a project with a quota declare together.
    Usage, "usages", Installation, UsageSpec, (), ()
);
kind!(
    /// An immutable version of an App.
    AppRevisions, "revisions", Project, AppRevision, (), ()
);
kind!(
    /// A component revision that failed through its own fault.
    Rejection, "rejections", Project, RejectionRecord, (), ()
);
kind!(
    /// What one reconcile decided.
    Plans, "plans", Project, Plan, (), ()
);
kind!(
    /// Sole use of something that only one owner may have, such as a loopback address of a target.
    Claim, "claims", Installation, ClaimSpec, (), ()
);

kind!(
    /// What was answered to a request that may come again.
    Receipt, "receipts", Installation, ReceiptSpec, (), ()
);

kind!(
    /// What may be left of an App that was given up while a target of it did not answer.
    Tombstone, "tombstones", Project, TombstoneSpec, (), ()
);

kind!(
    /// What the tag of an image leads to.
    Image, "images", Project, ImageSpec, (), ()
);

kind!(
    /// What a source was built to.
    Build, "builds", Project, BuildSpec, (), ()
);

kind!(
    /// The certificate that a host's routes are served with. Its key is with the router alone.
    Certificate, "certificates", Installation, CertificateSpec, (), ()
);

/// The collections of all kinds that are stored.
pub const PLURALS: [&str; 15] = [
    App::PLURAL,
    Project::PLURAL,
    Target::PLURAL,
    Secret::PLURAL,
    Token::PLURAL,
    Usage::PLURAL,
    AppRevisions::PLURAL,
    Rejection::PLURAL,
    Plans::PLURAL,
    Claim::PLURAL,
    Receipt::PLURAL,
    Tombstone::PLURAL,
    Image::PLURAL,
    Build::PLURAL,
    Certificate::PLURAL,
];

/// Declaration of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProjectSpec {
    /// Where its Apps run unless they say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Who may do what in it. Administrators of the platform need not be members.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1000))]
    pub members: BTreeMap<UserName, Role>,
    /// Ways in for other systems, which need no token: `POST /hooks/PROJECT/NAME`, each by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 100))]
    pub hooks: BTreeMap<PartName, Hook>,
    /// How much its Apps may declare together; only administrators of the platform change it.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
}

/// A way in for another system: it may announce images, and deploy them to Apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// What both sides know: deliveries are signed with it.
    pub secret: SecretRef,
    /// The Apps that it may deploy to; all of the project without any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 1000))]
    pub apps: BTreeSet<ObjectName>,
}

/// A sum that whoever changes an amount keeps, or drops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageSpec {
    /// The sum; unknown until the next admission adds it up.
    pub sum: Option<Demand>,
    /// Apps that went away so far: whoever adds up while one goes sees that this has changed.
    pub gone: u64,
}

/// What was answered to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptSpec {
    /// Digest of the request, to tell another one of the same name.
    pub request: Digest,
    /// The answer, as JSON; empty where it is shown only once.
    pub answer: String,
}

/// Declaration of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// What runs programs, by runtime name.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub runtimes: BTreeMap<RuntimeName, Runtime>,
    /// What programs run as, images apart: those are containers everywhere.
    #[serde(default, skip_serializing_if = "Programs::is_default")]
    pub programs: Programs,
    /// The container engine of its node. Default: `DOCKER_HOST` of the node's agent, or the first usual socket of
    /// Docker and Podman that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineAddress>,
    /// Whom the gates of rollouts may ask for numbers.
    #[serde(default, skip_serializing_if = "GateSources::is_default")]
    pub gates: GateSources,
    /// How much Apps may reserve there together before no more programs are loaded. Default: what the machine has, for
    /// `local`; no limit for others.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub capacity: Reserve,
}

/// Whom the gates of rollouts may ask for numbers. The server asks, from where it runs: so those who look after the target say
/// whom, and not those who declare Apps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateSources {
    /// The address of a Prometheus, such as `http://127.0.0.1:9090`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub prometheus: Option<String>,
    /// What addresses of `http` queries begin with, by whole segments of their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub http: Vec<String>,
}

impl GateSources {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What programs run as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Programs {
    /// Processes of the node.
    #[default]
    Process,
    /// Containers of the image that their runtime names.
    Container,
}

impl Programs {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a container engine answers: `unix:///run/podman/podman.sock`, `tcp://127.0.0.1:2375`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineAddress(pub String);

impl JsonSchema for EngineAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EngineAddress".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 256,
            "pattern": "^(unix:///.+|tcp://(127[.0-9]+|localhost):[0-9]+)$",
            "description": "write the socket of an engine of the node, as `unix:///run/podman/podman.sock`",
        })
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a runtime starts a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runtime {
    /// The command line; `{file}` stands for the program's file.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// The image that holds the runtime, where programs are containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// The command line for programs with `fetch`: it gets the program from `$PLIMSOLL_PROGRAM_URL`, showing `$TOKEN` as bearer
    /// token, and runs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub fetch: Vec<String>,
    /// The command line that checks a program's syntax before it is loaded, on the server, without running it; `{file}` stands
    /// for the program's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub check: Vec<String>,
}

impl TargetSpec {
    /// The built-in `local` target: the runtimes that Debian names this way.
    ///
    /// # Panics
    /// Never: the names are valid.
    pub fn local() -> Self {
        let words = |words: &[&str]| words.iter().map(|&part| part.to_owned()).collect();
        let runtime = |name: &str, command: &[&str], fetch: &[&str], check: &[&str]| {
            let (command, fetch, check) = (words(command), words(fetch), words(check));
            (name.parse().expect("a valid runtime name"), Runtime { command, image: None, fetch, check })
        };
        let (by_bash, by_node, by_python) =
            (include_str!("fetch/bash.sh"), include_str!("fetch/node.js"), include_str!("fetch/python.py"));
        let file = "{file}";
        Self {
            runtimes: BTreeMap::from([
                runtime("bash", &["bash", file], &["bash", "-c", by_bash], &["bash", "-n", file]),
                runtime("node", &["node", file], &["node", "-e", by_node], &["node", "--check", file]),
                runtime(
                    "python",
                    &["python3", "-u", file],
                    &["python3", "-u", "-c", by_python],
                    &["python3", "-I", "-m", "py_compile", file],
                ),
                runtime("php", &["php", file], &[], &["php", "-l", file]),
                runtime("ruby", &["ruby", file], &[], &["ruby", "-c", file]),
            ]),
            ..Self::default()
        }
    }
}

/// A secret as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretSpec {
    /// Values by key; sealed before they reach a store.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 256))]
    pub data: BTreeMap<KeyName, Sealed>,
}

/// An encrypted value in text form. It may be stored and copied, and still does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sealed(pub String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(sealed)")
    }
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSpec {
    /// SHA-256 of the token.
    pub hash: Digest,
    /// Whom it speaks for: whatever that user may do, it may.
    pub user: UserName,
    /// Whether it speaks for an administrator of the platform, who may do everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// What it is restricted to.
    #[serde(default)]
    pub only: Restriction,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The App that it owns: it shows that one's status and ends it, and does nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owns: Option<ClaimSpec>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub description: String,
}

/// What may be left of an App, and where. It is removed there once the target answers again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TombstoneSpec {
    /// The App.
    pub app: Uid,
    /// Its project and name.
    pub key: ObjectKey,
    /// Targets that have to be told that it is gone.
    pub targets: BTreeSet<TargetName>,
    /// What did not answer when it was given up.
    pub silent: BTreeSet<Scope>,
    /// Copies that were last known, with their targets.
    pub instances: BTreeMap<InstanceId, TargetName>,
    /// Addresses and routes that nobody else gets before.
    pub claims: BTreeSet<ObjectName>,
}

/// Who holds a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// The App.
    pub app: Uid,
    /// Its project and name, for whoever finds it taken.
    pub key: ObjectKey,
}

/// What is known of the image behind a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// The image as Apps name it.
    pub image: ImageRef,
    /// The versions one of which takes the place of the image's tag, if versions are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<VersionRange>,
    /// The tag of the newest of these versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The digest its tag leads to; absent until a registry or an engine has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When that was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why the latest question has no answer; what was known before still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What the tag led to before, latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<EarlierImage>,
}

/// What is known of a source and of what was built from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildSpec {
    /// The source as Apps name it.
    pub source: Source,
    /// The engine that builds it, where a Target names another one than the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineAddress>,
    /// Whether it is looked for newer commits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// The newest image that was built of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<BuiltImage>,
    /// What is done with it, or why nothing is.
    pub state: BuildState,
}

/// What became of building a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BuildState {
    /// It is being fetched and built.
    Building {
        /// The commit, of a repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<CommitId>,
    },
    /// What it leads to is built.
    Built,
    /// What it leads to now could not be built.
    Failed(BuildFailure),
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuiltImage {
    /// Its id in the engine.
    pub image: Digest,
    /// The commit it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// When.
    pub at: Timestamp,
}

/// Why a source could not be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildFailure {
    /// In words.
    pub why: String,
    /// Whose fault it is.
    pub fault: BuildFault,
    /// The commit, of a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// Attempts in a row that have failed.
    pub failures: u32,
    /// When the latest one was made.
    pub at: Timestamp,
    /// The last lines of its log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Whose fault it is that a source is not built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BuildFault {
    /// The source's own: it has to be changed.
    Source,
    /// That of whoever keeps the source, or of the engine: the same may work later.
    Surroundings,
}

/// What is known of a host's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// The host.
    pub host: String,
    /// Where it comes from.
    pub origin: CertificateOrigin,
    /// The project that has it, of all that have routes of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// SHA-256 of the certificate; absent until the router has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
    /// Until when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Why another one is not there, though it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<CertificateProblem>,
}

/// A certificate that the router serves a host with, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldCertificate {
    /// Where it comes from.
    pub origin: CertificateOrigin,
    /// SHA-256 of the certificate itself.
    pub fingerprint: Digest,
    /// From when on it is good.
    pub begins: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

impl HeldCertificate {
    /// When another one is to be got: after two thirds of its time, as authorities recommend.
    pub fn renew(&self) -> Timestamp {
        Timestamp(self.begins.0 + self.expires.0.saturating_sub(self.begins.0) / 3 * 2)
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateOrigin {
    /// The installation's own authority.
    Own,
    /// The authority that the server is set up with.
    Authority,
    /// A Secret.
    Secret,
}

impl fmt::Display for CertificateOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "own",
            Self::Authority => "authority",
            Self::Secret => "secret",
        })
    }
}

/// Why a certificate is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateProblem {
    /// In words.
    pub why: String,
    /// Nothing but a person's act helps; otherwise it is tried again.
    pub needs_person: bool,
    /// Attempts in a row that have failed.
    pub failures: u32,
    /// When the latest one was made.
    pub at: Timestamp,
}

/// What a tag led to once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EarlierImage {
    /// The digest.
    pub digest: Digest,
    /// When that was first seen.
    pub since: Timestamp,
}
