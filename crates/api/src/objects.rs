//! Reading and deleting objects of any kind.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use plimsoll_model::id::{ObjectName, ProjectName};
use plimsoll_model::kind::{AppRevisions, Claim, Plans, Rejection};
use plimsoll_model::{App, Kind, Object, ObjectKey, Project, Secret, Target};
use plimsoll_server::Server;
use plimsoll_store::{Batch, Query, Scope};
use serde_json::{Value, json};

use crate::derived;
use crate::problem::Problem;

/// Calls a generic function with the kind that a collection's name stands for.
macro_rules! for_kind {
    ($plural:expr, $function:ident($($argument:expr),*)) => {
        match $plural {
            App::PLURAL => $function::<App>($($argument),*).await,
            Project::PLURAL => $function::<Project>($($argument),*).await,
            Target::PLURAL => $function::<Target>($($argument),*).await,
            Secret::PLURAL => $function::<Secret>($($argument),*).await,
            AppRevisions::PLURAL => $function::<AppRevisions>($($argument),*).await,
            Rejection::PLURAL => $function::<Rejection>($($argument),*).await,
            Plans::PLURAL => $function::<Plans>($($argument),*).await,
            Claim::PLURAL => $function::<Claim>($($argument),*).await,
            other => Err(Problem::no_kind(other)),
        }
    };
}

/// An object as it is sent. Values of secrets are not, sealed or not.
fn sent<K: Kind>(object: &Object<K>) -> Result<Value, Problem> {
    let value = |result: Result<Value, serde_json::Error>| result.map_err(Problem::bad);
    let mut spec = value(serde_json::to_value(&object.spec))?;
    if K::PLURAL == Secret::PLURAL
        && let Some(data) = spec.get_mut("data").and_then(Value::as_object_mut)
    {
        data.values_mut().for_each(|sealed| *sealed = Value::Null);
    }
    Ok(json!({
        "apiVersion": "plimsoll.dev/v1",
        "kind": K::NAME,
        "metadata": value(serde_json::to_value(&object.meta))?,
        "spec": spec,
        "operations": value(serde_json::to_value(&object.operations))?,
        "status": value(serde_json::to_value(&object.status))?,
    }))
}

async fn list_kind<K: Kind>(server: &Server, scope: &Scope) -> Result<Json<Value>, Problem> {
    let objects = server.store().list::<K>(scope, &Query::default()).await?;
    let items = objects.iter().map(sent).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({"items": items})))
}

async fn get_kind<K: Kind>(server: &Server, key: &ObjectKey) -> Result<Json<Value>, Problem> {
    let object = server.store().get::<K>(&Scope::All, key).await?;
    let object = object.ok_or_else(|| Problem::not_found(format!("{} {key}", K::NAME.to_lowercase())))?;
    Ok(Json(sent(&object)?))
}

/// Objects of a collection, a derived one too.
async fn collection(server: &Server, plural: &str, scope: &Scope) -> Result<Json<Value>, Problem> {
    let items = match plural {
        derived::INSTANCES => derived::instances(server, scope).await?,
        derived::EVENTS => derived::events(server, scope).await?,
        stored => return for_kind!(stored, list_kind(server, scope)),
    };
    Ok(Json(json!({"items": items})))
}

pub(crate) async fn list_all(
    State(server): State<Arc<Server>>,
    Path(plural): Path<String>,
) -> Result<Json<Value>, Problem> {
    collection(&server, &plural, &Scope::All).await
}

pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Path((project, plural)): Path<(ProjectName, String)>,
) -> Result<Json<Value>, Problem> {
    collection(&server, &plural, &Scope::project(project)).await
}

pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    Path((project, plural, name)): Path<(ProjectName, String, ObjectName)>,
) -> Result<Json<Value>, Problem> {
    let key = ObjectKey::in_project(project, name);
    for_kind!(plural.as_str(), get_kind(&server, &key))
}

pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Path((project, plural, name)): Path<(ProjectName, String, ObjectName)>,
) -> Result<Json<Value>, Problem> {
    let key = ObjectKey::in_project(project, name);
    match plural.as_str() {
        // What runs is taken apart first, by the App's reconciler.
        App::PLURAL => {
            delete_kind::<App>(&server, &key, |batch, old| batch.mark_deleting(old, server.now())).await
        }
        Secret::PLURAL => delete_kind::<Secret>(&server, &key, Batch::delete).await,
        other => Err(Problem::bad(format!("{other} cannot be deleted"))),
    }
}

async fn delete_kind<K: Kind>(
    server: &Server,
    key: &ObjectKey,
    write: impl Fn(Batch, &Object<K>) -> Batch,
) -> Result<Json<Value>, Problem> {
    let change = |old: Option<Object<K>>| {
        let old = old.ok_or_else(|| Problem::not_found(format!("{} {key}", K::NAME.to_lowercase())))?;
        Ok::<_, Problem>((write(Batch::new(), &old), ()))
    };
    server.store().update(&Scope::All, key, change).await??;
    Ok(Json(json!({"deleted": key.to_string()})))
}
