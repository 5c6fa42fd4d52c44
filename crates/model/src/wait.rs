//! Waits: why nothing more is due now, whose move it is, and until when that is fine.
//!
//! A wait without reason, owner and deadline cannot be written: [`Wait::new`] takes the reason and the
//! deadline, and the owner follows from the reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hook::HookPoint;
use crate::id::{
    ComponentHash, ComponentName, InstanceId, InterfaceName, KeyName, ObjectName, PartName, RuntimeName,
    TargetName,
};
use crate::image::ImageRef;
use crate::kind::BuildFault;
use crate::quantity::Span;
use crate::relation::EndpointRef;
use crate::secret::SecretRef;
use crate::step::Scope;
use crate::world::Blockage;

/// A typed reason why an object is not where it should be and nothing can be done about it right now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    component: Option<ComponentName>,
    reason: Reason,
    deadline: Span,
}

impl Wait {
    /// A wait of one component, or of the App as a whole. Once it has lasted for `deadline`, the object counts
    /// as stalled; trying goes on.
    pub fn new(component: Option<ComponentName>, reason: Reason, deadline: Span) -> Self {
        Self { component, reason, deadline }
    }

    /// The component that waits.
    pub fn component(&self) -> Option<&ComponentName> {
        self.component.as_ref()
    }

    /// What it waits for.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// How long that is fine.
    pub fn deadline(&self) -> Span {
        self.deadline
    }

    /// Whose move it is.
    pub fn owner(&self) -> Owner {
        self.reason.owner()
    }
}

