//! Which object is next: deduplicated, fair between projects, with backoff.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plimsoll_model::ObjectKey;
use plimsoll_model::id::ProjectName;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::Outcome;

use crate::reconciler::Look;

/// The first pause after an outcome that is not settled.
pub const RETRY_FIRST: Span = Span::millis(100);

/// The longest pause; further failures do not lengthen it.
pub const RETRY_CAP: Span = Span::seconds(30);

/// Objects to be looked at. Time is a reading of any clock that does not go back.
#[derive(Debug)]
pub struct Queue {
    /// Objects due now, by project, in order of arrival.
    ready: BTreeMap<Option<ProjectName>, VecDeque<ObjectKey>>,
    /// Projects with objects due, in the order of their turns.
    turns: VecDeque<Option<ProjectName>>,
    /// Objects due later.
    later: BTreeSet<(Span, ObjectKey)>,
    states: BTreeMap<ObjectKey, State>,
    rng: fastrand::Rng,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    place: Place,
    /// Marked while running.
    again: bool,
    /// Outcomes in a row that were not settled.
    failures: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Idle,
    Ready,
    Later(Span),
    Running,
}

impl Queue {
    /// Objects that are to be looked at, now or later; those that are being looked at are not among them.
    pub fn waiting(&self) -> usize {
        self.ready.values().map(VecDeque::len).sum::<usize>() + self.later.len()
    }

    /// An empty queue. The seed decides the jitter of pauses and nothing else.
    pub fn new(seed: u64) -> Self {
        Self {
            ready: BTreeMap::new(),
            turns: VecDeque::new(),
            later: BTreeSet::new(),
            states: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Marks an object: it is due now. A mark during a run is kept for after it.
    pub fn mark(&mut self, key: &ObjectKey) {
        let state = self.states.entry(key.clone()).or_default();
        match state.place {
            Place::Ready => return,
            Place::Running => {
                state.again = true;
                return;
            }
            Place::Later(at) => {
                self.later.remove(&(at, key.clone()));
            }
            Place::Idle => {}
        }
        self.make_ready(key);
    }

    fn make_ready(&mut self, key: &ObjectKey) {
        if let Some(state) = self.states.get_mut(key) {
            state.place = Place::Ready;
        }
        let waiting = self.ready.entry(key.project.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(key.project.clone());
        }
        waiting.push_back(key.clone());
    }

    /// The next object, which counts as running until [`Queue::done`]. `None` when nothing is due at `now`.
    pub fn next(&mut self, now: Span) -> Option<ObjectKey> {
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                break;
            }
            let Some((_, key)) = self.later.pop_first() else { break };
            self.make_ready(&key);
        }
        let project = self.turns.pop_front()?;
        let waiting = self.ready.get_mut(&project)?;
        let key = waiting.pop_front()?;
        if waiting.is_empty() {
            self.ready.remove(&project);
        } else {
            self.turns.push_back(project);
        }
        if let Some(state) = self.states.get_mut(&key) {
            state.place = Place::Running;
        }
        Some(key)
    }

    /// When the next object is due, if none is due now.
    pub fn due(&self) -> Option<Span> {
        if self.turns.is_empty() { self.later.first().map(|(at, _)| *at) } else { Some(Span::ZERO) }
    }

    /// Takes a finished object back and decides when it is looked at again.
    pub fn done(&mut self, key: &ObjectKey, look: &Look, now: Span) {
        let Some(state) = self.states.get_mut(key) else { return };
        let again = std::mem::take(&mut state.again);
        state.place = Place::Idle;
        let pause = match &look.outcome {
            Outcome::Gone if !again => {
                self.states.remove(key);
                return;
            }
            Outcome::Gone | Outcome::Advanced => {
                state.failures = 0;
                Some(Span::ZERO)
            }
            Outcome::Settled => {
                state.failures = 0;
                look.next
            }
            Outcome::Waiting(_) | Outcome::Stalled(_) => {
                state.failures = state.failures.saturating_add(1);
                let exponent = state.failures.min(16) - 1;
                let pause = RETRY_FIRST.millis.saturating_mul(1 << exponent).min(RETRY_CAP.millis);
                // Half to all of the pause, so that objects that failed together do not return together.
                let pause = Span::millis(pause / 2 + self.rng.u64(0..=pause / 2));
                Some(look.next.map_or(pause, |next| next.min(pause)))
            }
        };
        match pause {
            _ if again => self.make_ready(key),
            Some(Span::ZERO) => self.make_ready(key),
            Some(pause) => {
                let at = now.plus(pause);
                state.place = Place::Later(at);
                self.later.insert((at, key.clone()));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::wait::{Reason, Wait};

    use super::*;

    fn key(project: &str, name: &str) -> ObjectKey {
        ObjectKey::in_project(project.parse().unwrap(), name.parse().unwrap())
    }

    fn settled() -> Look {
        Look { outcome: Outcome::Settled, next: None }
    }

    fn waiting() -> Look {
        Look {
            outcome: Outcome::Waiting(vec![Wait::new(None, Reason::Paused, Span::seconds(1))]),
            next: None,
        }
    }

    #[test]
    fn a_mark_is_never_lost_and_never_doubled() {
        let mut queue = Queue::new(1);
        let a = key("p", "a");
        queue.mark(&a);
        queue.mark(&a);
        assert_eq!(queue.next(Span::ZERO), Some(a.clone()));
        assert_eq!(queue.next(Span::ZERO), None, "two marks are one");
        queue.mark(&a);
        assert_eq!(queue.next(Span::ZERO), None, "it is not run twice at the same time");
        queue.done(&a, &settled(), Span::ZERO);
        assert_eq!(queue.next(Span::ZERO), Some(a.clone()), "a mark during the run is kept");
        queue.done(&a, &settled(), Span::ZERO);
        assert_eq!((queue.next(Span::seconds(3600)), queue.due()), (None, None), "settled is silent");
    }

    #[test]
    fn projects_take_turns() {
        let mut queue = Queue::new(1);
        for n in 0..100 {
            queue.mark(&key("big", &format!("a{n}")));
        }
        queue.mark(&key("small", "b"));
        let first: Vec<_> = (0..2).filter_map(|_| queue.next(Span::ZERO)).collect();
        assert_eq!(first[1], key("small", "b"));
    }

    #[test]
    fn pauses_grow_to_a_cap_and_a_mark_ends_them() {
        let mut queue = Queue::new(7);
        let a = key("p", "a");
        let mut now = Span::ZERO;
        queue.mark(&a);
        let mut longest = Span::ZERO;
        for _ in 0..40 {
            assert_eq!(queue.next(now), Some(a.clone()));
            queue.done(&a, &waiting(), now);
            let due = queue.due().unwrap();
            longest = longest.max(due.minus(now));
            now = due;
        }
        assert!(longest > Span::seconds(15) && longest <= RETRY_CAP, "{longest}");
        assert_eq!(queue.next(now), Some(a.clone()));
        queue.done(&a, &waiting(), now);
        assert_eq!(queue.next(now), None);
        queue.mark(&a);
        assert_eq!(queue.next(now), Some(a));
    }
}
