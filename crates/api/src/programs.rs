//! Programs by token, as people ask for them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::access::Verb;
use plimsoll_model::audit::Action;
use plimsoll_model::id::{InstanceId, ObjectName, ProjectName, TargetName};
use plimsoll_model::kind::Rejection;
use plimsoll_model::object::Timestamp;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::InstanceState;
use plimsoll_model::world::Exit;
use plimsoll_model::{App, Component, Object, ObjectKey};
use plimsoll_server::{Caller, HEALTH_PORT, Load, PROGRAM_LABEL, Server, is_program, name_of_project};
use plimsoll_store::{Query, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::problem::{Problem, Sort};
use crate::request::{Asked, At, Body, DryRun, Name, WriteQuery, json as from_json, replayed};
use crate::wire::API_VERSION;

/// What has become of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its public id.
    pub id: ObjectName,
    /// Its project.
    pub project: ProjectName,
    /// What runs it.
    pub runtime: String,
    /// When it was loaded.
    pub created: Timestamp,
    /// How it is.
    pub state: ProgramState,
    /// Where its ports are reached from this machine and from other programs, for life; absent until that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<u16>,
    /// The host of the router that leads to the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Copies wanted.
    pub desired: u32,
    /// Copies that are ready.
    pub ready: u32,
    /// The copies.
    pub copies: Vec<ProgramCopy>,
    /// What of it was given up as failed.
    pub failures: Vec<ProgramFailure>,
    /// What it waits for, as sentences.
    pub waits: Vec<String>,
}

/// How a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramState {
    /// Not all copies are ready yet.
    Starting,
    /// All copies are ready.
    Running,
    /// A copy has ended, and is started again.
    Ended,
    /// It was given up: it never became ready, or kept ending.
    Failed,
    /// It was unloaded, and its copies end.
    Unloading,
}

/// A copy of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramCopy {
    /// Its id.
    pub id: InstanceId,
    /// Where it runs.
    pub target: TargetName,
    /// What it is doing.
    pub state: InstanceState,
    /// Times it was started again.
    pub restarts: u32,
    /// How its last run ended, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ProgramEnd>,
    /// What its last failed probe said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// CPU time so far, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Resident memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramEnd {
    /// As words: `exit code 3`.
    pub how: String,
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// What was given up, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramFailure {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub verdict: String,
    /// How the last run ended, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ProgramEnd>,
    /// The last lines that it said.
    pub log: Vec<String>,
}