/// Why nothing is due now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "reason")]
pub enum Reason {
    /// A copy runs and is not ready yet.
    NotReady {
        /// The copy.
        instance: InstanceId,
    },
    /// A copy keeps ending; the agent starts it again with growing pauses.
    Crashing {
        /// The copy.
        instance: InstanceId,
    },
    /// A copy cannot be started for a reason outside of it.
    Blocked {
        /// The copy.
        instance: InstanceId,
        /// Where.
        target: TargetName,
        /// The reason.
        by: Blockage,
    },
    /// All new copies are ready; they are watched for the soak time.
    Soaking,
    /// New copies are tried beside all old ones.
    Trying {
        /// Which step it is, from 1.
        step: u32,
        /// Of how many.
        of: u32,
        /// Percent of the traffic that goes to the new copies.
        weight: u8,
        /// Whether the step lasts until a person ends it.
        hold: bool,
    },
    /// Not enough is known of the new copies to go on with them or to go back.
    GateUndecided {
        /// What is missing.
        why: String,
    },
    /// The task of a hook runs.
    HookRunning {
        /// Which.
        hook: HookPoint,
        /// The task.
        instance: InstanceId,
    },
    /// The task of a hook is due, and something else comes first.
    HookDue {
        /// Which.
        hook: HookPoint,
    },
    /// The task of a hook has failed, and there is nothing to go back to or that is not wanted.
    HookFailed {
        /// Which.
        hook: HookPoint,
        /// The task.
        instance: InstanceId,
        /// The verdict.
        verdict: String,
    },
    /// It is not known what copies have to do, so their number stays.
    ScaleUndecided {
        /// What is missing.
        why: String,
    },
    /// A copy finishes the requests it has.
    Draining {
        /// The copy.
        instance: InstanceId,
    },
    /// A copy was asked to end.
    Stopping {
        /// The copy.
        instance: InstanceId,
    },
    /// A rollout waits until a provider in the same App has finished its own.
    ProviderRolling {
        /// The provider.
        provider: ComponentName,
    },
    /// The provider exists and is not ready.
    ProviderNotReady {
        /// What is consumed.
        from: EndpointRef,
    },
    /// Nothing provides that.
    ProviderMissing {
        /// What is consumed.
        from: EndpointRef,
    },
    /// The relation has no such value.
    RelationValueMissing {
        /// The relation.
        relation: PartName,
        /// The value asked for.
        key: KeyName,
    },
    /// The endpoint provides something else.
    InterfaceMismatch {
        /// What is consumed.
        from: EndpointRef,
        /// The interface wanted.
        wanted: InterfaceName,
        /// The interface provided.
        provided: InterfaceName,
    },
    /// Apps consume each other in a circle; none of them could ever start.
    RelationCycle {
        /// The Apps, in order, the first repeated at the end.
        apps: Vec<ObjectName>,
    },
    /// A secret or a key of it does not exist.
    SecretMissing {
        /// Which.
        secret: SecretRef,
    },
    /// The target does not exist.
    TargetMissing {
        /// Which.
        target: TargetName,
    },
    /// The target has no such runtime.
    RuntimeMissing {
        /// Where.
        target: TargetName,
        /// Which.
        runtime: RuntimeName,
    },
    /// The target runs programs as containers, and nothing says of which image.
    NoImage {
        /// Where.
        target: TargetName,
    },
    /// It is not known yet what an image's tag leads to.
    ImageUnresolved {
        /// The image as it is declared.
        image: Box<ImageRef>,
        /// Why, once that is known.
        why: Option<String>,
    },
    /// What an image is to be built from is being built, or cannot be.
    Unbuilt {
        /// The source, in words.
        source: String,
        /// What is known of it.
        build: ObjectName,
        /// Why it is not, once that is known.
        why: Option<String>,
        /// Whose fault that is.
        fault: BuildFault,
    },
    /// A driver does not answer: what it holds is unknown, so nothing is created or forgotten there.
    Unreachable {
        /// Which.
        scope: Scope,
    },
    /// The router is of an earlier version, which cannot divide traffic between revisions.
    RouterOutdated {
        /// Which.
        scope: Scope,
    },
    /// A driver refused or failed a step; it is tried again.
    StepFailed {
        /// Which.
        scope: Scope,
        /// The driver's words.
        error: String,
    },
    /// Another, older App has the same host and path.
    RouteTaken {
        /// Host and path.
        route: String,
        /// The App that has it, or its tombstone, if it is one of the same project: others need not know.
        by: Option<ObjectName>,
    },
    /// A route is to be encrypted, and there is no certificate for its host.
    CertificateMissing {
        /// The host.
        host: String,
        /// Why, once that is known.
        why: Option<String>,
        /// Nothing but a person's act helps.
        #[serde(rename = "needsPerson")]
        needs_person: bool,
    },
    /// The declared revision was rejected.
    Rejected {
        /// The rejection.
        rejection: ObjectName,
        /// What was rejected.
        revision: ComponentHash,
    },
    /// A rollout failed, and there is nothing to go back to or that is not wanted.
    GateFailed {
        /// The verdict.
        verdict: String,
    },
    /// A person paused the rollout.
    Paused,
    /// Everything was restored from a backup: nothing is done until a person has seen what that would be.
    OnHold,
}

/// Whose move it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "owner")]
pub enum Owner {
    /// Whoever declares the App.
    Person,
    /// The program itself, by its probe.
    Program,
    /// A provider.
    Provider {
        /// Which.
        from: EndpointRef,
    },
    /// A driver's far side: node or router.
    Driver {
        /// Which.
        scope: Scope,
    },
    /// The registry of an image.
    Registry {
        /// Its host.
        registry: String,
    },
    /// Whoever writes or keeps what an image is built from.
    Source {
        /// The source, in words.
        source: String,
    },
    /// The authority that gives out certificates.
    Authority,
    /// Whoever knows what a gate asks for: those who send requests, Prometheus.
    Measurer,
    /// Plimsoll.
    Plimsoll,
}

