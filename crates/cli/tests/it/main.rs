//! Tests of the binary with real processes, files and sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod abandon;
mod agent;
mod backup;
mod beside;
mod book;
mod builds;
mod compat;
mod containers;
mod disk;
mod fields;
mod hooks;
mod https;
mod images;
mod keys;
mod listen;
mod login;
mod pipelines;
mod plane;
mod programs;
mod router;
mod scale;
mod talk;
mod tenants;
mod tls;
mod trial;
mod up;
mod upgrade;
