//! The simulator: the whole control plane in one thread, under faults, from a seed.
//!
//! Real reconcilers, planner, queue and memory store run against the fake node and router. Every call they make
//! to the outside is one step; between any two steps the simulator may crash a control plane, lose or delay a reply, show a
//! stale reading, leave a ghost, plant an orphan, reboot the node or let another control plane act. After every step
//! the invariants of the architecture are checked against the truth; at the end the faults stop and everything must
//! settle as a fresh installation would. A failure prints its seed and the steps that led to it; the same seed
//! takes the same steps again.
//!
//! Deliberately absent: real time, threads, and switches in the code under test.

mod audit;
mod chaos;
mod fault;
mod run;
mod scenario;
mod truth;

pub use fault::{Coverage, Fault, Op};
pub use run::{Failure, Report, run};
