//! The control plane of one machine: a data directory, a store, an engine, and the local node.
//!
//! [`Server::start`] puts the parts together and lets them run; [`apply()`] brings what a file declares into the
//! store, where the engine finds it. One process owns a data directory at a time, by a lock.
//!
//! ```text
//! DATA/
//!   lock               held by the process that owns the directory
//!   installation.json  the installation's id and epoch
//!   key                seals secrets; readable by its owner only
//!   plimsoll.db        everything declared and everything recorded, unless a database keeps it
//!   store.json         says that a database does
//!   content/           the bytes of programs, by digest
//!   node/              the local node, unless its users could not reach it here
//! ```
//!
//! Deliberately absent: decisions, and the network.

mod access;
mod apply;
mod content;
mod data;
mod govern;
mod meter;
mod plan;
mod quota;
mod seal;
mod server;
mod store;
mod tokens;

pub use access::{ADMINISTRATOR, AccessError, Caller};
pub use apply::{Applied, ApplyError, Change, Terms, apply};
pub use content::save_content;
pub use data::{DataDirectory, DataError, random_text};
pub use meter::Meter;
pub use plan::{OtherPlan, Planned, identity, plan, review};
pub use plimsoll_driver::DriverError;
pub use server::{Server, Settings, StartError};
pub use store::StoreChoiceError;
pub use tokens::{NewToken, TOKEN_PREFIX, TokenError};
