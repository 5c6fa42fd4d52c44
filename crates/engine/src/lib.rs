//! The engine: decides which object is looked at next, for any reconciler and any kind.
//!
//! A reconciler takes an id and nothing else ([`Reconciler`]). Watch messages, timers and driver hints only mark an id
//! dirty in the [`Queue`]; losing every one of them costs time, never correctness, because a full scan marks
//! all. The queue is a pure data structure: time is an argument, and jitter comes from a seed.
//!
//! - One object is never reconciled twice at the same time; a mark during a run is kept for after it.
//! - Projects take turns: a project with ten thousand dirty objects delays another one by one object.
//! - What fails or waits comes back by itself, with capped, jittered backoff.
//!
//! Deliberately absent: any knowledge of Apps, and retries inside of a step. A step tries once and reports.

mod clock;
mod queue;
mod reconciler;
mod runner;

pub use clock::Clock;
pub use queue::{Queue, RETRY_CAP, RETRY_FIRST};
pub use reconciler::{Fut, Look, Reconciler};
pub use runner::{Census, Hints, Pace, run};
