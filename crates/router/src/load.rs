//! What a member has to do, and how it did: requests under way, and those of the last minute.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_model::quantity::Span;
use plimsoll_model::world::Recent;

/// How long requests are remembered.
const MINUTE: Duration = Duration::from_mins(1);

/// Requests are counted together for so long.
const TOGETHER: Duration = Duration::from_secs(5);

/// Times in milliseconds at which one bucket of answers ends and the next begins: twenty to a power of ten (Renard's series R20),
/// up to a minute, so that a time is known to 12 percent.
static BOUNDS: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut bounds: Vec<u64> = (0..=96_i32)
        .map(|step| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 63,096")]
            let bound = 10_f64.powf(f64::from(step) / 20.0).round() as u64;
            bound
        })
        .collect();
    bounds.dedup();
    bounds
});

/// What one member has to do. Shared by everything that gives it something, whatever becomes of its entry.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    /// When the latest of them ended.
    ended: Mutex<Option<Instant>>,
    minute: Mutex<VecDeque<Counts>>,
}

/// Requests that ended within a few seconds.
#[derive(Debug)]
struct Counts {
    since: Instant,
    requests: u64,
    failures: u64,
    /// By the bucket of the time they took.
    answered: Vec<u64>,
}

impl Load {
    /// Requests and connections under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// Time since something was under way, or since it could be; `None` while something is.
    pub(crate) fn idle(&self, since: Instant) -> Option<Span> {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = ended.map_or(since, |ended| ended.max(since)).elapsed();
        let idle = Span::millis(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        (self.in_flight() == 0).then_some(idle)
    }

    /// Counts a request that was answered after this time, with success or not.
    pub(crate) fn answered(&self, took: Duration, is_failure: bool) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.count(Instant::now(), Some(millis), is_failure);
    }

    /// Counts a request that was not answered.
    pub(crate) fn failed(&self) {
        self.count(Instant::now(), None, true);
    }

    fn count(&self, now: Instant, millis: Option<u64>, is_failure: bool) {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut minute, now);
        if minute.back().is_none_or(|counts| now.duration_since(counts.since) >= TOGETHER) {
            let answered = vec![0; BOUNDS.len() + 1];
            minute.push_back(Counts { since: now, requests: 0, failures: 0, answered });
        }
        let Some(counts) = minute.back_mut() else { return };
        counts.requests += 1;
        counts.failures += u64::from(is_failure);
        if let Some(millis) = millis {
            counts.answered[BOUNDS.partition_point(|bound| *bound <= millis)] += 1;
        }
    }

    /// What was counted in the last minute.
    pub(crate) fn recent(&self) -> Recent {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut minute, Instant::now());
        let mut recent = Recent::default();
        for counts in &*minute {
            recent.requests += counts.requests;
            recent.failures += counts.failures;
            for (bucket, count) in counts.answered.iter().enumerate().filter(|(_, count)| **count > 0) {
                let at_least = bucket.checked_sub(1).map_or(0, |before| BOUNDS[before]);
                *recent.answered.entry(Span::millis(at_least)).or_default() += count;
            }
        }
        recent
    }
}

/// Drops what ended more than a minute ago.
fn forget(minute: &mut VecDeque<Counts>, now: Instant) {
    while minute.front().is_some_and(|counts| now.duration_since(counts.since) >= MINUTE) {
        minute.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_for_a_minute_by_the_time_they_took() {
        let load = Load::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(70)).unwrap();
        load.count(long_ago, Some(5), false);
        for millis in [0, 7, 7, 300, 90_000] {
            load.answered(Duration::from_millis(millis), millis == 300);
        }
        load.failed();
        let recent = load.recent();
        assert_eq!((recent.requests, recent.failures), (6, 2));
        let answered: Vec<(u64, u64)> =
            recent.answered.iter().map(|(at, count)| (at.millis, *count)).collect();
        assert_eq!(answered, [(0, 1), (7, 2), (282, 1), (63_096, 1)]);
    }

    #[test]
    fn bounds_are_close_enough_to_judge_by() {
        for pair in BOUNDS.windows(2).filter(|pair| pair[0] >= 20) {
            assert!(pair[1] * 100 <= pair[0] * 115, "{pair:?}");
        }
    }
}
