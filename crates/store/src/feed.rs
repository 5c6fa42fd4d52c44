//! The recent changes of every kind, for watchers: what each backend of one process shares.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::stream;

use crate::backend::{Change, KindName, ResumeToken, Watch};
use crate::error::StoreError;
use crate::scope::Scope;

/// Changes of each kind kept for watchers that fall behind or come back.
const KEPT: usize = 4096;

/// Recent changes in memory. Clones share them.
#[derive(Clone)]
pub struct Feed {
    state: Arc<Mutex<State>>,
}

struct State {
    /// Token of the newest change, of whatever kind.
    newest: u64,
    /// Token of the newest change that was made before this feed began.
    began: u64,
    kinds: BTreeMap<KindName, Changes>,
}

#[derive(Default)]
struct Changes {
    recent: VecDeque<Change>,
    /// Token of the newest change that is not kept any more.
    expired: u64,
    watchers: Vec<Waker>,
}

impl Feed {
    /// A feed that continues after a token; what was before it is not kept.
    pub fn after(token: ResumeToken) -> Self {
        let state = State { newest: token.0, began: token.0, kinds: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changes are only added as a whole, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a committed change. Tokens must grow.
    pub fn add(&self, kind: KindName, change: Change) {
        let mut state = self.lock();
        state.newest = change.token.0;
        let changes = state.kinds.entry(kind).or_default();
        changes.recent.push_back(change);
        if changes.recent.len() > KEPT {
            changes.expired = changes.recent.pop_front().map_or(0, |change| change.token.0);
        }
        changes.watchers.drain(..).for_each(Waker::wake);
    }

    /// Token of the newest change that was added.
    pub fn position(&self) -> ResumeToken {
        ResumeToken(self.lock().newest)
    }

    /// Forgets everything up to a token: changes in between are unknown, and whoever waits for them is told.
    pub fn skip_to(&self, token: ResumeToken) {
        let mut state = self.lock();
        (state.newest, state.began) = (token.0, token.0);
        for changes in state.kinds.values_mut() {
            changes.recent.clear();
            changes.expired = token.0;
            changes.watchers.drain(..).for_each(Waker::wake);
        }
    }

    /// Changes of a kind within a scope: those after the token, or those from now on.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the changes since the token are not kept any more.
    pub fn watch(
        &self,
        scope: &Scope,
        kind: KindName,
        from: Option<ResumeToken>,
    ) -> Result<Watch, StoreError> {
        let mut position = {
            let state = self.lock();
            let from = from.map_or(state.newest, |token| token.0);
            let expired = state.kinds.get(&kind).map_or(0, |changes| changes.expired);
            // A token of the future comes from another store, or from before a restore.
            if from < expired.max(state.began) || from > state.newest {
                return Err(StoreError::Expired);
            }
            from
        };
        let (this, scope) = (self.clone(), scope.clone());
        Ok(Box::pin(stream::poll_fn(move |context| {
            let mut state = this.lock();
            let changes = state.kinds.entry(kind).or_default();
            if changes.expired > position {
                return Poll::Ready(Some(Err(StoreError::Expired)));
            }
            let start = changes.recent.partition_point(|change| change.token.0 <= position);
            if let Some(change) = changes.recent.range(start..).find(|change| scope.admits(&change.key)) {
                position = change.token.0;
                return Poll::Ready(Some(Ok(change.clone())));
            }
            changes.watchers.push(context.waker().clone());
            Poll::Pending
        })))
    }
}
