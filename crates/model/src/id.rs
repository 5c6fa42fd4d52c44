//! Ids and names. A name is chosen by a person and checked once, when it is made; an id is made by us.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hook::HookPoint;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidName {
    /// What the text was meant to be, in our vocabulary.
    pub what: &'static str,
    /// The text itself, cut to a printable length.
    pub text: String,
    /// The rule it breaks, as a sentence part.
    pub rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

/// The rule for names that become part of host names and labels (RFC 1123 label, at most 63 bytes).
const LABEL_RULE: &str =
    "use 1 to 63 lower-case letters, digits or '-', beginning and ending with a letter or digit";
/// The same rule as a regular expression, for JSON Schema.
const LABEL_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| inner(b) || b == b'-')
        && bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner)
}

/// The rule for environment variables and keys of secrets and relation data.
const KEY_RULE: &str = "use 1 to 128 letters, digits, '_', '-' or '.', not beginning with a digit";
const KEY_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_.-]{0,127}$";

fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && !bytes[0].is_ascii_digit()
        && bytes[0] != b'-'
        && bytes[0] != b'.'
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

const QUALIFIED_RULE: &str =
    "use up to 128 letters, digits, '_', '-' or '.', after an optional domain name and '/'";
const QUALIFIED_PATTERN: &str = "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$";

fn is_qualified(text: &str) -> bool {
    let is_domain = |text: &str| {
        let bytes = text.as_bytes();
        let is_good = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=253).contains(&bytes.len())
            && bytes.iter().all(|b| is_good(b) || matches!(b, b'.' | b'-'))
            && bytes.first().is_some_and(is_good)
            && bytes.last().is_some_and(is_good)
    };
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    let bytes = name.as_bytes();
    domain.is_none_or(is_domain)
        && (1..=128).contains(&bytes.len())
        && !matches!(bytes[0], b'-' | b'.')
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

const COMMIT_RULE: &str =
    "use 1 to 128 letters, digits, '.', '_', '+', '/' or '-', beginning with a letter or digit";
const COMMIT_PATTERN: &str = "^[0-9A-Za-z][0-9A-Za-z._+/-]{0,127}$";

fn is_commit(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._+/-".contains(b))
}

const MANAGER_RULE: &str = "use 1 to 128 visible ASCII characters";
const MANAGER_PATTERN: &str = "^[!-~]{1,128}$";

fn is_manager(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Serialises a type as its text, and reads it by its [`FromStr`], in both cases without a copy in between: objects are full
/// of names.
macro_rules! as_text {
    ($name:ident, |$it:ident| $text:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $it = self;
                serializer.serialize_str($text)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(std::marker::PhantomData))
            }
        }
    };
}

/// Reads a text as whatever is made of it.
struct Text<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = InvalidName>> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Declares a checked text type: constructor, serde, schema, display.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:expr, $pattern:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        as_text!($name, |name| name.as_str());

        impl $name {
            /// The text, as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) { Ok(Self(text.into())) } else { Err(InvalidName::new($what, text, $rule)) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $rule })
            }
        }
    };
}

text_type!(
    /// Name of a project, the tenant that owns objects.
    ProjectName, "project name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of an object of some kind inside its project.
    ObjectName, "name", is_object_name, NAME_RULE, NAME_PATTERN
);
text_type!(
    /// Name of a component inside its App.
    ComponentName, "component name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of a port, a volume, an endpoint or a consumed relation inside a component.
    PartName, "name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of a place where instances run.
    TargetName, "target name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of a runtime in a Target's table, such as `python`.
    RuntimeName, "runtime name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of an interface that one component provides and another consumes, such as `postgresql`.
    InterfaceName, "interface name", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// Name of an environment variable, or a key of a secret or of relation data.
    KeyName, "key", is_key, KEY_RULE, KEY_PATTERN
);
text_type!(
    /// Name of a label or an annotation, such as `team` or `example.org/team`.
    LabelName, "label", is_qualified, QUALIFIED_RULE, QUALIFIED_PATTERN
);
text_type!(
    /// Who sets fields of an object: a person's tool, or a program.
    ManagerName, "field manager", is_manager, MANAGER_RULE, MANAGER_PATTERN
);
text_type!(
    /// A commit of a repository: a hash, or whatever names one there.
    CommitId, "commit", is_commit, COMMIT_RULE, COMMIT_PATTERN
);
text_type!(
    /// A person or a program that uses the API: a name or an address of electronic mail.
    UserName, "user name", is_user, USER_RULE, USER_PATTERN
);
text_type!(
    /// Identity of a stored object for its whole life; never used again for another one.
    Uid, "uid", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// One running copy of a component. Derived, so that a lost reply is found again (see [`InstanceId::derive`]).
    InstanceId, "instance id", is_object_name, NAME_RULE, NAME_PATTERN
);
text_type!(
    /// One installation of Plimsoll: made with the data directory, part of every mark.
    InstallationId, "installation id", is_label, LABEL_RULE, LABEL_PATTERN
);
text_type!(
    /// One boot of a node. Elapsed times are only comparable inside the same boot.
    BootId, "boot id", is_label, LABEL_RULE, LABEL_PATTERN
);

/// The rule for people and programs; addresses of electronic mail, lower-case, are among them.
const USER_RULE: &str =
    "use 1 to 253 lower-case letters, digits, '.', '_', '+', '-' or '@', beginning with a letter or digit";
const USER_PATTERN: &str = "^[a-z0-9][a-z0-9._+@-]{0,252}$";

fn is_user(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&bytes.len())
        && inner(bytes[0])
        && bytes.iter().all(|&b| inner(b) || matches!(b, b'.' | b'_' | b'+' | b'-' | b'@'))
}

