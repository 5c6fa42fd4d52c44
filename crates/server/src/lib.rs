//! The control plane of one machine: a data directory, a store, an engine, and the local node.
//!
//! [`Server::start`] puts the parts together and lets them run; [`apply()`] brings what a file declares into the
//! store, where the engine finds it. One process owns a data directory at a time, by a lock.
//!
//! ```text
//! DATA/
//!   lock               held by the process that owns the directory
//!   installation.json  the installation's id and epoch
//!   key-file           seals the keyring, unless a key file from elsewhere does; readable by its owner only
//!   keyring.json       the keys that seal secrets, themselves sealed
//!   plimsoll.db        everything declared and everything recorded, unless a database keeps it
//!   store.json         says that a database does
//!   *.before-N         what a restore replaced
//!   content/           the bytes of programs, by digest
//!   node/              the local node, unless its users could not reach it here
//! ```
//!
//! Deliberately absent: decisions, and the network.

mod abandon;
mod access;
mod apply;
mod backup;
mod builds;
mod capacity;
mod certificates;
mod content;
mod data;
mod deploy;
mod fetch;
mod gate;
mod gauges;
mod govern;
mod hold;
mod hooks;
mod images;
mod keyring;
mod meter;
mod migrate;
mod plan;
mod programs;
mod quota;
mod receipt;
mod rotate;
mod seal;
mod server;
mod store;
mod syntax;
mod tokens;
mod usage;

pub use access::{ADMINISTRATOR, AccessError, Caller, name_of_project};
pub use apply::{Applied, ApplyError, By, Change, Terms, apply};
pub use backup::{BackupError, Recipients, Restored, Verified, new_identity, restore, verify};
pub use content::save_content;
pub use data::{DataDirectory, DataError, Held, random_text};
pub use deploy::{DeployError, Deployed, Wish};
pub use hold::{HoldError, OnHold, Unknown};
pub use hooks::{Delivery, HookError};
pub use keyring::{KeyError, create_key_file};
pub use meter::Meter;
pub use migrate::{MigrateError, Migrated};
pub use plan::{OtherPlan, Planned, identity, plan, review};
pub use plimsoll_agent::{Reached, Used};
pub use plimsoll_certificate::Settings as AcmeSettings;
pub use plimsoll_driver::DriverError;
pub use plimsoll_reconcile::Drivers;
pub use plimsoll_router::Ports;
pub use programs::{
    Fault, HEALTH_PORT, LARGEST_PROGRAM, Load, LoadError, Loaded, PROGRAM_LABEL, USER_ANNOTATION, is_program,
};
pub use receipt::{Known, Named};
pub use rotate::{RotateError, Rotated};
pub use seal::KeyId;
pub use server::{Server, Settings, StartError};
pub use store::StoreChoiceError;
pub use tokens::{NewToken, TOKEN_PREFIX, TokenError};
