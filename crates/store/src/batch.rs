//! Writes that happen together or not at all, each with its precondition.

use std::sync::Arc;

use plimsoll_model::audit::AuditEntry;
use plimsoll_model::id::Uid;
use plimsoll_model::object::{Generation, Metadata, Observed, Timestamp};
use plimsoll_model::{Attached, Kind, Object, ObjectKey, Revision};
use serde::Serialize;

use crate::backend::{KindName, Row};

/// What must be true of an object for a write to happen. There is no third choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// It does not exist.
    Absent,
    /// It exists at this revision.
    At(Revision),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The row as it is to be. The backend sets its revision.
    Put {
        /// Kind of the object.
        kind: KindName,
        /// The row.
        row: Box<Row>,
        /// Its precondition.
        when: Precondition,
    },
    /// The object is to go.
    Delete {
        /// Kind of the object.
        kind: KindName,
        /// The object.
        key: ObjectKey,
        /// The revision at which it is deleted.
        at: Revision,
    },
    /// Nothing is written; the other writes happen only if this holds.
    Require {
        /// Kind of the object.
        kind: KindName,
        /// The object.
        key: ObjectKey,
        /// What must be true of it.
        when: Precondition,
    },
}

impl Write {
    /// What it is about, and what must be true of that.
    pub fn target(&self) -> (KindName, &ObjectKey, Precondition) {
        match self {
            Self::Put { kind, row, when } => (*kind, &row.meta.key, *when),
            Self::Delete { kind, key, at } => (*kind, key, Precondition::At(*at)),
            Self::Require { kind, key, when } => (*kind, key, *when),
        }
    }
}

/// Writes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// What the audit log says of them.
    pub audit: Vec<AuditEntry>,
}

/// A new object, before the store has given it a revision.
#[derive(Debug, Clone)]
pub struct New<K: Kind> {
    /// Its identity.
    pub uid: Uid,
    /// Its name.
    pub key: ObjectKey,
    /// The object it is a record of.
    pub owner: Option<Uid>,
    /// When.
    pub at: Timestamp,
    /// What people and tools attach to it.
    pub attached: Attached,
    /// What it declares or records.
    pub spec: K::Spec,
    /// What verbs say of it.
    pub operations: K::Operations,
}

impl Batch {
    /// A batch without writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.audit.is_empty() && self.writes.iter().all(|write| matches!(write, Write::Require { .. }))
    }

    /// Writes only if an object is as it was read, or is not there.
    #[must_use]
    pub fn require<K: Kind>(mut self, key: &ObjectKey, read: Option<&Object<K>>) -> Self {
        let when = read.map_or(Precondition::Absent, |it| Precondition::At(it.meta.revision));
        self.writes.push(Write::Require { kind: KindName(K::PLURAL), key: key.clone(), when });
        self
    }

    /// Records in the audit log, in the same transaction.
    #[must_use]
    pub fn audited(mut self, entry: AuditEntry) -> Self {
        self.audit.push(entry);
        self
    }

    /// Creates an object; refused if one of that name exists.
    #[must_use]
    pub fn create<K: Kind>(mut self, new: New<K>) -> Self {
        let meta = Metadata {
            uid: new.uid,
            key: new.key,
            owner: new.owner,
            attached: new.attached,
            created: new.at,
            deleting: None,
            revision: Revision(0),
            generation: Generation(1),
        };
        let object = Object::<K> { meta, spec: new.spec, operations: new.operations, status: None };
        self.put(&object, Precondition::Absent);
        self
    }

    /// Changes what is declared. The generation grows if that is a change at all; if not, nothing is written.
    #[must_use]
    pub fn declare<K: Kind>(self, old: &Object<K>, spec: K::Spec, operations: K::Operations) -> Self {
        self.declare_with(old, old.meta.attached.clone(), spec, operations)
    }

    /// Changes what is declared, and what is attached to it. The latter means nothing to any reconciler: the generation
    /// stays for it.
    #[must_use]
    pub fn declare_with<K: Kind>(
        mut self,
        old: &Object<K>,
        attached: Attached,
        spec: K::Spec,
        operations: K::Operations,
    ) -> Self {
        let is_same = old.spec == spec && old.operations == operations;
        if is_same && old.meta.attached == attached {
            return self;
        }
        let mut object = Object::<K> { spec, operations, ..old.clone() };
        object.meta.attached = attached;
        object.meta.generation = Generation(old.meta.generation.0 + u64::from(!is_same));
        self.put(&object, Precondition::At(old.meta.revision));
        self
    }

    /// Writes what is declared in other words that mean the same: the generation stays.
    #[must_use]
    pub fn reword<K: Kind>(mut self, old: &Object<K>, spec: K::Spec) -> Self {
        if old.spec != spec {
            self.put(&Object::<K> { spec, ..old.clone() }, Precondition::At(old.meta.revision));
        }
        self
    }

    /// Marks an object for deletion; its reconciler takes it apart and then deletes it.
    #[must_use]
    pub fn mark_deleting<K: Kind>(mut self, old: &Object<K>, at: Timestamp) -> Self {
        if old.meta.deleting.is_some() {
            return self;
        }
        let mut object = old.clone();
        object.meta.deleting = Some(at);
        object.meta.generation = Generation(old.meta.generation.0 + 1);
        self.put(&object, Precondition::At(old.meta.revision));
        self
    }

    /// Takes the mark for deletion off again.
    #[must_use]
    pub fn unmark_deleting<K: Kind>(mut self, old: &Object<K>) -> Self {
        let mut object = old.clone();
        object.meta.deleting = None;
        object.meta.generation = Generation(old.meta.generation.0 + 1);
        self.put(&object, Precondition::At(old.meta.revision));
        self
    }

    /// Writes the status of the declaration that `old` holds.
    #[must_use]
    pub fn report<K: Kind>(mut self, old: &Object<K>, status: K::Status, at: Timestamp) -> Self {
        let status = Some(Observed { of: old.meta.generation, at, value: status });
        let object = Object::<K> { status, ..old.clone() };
        self.put(&object, Precondition::At(old.meta.revision));
        self
    }

    /// Deletes an object as it was read.
    #[must_use]
    pub fn delete<K: Kind>(mut self, old: &Object<K>) -> Self {
        self.writes.push(Write::Delete {
            kind: KindName(K::PLURAL),
            key: old.meta.key.clone(),
            at: old.meta.revision,
        });
        self
    }

    fn put<K: Kind>(&mut self, object: &Object<K>, when: Precondition) {
        let row = Row {
            meta: object.meta.clone(),
            spec: encode(&object.spec),
            operations: encode(&object.operations),
            status: object.status.as_ref().map(encode),
        };
        self.writes.push(Write::Put { kind: KindName(K::PLURAL), row: Box::new(row), when });
    }
}

/// Bytes that most values take, so that they are not moved while they grow.
const USUAL: usize = 2048;

/// JSON text of a value of the model.
fn encode<T: Serialize>(value: &T) -> Arc<str> {
    let mut text = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut text, value).expect("model types always serialise to JSON");
    String::from_utf8(text).expect("JSON is UTF-8").into()
}
