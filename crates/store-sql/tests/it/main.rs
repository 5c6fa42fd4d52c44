//! The store on SQLite files and on a real PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod concurrent;
mod outage;
mod postgres;
mod sqlite;

use plimsoll_model::id::InstallationId;
use plimsoll_model::kind::ProjectSpec;
use plimsoll_model::object::Timestamp;
use plimsoll_model::{Attached, Object, ObjectKey, Project};
use plimsoll_store::{New, Scope, Store};

fn installation() -> InstallationId {
    "i-1".parse().unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::of_installation(name.parse().unwrap())
}

fn new(name: &str) -> New<Project> {
    New {
        uid: format!("uid-{name}").parse().unwrap(),
        key: key(name),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: ProjectSpec::default(),
        operations: (),
    }
}

async fn read(store: &Store, name: &str) -> Option<Object<Project>> {
    store.get::<Project>(&Scope::All, &key(name)).await.unwrap()
}

/// A project that says a number.
fn saying(number: usize) -> ProjectSpec {
    ProjectSpec { description: Some(number.to_string()), ..ProjectSpec::default() }
}