impl Reason {
    /// Whose move it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::NotReady { .. }
            | Self::Crashing { .. }
            | Self::HookRunning { .. }
            | Self::Stopping { .. } => Owner::Program,
            Self::ImageUnresolved { image, .. } => {
                Owner::Registry { registry: image.repository().registry().to_owned() }
            }
            Self::Unbuilt { why: None, .. } => Owner::Plimsoll,
            Self::Unbuilt { source, .. } => Owner::Source { source: source.clone() },
            Self::CertificateMissing { needs_person: false, .. } => Owner::Authority,
            Self::Blocked { target, .. } => Owner::Driver { scope: Scope::Node(target.clone()) },
            Self::ProviderNotReady { from } => Owner::Provider { from: from.clone() },
            Self::Unreachable { scope } | Self::StepFailed { scope, .. } => {
                Owner::Driver { scope: scope.clone() }
            }
            Self::GateUndecided { .. } | Self::ScaleUndecided { .. } => Owner::Measurer,
            Self::Soaking
            | Self::Trying { hold: false, .. }
            | Self::HookDue { .. }
            | Self::Draining { .. }
            | Self::ProviderRolling { .. } => Owner::Plimsoll,
            Self::ProviderMissing { .. }
            | Self::RelationValueMissing { .. }
            | Self::InterfaceMismatch { .. }
            | Self::RelationCycle { .. }
            | Self::SecretMissing { .. }
            | Self::TargetMissing { .. }
            | Self::RuntimeMissing { .. }
            | Self::NoImage { .. }
            | Self::RouteTaken { .. }
            | Self::CertificateMissing { .. }
            | Self::Rejected { .. }
            | Self::GateFailed { .. }
            | Self::HookFailed { .. }
            | Self::Trying { .. }
            | Self::RouterOutdated { .. }
            | Self::Paused
            | Self::OnHold => Owner::Person,
        }
    }

    /// True when nothing but a person's act can end it, so that waiting longer is pointless; but for what a person has asked
    /// to wait for.
    pub fn is_stall(&self) -> bool {
        let is_broken = matches!(self, Self::Unbuilt { why: Some(_), fault: BuildFault::Source, .. });
        let is_of_person =
            self.owner() == Owner::Person && !matches!(self, Self::Paused | Self::Trying { .. });
        is_broken || is_of_person
    }

    /// What to do about it, as a command or a sentence.
    #[expect(clippy::too_many_lines, reason = "one arm for each reason")]
    pub fn next_step(&self) -> String {
        match self {
            Self::NotReady { instance }
            | Self::Crashing { instance }
            | Self::HookRunning { instance, .. } => {
                format!("see its output: plimsoll logs {instance}")
            }
            Self::HookFailed { instance, .. } => run_again(instance),
            Self::Blocked { by, target, instance } => unblocked(by, target, instance),
            Self::Soaking
            | Self::Trying { hold: false, .. }
            | Self::HookDue { .. }
            | Self::Draining { .. }
            | Self::Stopping { .. }
            | Self::ProviderRolling { .. } => "nothing: it ends by itself".into(),
            Self::Trying { .. } => "plimsoll rollout promote, or plimsoll rollout abort".into(),
            Self::GateUndecided { .. } => DECIDE_WITHOUT.into(),
            Self::ScaleUndecided { .. } => {
                "nothing, if it ends by itself; plimsoll scale says how many".into()
            }
            Self::ProviderNotReady { from } => match &from.app {
                Some(app) => format!("plimsoll why app/{app}"),
                None => format!("look at component {} of this App", from.component),
            },
            Self::ProviderMissing { from } => format!("declare {from}, or correct `from`"),
            Self::RelationValueMissing { relation, key } => {
                format!("let the provider of {relation} offer {key} as data, or correct the name")
            }
            Self::InterfaceMismatch { .. } => "correct the interface on one side".into(),
            Self::RelationCycle { .. } => "take one of these relations away".into(),
            Self::SecretMissing { secret } => {
                format!("plimsoll secret set {} {}=-", secret.name, secret.key)
            }
            Self::TargetMissing { .. } => "see `plimsoll get targets`, correct `target`".into(),
            Self::RuntimeMissing { target, .. } => {
                format!("add the runtime to target {target}, or give `command`")
            }
            Self::NoImage { .. } => {
                "give `image`, or a `program` with a runtime whose image the target names".into()
            }
            Self::ImageUnresolved { image, .. } => format!("see plimsoll images; is {image} written right?"),
            Self::Unbuilt { build, why: None, .. } => format!("see its log: plimsoll builds log {build}"),
            Self::Unbuilt { build, fault: BuildFault::Source, .. } => {
                format!("see plimsoll builds log {build}, and correct the source")
            }
            Self::Unbuilt { build, .. } => format!("it is tried again; see plimsoll builds log {build}"),
            Self::Unreachable { scope } => {
                format!(
                    "see whether {scope} is up; `plimsoll delete APP --abandon` gives the App up without it"
                )
            }
            Self::RouterOutdated { scope } => {
                format!(
                    "end the process of {scope}: it comes back at once as one of this version; or use `rolling`"
                )
            }
            Self::StepFailed { scope, .. } => format!("see whether {scope} is up"),
            Self::RouteTaken { by: Some(by), .. } if is_tombstone(by) => {
                format!("see plimsoll get tombstones/{by}: the route is free once its target answers")
            }
            Self::RouteTaken { by: Some(by), .. } => format!("change the route here or in app {by}"),
            Self::RouteTaken { by: None, .. } => "change the route".into(),
            Self::CertificateMissing { needs_person: true, .. } => {
                "correct that, or the route's `tls`; see docs/https.md".into()
            }
            Self::CertificateMissing { host, .. } => {
                format!("it is tried again; does {host} lead to this machine?")
            }
            Self::Rejected { rejection, .. } => {
                format!("change the component, or lift it: plimsoll retry {rejection}")
            }
            Self::GateFailed { .. } => "change the component; it is tried again meanwhile".into(),
            Self::Paused => "plimsoll rollout resume".into(),
            Self::OnHold => "see what would be done, and let it be done: plimsoll backup release".into(),
        }
    }
}

