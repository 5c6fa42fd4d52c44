//! The deployer that came before: clients that were written for the Jolie cloud deployer are served here, unchanged.
//!
//! What they ask for is carried out by what everybody else uses too: `load` loads a program into one project, and the token that
//! it answers is the owner's. This crate knows their words only:
//!
//! | request | |
//! |---|---|
//! | `POST /load`, `/unload`, `/statusUserPrograms`, `/getProgram`, `/health` | the operations, in JSON as Jolie writes it |
//! | `/api/jolie-deployer/OPERATION` | the same through their gateway, in `JSend` |
//! | `/script/TOKEN/…` | the program's own port 8080 |
//!
//! `wire` reads and writes their JSON, `operations` carries out, `gateway` leads on, `serve` is the listener.
//!
//! Deliberately absent: any right of its own. Who may come in at all is decided by addresses, before anything is read.

mod allow;
mod gateway;
mod operations;
mod serve;
mod wire;

pub use allow::{Allowed, NotANetwork};
pub use serve::{Compat, CompatError, Settings};
