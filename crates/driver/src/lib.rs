//! The driver port: how the control plane observes the world and acts on it.
//!
//! A [`Driver`] is one family of actions on one target: the instances of a node, or its router. It is asked what
//! is there ([`Driver::observe`]) and told to carry out single steps ([`Driver::execute`]); it decides nothing.
//! Each effect is fenced by the plan it belongs to: the [`Ledger`] on the far side keeps the highest plan of each App and
//! refuses whatever is older, forked, or planned on a state that has changed since.
//!
//! [`fake`] holds the drivers of the simulator and of tests: a node and a router in memory, with a clock of their
//! own and programs that behave as scripted.
//!
//! Deliberately absent: any technology. Each one has a crate of its own.

pub mod contract;
mod error;
pub mod fake;
mod ledger;
mod port;

pub use error::DriverError;
pub use ledger::{Ledger, LedgerLine, Refusal};
pub use port::{Driver, Fut, Marked, SecretValues, Sighting};
