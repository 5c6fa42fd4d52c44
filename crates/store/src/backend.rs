//! What a store must be able to do, without knowing any kind.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{LabelName, Uid};
use plimsoll_model::kind::PLURALS;
use plimsoll_model::object::{Metadata, ObjectKey, Revision};

use crate::batch::{Batch, Precondition};
use crate::error::StoreError;
use crate::scope::Scope;

/// A boxed future, because backends are chosen at run time.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of changes. It ends with an error, or never.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Change, StoreError>> + Send>>;

/// Name of a kind's collection: `apps`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindName(pub &'static str);

impl KindName {
    /// The kind of this name, if there is one.
    pub fn known(plural: &str) -> Option<Self> {
        PLURALS.into_iter().find(|known| *known == plural).map(Self)
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl fmt::Debug for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One stored object: metadata as columns, the rest as JSON text, which clones share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Metadata. `revision` is set by the backend at commit.
    pub meta: Metadata,
    /// What people declared.
    pub spec: Arc<str>,
    /// What verbs wrote.
    pub operations: Arc<str>,
    /// What the system found.
    pub status: Option<Arc<str>>,
}

/// Which rows of a kind to list. Rows come in order of project and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only the records of this object.
    pub owner: Option<Uid>,
    /// Only rows with all of these labels.
    pub labels: BTreeMap<LabelName, String>,
    /// At most so many rows; 0 stands for all.
    pub limit: usize,
    /// Only rows after this one: the last key of the page before.
    pub after: Option<ObjectKey>,
}

impl Query {
    /// The records of one object.
    pub fn owned_by(owner: Uid) -> Self {
        Self { owner: Some(owner), ..Self::default() }
    }

    /// Whether a row belongs to the answer, limit apart.
    pub fn admits(&self, meta: &Metadata) -> bool {
        self.owner.as_ref().is_none_or(|owner| meta.owner.as_ref() == Some(owner))
            && self.labels.iter().all(|(name, value)| meta.attached.labels.get(name) == Some(value))
            && self.after.as_ref().is_none_or(|after| meta.key > *after)
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether more rows follow.
    pub more: bool,
    /// Where a watch that continues this list begins.
    pub token: ResumeToken,
}

/// A place in a kind's sequence of changes. Opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResumeToken(pub u64);

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub key: ObjectKey,
    /// Its identity.
    pub uid: Uid,
    /// What happened.
    pub kind: ChangeKind,
    /// Where to resume after this change.
    pub token: ResumeToken,
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Created(Box<Row>),
    /// It was written: this is the row now.
    Changed(Box<Row>),
    /// It was deleted at this revision.
    Deleted(Revision),
}

impl ChangeKind {
    /// What a write under a precondition was.
    pub fn put(row: Box<Row>, when: Precondition) -> Self {
        match when {
            Precondition::Absent => Self::Created(row),
            Precondition::At(_) => Self::Changed(row),
        }
    }
}

/// A place where rows are kept. Implementations pass [`crate::contract`].
pub trait Backend: Send + Sync + 'static {
    /// One row by name.
    fn get<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        key: &'a ObjectKey,
    ) -> Fut<'a, Result<Option<Row>, StoreError>>;

    /// Rows by query.
    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        query: &'a Query,
    ) -> Fut<'a, Result<Page, StoreError>>;

    /// Writes a whole batch or nothing of it.
    fn commit<'a>(&'a self, scope: &'a Scope, batch: Batch) -> Fut<'a, Result<(), StoreError>>;

    /// Records of the audit log within a scope, from the one that follows a number, in order.
    fn audit<'a>(
        &'a self,
        scope: &'a Scope,
        after: u64,
        limit: usize,
    ) -> Fut<'a, Result<Vec<AuditRecord>, StoreError>>;

    /// Changes of a kind in commit order: those after the token, or those from now on. A change that was overtaken by a
    /// later one of the same object may be left out.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the changes since the token are not kept any more.
    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError>;

    /// Where watches are: every change up to here has been told to them, or can be had from them at once.
    fn position(&self) -> ResumeToken;

    /// Everything as it is now, however long the reading takes and whatever is written meanwhile.
    fn moment(&self) -> Fut<'_, Result<Box<dyn Moment>, StoreError>>;
}

/// Everything that a store held at one moment, of all projects: what a backup is made of.
pub trait Moment: Send {
    /// The newest revision, of whatever kind; that of a deletion counts too.
    fn revision(&self) -> Revision;

    /// So many rows at most, of whatever kind, in order of kind, project and name: the first ones, or those after a row.
    fn rows<'a>(
        &'a mut self,
        after: Option<&'a (KindName, ObjectKey)>,
        limit: usize,
    ) -> Fut<'a, Result<Vec<(KindName, Row)>, StoreError>>;

    /// Records of the audit log after a number, in order, so many at most.
    fn audit(&mut self, after: u64, limit: usize) -> Fut<'_, Result<Vec<AuditRecord>, StoreError>>;
}

impl ResumeToken {
    /// The position before the first change.
    pub const START: Self = Self(0);
}
