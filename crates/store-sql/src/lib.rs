//! The store on SQL. SQLite, in one file, is what a control plane uses unless told otherwise.
//!
//! One connection writes, others read. Writes that wait for the disk at the same time share one commit: each is
//! checked and applied in a savepoint of its own, so that one that is refused leaves the others as they are, and
//! all are answered after the disk has them (`synchronous = FULL`). Watches are served from memory; after a
//! restart a watcher lists again.
//!
//! Deliberately absent: any knowledge of kinds (the `Store` of `plimsoll-store` has it), encryption (secrets arrive
//! sealed), and sharing of one file by two processes, which the data directory's lock prevents.

mod sqlite;
mod writer;

pub use sqlite::{OpenError, Sqlite};
