//! Ranges of versions, as people write them.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use crate::id::InvalidName;

/// Which versions are meant: `^1.2`, `~1.2.3`, `>=1.2, <3`, `1.*`. See <https://semver.org> for the order of versions, and
/// the `semver` library for ranges. Versions before a release are meant only by a range that names one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionRange(String);

const RANGE_RULE: &str = "write a range of versions, as ^1.2, ~1.2.3 or \">=1.2, <3\"";

impl VersionRange {
    /// The tag with the newest version of this range; tags that are no whole version stand for none. A leading `v` is
    /// taken as none, and of two tags for one version the plain one counts.
    pub fn newest<'a>(&self, tags: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        let range: VersionReq = self.0.parse().ok()?;
        let version = |tag: &str| Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok();
        let found = tags.into_iter().filter_map(|tag| Some((version(tag)?, tag)));
        let within = found.filter(|(version, _)| range.matches(version));
        within.max_by(|(a, one), (b, other)| a.cmp(b).then_with(|| other.cmp(one))).map(|(_, tag)| tag)
    }
}

impl FromStr for VersionRange {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.parse::<VersionReq>() {
            Ok(_) if text.len() <= 128 => Ok(Self(text.to_owned())),
            _ => Err(InvalidName::new("range of versions", text, RANGE_RULE)),
        }
    }
}

impl TryFrom<String> for VersionRange {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<VersionRange> for String {
    fn from(range: VersionRange) -> Self {
        range.0
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl JsonSchema for VersionRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VersionRange".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": "^[0-9a-zA-Z.,*^~<>= +-]+$",
            "description": RANGE_RULE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_a_range_is_found_among_other_tags() {
        let tags = ["latest", "1.9.0", "1.10.0", "v1.10.1", "1.11.0-rc.1", "1.12", "2.0.0", "main-3f2a"];
        let newest = |range: &str| range.parse::<VersionRange>().unwrap().newest(tags);
        assert_eq!(newest("^1"), Some("v1.10.1"));
        assert_eq!(newest("~1.9"), Some("1.9.0"));
        assert_eq!(newest(">=1.10, <3"), Some("2.0.0"));
        assert_eq!(newest("*"), Some("2.0.0"));
        assert_eq!(newest(">=1.11.0-rc.0, <1.12"), Some("1.11.0-rc.1"));
        assert_eq!(newest("^3"), None);
        let range: VersionRange = "^1".parse().unwrap();
        assert_eq!(range.newest(["v1.0.0", "1.0.0"]), Some("1.0.0"));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "newest", "1.x.y.z", ">=1 <2 ||"] {
            assert!(text.parse::<VersionRange>().is_err(), "{text}");
        }
    }
}
