//! The planner: from what is declared and what was observed to what is due now.
//!
//! [`decide()`] is a pure, synchronous function. It has no clock, no randomness and no IO: time is a reading in
//! the observed [`World`](plimsoll_model::world::World), and the same input gives the same decision byte for byte. A plan leaves no
//! choice to whoever carries it out: ids, addresses and predecessors are in its steps.
//!
//! One decision covers what is due *now*; whatever must first be seen to have happened (a copy ready, a drain
//! acknowledged, a process gone) comes in a later decision on a later observation. [`path::path`] runs the same function in a
//! modelled world until it settles, which is what `plimsoll plan` prints.
//!
//! The way through the crate: `resolve` (declaration to revisions), `bindings` (what copies are given), `survey`
//! (one component's copies as they are), `rollout` (is the gate passed or failed), `trial` (new copies beside all old ones), `measure`
//! (what the gate measures), `replace` (which copies come and go within the budgets), `routing` (traffic), `decide` (all of it together, as a numbered plan).
//!
//! Deliberately absent: stores, drivers, async, and memory of its own. What must be remembered between
//! decisions is part of the App's status and comes back in the next input.

mod address;
mod bindings;
pub mod decide;
mod hooks;
pub mod input;
mod measure;
pub mod outline;
pub mod path;
mod planner;
mod replace;
pub mod resolve;
mod rollout;
mod routing;
mod scale;
mod steps;
mod survey;
mod trial;
mod waits;

pub use decide::{Course, Decision, decide};
pub use input::{
    AnswerView, BuildView, CertificateView, Context, EndpointView, ImageView, Input, Lag, SecretView,
    UsedView,
};
pub use outline::{Difference, Outline};
pub use path::{Path, destination, empty_world, path};
