//! Sources: what an image is built from before it runs.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Digest, InvalidName, ObjectName};
use crate::image::ImageRef;

/// What the repositories of built images are called on their nodes, before what tells one source from another.
const BUILT: &str = "localhost/plimsoll/built";

/// Where an image's source comes from and how it becomes one. Exactly one of `git`, `archive` and `path` is given; the server takes
/// an `archive` or `path` only together with the `digest` of the uploaded content.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A git repository: an address of https, http, ssh or file, or `user@host:path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub git: Option<String>,
    /// The branch, tag or commit of the repository. Default: its default branch.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub reference: Option<String>,
    /// A Secret of the same project that opens the repository: `username` and `password` for https, or `ssh-privatekey` and
    /// `known_hosts` for ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectName>,
    /// An archive (tar, tgz or zip), relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// A directory tree, relative to the manifest. What `.gitignore`, `.dockerignore` and `.plimsollignore` name stays behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SHA-256 of the uploaded content; filled in by the CLI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The directory of the source that is built. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The file that says how it is built, in that directory. Default: `Dockerfile`; where there is none, one is written as the
    /// language needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// The language whose recipe builds it, whether or not there is a `Dockerfile`. Default: what the files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// The image that a recipe builds on. Default: the language's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ImageRef>,
}

impl Source {
    /// What images that are built from it are called on their nodes. Another source has another name.
    ///
    /// # Panics
    /// Never: words and a digest form an image's name.
    pub fn image(&self) -> ImageRef {
        let digest = Digest::of_json(self).to_string();
        format!("{BUILT}-{}", &digest[..16]).parse().expect("words and a digest form an image's name")
    }

    /// The path that the author named, and the field that it is in; none for a repository.
    pub fn uploaded(&self) -> Option<(&'static str, &str)> {
        let archive = self.archive.as_deref().map(|path| ("archive", path));
        archive.or(self.path.as_deref().map(|path| ("path", path)))
    }

    /// Whether a commit is written: it leads to the same files for ever.
    pub fn is_commit(&self) -> bool {
        self.reference.as_deref().is_some_and(is_commit)
    }
}

/// Whether a reference is the whole name of a commit.
pub fn is_commit(reference: &str) -> bool {
    reference.len() == 40
        && reference.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// Whether all engines take a name for that of a `Dockerfile`, and for nothing else: some run others through a preprocessor, or
/// fetch them.
pub fn is_dockerfile(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-+@".contains(&byte));
    is_plain && !name.starts_with('-') && !name.to_ascii_lowercase().ends_with(".in")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (&self.git, self.uploaded()) {
            (Some(git), _) => match &self.reference {
                Some(reference) => format!("{git} {reference}"),
                None => git.clone(),
            },
            (None, Some((_, path))) => path.to_owned(),
            (None, None) => "nothing".to_owned(),
        };
        f.pad(&text)
    }
}

/// A language that there is a recipe for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// Go, by modules.
    Go,
    /// Java, by Maven or of plain files.
    Java,
    /// JavaScript, on Node.js.
    Node,
    /// PHP, on its own server.
    Php,
    /// Python 3.
    Python,
    /// Ruby.
    Ruby,
    /// Rust, by Cargo.
    Rust,
    /// Files that are served as they are.
    Static,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Go, Self::Java, Self::Node, Self::Php, Self::Python, Self::Ruby, Self::Rust, Self::Static];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Java => "java",
            Self::Node => "node",
            Self::Php => "php",
            Self::Python => "python",
            Self::Ruby => "ruby",
            Self::Rust => "rust",
            Self::Static => "static",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Language {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let unknown = || {
            InvalidName::new("language", text, "go, java, node, php, python, ruby, rust and static are known")
        };
        Self::ALL.into_iter().find(|it| it.name() == text).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_source_is_another_image() {
        let of = |reference: &str| Source {
            git: Some("https://example.org/a.git".to_owned()),
            reference: Some(reference.to_owned()),
            ..Source::default()
        };
        let image = of("main").image();
        assert!(image.repository().is_of_this_machine());
        assert_eq!(image, of("main").image());
        assert_ne!(image, of("next").image());
        assert!(
            of(&"a1".repeat(20)).is_commit() && !of("main").is_commit() && !of(&"A1".repeat(20)).is_commit()
        );
    }
}
