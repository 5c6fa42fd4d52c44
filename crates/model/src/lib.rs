//! The vocabulary of Plimsoll as types.
//!
//! Everything the other crates talk about is named here once: ids and names, quantities, the kinds people
//! declare ([`App`], [`Target`], [`Secret`] …), what was observed of them ([`world`]), what one reconcile
//! decided ([`step::Plan`]) and why nothing is due right now ([`wait::Wait`]). Rows, wire documents and
//! JSON Schemas are all derived from these types; there is no second copy of a spec anywhere.
//!
//! States are enums with data, ids are types, and a secret is a type that cannot be printed
//! ([`secret::Sensitive`]). Invariants that a type cannot hold by itself live in [`validate`], which reports
//! every violation of a document with its field path.
//!
//! Deliberately absent: IO, clocks, randomness, async, and any knowledge of a store, a wire or a driver.

pub mod access;
pub mod app;
pub mod audit;
pub mod fields;
pub mod gate;
pub mod health;
pub mod hook;
pub mod id;
pub mod image;
pub mod kind;
pub mod object;
pub mod operations;
pub mod quantity;
pub mod relation;
pub mod revision;
pub mod scale;
pub mod secret;
pub mod source;
pub mod status;
pub mod step;
pub mod template;
pub mod update;
pub mod validate;
pub mod version;
pub mod wait;
pub mod words;
pub mod world;

pub use app::{AppSpec, Component};
pub use kind::{App, Project, Secret, Target, Token};
pub use object::{Attached, Generation, Kind, Metadata, Object, ObjectKey, Revision};
pub use operations::Operations;
