//! What people ask of a control plane: documents to apply, and verbs for an App.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use plimsoll_manifest::Document;
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{ComponentName, Digest, ObjectName, PathHash, ProjectName};
use plimsoll_model::operations::{Operations, Power};
use plimsoll_server::{Applied, Change, Planned, Server};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::problem::Problem;

/// One change of an App's operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Verb {
    /// Let its copies run, or none of them.
    Power(Power),
    /// Replace nothing, or go on.
    Paused(bool),
    /// Run so many copies of a component, whatever its declaration says; `null` follows the declaration again.
    Scale {
        /// The component.
        component: ComponentName,
        /// Copies.
        replicas: Option<u32>,
    },
    /// Replace the copies of these components once, of all without any.
    Restart(Vec<ComponentName>),
    /// Lift the Rejections of these components, of all without any.
    Retry(Vec<ComponentName>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyQuery {
    project: ProjectName,
    /// Refuse if the documents would do anything but this.
    path: Option<PathHash>,
}

pub(crate) async fn plan(
    State(server): State<Arc<Server>>,
    Query(ApplyQuery { project, .. }): Query<ApplyQuery>,
    body: Bytes,
) -> Result<Json<Vec<Planned>>, Problem> {
    Ok(Json(plimsoll_server::plan(&server, &documents(&body)?, &project).await?))
}

pub(crate) async fn apply(
    State(server): State<Arc<Server>>,
    Query(ApplyQuery { project, path }): Query<ApplyQuery>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let documents = documents(&body)?;
    if let Some(reviewed) = path
        && let Some(other) = plimsoll_server::review(&server, &documents, &project, reviewed).await?
    {
        return Err(Problem::other_plan(reviewed, other));
    }
    let applied = plimsoll_server::apply(&server, &documents, &project).await?;
    let items: Vec<Value> = applied.iter().map(sent).collect();
    Ok(Json(json!({"applied": items})))
}

fn sent(it: &Applied) -> Value {
    let change = match it.change {
        Change::Created => "created",
        Change::Changed => "changed",
        Change::Unchanged => "unchanged",
    };
    json!({"kind": it.kind, "project": it.key.project, "name": it.key.name, "change": change})
}

/// The documents of a request, or everything that is wrong with them.
fn documents(body: &[u8]) -> Result<Vec<Document>, Problem> {
    let documents = plimsoll_manifest::parse("request", body).map_err(|errors| {
        Problem::refused(errors.iter().filter_map(|error| serde_json::to_value(error).ok()).collect())
    })?;
    let mut missing = Vec::new();
    for document in &documents {
        if let Document::App(app) = document {
            let violations = plimsoll_manifest::require_digests(&app.spec);
            missing.extend(violations.iter().map(|it| json!({"message": it.to_string()})));
        }
    }
    if !missing.is_empty() {
        return Err(Problem::refused(missing));
    }
    Ok(documents)
}

pub(crate) async fn put_content(
    State(server): State<Arc<Server>>,
    Path(digest): Path<Digest>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    if Digest::of_bytes(&body) != digest {
        return Err(Problem::bad("the bytes do not have this digest"));
    }
    let content = server.data().content();
    let saved = tokio::task::spawn_blocking(move || plimsoll_server::save_content(&content, &body)).await;
    match saved {
        Ok(Ok(digest)) => Ok(Json(json!({"digest": digest}))),
        Ok(Err(error)) => Err(plimsoll_server::ApplyError::from(error).into()),
        Err(error) => Err(Problem::bad(error)),
    }
}

pub(crate) async fn operate(
    State(server): State<Arc<Server>>,
    Path((project, name)): Path<(ProjectName, ObjectName)>,
    Json(verb): Json<Verb>,
) -> Result<Json<Value>, Problem> {
    let key = ObjectKey::in_project(project, name);
    let app = server.store().get::<plimsoll_model::App>(&plimsoll_store::Scope::All, &key).await?;
    let app = app.ok_or_else(|| Problem::not_found(format!("app {key}")))?;
    let components: Vec<ComponentName> = app.spec.components.keys().cloned().collect();
    let named = match &verb {
        Verb::Scale { component, .. } => std::slice::from_ref(component),
        Verb::Restart(named) | Verb::Retry(named) => &named[..],
        Verb::Power(_) | Verb::Paused(_) => &[],
    };
    if let Some(unknown) = named.iter().find(|name| !components.contains(name)) {
        let known: Vec<&str> = components.iter().map(ComponentName::as_str).collect();
        let detail = format!("app {key} has no component {unknown}; it has {}", known.join(", "));
        return Err(Problem::bad(detail));
    }
    let rejected = app.status.map(|status| status.value.rejected).unwrap_or_default();
    let change = |operations: &mut Operations| match &verb {
        Verb::Power(power) => operations.power = *power,
        Verb::Paused(paused) => operations.paused = *paused,
        Verb::Scale { component, replicas: Some(replicas) } => {
            operations.replicas.insert(component.clone(), *replicas);
        }
        Verb::Scale { component, replicas: None } => {
            operations.replicas.remove(component);
        }
        Verb::Restart(named) => {
            for name in if named.is_empty() { &components } else { named } {
                *operations.restarts.entry(name.clone()).or_default() += 1;
            }
        }
        Verb::Retry(named) => {
            for (id, it) in &rejected {
                if named.is_empty() || named.contains(&it.component) {
                    operations.retry.insert(it.component.clone(), id.clone());
                }
            }
        }
    };
    server.operate(&key, change).await?;
    Ok(Json(json!({"operated": key.to_string()})))
}
