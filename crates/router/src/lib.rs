//! The router: a process of its own that leads traffic to the copies that are ready.
//!
//! It serves host and path routes over HTTP and HTTPS and the stable address of each component over TCP. What it serves is
//! one table for each App, changed by fenced steps and kept on disk, so that a router that was killed serves the same
//! after its start, with or without a control plane. A member that drains gets nothing new and finishes what it has;
//! how much that is, the plan sees before it stops the copy. HTTP itself is hyper's.
//!
//! The way through the crate: `process` (start and end), `control` and `wire` (what the control plane says over a
//! unix socket), `certificates` (by host, and proofs for an authority), `state` (tables, members, ledger, on disk), `http`, `passing` and `upstream` (requests), `tcp` (connections),
//! `access` (the log), `driver` (the control plane's end).
//!
//! Deliberately absent: health checks (the agent's) and any decision about who is a member (the plan's).

mod access;
mod certificates;
mod control;
mod driver;
mod hold;
mod http;
mod load;
mod passing;
mod process;
mod socket;
mod state;
mod tcp;
mod upstream;
mod wire;

pub use driver::{LOCKED, RouterDriver};
pub use process::{Ports, RouterError, run};
pub use tcp::listen_beside;
