//! The HTTP API of a control plane.
//!
//! It listens on the loopback address and wants the admin token of the data directory with every request but the
//! two health checks. Objects are JSON as they are stored: `metadata`, `spec`, `operations`, `status`. Errors are
//! `application/problem+json` (RFC 9457), with every error of a refused document at once.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /livez`, `GET /readyz` | whether the process answers; whether the store does |
//! | `GET /version` | the version of the server |
//! | `GET /v1/{plural}` | objects of the installation, or of all projects |
//! | `GET /v1/projects/{project}/{plural}[/{name}]` | objects of a project; instances and events too, which are derived |
//! | `POST /v1/apply?project=P[&path=HASH]` | documents, as `plimsoll apply` sends them |
//! | `POST /v1/plan?project=P` | what applying them would do |
//! | `PUT /v1/content/{digest}` | the bytes of a program |
//! | `POST /v1/projects/{project}/apps/{name}/operations` | what verbs write |
//! | `DELETE /v1/projects/{project}/{plural}/{name}` | deletes |
//! | `GET /v1/projects/{project}/apps/{name}/logs` | what its copies said |
//! | `GET /v1/router` | where routes are served |
//!
//! Deliberately absent: any decision, and any state of its own.

mod derived;
mod logs;
mod objects;
mod problem;
mod serve;
mod token;
mod verbs;

pub use derived::{EVENTS, Event, INSTANCES, Instance};
pub use logs::LogEntry;
pub use plimsoll_server::{Planned, identity};
pub use serve::{Endpoint, ServeError, serve};
pub use verbs::Verb;
