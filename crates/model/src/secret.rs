//! Secrets: a value that cannot be printed, and the reference by which declarations name one.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::id::{InvalidName, KeyName, ObjectName};

/// A value that must not appear in logs, plans, events, exports or argv.
///
/// It has neither `Display` nor `Serialize`; its `Debug` prints a placeholder. The one way to the value is
/// [`Sensitive::expose`], which is easy to find in a review.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Call this only where it leaves us: the child's environment, a file of mode 0600,
    /// an encryption call.
    pub fn expose(&self) -> &T {
        &self.0
    }
}
impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// `name/key`: one key of a Secret of the same project.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: ObjectName,
    /// Key in it.
    pub key: KeyName,
}

/// Why a text is not a secret reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretRef {
    /// Not two parts.
    #[error("{0:?} does not name a secret: write `name/key`")]
    Shape(String),
    /// A part is not a valid name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl FromStr for SecretRef {
    type Err = InvalidSecretRef;
    fn from_str(text: &str) -> Result<Self, InvalidSecretRef> {
        let (name, key) =
            text.split_once('/').ok_or_else(|| InvalidSecretRef::Shape(text.chars().take(80).collect()))?;
        Ok(Self { name: name.parse()?, key: key.parse()? })
    }
}
impl TryFrom<String> for SecretRef {
    type Error = InvalidSecretRef;
    fn try_from(text: String) -> Result<Self, InvalidSecretRef> {
        text.parse()
    }
}
impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        secret.to_string()
    }
}
impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}
impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[a-z0-9.-]+/[A-Za-z_][A-Za-z0-9_.-]*$",
            "description": "write `name/key` of a Secret in the same project",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let value = Sensitive::new("hunter2".to_owned());
        assert_eq!(format!("{value:?}"), "(secret)");
        assert_eq!(value.expose(), "hunter2");
    }
}