impl ProgramEnd {
    fn new(exit: Exit, at: Option<Timestamp>) -> Self {
        let code = if let Exit::Code(code) = exit { Some(code) } else { None };
        Self { how: exit.to_string(), code, at }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UnloadQuery {
    dry_run: Option<DryRun>,
    grace: Option<Span>,
}

/// The path of a program, which its owner's token opens.
pub(crate) fn path(key: &ObjectKey) -> String {
    let project = key.project.as_ref().map_or("", ProjectName::as_str);
    format!("/apis/{API_VERSION}/projects/{project}/programs/{}", key.name)
}

/// Loads a program. This answer is the only place where its owner's token is ever seen.
pub(crate) async fn load(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    Asked(WriteQuery { dry_run, .. }): Asked<WriteQuery>,
    name: Name,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (all, is_dry) =
        (ObjectKey::in_project(project.clone(), name_of_project(&project)), dry_run.is_some());
    // Whoever may not learns nothing of what is wrong with a program.
    server.permit(&caller, (Verb::Write, Action::Create), &all, is_dry).await?;
    let load: Load = from_json(&body)?;
    let named = name.of(&caller, &format!("programs {project}"), &body).filter(|_| !is_dry);
    if replayed(&server, named.as_ref()).await?.is_some() {
        let detail = "this request loaded the program already, and its owner's token is shown once: unload that \
                      program and load it again";
        return Err(Problem::new(Sort::Conflict, detail));
    }
    let loaded = server.load(&caller, &project, &load, (named.as_ref(), is_dry)).await?;
    let mut answer = json!({"id": loaded.id, "project": project, "checked": loaded.checked});
    if is_dry {
        return Ok(Json(answer).into_response());
    }
    answer["token"] = loaded.token.expose().as_str().into();
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// The programs of a project.
pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
) -> Result<Json<Value>, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let mut items = Vec::new();
    for app in server.store().list::<App>(&scope, &Query::default()).await? {
        if is_program(&app) {
            items.push(seen(&server, &app).await?);
        }
    }
    Ok(Json(json!({"items": items})))
}

/// What has become of a program, for members of its project and for its owner.
pub(crate) async fn status(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
) -> Result<Json<Program>, Problem> {
    let key = ObjectKey::in_project(project, name);
    let app = server.program(&caller, (Verb::Read, Action::Operate), &key, true).await?;
    Ok(Json(seen(&server, &app).await?))
}

/// Ends a program, for members of its project who may write there and for its owner.
pub(crate) async fn unload(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(UnloadQuery { dry_run, grace }): Asked<UnloadQuery>,
) -> Result<Json<Value>, Problem> {
    let key = ObjectKey::in_project(project, name);
    server.unload(&caller, &key, grace, dry_run.is_some()).await?;
    Ok(Json(json!({"unloaded": key.to_string()})))
}

/// A program as it is now, for whoever speaks of it in other words; nothing if that cannot be said at the moment.
pub async fn program_seen(server: &Server, app: &Object<App>) -> Option<Program> {
    seen(server, app).await.ok()
}

/// A program as it is now.
async fn seen(server: &Server, app: &Object<App>) -> Result<Program, Problem> {
    let (meta, status) = (&app.meta, app.status.as_ref().map(|status| &status.value));
    let (name, component) = app.spec.components.iter().next().unzip();
    let known = status.and_then(|status| status.components.get(name?));
    let kept = server.copies(&meta.uid).await;
    let mut copies = Vec::new();
    for copy in known.iter().flat_map(|known| &known.instances) {
        let now = kept.get(&copy.id);
        let end = now.and_then(|now| now.last_exit);
        copies.push(ProgramCopy {
            id: copy.id.clone(),
            target: copy.target.clone(),
            state: now.map_or(copy.state, |now| InstanceState::from(&now.phase)),
            restarts: now.map_or(copy.restarts, |now| now.restarts),
            end: end.map(|exit| ProgramEnd::new(exit, server.ended(&copy.id))),
            probe: now.and_then(|now| now.probe.clone()),
            cpu_millis: None,
            memory: None,
        });
    }
    let ids: Vec<InstanceId> = copies.iter().map(|copy| copy.id.clone()).collect();
    // What cannot be measured now is left out.
    let used = server.used(&ids).unwrap_or_default();
    for copy in &mut copies {
        let used = used.get(&copy.id);
        (copy.cpu_millis, copy.memory) = (used.map(|used| used.cpu_millis), used.map(|used| used.memory));
    }
    let mut failures = Vec::new();
    for id in status.iter().flat_map(|status| status.rejected.keys()) {
        let found = server.store().get::<Rejection>(&Scope::All, &meta.key.sibling(id.clone())).await?;
        if let Some(Object { meta, spec, .. }) = found {
            let evidence = spec.evidence;
            failures.push(ProgramFailure {
                at: meta.created,
                verdict: evidence.verdict,
                end: evidence.exit.map(|exit| ProgramEnd::new(exit, Some(meta.created))),
                log: evidence.log,
            });
        }
    }
    let ready = copies.iter().filter(|copy| copy.state == InstanceState::Ready).count();
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    let replicas = component.map_or(0, Component::replicas);
    let desired = known.map_or(replicas, |known| known.desired);
    let waits = status.and_then(|status| status.outcome.as_ref()).map(|outcome| &outcome.waits);
    let is_ended = |copy: &ProgramCopy| copy.state == InstanceState::Backoff;
    let state = match () {
        () if meta.deleting.is_some() => ProgramState::Unloading,
        () if !failures.is_empty() && ready < desired => ProgramState::Failed,
        () if copies.iter().any(is_ended) => ProgramState::Ended,
        () if ready >= desired && known.is_some() => ProgramState::Running,
        () => ProgramState::Starting,
    };
    let ports = component.map(|it| it.ports.values().copied().filter(|port| *port != HEALTH_PORT));
    let label = meta.attached.labels.iter().find(|(label, _)| label.as_str() == PROGRAM_LABEL);
    Ok(Program {
        id: meta.key.name.clone(),
        project: meta.key.project.clone().ok_or_else(|| Problem::not_found("such program"))?,
        runtime: label.map(|(_, runtime)| runtime.clone()).unwrap_or_default(),
        created: meta.created,
        state,
        address: status.and_then(|status| status.memory.get(name?)?.address),
        ports: ports.into_iter().flatten().collect(),
        host: component.and_then(|it| it.routes.first()).map(|route| route.host.clone()),
        desired,
        ready,
        copies,
        failures,
        waits: waits.into_iter().flatten().map(|waited| waited.wait.reason().to_string()).collect(),
    })
}
