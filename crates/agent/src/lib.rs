//! The agent: a node's side of every plan.
//!
//! It carries out steps through a fsynced ledger, keeps each instance as its last step said, also when nobody talks to
//! it any more, and says what it sees. One task keeps one instance: it starts its supervisor (`plimsoll-shim`), probes
//! the program, starts it again in place when it ends, and ends it when told to. Everything that must survive lies in
//! the instance's directory; an agent that starts finds what runs and adopts it.
//!
//! The way through the crate: `agent` (the driver port), `ledger` (which plan to follow, on disk), `place` (an
//! instance's directory), `render` (from a launch to files and a command line), `fetch` (by what copies get programs by
//! themselves), `keeper` (one instance's life), `runner` (its supervisor), `beside` (what people ask of it), `cgroups`, `networks`, `probe`, `users` (whose processes they are).
//!
//! Deliberately absent: decisions about how many copies there are, where traffic goes, and when something is
//! replaced. Those are the plan's.

mod agent;
mod beside;
mod cgroups;
mod container;
mod engines;
mod fetch;
mod keeper;
mod ledger;
mod networks;
mod place;
mod probe;
mod process;
mod render;
mod runner;
mod users;
mod vehicle;

pub use agent::{Agent, AgentError, Config, OnChange};
pub use beside::{Beside, Log, Reached, Used};
pub use fetch::Fetched;
