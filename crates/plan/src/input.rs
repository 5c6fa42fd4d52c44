//! Everything a decision may depend on. What is not in here cannot influence a plan.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_model::gate::Ask;
use plimsoll_model::id::{
    CommitId, ComponentName, Digest, InstanceId, InterfaceName, KeyName, ObjectName, PartName, PlanNo,
    RevisionNo, TargetName, Uid,
};
use plimsoll_model::image::Sought;
use plimsoll_model::kind::{BuildFault, CertificateProblem, TargetSpec};
use plimsoll_model::object::{Generation, ObjectKey, Timestamp};
use plimsoll_model::operations::Operations;
use plimsoll_model::quantity::Span;
use plimsoll_model::relation::EndpointRef;
use plimsoll_model::revision::AppRevision;
use plimsoll_model::status::AppStatus;
use plimsoll_model::step::Plan;
use plimsoll_model::world::{ServiceIp, World};
use plimsoll_model::{App, AppSpec, Object};

use crate::path::empty_world;

/// One App as it was declared, as it was observed, and what surrounds it.
#[derive(Debug, Clone)]
pub struct Input {
    /// Project and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// Version of the declaration.
    pub generation: Generation,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// The declaration.
    pub spec: AppSpec,
    /// A person's standing instructions.
    pub operations: Operations,
    /// What the planner said last time.
    pub status: AppStatus,
    /// The current plan, where it is still kept.
    pub parent: Option<Plan>,
    /// What surrounds the App.
    pub context: Context,
    /// What drivers report of it.
    pub world: World,
    /// Whether gates pass and people let things go on, as on a Path.
    pub hopeful: bool,
}

impl Input {
    /// The input for an App of which nothing exists yet, on a target that answers.
    pub fn first(key: ObjectKey, uid: Uid, spec: AppSpec, context: Context) -> Self {
        Self {
            key,
            uid,
            generation: Generation(1),
            deleting: false,
            spec,
            operations: Operations::default(),
            status: AppStatus::default(),
            parent: None,
            world: empty_world(&context.target),
            context,
            hopeful: false,
        }
    }

    /// The number of the current plan.
    pub(crate) fn plan_no(&self) -> PlanNo {
        self.status.plan.map(|plan| plan.no).unwrap_or_default()
    }

    /// The input for a stored App.
    pub fn of(app: &Object<App>, context: Context, parent: Option<Plan>, world: World) -> Self {
        Self {
            key: app.meta.key.clone(),
            uid: app.meta.uid.clone(),
            generation: app.meta.generation,
            deleting: app.meta.deleting.is_some(),
            spec: app.spec.clone(),
            operations: app.operations.clone(),
            status: app.status.as_ref().map(|status| status.value.clone()).unwrap_or_default(),
            parent,
            context,
            world,
            hopeful: false,
        }
    }
}

/// What surrounds an App: other objects of its project, read by the reconciler.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where the App runs, after defaults.
    pub target: TargetName,
    /// That target's declaration, if it exists.
    pub target_spec: Option<TargetSpec>,
    /// The secrets that the App's declaration names, those that exist.
    pub secrets: BTreeMap<ObjectName, SecretView>,
    /// The endpoints of other Apps that the declaration names, those that exist.
    pub endpoints: BTreeMap<EndpointRef, EndpointView>,
    /// A circle of relations between Apps that this App is part of.
    pub cycle: Option<Vec<ObjectName>>,
    /// What the tags of images lead to, as far as that is known.
    pub images: BTreeMap<Sought, ImageView>,
    /// What the sources of components were built to, as far as that is known.
    pub builds: BTreeMap<ComponentName, BuildView>,
    /// Certificates of the hosts that the App's routes name, as far as anything is known of them.
    pub certificates: BTreeMap<String, CertificateView>,
    /// What was answered to the questions of gates, as far as it was.
    pub answers: BTreeMap<Ask, AnswerView>,
    /// What copies use, of those whose number follows that and as far as it is known.
    pub used: BTreeMap<InstanceId, UsedView>,
    /// The App revisions that the status names.
    pub revisions: BTreeMap<RevisionNo, AppRevision>,
    /// Host and path combinations that older Apps hold, and who holds them.
    pub taken: BTreeMap<(String, String), Option<ObjectName>>,
    /// Addresses that proved to be in use while one was being claimed.
    pub avoid: BTreeSet<ServiceIp>,
}

impl Context {
    /// Surroundings with nothing in them but a target.
    pub fn bare(target: TargetName, spec: TargetSpec) -> Self {
        Self {
            target,
            target_spec: Some(spec),
            secrets: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            cycle: None,
            images: BTreeMap::new(),
            builds: BTreeMap::new(),
            certificates: BTreeMap::new(),
            answers: BTreeMap::new(),
            used: BTreeMap::new(),
            revisions: BTreeMap::new(),
            taken: BTreeMap::new(),
            avoid: BTreeSet::new(),
        }
    }
}

/// What is known of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageView {
    /// The digest its tag leads to.
    pub digest: Option<Digest>,
    /// That tag, where it was chosen among versions.
    pub tag: Option<String>,
    /// When that was found: compared only, to tell one finding from another.
    pub since: Option<Timestamp>,
    /// Nothing was found before.
    pub is_first: bool,
    /// Why the latest question has no answer.
    pub problem: Option<String>,
}

/// What is known of a component's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildView {
    /// The object that is about it, whether or not it is there yet.
    pub build: ObjectName,
    /// The newest image that was built of it, and the commit that it is of.
    pub built: Option<(Digest, Option<CommitId>)>,
    /// Why that is not what the source leads to now.
    pub lag: Option<Lag>,
}

/// Why what was built last is not what a source leads to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// That is being built.
    Building,
    /// It cannot be built.
    Failed {
        /// Why, as a sentence that does not change while nothing else does.
        why: String,
        /// Whose fault that is.
        fault: BuildFault,
    },
}

/// What was answered to a question of a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerView {
    /// The number, or why there is none, as a sentence that does not change while nothing else does.
    pub answer: Result<f64, String>,
    /// Time since it was asked for.
    pub age: Span,
}

/// What a copy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedView {
    /// CPU time per second, in thousandths of a core.
    pub millicores: u64,
    /// Resident memory in bytes.
    pub memory: u64,
}

/// What is known of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateView {
    /// The router has one that is good.
    pub is_there: bool,
    /// Why another one is not.
    pub problem: Option<CertificateProblem>,
}

/// A secret, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretView {
    /// Its generation: the version that bindings carry.
    pub version: Generation,
    /// The keys it has.
    pub keys: BTreeSet<KeyName>,
}

/// An endpoint of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// What it speaks.
    pub interface: InterfaceName,
    /// The provider's stable address; absent until it is planned.
    pub address: Option<ServiceIp>,
    /// The provider's ports.
    pub ports: BTreeMap<PartName, u16>,
    /// The port of this endpoint.
    pub port: Option<PartName>,
    /// Data templates.
    pub data: BTreeMap<KeyName, String>,
    /// Whether a copy of the provider is ready and receives traffic.
    pub ready: bool,
}
