//! The simulator: the whole control plane in one thread, under faults, from a seed.
//!
//! Real reconcilers, planner, queue and memory store run against the fake node and router. Every call they make
//! to the outside is one step; between any two steps the simulator may crash a control plane, lose or delay a reply, show a
//! stale reading, leave a ghost, plant an orphan, reboot the node or let another control plane act. After every step
//! the invariants of the architecture are checked against the truth; at the end the faults stop and everything must
//! settle as a fresh installation would. A failure is shrunk to the few steps that it takes and printed with its
//! seed; the same seed takes the same steps again.
//!
//! Deliberately absent: real time, threads, and switches in the code under test.

mod audit;
mod calm;
mod chaos;
mod fault;
mod many;
mod run;
mod scenario;
mod shrink;
mod truth;

pub use fault::{Coverage, Fault, Op};
pub use many::{Summary, many};
pub use run::{Failure, Report, run};
pub use shrink::shrink;