/// What to do about a gate that cannot decide.
const DECIDE_WITHOUT: &str =
    "it is judged once that is known; plimsoll rollout promote or abort decides without";

/// What to do about a task that failed.
fn run_again(instance: &InstanceId) -> String {
    let again = "then change the component, or run it again: plimsoll rollout restart";
    format!("see its output: plimsoll logs {instance}; {again}")
}

/// Whether a name is a tombstone's: names of Apps have no dots.
fn is_tombstone(name: &ObjectName) -> bool {
    name.as_str().contains('.')
}

/// What to do about what keeps a copy from its start.
fn unblocked(by: &Blockage, target: &TargetName, instance: &InstanceId) -> String {
    match by {
        Blockage::Disk => format!("free some space on {target}"),
        Blockage::Processes => format!("end some processes on {target}"),
        Blockage::Network => {
            format!("see the copy's log, and `ip link` and `nft list ruleset` on {target}")
        }
        Blockage::Content => "apply the file again: plimsoll apply -f FILE".into(),
        Blockage::Engine => {
            format!("start Docker or Podman on {target}, or name its socket: `engine` of target {target}")
        }
        Blockage::Pulling => "nothing: it ends by itself".into(),
        Blockage::Image => "push the image, or correct `image`".into(),
        Blockage::ImageForbidden => "give the engine's user a login: docker login, podman login".into(),
        Blockage::Registry => "see whether the registry is up; it is asked again meanwhile".into(),
        Blockage::Refused => format!("see what it says: plimsoll logs {instance}"),
    }
}

