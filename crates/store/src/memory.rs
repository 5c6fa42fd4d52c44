//! The store in memory: for the simulator and for tests. It forgets everything with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_model::audit::AuditRecord;
use plimsoll_model::{ObjectKey, Revision};

use crate::backend::{
    Backend, Change, ChangeKind, Fut, KindName, Moment, Page, Query, ResumeToken, Row, Watch,
};
use crate::batch::{Batch, Precondition, Write};
use crate::error::StoreError;
use crate::feed::Feed;
use crate::scope::Scope;

/// A store in memory. Clones share their rows.
#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    feed: Feed,
}

impl Default for Memory {
    fn default() -> Self {
        Self { state: Arc::default(), feed: Feed::after(ResumeToken::START) }
    }
}

#[derive(Clone, Default)]
struct State {
    kinds: BTreeMap<KindName, BTreeMap<ObjectKey, Row>>,
    revision: u64,
    commits: u64,
    audit: Vec<AuditRecord>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches were committed so far: tests of "settled means silent" compare it.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Rows are only replaced as a whole, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, scope: &Scope, write: &Write) -> Result<(), StoreError> {
        let (kind, key, when) = write.target();
        if !scope.admits(key) {
            return Err(StoreError::OutOfScope { kind, key: key.clone() });
        }
        let present = self.kinds.get(&kind).and_then(|it| it.get(key)).map(|row| row.meta.revision);
        let holds = match when {
            Precondition::Absent => present.is_none(),
            Precondition::At(revision) => present == Some(revision),
        };
        if holds { Ok(()) } else { Err(StoreError::Conflict { kind, key: key.clone() }) }
    }

    fn apply(&mut self, write: Write, feed: &Feed) {
        self.revision += u64::from(!matches!(write, Write::Require { .. }));
        let revision = Revision(self.revision);
        let token = ResumeToken(self.revision);
        let (kind, change) = match write {
            Write::Put { kind, mut row, when } => {
                row.meta.revision = revision;
                let (key, uid) = (row.meta.key.clone(), row.meta.uid.clone());
                self.kinds.entry(kind).or_default().insert(key.clone(), Row::clone(&row));
                (kind, Change { key, uid, kind: ChangeKind::put(row, when), token })
            }
            Write::Delete { kind, key, .. } => {
                let Some(row) = self.kinds.entry(kind).or_default().remove(&key) else { return };
                (kind, Change { key, uid: row.meta.uid, kind: ChangeKind::Deleted(revision), token })
            }
            Write::Require { .. } => return,
        };
        feed.add(kind, change);
    }
}

impl Backend for Memory {
    fn get<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        key: &'a ObjectKey,
    ) -> Fut<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move {
            let state = self.lock();
            let row = state.kinds.get(&kind).and_then(|it| it.get(key));
            Ok(row.filter(|_| scope.admits(key)).cloned())
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        query: &'a Query,
    ) -> Fut<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            let state = self.lock();
            let rows = state.kinds.get(&kind).into_iter().flat_map(|it| it.values());
            let mut admitted =
                rows.filter(|row| scope.admits(&row.meta.key) && query.admits(&row.meta)).cloned();
            let limit = if query.limit == 0 { usize::MAX } else { query.limit };
            let rows = admitted.by_ref().take(limit).collect();
            let more = admitted.next().is_some();
            Ok(Page { rows, more, token: ResumeToken(state.revision) })
        })
    }

    fn commit<'a>(&'a self, scope: &'a Scope, batch: Batch) -> Fut<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut state = self.lock();
            for write in &batch.writes {
                state.check(scope, write)?;
            }
            for write in batch.writes {
                state.apply(write, &self.feed);
            }
            for entry in &batch.audit {
                let previous = state.audit.last().map(|it| (it.number, it.hash));
                state.audit.push(AuditRecord::after(previous, entry));
            }
            state.commits += 1;
            Ok(())
        })
    }

    fn audit<'a>(
        &'a self,
        scope: &'a Scope,
        after: u64,
        limit: usize,
    ) -> Fut<'a, Result<Vec<AuditRecord>, StoreError>> {
        Box::pin(async move {
            let state = self.lock();
            let later = state.audit.iter().filter(|it| it.number > after && scope.admits_record(it));
            Ok(later.take(limit).cloned().collect())
        })
    }

    fn position(&self) -> ResumeToken {
        self.feed.position()
    }

    fn moment(&self) -> Fut<'_, Result<Box<dyn Moment>, StoreError>> {
        let state = self.lock().clone();
        Box::pin(async move { Ok(Box::new(state) as Box<dyn Moment>) })
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.feed.watch(scope, kind, from)
    }
}

impl Moment for State {
    fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    fn rows<'a>(
        &'a mut self,
        after: Option<&'a (KindName, ObjectKey)>,
        limit: usize,
    ) -> Fut<'a, Result<Vec<(KindName, Row)>, StoreError>> {
        Box::pin(async move {
            let all = self.kinds.iter().flat_map(|(kind, rows)| rows.values().map(|row| (*kind, row)));
            let later =
                all.filter(|(kind, row)| after.is_none_or(|(last, key)| (last, key) < (kind, &row.meta.key)));
            Ok(later.take(limit).map(|(kind, row)| (kind, row.clone())).collect())
        })
    }

    fn audit(&mut self, after: u64, limit: usize) -> Fut<'_, Result<Vec<AuditRecord>, StoreError>> {
        Box::pin(async move {
            let later = self.audit.iter().filter(|it| it.number > after);
            Ok(later.take(limit).cloned().collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        futures::executor::block_on(crate::contract::every(async || crate::Store::new(Memory::new())));
    }
}
