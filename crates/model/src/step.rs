//! Plans and their steps: decisions that leave no choice to whoever carries them out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::app::{Resources, Security, TlsMode};
use crate::health::Health;
use crate::hook::HookPoint;
use crate::id::{
    BindingsHash, ComponentHash, ComponentName, Digest, Effects, Epoch, InstallationId, InstanceId, KeyName,
    PartName, PlanHash, PlanNo, RevisionNo, Slot, TargetName, Uid,
};
use crate::kind::EngineAddress;
use crate::object::{Generation, ObjectKey};
use crate::quantity::{Bytes, Span};
use crate::revision::{Content, PinnedImage};
use crate::secret::SecretRef;
use crate::world::ServiceIp;

/// What one reconcile decided: immutable, numbered within its App, hashed, with its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The App's identity.
    pub app: Uid,
    /// The App's project and name, which marks carry for people.
    pub key: ObjectKey,
    /// Number within the App; becomes current by compare-and-set on the one before.
    pub no: PlanNo,
    /// Hash of the plan that was current when this one was made.
    pub parent: Option<PlanHash>,
    /// The declaration it follows.
    pub generation: Generation,
    /// The App revision it works towards.
    pub revision: RevisionNo,
    /// For each driver the effects it was planned on: the far side refuses the plan if others came between.
    pub seen: BTreeMap<Scope, Effects>,
    /// The steps, each after those it names.
    pub steps: Vec<Step>,
    /// Why it leaves the announced Path, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<Deviation>,
}

/// What moved the world away from the Path that was announced, on which all goes as hoped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Deviation {
    /// A revision failed its gate, and the last good one replaces it.
    RolledBack {
        /// Whose.
        component: ComponentName,
    },
    /// A copy that should be there was not.
    Healed {
        /// Whose.
        component: ComponentName,
        /// Which.
        slot: Slot,
    },
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolledBack { component } => write!(f, "{component} failed its gate and is rolled back"),
            Self::Healed { component, slot } => {
                write!(f, "{component}/{} was gone or ending and is started again", slot.0)
            }
        }
    }
}

impl Plan {
    /// Its identity.
    pub fn hash(&self) -> PlanHash {
        PlanHash(Digest::of_json(self))
    }

    /// The fence of this plan's steps at one driver.
    pub fn fence(&self, installation: &InstallationId, epoch: Epoch, scope: &Scope) -> Fence {
        Fence {
            installation: installation.clone(),
            epoch,
            app: self.app.clone(),
            key: self.key.clone(),
            plan: self.no,
            hash: self.hash(),
            seen: self.seen.get(scope).copied().unwrap_or_default(),
        }
    }
}

/// One driver instance: a family of actions on one target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The node's instances.
    Node(TargetName),
    /// The node's router.
    Router(TargetName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(target) => write!(f, "node/{target}"),
            Self::Router(target) => write!(f, "router/{target}"),
        }
    }
}
impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let invalid = || serde::de::Error::custom("a scope is `node/TARGET` or `router/TARGET`");
        let (family, target) = text.split_once('/').ok_or_else(invalid)?;
        let target = target.parse().map_err(serde::de::Error::custom)?;
        match family {
            "node" => Ok(Self::Node(target)),
            "router" => Ok(Self::Router(target)),
            _ => Err(invalid()),
        }
    }
}

/// What a driver checks before every effect. The far side keeps the highest (epoch, plan) of each App,
/// durably; it refuses a lower one, the same one with another hash, and a new one that was planned on
/// anything but the present state of its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Whose effect it is; part of every mark.
    pub installation: InstallationId,
    /// Outranks the plan number.
    pub epoch: Epoch,
    /// The App.
    pub app: Uid,
    /// Its project and name, for the mark.
    pub key: ObjectKey,
    /// The plan.
    pub plan: PlanNo,
    /// Its content.
    pub hash: PlanHash,
    /// Effects the plan was made on.
    pub seen: Effects,
}

/// Index of a step in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepNo(pub u32);

/// One action that a driver can carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where it happens.
    pub target: TargetName,
    /// The component concerned; absent for the App's table as a whole.
    pub component: Option<ComponentName>,
    /// The slot concerned.
    pub slot: Option<Slot>,
    /// What to do.
    pub action: Action,
    /// Steps that must have succeeded before.
    pub after: Vec<StepNo>,
    /// Why it is done.
    pub cause: Cause,
}

impl Step {
    /// The driver that carries it out.
    pub fn scope(&self) -> Scope {
        match self.action {
            Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. } | Action::Close => {
                Scope::Node(self.target.clone())
            }
            Action::Publish { .. }
            | Action::Admit { .. }
            | Action::Drain { .. }
            | Action::Expel { .. }
            | Action::Withdraw => Scope::Router(self.target.clone()),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Action {
    /// Make sure that this copy exists and is kept running.
    Create {
        /// Its id.
        instance: InstanceId,
        /// What it runs.
        revision: ComponentHash,
        /// What it is given.
        bindings: BindingsHash,
        /// How it is started.
        launch: Box<Launch>,
    },
    /// Ask a copy to end, kill it after the grace time.
    Stop {
        /// The copy.
        instance: InstanceId,
        /// Time to end by itself.
        grace: Span,
    },
    /// Forget a copy that has stopped: directory, log, record. Volumes stay.
    Remove {
        /// The copy.
        instance: InstanceId,
    },
    /// Remove the App's volumes and refuse every later effect for it: the App is gone.
    Close,
    /// Set addresses and routes; members stay as they are.
    Publish {
        /// The whole table.
        table: Table,
    },
    /// Give a copy traffic.
    Admit {
        /// The copy.
        instance: InstanceId,
        /// Where its ports are.
        endpoints: BTreeMap<PartName, SocketAddr>,
        /// What it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<ComponentHash>,
    },
    /// Give a copy no new traffic and let it finish what it has.
    Drain {
        /// The copy.
        instance: InstanceId,
    },
    /// Forget a member.
    Expel {
        /// The copy.
        instance: InstanceId,
    },
    /// Remove the App's addresses and routes and refuse every later effect for it: the App is gone.
    Withdraw,
}

impl Action {
    /// The verb, for people and for a Path's normal form.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create { launch, .. } => launch.hook.map_or("create", HookPoint::as_str),
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
            Self::Close => "close",
            Self::Publish { .. } => "publish",
            Self::Admit { .. } => "admit",
            Self::Drain { .. } => "drain",
            Self::Expel { .. } => "expel",
            Self::Withdraw => "withdraw",
        }
    }