impl fmt::Display for Reason {
    #[expect(clippy::too_many_lines, reason = "one arm for each reason")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady { instance } => write!(f, "{instance} is not ready yet"),
            Self::Crashing { instance } => write!(f, "{instance} keeps ending and is started again"),
            Self::Blocked { instance, target, by } => {
                write!(f, "{instance} cannot start on {target}: {by}")
            }
            Self::Soaking => f.write_str("all new copies are ready and watched for the soak time"),
            Self::Trying { step, of, weight, hold } => {
                let until = if *hold { "until a person goes on" } else { "and are watched" };
                write!(f, "step {step} of {of}: new copies get {weight} % of the traffic {until}")
            }
            Self::ScaleUndecided { why } => write!(f, "the number of copies stays: {why}"),
            Self::GateUndecided { why } => write!(f, "the gate cannot decide: {why}"),
            Self::HookRunning { hook, instance } => write!(f, "hook `{hook}` runs as {instance}"),
            Self::HookDue { hook } => write!(f, "hook `{hook}` is due, and something else comes first"),
            Self::HookFailed { verdict, .. } => write!(f, "the rollout failed: {verdict}"),
            Self::Draining { instance } => write!(f, "{instance} finishes its requests"),
            Self::Stopping { instance } => write!(f, "{instance} is ending"),
            Self::ProviderRolling { provider } => write!(f, "{provider} is rolled first"),
            Self::ProviderNotReady { from } => write!(f, "{from} is not ready"),
            Self::ProviderMissing { from } => write!(f, "nothing provides {from}"),
            Self::RelationValueMissing { relation, key } => {
                write!(f, "relation {relation} has no value {key}")
            }
            Self::InterfaceMismatch { from, wanted, provided } => {
                write!(f, "{from} provides {provided}, not {wanted}")
            }
            Self::RelationCycle { apps } => {
                let names: Vec<&str> = apps.iter().map(ObjectName::as_str).collect();
                write!(f, "Apps consume each other in a circle: {}", names.join(" -> "))
            }
            Self::SecretMissing { secret } => write!(f, "secret {secret} does not exist"),
            Self::TargetMissing { target } => write!(f, "target {target} does not exist"),
            Self::RuntimeMissing { target, runtime } => write!(f, "target {target} has no runtime {runtime}"),
            Self::NoImage { target } => {
                write!(f, "target {target} runs programs as containers, and there is no image for it")
            }
            Self::ImageUnresolved { image, why: None } => {
                write!(f, "the registry is asked what {image} is")
            }
            Self::ImageUnresolved { image, why: Some(why) } => {
                write!(f, "what {image} is, is not known: {why}")
            }
            Self::Unbuilt { source, why: None, .. } => write!(f, "{source} is being built"),
            Self::Unbuilt { source, why: Some(why), .. } => write!(f, "{source} is not built: {why}"),
            Self::Unreachable { scope } => write!(f, "{scope} does not answer"),
            Self::RouterOutdated { scope } => {
                write!(f, "{scope} is of an earlier version and cannot divide traffic")
            }
            Self::StepFailed { scope, error } => write!(f, "{scope} failed a step: {error}"),
            Self::RouteTaken { route, by: Some(by) } if is_tombstone(by) => {
                write!(f, "route {route} may still lead to an app that was given up, tombstone {by}")
            }
            Self::RouteTaken { route, by: Some(by) } => {
                write!(f, "route {route} belongs to app {by}, which is older")
            }
            Self::RouteTaken { route, by: None } => {
                write!(f, "route {route} belongs to an older app of another project")
            }
            Self::CertificateMissing { host, why: None, .. } => {
                write!(f, "a certificate for {host} is being got")
            }
            Self::CertificateMissing { host, why: Some(why), .. } => {
                write!(f, "there is no certificate for {host}: {why}")
            }
            Self::Rejected { revision, .. } => write!(f, "revision {} was rejected", revision.short()),
            Self::GateFailed { verdict } => {
                write!(f, "the rollout failed: {verdict}")
            }
            Self::Paused => f.write_str("a person paused the rollout"),
            Self::OnHold => f.write_str("everything was restored from a backup and is on hold"),
        }
    }
}
