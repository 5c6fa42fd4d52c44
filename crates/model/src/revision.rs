//! Revisions: the immutable versions of what runs, and the rejections of those that failed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::app::{AppSpec, EnvValue, FileContent, Resources, Security, Volume};
use crate::health::Health;
use crate::hook::{HookPoint, Task};
use crate::id::{CommitId, ComponentHash, ComponentName, Digest, KeyName, PartName, RevisionNo, Uid};
use crate::image::{ImageRef, Repository};
use crate::quantity::Span;

/// What the copies of a component run. Not in it: replicas, update policy, routes, labels, relation data and
/// secret values, so that changing those replaces no copy by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentRevision {
    /// The image it runs in; absent for a process of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PinnedImage>,
    /// The program's files.
    pub content: Option<Content>,
    /// The whole command line, `{file}` still in place.
    pub argv: Vec<String>,
    /// Arguments after an image's own entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Working directory, relative to the instance's directory.
    pub workdir: Option<String>,
    /// Declared ports.
    pub ports: BTreeMap<PartName, u16>,
    /// Environment templates.
    pub env: BTreeMap<KeyName, EnvValue>,
    /// File templates.
    pub files: BTreeMap<String, FileContent>,
    /// Volumes.
    pub volumes: BTreeMap<PartName, Volume>,
    /// Limits.
    pub resources: Resources,
    /// What it may do as a container.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// Probes.
    pub health: Option<Health>,
    /// Time to end.
    pub grace: Span,
    /// Tasks that must succeed once for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<HookPoint, Task>,
}

impl ComponentRevision {
    /// Its identity.
    pub fn hash(&self) -> ComponentHash {
        ComponentHash(Digest::of_json(self))
    }
}

/// An image that nothing can change any more. The tag that led to it is the declaration's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedImage {
    /// Where it comes from.
    pub repository: Repository,
    /// Digest of its manifest or index; of an image that exists on its node only, its id there.
    pub digest: Digest,
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.repository.pinned(self.digest))
    }
}

/// Files of a program, by digest: the bytes themselves lie in the content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// One file.
    File {
        /// Its name in the instance's directory.
        name: String,
        /// SHA-256 of its bytes.
        digest: Digest,
    },
    /// A directory tree.
    Tree {
        /// SHA-256 of the tree's [`Listing`].
        digest: Digest,
        /// The file that `{file}` stands for.
        entry: Option<String>,
    },
    /// One file that each copy gets by itself.
    Fetched {
        /// SHA-256 of its bytes.
        digest: Digest,
    },
    /// The text itself.
    Inline {
        /// Name of the file it is written to.
        name: String,
        /// The text.
        text: String,
    },
}

/// What a directory tree holds. It is content itself, as JSON: a tree is known by the digest of that text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Files by path, relative to the tree and with `/` between its parts.
    pub files: BTreeMap<String, ListedFile>,
}

/// A file of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedFile {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Whether its owner may execute it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

impl Content {
    /// What must be in the content store before a copy can start.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::File { digest, .. } | Self::Tree { digest, .. } | Self::Fetched { digest } => Some(*digest),
            Self::Inline { .. } => None,
        }
    }
}

/// An immutable version of an App: what each component ran, and the declaration it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRevision {
    /// Number within the App.
    pub number: RevisionNo,
    /// The App.
    pub app: Uid,
    /// The declaration, for `rollout undo`.
    pub declaration: AppSpec,
    /// What each component runs.
    pub components: BTreeMap<ComponentName, ComponentRevision>,
    /// The images as they were named when the components' images were pinned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<ComponentName, ImageRef>,
    /// How images were pinned, where their names alone do not say it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chosen: BTreeMap<ComponentName, Chosen>,
}

/// How an image was pinned to other bytes than those that its tag leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Chosen {
    /// Somebody named them.
    Deployed {
        /// What they were built from, as far as that was said.
        commit: Option<CommitId>,
    },
    /// They were built.
    Built {
        /// From this commit, if the source is a repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<CommitId>,
    },
    /// They were the newest version.
    Version {
        /// Its tag.
        tag: String,
    },
}

impl AppRevision {
    /// What of the content store it is made of, listings of trees unopened; the sources too, which may have to be built again.
    pub fn content(&self) -> impl Iterator<Item = Digest> {
        let files = self.components.values().filter_map(|it| it.content.as_ref().and_then(Content::digest));
        files.chain(self.declaration.content())
    }

    /// The component revisions by identity.
    pub fn hashes(&self) -> BTreeMap<ComponentName, ComponentHash> {
        self.components.iter().map(|(name, revision)| (name.clone(), revision.hash())).collect()
    }
}

/// A component revision that failed its gate through its own fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectionRecord {
    /// The App.
    pub app: Uid,
    /// The component.
    pub component: ComponentName,
    /// What was rejected.
    pub revision: ComponentHash,
    /// Digest of its content, where it has one.
    pub digest: Option<Digest>,
    /// What was seen.
    pub evidence: Evidence,
}

/// What was seen of a failed copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The gate's verdict, as a sentence.
    pub verdict: String,
    /// The copy that was worst off.
    #[serde(default)]
    pub instance: Option<crate::id::InstanceId>,
    /// Output of the last probe.
    pub probe: Option<String>,
    /// How the last run ended.
    pub exit: Option<crate::world::Exit>,
    /// The last lines of its log.
    pub log: Vec<String>,
}
