//! Hooks: tasks that run once for each revision of a component, such as migrations of a database.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::{EnvValue, Resources};
use crate::id::KeyName;
use crate::quantity::Span;

/// Tasks of a component, each of which must succeed once for each of its revisions. They are part of the revision: a task that
/// was corrected is a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hooks {
    /// Runs before the first copy of a new revision starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Hook>,
    /// Runs once all copies are new and have been ready for the soak time; then the revision is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Hook>,
}

impl Hooks {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those there are.
    pub fn iter(&self) -> impl Iterator<Item = (HookPoint, &Hook)> {
        let all = [(HookPoint::Before, &self.before), (HookPoint::After, &self.after)];
        all.into_iter().filter_map(|(point, hook)| Some((point, hook.as_ref()?)))
    }
}

/// A task. It runs where the component's copies run, with their program or image, files, environment and relations, but
/// without ports and volumes. It succeeds by ending with exit code 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// The command line instead of the component's own; `{file}` stands for the program's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
    /// Arguments instead of the component's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Environment variables on top of the component's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 500))]
    pub env: BTreeMap<KeyName, EnvValue>,
    /// Its limits. Default: those of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How long it may run before it is ended and counts as failed. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

impl Hook {
    /// Deadline after the default.
    pub fn deadline(&self) -> Span {
        self.deadline.unwrap_or(Span::seconds(600))
    }
}

/// When in a rollout a hook's task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HookPoint {
    /// Before the first new copy.
    Before,
    /// After the soak time of the last one.
    After,
}

impl HookPoint {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A hook of a component revision, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The whole command line, `{file}` still in place.
    pub argv: Vec<String>,
    /// Arguments after an image's own entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment templates beside those of the component.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<KeyName, EnvValue>,
    /// Limits.
    pub resources: Resources,
    /// How long it may run.
    pub deadline: Span,
}
