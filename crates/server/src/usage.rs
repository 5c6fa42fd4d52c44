//! What copies use, sampled for as long as somebody scales by it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_agent::{Agent, Used};
use plimsoll_model::id::InstanceId;
use plimsoll_plan::UsedView;

/// Time between two samples; CPU time is a mean over that.
const EVERY: Duration = Duration::from_secs(5);

/// How long a sample says something about now.
const GOOD_FOR: Duration = Duration::from_secs(20);

/// How long a copy is sampled that nobody asks for any more.
const KEPT: Duration = Duration::from_mins(1);

/// Samples copies of this node.
pub(crate) struct Sampler {
    /// Nobody runs copies here without one.
    agent: Option<Agent>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    copies: HashMap<InstanceId, Sampled>,
    latest: Option<Instant>,
    under_way: bool,
}

struct Sampled {
    wanted: Instant,
    /// What it had used at that time.
    last: Option<(Instant, Used)>,
    view: Option<UsedView>,
}

impl Sampler {
    pub(crate) fn new(agent: Option<Agent>) -> Self {
        Self { agent, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What these copies use, of those that have been sampled twice. Asking has them sampled.
    pub(crate) fn used(self: &Arc<Self>, copies: &[InstanceId]) -> BTreeMap<InstanceId, UsedView> {
        let (mut state, now) = (self.lock(), Instant::now());
        let mut found = BTreeMap::new();
        for copy in copies {
            let sampled = state.copies.entry(copy.clone());
            let sampled = sampled.or_insert_with(|| Sampled { wanted: now, last: None, view: None });
            sampled.wanted = now;
            let is_fresh = sampled.last.is_some_and(|(at, _)| now.duration_since(at) < GOOD_FOR);
            found.extend(sampled.view.filter(|_| is_fresh).map(|view| (copy.clone(), view)));
        }
        let is_due = state.latest.is_none_or(|latest| now.duration_since(latest) >= EVERY);
        if is_due && !state.under_way {
            state.under_way = true;
            drop(state);
            let under_way = UnderWay(self.clone());
            tokio::task::spawn_blocking(move || under_way.0.sample());
        }
        found
    }

    fn sample(&self) {
        let now = Instant::now();
        let copies: Vec<InstanceId> = {
            let mut state = self.lock();
            state.copies.retain(|_, it| now.duration_since(it.wanted) < KEPT);
            state.copies.keys().cloned().collect()
        };
        // What the system does not tell is not known, and is said to be so.
        let used =
            self.agent.as_ref().map(|agent| agent.used(&copies).unwrap_or_default()).unwrap_or_default();
        let mut state = self.lock();
        for (copy, sampled) in &mut state.copies {
            let used = used.get(copy).copied();
            sampled.view =
                sampled.last.zip(used).and_then(|((at, before), used)| between(at, before, now, used));
            sampled.last = used.map(|used| (now, used));
        }
        state.latest = Some(now);
    }
}

/// A sample that is being taken; none is any more when that has ended, in whatever way.
struct UnderWay(Arc<Sampler>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way = false;
    }
}

/// What was used between two samples. A process that ended may have taken its time with it: that is no use of any.
fn between(at: Instant, before: Used, now: Instant, used: Used) -> Option<UsedView> {
    let took = u64::try_from(now.duration_since(at).as_millis()).ok().filter(|took| *took > 0)?;
    let cpu = used.cpu_millis.saturating_sub(before.cpu_millis);
    Some(UsedView { millicores: cpu * 1000 / took, memory: used.memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_ended_processes_took_with_them_is_not_used() {
        let used = |cpu_millis, memory| Used { cpu_millis, memory, processes: 1 };
        let at = Instant::now();
        let now = at + Duration::from_secs(5);
        let view = |millicores, memory| Some(UsedView { millicores, memory });
        assert_eq!(between(at, used(1000, 7), now, used(3500, 8)), view(500, 8));
        assert_eq!(between(at, used(1000, 7), now, used(400, 8)), view(0, 8));
        assert_eq!(between(at, used(1000, 7), at, used(1000, 7)), None);
    }

    #[tokio::test]
    async fn a_sample_that_panics_is_not_the_last_one() {
        let sampler = Arc::new(Sampler::new(None));
        sampler.lock().under_way = true;
        let under_way = UnderWay(sampler.clone());
        let sample = tokio::task::spawn_blocking(move || {
            let _until_it_ends = under_way;
            panic!("as one might");
        });
        assert!(sample.await.is_err());
        assert!(!sampler.lock().under_way);
    }
}
