//! The store port: where declarations, statuses and records are kept.
//!
//! The store is the truth; whatever else is in memory is a cache that can be dropped. A [`Backend`] keeps rows and
//! knows no kinds; [`Store`] puts the kinds of the model on top of it. Three rules are in the types:
//!
//! - **No blind write.** Every write in a [`Batch`] has a precondition: absent, or at a revision.
//! - **No query without a scope.** Every read and every commit takes a [`Scope`].
//! - **No transaction across a call to another system.** There is no open transaction to hold: a batch is
//!   committed as a whole or not at all.
//!
//! Changes of one kind are delivered to watchers in commit order. A watch is still only a hint: whoever acts,
//! reads the row first.
//!
//! Deliberately absent: SQL, encryption (secrets arrive sealed), and caching.

mod backend;
mod batch;
pub mod contract;
mod error;
mod feed;
mod memory;
mod scope;
mod typed;

pub use backend::{Backend, Change, ChangeKind, Fut, KindName, Moment, Page, Query, ResumeToken, Row, Watch};
pub use batch::{Batch, New, Precondition, Write};
pub use error::StoreError;
pub use feed::Feed;
pub use memory::Memory;
pub use scope::Scope;
pub use typed::{Store, decode};
