//! Container engines: Docker and Podman, by the Docker Engine API.
//!
//! An [`Engine`] makes, starts, ends and removes single containers for the agent, says what it sees of those that carry
//! our mark, pulls images by digest, and builds them. What a container is made of is a [`Recipe`]; [`spec`] turns it into what the
//! engine takes and is pure. What is seen comes by looking: events only say when a look is due, and a list every now
//! and then makes up for those that were lost. An engine that does not answer leaves everything unknown.
//!
//! Deliberately absent: restarts (the agent's, with its own pauses; engines are told never to), health (probed by the
//! agent), decisions, and any second way to reach an engine such as its command line.

mod build;
mod command;
mod engine;
mod error;
mod find;
mod follow;
mod logs;
mod network;
mod pull;
mod raw;
pub mod spec;

pub use build::{BuildError, Building};
pub use command::{Attached, Command, Output};
pub use engine::{Engine, Facts, Maker};
pub use error::EngineError;
pub use find::{connect, usual_address};
pub use follow::{Seen, View};
pub use logs::LogLine;
pub use network::{Subnet, addresses_of_this_machine};
pub use pull::PullError;
pub use spec::{Attachment, Mount, Recipe};
