//! What copies use, and where they are reached: for people, and for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::App;
use plimsoll_model::access::Verb;
use plimsoll_model::id::{ComponentName, Digest, InstanceId, ObjectName, ProjectName};
use plimsoll_server::{Caller, Server};
use plimsoll_store::{Query, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::problem::{Problem, Sort};
use crate::request::{Asked, At};

/// What a copy uses now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Its App.
    pub app: ObjectName,
    /// Its component.
    pub component: ComponentName,
    /// The copy.
    pub instance: InstanceId,
    /// CPU time so far, in milliseconds.
    pub cpu_millis: u64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Processes.
    pub processes: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UsageQuery {
    app: Option<ObjectName>,
}

/// The copies of a scope's Apps.
async fn copies(
    server: &Server,
    scope: &Scope,
) -> Result<Vec<(ObjectName, ComponentName, InstanceId)>, Problem> {
    let mut found = Vec::new();
    for app in server.store().list::<App>(scope, &Query::default()).await? {
        let name = app.meta.key.name;
        for (component, status) in app.status.into_iter().flat_map(|status| status.value.components) {
            let copies = status.instances.into_iter().map(|copy| (name.clone(), component.clone(), copy.id));
            found.extend(copies);
        }
    }
    Ok(found)
}

/// What the copies of a project use now, as far as they run on this machine.
pub(crate) async fn usage(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    Asked(UsageQuery { app: only }): Asked<UsageQuery>,
) -> Result<Json<Value>, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let copies = copies(&server, &scope).await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut copies = copies;
        copies.retain(|(app, ..)| only.as_ref().is_none_or(|it| it == app));
        let instances: Vec<InstanceId> = copies.iter().map(|(.., instance)| instance.clone()).collect();
        let used = server.used(&instances)?;
        let mut items = Vec::new();
        for (app, component, instance) in copies {
            if let Some(used) = used.get(&instance) {
                let plimsoll_server::Used { cpu_millis, memory, processes } = *used;
                items.push(Usage { app, component, instance, cpu_millis, memory, processes });
            }
        }
        Ok::<_, std::io::Error>(items)
    });
    let broken = |error: String| Problem::new(Sort::Internal, error);
    let items = read.await.map_err(|error| broken(error.to_string()))?;
    Ok(Json(json!({"items": items.map_err(|error| broken(error.to_string()))?})))
}

/// Every port of every copy of a project, in the form of Prometheus' HTTP service discovery.
pub(crate) async fn http_sd(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let mut targets = Vec::new();
    for (app, component, instance) in copies(&server, &scope).await? {
        let Some(reached) = server.reached(&instance) else { continue };
        for (port, address) in reached.endpoints {
            targets.push(json!({
                "targets": [address],
                "labels": {
                    "__meta_plimsoll_project": project,
                    "__meta_plimsoll_app": app,
                    "__meta_plimsoll_component": component,
                    "__meta_plimsoll_instance": instance,
                    "__meta_plimsoll_port": port,
                },
            }));
        }
    }
    let tag = format!("\"{}\"", Digest::of_json(&targets).short());
    if headers.get(header::IF_NONE_MATCH).is_some_and(|wanted| *wanted == *tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(([(header::ETAG, tag)], Json(targets)).into_response())
}
