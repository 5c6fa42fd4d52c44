//! Operations: what verbs write beside `spec`. `apply` keeps them unless the file names them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{ComponentName, ObjectName};

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
