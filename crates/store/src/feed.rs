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
    /// Watches so far, to number them.
    watches: u64,
}

#[derive(Default)]
struct Changes {
    recent: VecDeque<Change>,
    /// Token of the newest change that is not kept any more.
    expired: u64,
    /// Whom to wake, by the watch's number.
    watchers: BTreeMap<u64, Waker>,
}

impl Changes {
    fn wake(&mut self) {
        std::mem::take(&mut self.watchers).into_values().for_each(Waker::wake);
    }
}

/// Takes a watch off the list when nobody has it any more.
struct Watching {
    feed: Feed,
    kind: KindName,
    number: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(changes) = self.feed.lock().kinds.get_mut(&self.kind) {
            changes.watchers.remove(&self.number);
        }
    }
}

impl Feed {
    /// A feed that continues after a token; what was before it is not kept.
    pub fn after(token: ResumeToken) -> Self {
        let state = State { newest: token.0, began: token.0, kinds: BTreeMap::new(), watches: 0 };
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
        changes.wake();
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
            changes.wake();
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
        let (mut position, number) = {
            let mut state = self.lock();
            let from = from.map_or(state.newest, |token| token.0);
            let expired = state.kinds.get(&kind).map_or(0, |changes| changes.expired);
            if from < expired.max(state.began) {
                return Err(StoreError::Expired);
            }
            state.watches += 1;
            (from, state.watches)
        };
        let (watching, scope) = (Watching { feed: self.clone(), kind, number }, scope.clone());
        Ok(Box::pin(stream::poll_fn(move |context| {
            let mut state = watching.feed.lock();
            let changes = state.kinds.entry(kind).or_default();
            if changes.expired > position {
                return Poll::Ready(Some(Err(StoreError::Expired)));
            }
            let start = changes.recent.partition_point(|change| change.token.0 <= position);
            if let Some(change) = changes.recent.range(start..).find(|change| scope.admits(&change.key)) {
                position = change.token.0;
                return Poll::Ready(Some(Ok(change.clone())));
            }
            // What is of no interest here has been seen all the same, and may be forgotten.
            position = changes.recent.back().map_or(position, |change| change.token.0.max(position));
            changes.watchers.insert(number, context.waker().clone());
            Poll::Pending
        })))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use plimsoll_model::{ObjectKey, Revision};

    use super::*;
    use crate::backend::ChangeKind;

    const KIND: KindName = KindName("apps");

    fn change(project: &str, token: u64) -> Change {
        let key = ObjectKey::in_project(project.parse().unwrap(), "a".parse().unwrap());
        let kind = ChangeKind::Deleted(Revision(token));
        Change { key, uid: "u".parse().unwrap(), kind, token: ResumeToken(token) }
    }

    #[test]
    fn what_others_write_does_not_outrun_a_watch_that_has_seen_it() {
        let feed = Feed::after(ResumeToken::START);
        let mut watch = feed.watch(&Scope::project("own".parse().unwrap()), KIND, None).unwrap();
        for token in 1..=3 * KEPT as u64 {
            feed.add(KIND, change("other", token));
            if token % 1000 == 0 {
                assert!(watch.next().now_or_never().is_none());
            }
        }
        feed.add(KIND, change("own", 3 * KEPT as u64 + 1));
        assert!(watch.next().now_or_never().unwrap().unwrap().is_ok());
    }

    #[test]
    fn a_watch_that_nobody_has_any_more_leaves_nothing_behind() {
        let feed = Feed::after(ResumeToken::START);
        for _ in 0..10 {
            let mut watch = feed.watch(&Scope::All, KIND, None).unwrap();
            for _ in 0..3 {
                assert!(watch.next().now_or_never().is_none());
            }
            assert_eq!(feed.lock().kinds[&KIND].watchers.len(), 1);
        }
        assert!(feed.lock().kinds[&KIND].watchers.is_empty());
    }
}
