//! Who changed what: the entries of the audit log.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Digest, UserName};
use crate::object::{ObjectKey, Timestamp};

/// Who asks for something, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// The person or program.
    pub user: UserName,
    /// The token that was shown; none for the administrator of the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<crate::id::ObjectName>,
    /// The address that the request came from; none for what happened within the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
}

/// One thing that somebody asked for, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// Who.
    #[serde(flatten)]
    pub actor: Actor,
    /// What was to be done.
    pub action: Action,
    /// The collection of the object.
    pub kind: String,
    /// The object.
    pub object: ObjectKey,
    /// What became of it.
    pub result: AuditResult,
}

/// What somebody wanted to do with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Make it.
    Create,
    /// Change what is declared of it.
    Change,
    /// Change what is said of it beside its declaration: scale, stop, restart, retry.
    Operate,
    /// Say which bytes its images stand for.
    Deploy,
    /// Delete it.
    Delete,
    /// Give it up while a target of it does not answer.
    Abandon,
    /// Run a command beside a copy's program.
    Exec,
    /// Take everything away in a file, which only the holder of a key can read.
    Backup,
    /// Put everything back to what a backup holds; nothing is done until it is released.
    Restore,
    /// Let what was restored be done.
    Release,
    /// Move everything to another store.
    Migrate,
    /// Seal all secrets with a new key.
    Rotate,
    /// Get a token by proving who one is.
    LogIn,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
            Self::Delete => "delete",
            Self::Abandon => "abandon",
            Self::Exec => "exec",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Release => "release",
            Self::Migrate => "migrate",
            Self::Rotate => "rotate",
            Self::LogIn => "log in",
        })
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuditResult {
    /// It was done, in the same transaction in which this was recorded.
    Done,
    /// It was refused, and why.
    Refused(String),
}

/// An entry of the log with its place in the chain.
///
/// The hash is the SHA-256 of the hash before, as text, a line feed, and the entry's text. Whoever keeps a hash can
/// prove later that nothing before it was altered or left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// The entry as JSON text: what was hashed, byte for byte.
    pub entry: String,
    /// The hash of everything up to here.
    pub hash: Digest,
}

impl AuditRecord {
    /// The record that follows another one, or begins the chain.
    pub fn after(previous: Option<(u64, Digest)>, entry: &AuditEntry) -> Self {
        let entry = serde_json::to_string(entry).expect("model types always serialise to JSON");
        let (number, before) = previous.map_or((0, Self::start()), |(number, hash)| (number, hash));
        Self { number: number + 1, hash: Self::chain(before, &entry), entry }
    }

    /// Whether this record follows another one, or begins the chain.
    pub fn follows(&self, previous: Option<&Self>) -> bool {
        let (number, before) = previous.map_or((0, Self::start()), |it| (it.number, it.hash));
        self.number == number + 1 && self.hash == Self::chain(before, &self.entry)
    }

    fn start() -> Digest {
        Digest::of_bytes(b"")
    }

    fn chain(before: Digest, entry: &str) -> Digest {
        Digest::of_bytes(format!("{before}\n{entry}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> AuditEntry {
        let actor = Actor { user: "ada@example.org".parse().unwrap(), token: None, from: None };
        AuditEntry {
            at: Timestamp(at),
            actor,
            action: Action::Create,
            kind: "apps".into(),
            object: ObjectKey::in_project("shop".parse().unwrap(), "web".parse().unwrap()),
            result: AuditResult::Done,
        }
    }

    #[test]
    fn a_chain_shows_what_was_altered_or_left_out() {
        let first = AuditRecord::after(None, &entry(1));
        let second = AuditRecord::after(Some((first.number, first.hash)), &entry(2));
        assert!(first.follows(None) && second.follows(Some(&first)));
        let altered = AuditRecord { entry: first.entry.replace("ada", "bob"), ..first.clone() };
        assert!(!altered.follows(None) && !second.follows(None));
        let forged = AuditRecord::after(None, &entry(3));
        assert!(!second.follows(Some(&forged)));
    }
}
