//! Operations: what verbs write beside `spec`. `apply` keeps them unless the file names them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::AppSpec;
use crate::id::{CommitId, ComponentHash, ComponentName, ObjectName, PlanNo};
use crate::image::ImageRef;
use crate::object::Timestamp;

/// A person's standing instructions for an App.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operations {
    /// `stop` and `start`.
    #[serde(default, skip_serializing_if = "Power::is_on")]
    pub power: Power,
    /// `rollout pause` and `resume`: healing goes on, replacing does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// `rollout restart`: raising a component's count replaces its copies once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub restarts: BTreeMap<ComponentName, u32>,
    /// `scale`: copies instead of the spec's `replicas`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("additionalProperties" = {"type": "integer", "minimum": 0, "maximum": 1000}))]
    pub replicas: BTreeMap<ComponentName, u32>,
    /// `retry`: the Rejection that a person has lifted, by component. A new failure makes a new Rejection,
    /// which this does not lift.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retry: BTreeMap<ComponentName, ObjectName>,
    /// `rollout promote`: steps of a rollout that a person has ended, by component.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub promotions: BTreeMap<ComponentName, Promotion>,
    /// `rollout abort`: rollouts that a person does not want, by component. What they lead to is rejected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aborts: BTreeMap<ComponentName, RolloutRef>,
    /// `ci deploy`: the bytes that a component's image stands for, by component.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deploys: BTreeMap<ComponentName, Deploy>,
}

/// One rollout of a component: what is said of it is not said of the next one to the same revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutRef {
    /// The component revision that it leads to.
    pub revision: ComponentHash,
    /// The number of the App's plan when it began.
    pub began: PlanNo,
}

/// Steps of a rollout that a person has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Promotion {
    /// The rollout.
    pub rollout: RolloutRef,
    /// So many steps, from the first one; with one more than there are, its end as well, whatever the gate says.
    pub steps: u32,
}

/// The bytes that somebody, most often a pipeline, has named for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deploy {
    /// The declaration's image at that time; absent once another one was declared, and this is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<ImageRef>,
    /// When the tag of that image was seen to move last, for a component that follows it. Once it moves again, this is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Timestamp>,
    /// The bytes, by the digest of their manifest or index.
    pub image: ImageRef,
    /// What they were built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

impl Operations {
    /// Ends what was deployed to components that declare another image now, or are no more. What was deployed last is kept of
    /// those that are, for what is older than that is still refused.
    pub fn end_deploys(&mut self, spec: &AppSpec) {
        self.deploys.retain(|name, _| spec.components.contains_key(name));
        for (name, deploy) in &mut self.deploys {
            let declared = spec.components.get(name).and_then(|it| it.image.as_ref());
            if deploy.of.as_ref() != declared {
                deploy.of = None;
            }
        }
    }
}

/// What an image was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Commit {
    /// Its name in its repository.
    pub id: CommitId,
    /// When it was committed: what is older does not take the place of what is newer.
    pub at: Timestamp,
}

/// Whether the App's copies should run at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// They run.
    #[default]
    On,
    /// None runs; volumes, ids and addresses stay.
    Off,
}

impl Power {
    fn is_on(&self) -> bool {
        *self == Self::On
    }
}
