//! Requests that wait for the first copy of a component that sleeps, and the news of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_model::ObjectKey;
use plimsoll_model::id::{ComponentName, Uid};
use plimsoll_model::quantity::Span;
use tokio::sync::Notify;

/// Requests that may wait for one component.
const MOST: u32 = 1000;

/// A component that may have no copy until somebody asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Sleeper {
    pub(crate) app: Uid,
    pub(crate) component: ComponentName,
    /// The App's name; not known of one whose table a router of an earlier version kept.
    pub(crate) key: Option<ObjectKey>,
    /// How long a request waits.
    pub(crate) hold: Span,
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<(Uid, ComponentName), u32>,
    /// Requests that have ever waited, and which one was an App's latest: whoever asks for news says what it has heard, so that
    /// nobody takes it from another one, or with itself when it dies.
    count: u64,
    latest: BTreeMap<ObjectKey, u64>,
}

/// A request that waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    holding: Arc<Holding>,
    of: (Uid, ComponentName),
}

impl Holding {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that waits; `None` where too many do.
    pub(crate) fn hold(self: &Arc<Self>, sleeper: &Sleeper) -> Option<Held> {
        let of = (sleeper.app.clone(), sleeper.component.clone());
        let mut inner = self.lock();
        let waiting = inner.waiting.entry(of.clone()).or_default();
        if *waiting >= MOST {
            return None;
        }
        *waiting += 1;
        inner.count += 1;
        let count = inner.count;
        inner.latest.extend(sleeper.key.clone().map(|key| (key, count)));
        drop(inner);
        self.news.notify_waiters();
        Some(Held { holding: self.clone(), of })
    }

    /// Requests that wait, by component of an App.
    pub(crate) fn waiting(&self, app: &Uid) -> BTreeMap<ComponentName, u32> {
        let inner = self.lock();
        let mine = inner.waiting.iter().filter(|((of, _), _)| of == app);
        mine.map(|((_, component), count)| (component.clone(), *count)).collect()
    }

    /// Waits for Apps that are asked for after so many requests, and says after how many that is.
    pub(crate) async fn woken(&self, heard: u64) -> (u64, BTreeSet<ObjectKey>) {
        loop {
            // Made before the look, so that nothing comes in between.
            let news = self.news.notified();
            if let Some(woken) = self.woken_now(heard) {
                return woken;
            }
            news.await;
        }
    }

    fn woken_now(&self, heard: u64) -> Option<(u64, BTreeSet<ObjectKey>)> {
        let inner = self.lock();
        // What was heard of a router before this one is nothing here.
        let heard = if heard > inner.count { 0 } else { heard };
        let new = inner.latest.iter().filter(|(_, at)| **at > heard).map(|(key, _)| key.clone());
        let new: BTreeSet<ObjectKey> = new.collect();
        (!new.is_empty()).then_some((inner.count, new))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.holding.lock();
        if let Some(count) = inner.waiting.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                inner.waiting.remove(&self.of);
            }
        }
    }
}
