//! A node and a router in memory, with a clock of their own and programs that behave as scripted.
//!
//! They follow every rule of the port (fences, idempotence, marks) and add nothing: faults are put in front of
//! them by whoever tests.

mod node;
mod router;
mod script;

pub use node::FakeNode;
pub use router::FakeRouter;
pub use script::{Behaviour, Script};
