//! Real servers for tests, each started on a place of its own and ended with the value that stands for it.
//!
//! Deliberately absent: pretending. A server that is not installed fails the test that needs it, and says what to install;
//! `./test` installs all of them.

mod acme;
mod engine;
mod git;
mod oidc;
mod postgres;
mod prometheus;
mod registry;
mod ssh;

pub use acme::{Acme, Validity};
pub use engine::{BUSYBOX, Engine, Make};
pub use git::Git;
pub use oidc::Oidc;
pub use postgres::Postgres;
pub use prometheus::Prometheus;
pub use registry::Registry;
pub use ssh::Ssh;
