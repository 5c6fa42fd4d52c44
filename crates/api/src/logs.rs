//! What an App's copies said.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use plimsoll_model::access::Verb;
use plimsoll_model::id::{ComponentName, InstanceId, ObjectName, ProjectName};
use plimsoll_model::{App, ObjectKey};
use plimsoll_server::{Caller, Server};
use plimsoll_shim::Stream;
use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Sort};
use crate::request::{Asked, At};

/// Lines sent unless more or fewer are asked for.
const USUAL_TAIL: usize = 200;

/// Lines sent at most.
const MOST: usize = 100_000;

/// One line that a copy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Which copy.
    pub instance: InstanceId,
    /// When, in milliseconds since 1970 UTC.
    pub at: u64,
    /// Whether it was said on standard error.
    pub error: bool,
    /// What; bytes that are not UTF-8 are replaced.
    pub text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LogQuery {
    component: Option<ComponentName>,
    instance: Option<InstanceId>,
    tail: Option<usize>,
    /// Only lines after this time, in milliseconds since 1970 UTC.
    after: Option<u64>,
}

pub(crate) async fn logs(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Json<Vec<LogEntry>>, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let key = ObjectKey::in_project(project, name);
    let app = server.store().get::<App>(&scope, &key).await?;
    let app = app.ok_or_else(|| Problem::not_found(format!("app {key}")))?;
    let components = app.status.into_iter().flat_map(|status| status.value.components);
    let wanted = components.filter(|(name, _)| query.component.as_ref().is_none_or(|it| it == name));
    let instances = wanted.flat_map(|(_, component)| component.instances.into_iter().map(|it| it.id));
    let instances: Vec<InstanceId> =
        instances.filter(|id| query.instance.as_ref().is_none_or(|it| it == id)).collect();
    if let (Some(instance), true) = (&query.instance, instances.is_empty()) {
        return Err(Problem::not_found(format!("instance {instance} of app {key}")));
    }
    let (node, after) = (server.node().to_owned(), query.after.unwrap_or(0));
    let mut lines = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        for instance in instances {
            for file in plimsoll_agent::log_files(&node, &instance) {
                // A log that is not there has no lines.
                let text = std::fs::read(file).unwrap_or_default();
                let said = text.split(|byte| *byte == b'\n').filter_map(plimsoll_shim::read_line);
                lines.extend(said.filter(|line| line.millis > after).map(|line| LogEntry {
                    instance: instance.clone(),
                    at: line.millis,
                    error: line.stream == Stream::Err,
                    text: String::from_utf8_lossy(line.text).into_owned(),
                }));
            }
        }
        lines
    })
    .await
    .map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
    // Lines of one copy stay in their order.
    lines.sort_by_key(|line| line.at);
    let tail = query.tail.unwrap_or(USUAL_TAIL).min(MOST);
    lines.drain(..lines.len().saturating_sub(tail));
    Ok(Json(lines))
}
