//! The engine at work: takes what is due from the queue, some at a time, until it is dropped.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_model::ObjectKey;
use plimsoll_model::quantity::Span;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::queue::Queue;
use crate::reconciler::{Fut, Look, Reconciler};

/// Names every object there is, for the full scan that makes up for lost hints.
pub trait Census: Send + Sync + 'static {
    /// The objects after one, or the first ones, in order and so many at most; none at the end. What cannot be listed
    /// now is listed by the next scan.
    fn page(&self, after: Option<ObjectKey>, limit: usize) -> Fut<'_, Vec<ObjectKey>>;
}

/// Objects that a scan marks at once.
const PAGE: usize = 100;

/// How an engine works.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Objects that are reconciled at the same time.
    pub parallel: usize,
    /// Time from the begin of a full scan to that of the next one, if it has ended by then.
    pub scan: Duration,
    /// Objects that a scan marks in a second at most: of many objects a scan takes longer, rather than everything.
    pub scanned: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { parallel: 32, scan: Duration::from_secs(30), scanned: 400 }
    }
}

/// Where hints go. Clones share one queue.
#[derive(Clone)]
pub struct Hints {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hints {
    /// A queue with the seed of its jitter.
    pub fn new(seed: u64) -> Self {
        let queue = Mutex::new(Queue::new(seed));
        Self { shared: Arc::new(Shared { queue, news: Notify::new() }) }
    }

    /// Objects that are to be looked at, now or later.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting()
    }

    /// Marks an object: it is looked at soon.
    pub fn mark(&self, key: &ObjectKey) {
        self.shared.lock().mark(key);
        self.shared.news.notify_one();
    }
}

/// Reconciles for as long as it is polled. Dropping it at any point is safe: a reconcile that is cut off is
/// taken up by the next look.
pub async fn run(hints: Hints, reconciler: Arc<dyn Reconciler>, census: Arc<dyn Census>, pace: Pace) {
    let began = Instant::now();
    let now = || Span::millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let mut running: JoinSet<(ObjectKey, Look)> = JoinSet::new();
    let mut scans = pin!(scan(&hints, &*census, pace));
    loop {
        while running.len() < pace.parallel {
            let Some(key) = hints.shared.lock().next(now()) else { break };
            let reconciler = reconciler.clone();
            running.spawn(async move {
                let look = reconciler.reconcile(&key).await;
                (key, look)
            });
        }
        let is_full = running.len() >= pace.parallel;
        let due = hints.shared.lock().due().filter(|_| !is_full);
        let due = due.map(|due| began + Duration::from_millis(due.millis));
        tokio::select! {
            Some(ended) = running.join_next() => {
                // A panic in a reconciler costs its object one round: the next scan marks it again.
                if let Ok((key, look)) = ended {
                    hints.shared.lock().done(&key, &look, now());
                }
            }
            () = hints.shared.news.notified() => {}
            () = sleep_until(due) => {}
            never = &mut scans => match never {},
        }
    }
}

/// Marks every object again and again.
async fn scan(hints: &Hints, census: &dyn Census, pace: Pace) -> Infallible {
    loop {
        let (began, mut after, mut marked) = (Instant::now(), None, 0);
        loop {
            let page = census.page(after, PAGE).await;
            for key in &page {
                hints.mark(key);
            }
            marked += u32::try_from(page.len()).unwrap_or(u32::MAX);
            after = page.into_iter().next_back();
            if after.is_none() {
                break;
            }
            tokio::time::sleep_until(began + Duration::from_secs(1) * marked / pace.scanned.max(1)).await;
        }
        tokio::time::sleep_until(began + pace.scan).await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::status::Outcome;
    use tokio::sync::mpsc;

    use super::*;

    struct Recorder {
        seen: mpsc::UnboundedSender<ObjectKey>,
    }

    impl Reconciler for Recorder {
        fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> Fut<'a, Look> {
            self.seen.send(key.clone()).unwrap();
            Box::pin(async { Look { outcome: Outcome::Settled, next: None } })
        }
    }

    struct Two;

    impl Census for Two {
        fn page(&self, after: Option<ObjectKey>, _: usize) -> Fut<'_, Vec<ObjectKey>> {
            Box::pin(async move { if after.is_none() { vec![key("a"), key("b")] } else { Vec::new() } })
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::in_project("p".parse().unwrap(), name.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn hints_come_at_once_and_scans_make_up_for_lost_ones() {
        let (seen, mut looks) = mpsc::unbounded_channel();
        let hints = Hints::new(1);
        let pace = Pace { parallel: 2, ..Pace::default() };
        let engine = tokio::spawn(run(hints.clone(), Arc::new(Recorder { seen }), Arc::new(Two), pace));
        assert_eq!((looks.recv().await, looks.recv().await), (Some(key("a")), Some(key("b"))));
        hints.mark(&key("c"));
        assert_eq!(looks.recv().await, Some(key("c")));
        let before = Instant::now();
        assert_eq!(looks.recv().await, Some(key("a")), "nobody marked it: the scan did");
        assert!(before.elapsed() <= pace.scan);
        engine.abort();
    }
}
