//! The shape every stored object has: metadata, what people declared, what the system observed.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fields::Manager;
use crate::id::{LabelName, ObjectName, ProjectName, Uid};

/// A kind of object. Implemented by the marker types of [`crate::kind`].
pub trait Kind: Copy + fmt::Debug + Send + Sync + 'static {
    /// Name of the kind in documents: `App`.
    const NAME: &'static str;
    /// Name of the collection in paths and commands: `apps`.
    const PLURAL: &'static str;
    /// Whether its objects belong to a project.
    const SCOPE: KindScope;
    /// What people declare.
    type Spec: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What verbs write beside the spec; `()` for kinds without verbs.
    type Operations: Clone
        + fmt::Debug
        + Default
        + PartialEq
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// What the system found; `()` for kinds that are records of the system themselves.
    type Status: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// Whether objects of a kind belong to a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KindScope {
    /// One tenant owns it.
    Project,
    /// It belongs to the installation.
    Installation,
}

/// Declares a revision-like number of the store.
macro_rules! store_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

store_number!(
    /// Version of a stored object: changes with every write of it. Opaque to clients; compared for equality
    /// in preconditions and, within one kind, ordered by commit.
    Revision
);
store_number!(
    /// Version of a declaration: changes with every change of spec, operations or deletion mark, and with
    /// nothing else.
    Generation
);

/// Wall-clock time in milliseconds since 1970-01-01 UTC. Only for people: no decision is made on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// As RFC 3339 says it, in UTC and with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time: jiff::Timestamp = text.parse()?;
        Ok(Self(u64::try_from(time.as_millisecond()).unwrap_or(0)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Version 0.1 stored milliseconds.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Millis(u64),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Form::Millis(millis) => Ok(Self(millis)),
        }
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time"})
    }
}

/// Name of an object within its kind. `project` is absent for kinds of the installation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ObjectKey {
    /// The owning tenant.
    pub project: Option<ProjectName>,
    /// The name within it.
    pub name: ObjectName,
}

impl ObjectKey {
    /// Key of an object that belongs to a project.
    pub fn in_project(project: ProjectName, name: ObjectName) -> Self {
        Self { project: Some(project), name }
    }

    /// Key of an object that belongs to the installation.
    pub fn of_installation(name: ObjectName) -> Self {
        Self { project: None, name }
    }

    /// The key of another object of the same project.
    #[must_use]
    pub fn sibling(&self, name: ObjectName) -> Self {
        Self { project: self.project.clone(), name }
    }
}
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.project {
            Some(project) => write!(f, "{project}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// What is true of every object, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Identity for life.
    pub uid: Uid,
    /// Project and name.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// The object this one is a record of; it goes when the owner goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Uid>,
    /// What people and tools attach to it.
    #[serde(flatten)]
    pub attached: Attached,
    /// When it was made.
    #[serde(rename = "creationTimestamp", alias = "created")]
    pub created: Timestamp,
    /// Set once deletion was asked for; the object goes when nothing of it is left in the world.
    #[serde(
        default,
        rename = "deletionTimestamp",
        alias = "deleting",
        skip_serializing_if = "Option::is_none"
    )]
    pub deleting: Option<Timestamp>,
    /// Version of the stored object.
    #[serde(rename = "resourceVersion", alias = "revision", with = "as_text")]
    pub revision: Revision,
    /// Version of the declaration.
    pub generation: Generation,
}

/// What people and tools attach to an object; no reconciler reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// For selection by people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelName, String>,
    /// For tools, which find them again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<LabelName, String>,
    /// Who set which field, once somebody applied a part of the object.
    #[serde(default, rename = "managedFields", skip_serializing_if = "Vec::is_empty")]
    pub managers: Vec<Manager>,
}

/// A resource version is text to clients, who compare it for equality only.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Revision;

    pub(super) fn serialize<S: Serializer>(revision: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(revision)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Revision, D::Error> {
        /// Version 0.1 stored a number.
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(u64),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse().map(Revision).map_err(serde::de::Error::custom),
            Form::Number(number) => Ok(Revision(number)),
        }
    }
}

/// A stored object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<K: Kind> {
    /// What is true of every object.
    pub meta: Metadata,
    /// Written by people only.
    pub spec: K::Spec,
    /// Written by verbs only.
    pub operations: K::Operations,
    /// Written by the one reconciler of the kind.
    pub status: Option<Observed<K::Status>>,
}

/// A status with what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed<S> {
    /// The declaration it speaks of.
    #[serde(rename = "observedGeneration")]
    pub of: Generation,
    /// When the stored status last changed.
    #[serde(rename = "observedAt")]
    pub at: Timestamp,
    /// The status itself.
    #[serde(flatten)]
    pub value: S,
}
