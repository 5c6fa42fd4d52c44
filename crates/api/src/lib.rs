//! The HTTP API of a control plane.
//!
//! It follows the conventions of Kubernetes where they fit: objects have `apiVersion`, `kind`, `metadata`, `spec` and `status`
//! (and `operations`, what verbs write); lists have pages and selectors; a change may name the version it is made of; watches
//! resume. Errors are `application/problem+json` (RFC 9457), with every error of a refused document at once.
//!
//! Below `/apis/plimsoll.dev/v1`:
//!
//! | request | what it does |
//! |---|---|
//! | `GET /{plural}` | a collection of the installation, or of all projects that the caller sees; `watch=true` tells changes |
//! | `GET /projects/{project}/{plural}` | a collection of a project |
//! | `GET`, `PUT`, `PATCH`, `DELETE` of either with `/{name}` | one object; `dryRun=All`, `If-Match` |
//! | `POST /projects/{project}/apply` | documents, as `plimsoll apply` sends them; `path=HASH` refuses any other plan |
//! | `POST /projects/{project}/plan` | what applying them would do |
//! | `POST /projects/{project}/deploy` | the bytes that images stand for, as `plimsoll ci deploy` sends them |
//! | `PUT /projects/{project}/content/{digest}` | the bytes of a program |
//! | `POST /projects/{project}/apps/{name}/operations` | what verbs write |
//! | `GET /projects/{project}/apps/{name}/logs` | what its copies said; `follow=true` goes on |
//! | `GET /projects/{project}/apps/{name}/exec` | a command beside a copy's program, over a WebSocket |
//! | `POST /projects/{project}/programs` | the text of a program, which runs from then on; its owner's token is shown once |
//! | `GET /projects/{project}/programs` | programs that were loaded |
//! | `GET`, `DELETE` of it with `/{id}` | what has become of one; ending it. Its owner's token does these two |
//! | `GET /projects/{project}/builds/{name}/log` | what building a source has said; `follow=true` goes on |
//! | `POST /projects/{project}/builds/{name}/retry` | building it again |
//! | `GET /projects/{project}/usage` | what copies use |
//! | `GET /projects/{project}/http_sd` | every port of every copy, for Prometheus |
//! | `POST /tokens` | a new token, shown once |
//! | `GET /audit` | who changed what |
//! | `POST /backup` | a backup of this moment, encrypted for its recipients |
//! | `GET /hold`, `DELETE /hold` | what the release of a restore would do; releasing it |
//! | `POST /migrate` | moving everything to a PostgreSQL database |
//! | `GET /whoami` | who the caller is, and in which projects what |
//! | `GET /router` | where routes are served |
//!
//! On a stable address of its own, copies of programs ask for `GET /program`, each with a credential that is good for it alone.
//!
//! Beside it: `/livez`, `/readyz`, `/metrics`, `/version`, `/openapi.json`, and `/hooks`, where registries and pipelines say what
//! has become of images. Every request but the first two and signed deliveries shows a token. A project in which the caller
//! has no role is answered as one that is not there.
//!
//! Deliberately absent: any decision, and any state of its own.

mod access;
mod builds;
mod conditions;
mod derived;
mod exec;
mod fetch;
mod hooks;
mod kinds;
mod limit;
mod listen;
mod logs;
mod objects;
mod oidc;
mod openapi;
mod problem;
mod programs;
mod request;
mod select;
mod serve;
mod tls;
mod tokens;
mod usage;
mod verbs;
mod watch;
mod whole;
mod wire;
mod write;

pub use access::WhoAmI;
pub use derived::{EVENTS, Event, INSTANCES, Instance};
pub use exec::{Channel, ExecEnd};
pub use hooks::Deployments;
pub use kinds::{Origin, Resource};
pub use logs::LogEntry;
pub use oidc::{CameBack, Issuer, LoggedIn, LoginPlace};
pub use openapi::openapi;
pub use plimsoll_server::{Deployed, Load, NewToken, Planned, Wish, identity};
pub use programs::{Program, ProgramCopy, ProgramEnd, ProgramFailure, ProgramState, program_seen};
pub use serve::{Certificate, End, Endpoint, Listen, ServeError, Serving, serve};
pub use tls::{TlsError, TlsFiles};
pub use usage::Usage;
pub use verbs::Operation;
