//! References to container images, as people write them.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::id::{Digest, InvalidName};
use crate::update::ImageUpdate;
use crate::version::VersionRange;

/// Where an image comes from when its reference names no registry.
const USUAL_REGISTRY: &str = "docker.io";

/// The tag when neither tag nor digest is written.
const USUAL_TAG: &str = "latest";

/// The registry of images that exist on their node only, as Podman names it.
const THIS_MACHINE: &str = "localhost";

/// `[registry/]repository[:tag][@sha256:…]`, kept as it was written. What is left out is filled in as container
/// engines do. See the OCI distribution specification for the grammar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    text: String,
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Where images of one name are kept: a registry and a path in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository {
    registry: String,
    path: String,
}

/// What a registry is asked for: which bytes a tag leads to, or which is the newest version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sought {
    /// The image as Apps name it.
    pub image: ImageRef,
    /// The versions one of which takes the place of the image's tag.
    pub range: Option<VersionRange>,
}

impl Sought {
    /// What has to be asked of an image that is followed, or only pinned, so.
    pub fn by(update: &ImageUpdate, image: &ImageRef) -> Self {
        Self { image: image.clone(), range: update.range().cloned() }
    }
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.range {
            Some(range) => write!(f, "{} {range}", self.image),
            None => self.image.fmt(f),
        }
    }
}

impl ImageRef {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag that is followed; `None` where the digest alone says it all.
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some(USUAL_TAG),
            (None, Some(_)) => None,
        }
    }

    /// Whether a tag is written.
    pub fn has_tag(&self) -> bool {
        self.tag.is_some()
    }

    /// Another tag of the same repository.
    ///
    /// # Errors
    /// [`InvalidName`] for what no tag is.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidName> {
        format!("{}:{tag}", self.repository).parse()
    }

    /// The digest, if it is written: nothing else is meant then, whatever the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The tag of its repository, without a digest.
    pub fn tagged(&self) -> String {
        format!("{}:{}", self.repository, self.tag().unwrap_or(USUAL_TAG))
    }
}

impl Repository {
    /// The registry: a host name, with its port if one is written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether its images exist on their node only.
    pub fn is_of_this_machine(&self) -> bool {
        self.registry == THIS_MACHINE
    }

    /// One of its images, as engines take it.
    pub fn pinned(&self, digest: Digest) -> String {
        format!("{self}@sha256:{digest}")
    }
}

/// Parts of a path: lower-case letters and digits, with `.`, `-`, `_` or `__` between them.
fn is_path(text: &str) -> bool {
    let part = |part: &str| {
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = part.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(byte);
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    text.len() <= 255 && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|first| word(*first))
        && bytes.iter().all(|byte| word(*byte) || b".-".contains(byte))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "443"));
    let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    let begins = host.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && host.len() <= 253 && host.bytes().all(host_byte) && port.parse::<u16>().is_ok()
}

impl FromStr for Repository {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| InvalidName::new("image", text, rule);
        // The first part is a registry if it could not be a part of a path, as engines have it.
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == THIS_MACHINE => (first, rest),
            _ => (USUAL_REGISTRY, text),
        };
        if !is_registry(registry) {
            return Err(invalid("the registry is a host name, with a port if need be"));
        }
        if !is_path(path) {
            return Err(invalid("a repository is lower-case letters, digits, `.`, `-`, `_` and `/`"));
        }
        let official = registry == USUAL_REGISTRY && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path.to_owned() };
        Ok(Self { registry: registry.to_owned(), path })
    }
}

impl FromStr for ImageRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| InvalidName::new("image", text, rule);
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
                (name, Some(digest.ok_or_else(|| invalid("a digest is `@sha256:` and 64 digits"))?))
            }
            None => (text, None),
        };
        // What follows the last colon is a tag, unless that colon belongs to the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag is up to 128 letters, digits, `_`, `.` and `-`"));
        }
        let repository = name.parse().map_err(|error: InvalidName| invalid(error.rule))?;
        Ok(Self { text: text.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Forms of a type that is written as text.
macro_rules! text_forms {
    ($name:ident, $of:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let of: fn(&$name) -> String = $of;
                f.pad(&of(self))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

text_forms!(ImageRef, |it| it.text.clone());
text_forms!(Repository, |it| format!("{}/{}", it.registry, it.path));

impl JsonSchema for ImageRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ImageRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._:/-]*(@sha256:[0-9a-f]{64})?$",
            "description": "A container image: `[registry/]repository[:tag][@sha256:…]`",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in_as_engines_do() {
        for (text, repository, tag) in [
            ("postgres", "docker.io/library/postgres", Some("latest")),
            ("postgres:16", "docker.io/library/postgres", Some("16")),
            ("team/app:v1", "docker.io/team/app", Some("v1")),
            ("localhost/app", "localhost/app", Some("latest")),
            ("localhost:5000/app:x", "localhost:5000/app", Some("x")),
            ("ghcr.io/a/b/c:1.2-rc.1", "ghcr.io/a/b/c", Some("1.2-rc.1")),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app", Some("latest")),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!((image.repository().to_string(), image.tag()), (repository.to_owned(), tag), "{text}");
            assert_eq!(image.to_string(), text, "it is kept as it was written");
        }
        let digits = "ab".repeat(32);
        let image: ImageRef = format!("app@sha256:{digits}").parse().unwrap();
        assert_eq!((image.tag(), image.digest().unwrap().to_string()), (None, digits.clone()));
        let image: ImageRef = format!("app:1@sha256:{digits}").parse().unwrap();
        assert_eq!((image.tag(), image.digest().is_some()), (Some("1"), true));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(300);
        for text in [
            "",
            "App",
            "a b",
            "a//b",
            "-a",
            "a:",
            "a:b:c",
            "a@sha256:12",
            "a@md5:12",
            "reg.io:x/a",
            "../a",
            &long,
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }
}