/// Object names may hold dots, because derived objects are named after their owner (`shop.7`).
const NAME_RULE: &str = "use 1 to 253 lower-case letters, digits, '-' or '.', in RFC 1123 labels";
const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";

fn is_object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// SHA-256 of something, as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

as_text!(Digest, |digest| &digest.hex(32));

impl Digest {
    /// Digest of raw bytes: file content.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A SHA-256 that was taken piece by piece.
    pub fn of_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Digest of a value's canonical JSON (struct fields in declaration order, map keys sorted).
    ///
    /// # Panics
    /// If the value does not serialise to JSON, which no type of this crate can do.
    pub fn of_json<T: Serialize + ?Sized>(value: &T) -> Self {
        let mut hash = Hashing(Sha256::new());
        serde_json::to_writer(&mut hash, value).expect("model types always serialise to JSON");
        Self(hash.0.finalize().into())
    }

    /// The first twelve digits, for people and names.
    pub fn short(&self) -> String {
        self.hex(6)
    }

    fn hex(&self, bytes: usize) -> String {
        let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
        self.0[..bytes].iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}
/// Takes a digest of what is written, which is kept nowhere.
struct Hashing(Sha256);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl FromStr for Digest {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("digest", text, "use 64 hexadecimal digits, lower case");
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(invalid()) };
        let mut out = [0; 32];
        if pairs.len() != out.len() {
            return Err(invalid());
        }
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        for (byte, &[high, low]) in out.iter_mut().zip(pairs) {
            *byte = nibble(high).zip(nibble(low)).map(|(h, l)| h << 4 | l).ok_or_else(invalid)?;
        }
        Ok(Self(out))
    }
}
impl TryFrom<String> for Digest {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.hex(32)
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.hex(32))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}
impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(sha256:)?[0-9a-f]{64}$",
            "description": "SHA-256 as 64 hexadecimal digits, lower case",
        })
    }
}

/// Declares a digest with a meaning of its own, so that one is not taken for another.
macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The first twelve digits, for people and names.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

digest_type!(
    /// Hash of what the copies of a component run; see [`crate::revision::ComponentRevision`].
    ComponentHash
);
digest_type!(
    /// Hash of everything a copy is given beside its component revision: binding values by version,
    /// secret versions, the restart counter.
    BindingsHash
);
digest_type!(
    /// Hash of a [`crate::step::Plan`]'s content; equal plans of the same number have equal hashes.
    PlanHash
);
digest_type!(
    /// Hash of a Path: what `plimsoll plan` prints and `apply --plan` compares.
    PathHash
);

/// Declares a counter that only grows.
macro_rules! counter_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter_type!(
    /// Number of a Plan within its App, from 1; 0 stands for "no plan yet".
    PlanNo
);
counter_type!(
    /// Raised by a restore from backup, so that the restored control plane outranks what it does not know.
    Epoch
);
counter_type!(
    /// Number of a Revision within its App, from 1.
    RevisionNo
);
counter_type!(
    /// How many effects a driver's ledger has recorded for one App. A new plan names the count it was
    /// planned on, and is refused when other effects came in between.
    Effects
);

/// Position of a copy within its component, from 0. Volumes belong to slots and so outlive instances.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl InstanceId {
    /// The id of the copy that plan `plan_no` creates in a slot: `web-0-1a2b3c4d5e6f`.
    ///
    /// It depends on nothing else, so a create whose reply was lost is recognised by whoever looks next.
    ///
    /// # Panics
    /// Never: a component name and twelve hex digits always form a valid name.
    pub fn derive(app: &Uid, component: &ComponentName, slot: Slot, plan_no: PlanNo) -> Self {
        let digest = Digest::of_json(&(app, component, slot, plan_no));
        let short = digest.short();
        Self::of_parts(component, slot, &short)
    }

    /// The id of the task that plan `plan_no` runs for a hook: `web-before-1a2b3c4d5e6f`.
    ///
    /// # Panics
    /// Never: a component name, a word and twelve hex digits always form a valid name.
    pub fn of_task(app: &Uid, component: &ComponentName, hook: HookPoint, plan_no: PlanNo) -> Self {
        let digest = Digest::of_json(&(app, component, hook, plan_no));
        Self::of_parts(component, hook, &digest.short())
    }

    fn of_parts(component: &ComponentName, which: impl fmt::Display, short: &str) -> Self {
        // A label holds 63 bytes; a long component name is cut, the digest keeps the id unique.
        let name: String = component.as_str().chars().take(36).collect();
        format!("{}-{which}-{short}", name.trim_end_matches('-')).parse().expect("derived from valid parts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "shop", "a-b", "0web", &"x".repeat(63)] {
            assert!(good.parse::<ComponentName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<ComponentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::of_bytes(b"plimsoll");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("xyz".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn instance_ids_differ_by_every_part_and_fit_a_label() {
        let uid: Uid = "u1".parse().unwrap();
        let long: ComponentName = "c".repeat(63).parse().unwrap();
        let web: ComponentName = "web".parse().unwrap();
        let base = InstanceId::derive(&uid, &web, Slot(0), PlanNo(1));
        assert_ne!(base, InstanceId::derive(&uid, &web, Slot(1), PlanNo(1)));
        assert_ne!(base, InstanceId::derive(&uid, &web, Slot(0), PlanNo(2)));
        assert_ne!(base, InstanceId::derive(&"u2".parse().unwrap(), &web, Slot(0), PlanNo(1)));
        assert!(InstanceId::derive(&uid, &long, Slot(u32::MAX), PlanNo(1)).as_str().len() <= 63);
    }
}
