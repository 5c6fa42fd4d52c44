//! What a caller may see. There is no query without one.

use std::collections::BTreeSet;

use plimsoll_model::audit::{AuditEntry, AuditRecord};
use plimsoll_model::id::ProjectName;
use plimsoll_model::object::ObjectKey;

/// The part of the store that a caller may read and write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Objects of these projects, and nothing of the installation. The empty set sees nothing.
    Projects(BTreeSet<ProjectName>),
    /// Everything: the control plane itself and platform administrators.
    All,
}

impl Scope {
    /// One project.
    pub fn project(name: ProjectName) -> Self {
        Self::Projects(BTreeSet::from([name]))
    }

    /// Whether an object is visible.
    pub fn admits(&self, key: &ObjectKey) -> bool {
        match (self, &key.project) {
            (Self::All, _) => true,
            (Self::Projects(projects), Some(project)) => projects.contains(project),
            (Self::Projects(_), None) => false,
        }
    }

    /// Whether a record of the audit log is visible: whoever sees the object may know who changed it.
    pub fn admits_record(&self, record: &AuditRecord) -> bool {
        match (self, serde_json::from_str::<AuditEntry>(&record.entry)) {
            (Self::All, _) => true,
            (Self::Projects(_), Ok(entry)) => self.admits(&entry.object),
            (Self::Projects(_), Err(_)) => false,
        }
    }
}
