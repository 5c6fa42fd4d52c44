//! The store on SQL: SQLite, in one file, unless told otherwise, or a PostgreSQL database by its address.
//!
//! Both run the same statements, SQLite's where they are asked for (ADR 14); rows that were read or written lately are kept in memory where only this process writes (ADR 25). One task writes: batches that wait at the same time share one transaction, each is checked
//! before anything of it is written, and all are answered after the disk has them. On PostgreSQL a transaction locks the row
//! of the newest revision first, so that commits come in the order of revisions whoever writes, and it is begun again as
//! a whole when the database finds it in another one's way (SQLSTATE 40001). Watches are served from memory; the table of
//! changes fills it after a restart and, on PostgreSQL, tells what others wrote.
//!
//! Deliberately absent: any knowledge of kinds (the `Store` of `plimsoll-store` has it), encryption (secrets arrive
//! sealed), sharing of one SQLite file by two processes, which the data directory's lock prevents, and whatever
//! `CockroachDB` lacks: listen and notify, advisory locks.

mod cache;
mod database;
mod follow;
mod session;
mod sql;
mod sqlite;
mod whole;
mod writer;

pub use database::OpenError;
pub use session::DatabaseError;
pub use sql::Sql;
pub use whole::Filling;