    /// The copy it concerns.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Create { instance, .. }
            | Self::Stop { instance, .. }
            | Self::Remove { instance }
            | Self::Admit { instance, .. }
            | Self::Drain { instance }
            | Self::Expel { instance } => Some(instance),
            Self::Close | Self::Publish { .. } | Self::Withdraw => None,
        }
    }
}

/// Why a step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// A new revision or new bindings replace older ones.
    Rollout,
    /// The last good revision replaces one that failed.
    Rollback,
    /// A copy that should be there is not.
    Heal,
    /// The number of copies changed.
    Scale,
    /// The component or the App should not run.
    Retire,
    /// Traffic follows readiness, addresses follow the declaration.
    Routing,
}

/// How a copy is started: everything but secret values, which the executor adds at the last moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// The image it runs in; absent for a process of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PinnedImage>,
    /// The container engine to ask, where the target names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineAddress>,
    /// The program's files.
    pub content: Option<Content>,
    /// Command line; `{file}` still in place, because only the agent knows the path.
    pub argv: Vec<String>,
    /// Arguments after an image's own entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Working directory, relative to the instance's directory.
    pub workdir: Option<String>,
    /// Environment.
    pub env: BTreeMap<KeyName, Rendered>,
    /// Files, by path relative to the instance's directory.
    pub files: BTreeMap<String, Rendered>,
    /// Relation data by relation and key, written as the Service Binding specification says.
    pub bindings: BTreeMap<PartName, BTreeMap<KeyName, Rendered>>,
    /// Declared ports.
    pub ports: BTreeMap<PartName, u16>,
    /// Volumes: where the program sees them, and the room wanted.
    pub volumes: BTreeMap<PartName, VolumeMount>,
    /// Limits.
    pub resources: Resources,
    /// What it may do as a container.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// Probes.
    pub health: Option<Health>,
    /// Time to end when the agent itself restarts it.
    pub grace: Span,
    /// The hook whose task it is, if it is one: it runs once, and is not started again when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookPoint>,
}

impl Launch {
    /// A command line and nothing else.
    pub fn of(argv: Vec<String>) -> Self {
        Self {
            image: None,
            engine: None,
            content: None,
            argv,
            args: Vec::new(),
            workdir: None,
            env: BTreeMap::new(),
            files: BTreeMap::new(),
            bindings: BTreeMap::new(),
            ports: BTreeMap::new(),
            volumes: BTreeMap::new(),
            resources: Resources::default(),
            security: Security::default(),
            health: None,
            grace: Span::seconds(5),
            hook: None,
        }
    }
}

/// A volume in one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Where the program sees it.
    pub path: String,
    /// Room wanted.
    pub size: Option<Bytes>,
}

/// Text in which secrets are still references.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rendered(pub Vec<Fragment>);

/// A piece of [`Rendered`] text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fragment {
    /// Literal text.
    Text(String),
    /// The stable address of a component, in the form that is reached from where the copy runs.
    Host(ServiceIp),
    /// One key of a secret at one version.
    Secret {
        /// Which.
        secret: SecretRef,
        /// The Secret's generation that was current when the plan was made.
        version: Generation,
    },
}

impl Rendered {
    /// Text without secrets.
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Fragment::Text(text.into())])
    }

    /// The secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.0.iter().filter_map(|fragment| match fragment {
            Fragment::Text(_) | Fragment::Host(_) => None,
            Fragment::Secret { secret, .. } => Some(secret),
        })
    }
}

/// Addresses and routes of one App in a router, without members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The stable address of each routed component and the ports served there.
    pub services: BTreeMap<ComponentName, Service>,
    /// Host and path combinations.
    pub routes: Vec<TableRoute>,
}

impl Table {
    /// True when nothing is published.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.routes.is_empty()
    }
}

/// The stable address of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Loopback address on the node.
    pub ip: ServiceIp,
    /// Ports by name, with the numbers served on `ip`.
    pub ports: BTreeMap<PartName, u16>,
    /// How traffic is divided, where it does not matter only who has the least to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// How long a request waits for a copy, of a component that has none while nobody asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Span>,
}

/// How traffic is divided between the copies of a good revision and all others, which are tried or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// The good revision. Its copies get what the others cannot take.
    pub good: ComponentHash,
    /// Percent that all others get together. They get more where no copy of the good one is left; but 0 is none at all.
    pub others: u8,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRoute {
    /// Host name.
    pub host: String,
    /// Path prefix.
    pub path: String,
    /// Encryption.
    pub tls: TlsMode,
    /// For how long clients are told to come encrypted only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Span>,
    /// The component that answers.
    pub component: ComponentName,
    /// On which of its ports.
    pub port: PartName,
}
