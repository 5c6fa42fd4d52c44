//! What a good file is turned into.

use std::collections::BTreeMap;

use plimsoll_model::Attached;
use plimsoll_model::id::{KeyName, LabelName, ObjectName, ProjectName};
use plimsoll_model::kind::{App, Project, Target};
use plimsoll_model::object::Kind;
use plimsoll_model::secret::Sensitive;
use serde::Deserialize;

use crate::schema::DocumentKind;

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// Components that belong together.
    App(Declared<App>),
    /// A tenant.
    Project(Declared<Project>),
    /// Where instances run.
    Target(Declared<Target>),
    /// Write-only values.
    Secret(SecretDeclared),
}

impl Document {
    /// What it declares.
    pub fn kind(&self) -> DocumentKind {
        match self {
            Self::App(_) => DocumentKind::App,
            Self::Project(_) => DocumentKind::Project,
            Self::Target(_) => DocumentKind::Target,
            Self::Secret(_) => DocumentKind::Secret,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::App(it) => &it.metadata,
            Self::Project(it) => &it.metadata,
            Self::Target(it) => &it.metadata,
            Self::Secret(it) => &it.metadata,
        }
    }

    /// The line in the file where it begins, from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::App(it) => it.line,
            Self::Project(it) => it.line,
            Self::Target(it) => it.line,
            Self::Secret(it) => it.line,
        }
    }
}

/// A declaration of some kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<K: Kind> {
    /// The line in the file where it begins, from 1.
    pub line: usize,
    /// Name, project and labels.
    pub metadata: Metadata,
    /// What people declare.
    pub spec: K::Spec,
    /// What verbs write; absent means: as it is.
    pub operations: Option<K::Operations>,
}

/// Values for a Secret. They cannot be printed.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretDeclared {
    /// The line in the file where it begins, from 1.
    pub line: usize,
    /// Name, project and labels.
    pub metadata: Metadata,
    /// The values by key.
    pub data: BTreeMap<KeyName, Sensitive<String>>,
}

/// What people say about an object beside its spec.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMetadata")]
pub struct Metadata {
    /// Its name within its kind and project.
    pub name: ObjectName,
    /// The owning project; absent means: that of the context, or none for kinds of the installation.
    pub project: Option<ProjectName>,
    /// For selection by people and tools.
    pub labels: BTreeMap<LabelName, String>,
    /// For tools.
    pub annotations: BTreeMap<LabelName, String>,
}

impl Metadata {
    /// What it attaches to its object.
    pub fn attached(&self) -> Attached {
        let (labels, annotations) = (self.labels.clone(), self.annotations.clone());
        Attached { labels, annotations, managers: Vec::new() }
    }
}

/// The document form of [`Metadata`]. That only one of the two names of the project is given is checked
/// beside the schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetadata {
    name: ObjectName,
    project: Option<ProjectName>,
    namespace: Option<ProjectName>,
    #[serde(default)]
    labels: BTreeMap<LabelName, String>,
    #[serde(default)]
    annotations: BTreeMap<LabelName, String>,
}

impl From<RawMetadata> for Metadata {
    fn from(raw: RawMetadata) -> Self {
        let RawMetadata { name, project, namespace, labels, annotations } = raw;
        Self { name, project: project.or(namespace), labels, annotations }
    }
}
