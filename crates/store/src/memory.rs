//! The store in memory: for the simulator and for tests. It forgets everything with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::stream;
use plimsoll_model::{ObjectKey, Revision};

use crate::backend::{Backend, Change, ChangeKind, Fut, KindName, Page, Query, ResumeToken, Row, Watch};
use crate::batch::{Batch, Precondition, Write};
use crate::error::StoreError;
use crate::scope::Scope;

/// Changes kept for watchers that fall behind or come back.
const KEPT_CHANGES: usize = 4096;

/// A store in memory. Clones share their rows.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    kinds: BTreeMap<KindName, Collection>,
    revision: u64,
    commits: u64,
}

#[derive(Default)]
struct Collection {
    rows: BTreeMap<ObjectKey, Row>,
    changes: VecDeque<Change>,
    /// Token of the newest change that is not kept any more.
    expired: u64,
    watchers: Vec<Waker>,
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
        let (kind, key, when) = match write {
            Write::Put { kind, row, when } => (*kind, &row.meta.key, *when),
            Write::Delete { kind, key, at } => (*kind, key, Precondition::At(*at)),
        };
        if !scope.admits(key) {
            return Err(StoreError::OutOfScope { kind, key: key.clone() });
        }
        let present = self.kinds.get(&kind).and_then(|it| it.rows.get(key)).map(|row| row.meta.revision);
        let holds = match when {
            Precondition::Absent => present.is_none(),
            Precondition::At(revision) => present == Some(revision),
        };
        if holds { Ok(()) } else { Err(StoreError::Conflict { kind, key: key.clone() }) }
    }

    fn apply(&mut self, write: Write) {
        self.revision += 1;
        let revision = Revision(self.revision);
        let token = ResumeToken(self.revision);
        let (kind, change) = match write {
            Write::Put { kind, mut row, .. } => {
                row.meta.revision = revision;
                let (key, uid) = (row.meta.key.clone(), row.meta.uid.clone());
                self.kinds.entry(kind).or_default().rows.insert(key.clone(), Row::clone(&row));
                (kind, Change { key, uid, kind: ChangeKind::Put(row), token })
            }
            Write::Delete { kind, key, .. } => {
                let Some(row) = self.kinds.entry(kind).or_default().rows.remove(&key) else { return };
                (kind, Change { key, uid: row.meta.uid, kind: ChangeKind::Deleted(revision), token })
            }
        };
        let collection = self.kinds.entry(kind).or_default();
        collection.changes.push_back(change);
        if collection.changes.len() > KEPT_CHANGES {
            collection.expired = collection.changes.pop_front().map_or(0, |change| change.token.0);
        }
        collection.watchers.drain(..).for_each(Waker::wake);
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
            let row = state.kinds.get(&kind).and_then(|it| it.rows.get(key));
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
            let rows = state.kinds.get(&kind).into_iter().flat_map(|it| it.rows.values());
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
                state.apply(write);
            }
            state.commits += 1;
            Ok(())
        })
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        let mut position = {
            let state = self.lock();
            let from = from.map_or(state.revision, |token| token.0);
            if state.kinds.get(&kind).is_some_and(|it| it.expired > from) {
                return Err(StoreError::Expired);
            }
            from
        };
        let (this, scope) = (self.clone(), scope.clone());
        Ok(Box::pin(stream::poll_fn(move |context| {
            let mut state = this.lock();
            let collection = state.kinds.entry(kind).or_default();
            if collection.expired > position {
                return Poll::Ready(Some(Err(StoreError::Expired)));
            }
            let start = collection.changes.partition_point(|change| change.token.0 <= position);
            let next = collection.changes.range(start..).find(|change| scope.admits(&change.key));
            if let Some(change) = next {
                position = change.token.0;
                return Poll::Ready(Some(Ok(change.clone())));
            }
            collection.watchers.push(context.waker().clone());
            Poll::Pending
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        futures::executor::block_on(crate::contract::every(|| crate::Store::new(Memory::new())));
    }
}
