//! What people ask of a control plane: documents to apply, and verbs for an App.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_manifest::Document;
use plimsoll_model::access::Verb;
use plimsoll_model::app::MOST_COPIES;
use plimsoll_model::audit::Action;
use plimsoll_model::id::{ComponentName, Digest, ManagerName, ObjectName, PathHash, ProjectName};
use plimsoll_model::operations::{Operations, Power, Promotion, RolloutRef};
use plimsoll_model::status::{Memory, Rollout};
use plimsoll_model::{App, Object, ObjectKey};
use plimsoll_server::{Applied, ApplyError, By, Caller, Change, Planned, Server, Terms};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::problem::{Problem, Sort};
use crate::request::{Asked, At, Body, DryRun, Name, WriteQuery, again, json as from_json, replayed};
use crate::write::parsed;

/// One change of an App's operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Operation {
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
    /// Let rollouts go on whose new copies are tried beside the old ones.
    Promote {
        /// Of these components, of all without any.
        #[serde(default)]
        components: Vec<ComponentName>,
        /// End all steps that are left, not only the one that is under way.
        #[serde(default)]
        all: bool,
    },
    /// Reject what is being rolled out of these components, of all without any.
    Abort(Vec<ComponentName>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ApplyQuery {
    /// Refuse if the documents would do anything but this.
    path: Option<PathHash>,
    dry_run: Option<DryRun>,
    field_manager: Option<ManagerName>,
}

pub(crate) async fn plan(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    Body(body): Body,
) -> Result<Json<Vec<Planned>>, Problem> {
    let documents = parsed(&body)?;
    see(&server, &caller, &documents, &project).await?;
    Ok(Json(plimsoll_server::plan(&server, &documents, &project).await?))
}

/// Refuses whoever does not see where documents belong.
async fn see(
    server: &Server,
    caller: &Caller,
    documents: &[Document],
    project: &ProjectName,
) -> Result<(), Problem> {
    for document in documents {
        if matches!(document, Document::App(_) | Document::Secret(_)) {
            let project = document.metadata().project.as_ref().unwrap_or(project);
            caller.within(server.store(), project, Verb::Read).await?;
        }
    }
    Ok(())
}

pub(crate) async fn apply(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    Asked(ApplyQuery { path, dry_run, field_manager }): Asked<ApplyQuery>,
    name: Name,
    Body(body): Body,
) -> Result<Response, Problem> {
    let documents = parsed(&body)?;
    // Whoever may not see the project learns nothing of what was asked of it before.
    let named = name.of(&caller, &format!("apply {project} {path:?}"), &body).filter(|_| dry_run.is_none());
    if let Some(answer) = replayed(&server, named.as_ref()).await? {
        see(&server, &caller, &documents, &project).await?;
        return Ok(again(answer));
    }
    if let Some(reviewed) = path {
        see(&server, &caller, &documents, &project).await?;
        if let Some(other) = plimsoll_server::review(&server, &documents, &project, reviewed).await? {
            return Err(Problem::other_plan(reviewed, other));
        }
    }
    let by = field_manager.map_or_else(By::default, By::Changed);
    let terms = Terms { dry_run: dry_run.is_some(), by, ..Terms::default() };
    let applied = plimsoll_server::apply(&server, &caller, &documents, &project, &terms).await?;
    let items: Vec<Value> = applied.iter().map(sent).collect();
    let answer = json!({"applied": items});
    if let Some(named) = &named {
        // Each document was written by itself, and does nothing when it is written again.
        server.keep_receipt(named, &answer.to_string()).await?;
    }
    Ok(Json(answer).into_response())
}

fn sent(it: &Applied) -> Value {
    let change = match it.change {
        Change::Created => "created",
        Change::Changed => "changed",
        Change::Unchanged => "unchanged",
    };
    json!({"kind": it.kind, "project": it.key.project, "name": it.key.name, "change": change})
}

pub(crate) async fn put_content(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, digest)): At<(ProjectName, Digest)>,
    Body(body): Body,
) -> Result<Json<Value>, Problem> {
    caller.within(server.store(), &project, Verb::Write).await?;
    if Digest::of_bytes(&body) != digest {
        return Err(Problem::bad("the bytes do not have this digest"));
    }
    let content = server.data().content();
    let saved = tokio::task::spawn_blocking(move || plimsoll_server::save_content(&content, &body)).await;
    match saved {
        Ok(Ok(digest)) => Ok(Json(json!({"digest": digest}))),
        Ok(Err(error)) => Err(ApplyError::from(error).into()),
        Err(error) => Err(Problem::new(Sort::Internal, error.to_string())),
    }
}

pub(crate) async fn operate(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(query): Asked<WriteQuery>,
    headers: HeaderMap,
    request: Name,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (key, mut terms) = (ObjectKey::in_project(project.clone(), name), query.terms(&headers)?);
    let scope = server.permit(&caller, (Verb::Write, Action::Operate), &key, terms.dry_run).await?;
    let verb: Operation = from_json(&body)?;
    let answer = json!({"operated": key.to_string()});
    if let Some(named) = request.of(&caller, &format!("operate {key}"), &body).filter(|_| !terms.dry_run) {
        if let Some(answer) = replayed(&server, Some(&named)).await? {
            return Ok(again(answer));
        }
        terms.receipt = Some((named, answer.to_string()));
    }
    let app = server.store().get::<App>(&scope, &key).await?;
    let app = app.ok_or_else(|| Problem::not_found(format!("app {key}")))?;
    let components: Vec<ComponentName> = app.spec.components.keys().cloned().collect();
    let named = match &verb {
        Operation::Scale { component, .. } => std::slice::from_ref(component),
        Operation::Restart(named)
        | Operation::Retry(named)
        | Operation::Abort(named)
        | Operation::Promote { components: named, .. } => &named[..],
        Operation::Power(_) | Operation::Paused(_) => &[],
    };
    if let Some(unknown) = named.iter().find(|name| !components.contains(name)) {
        let known: Vec<&str> = components.iter().map(ComponentName::as_str).collect();
        let detail = format!("app {key} has no component {unknown}; it has {}", known.join(", "));
        return Err(Problem::bad(detail));
    }
    if let Operation::Scale { replicas: Some(replicas), .. } = &verb
        && *replicas > MOST_COPIES
    {
        let message = format!("{replicas} copies are more than {MOST_COPIES}");
        return Err(Problem::refused(vec![json!({"message": message, "pointer": "/scale/replicas"})]));
    }
    let rejected = app.status.as_ref().map(|status| status.value.rejected.clone()).unwrap_or_default();
    let promoted = match &verb {
        Operation::Promote { components, all } => promotions(&app, components, *all)?,
        _ => BTreeMap::new(),
    };
    let aborted = match &verb {
        Operation::Abort(named) => aborts(&app, named)?,
        _ => BTreeMap::new(),
    };
    let change = |operations: &mut Operations| match &verb {
        Operation::Power(power) => operations.power = *power,
        Operation::Paused(paused) => operations.paused = *paused,
        Operation::Scale { component, replicas: Some(replicas) } => {
            operations.replicas.insert(component.clone(), *replicas);
        }
        Operation::Scale { component, replicas: None } => {
            operations.replicas.remove(component);
        }
        Operation::Restart(named) => {
            for name in if named.is_empty() { &components } else { named } {
                *operations.restarts.entry(name.clone()).or_default() += 1;
            }
        }
        Operation::Retry(named) => {
            for (id, it) in &rejected {
                if named.is_empty() || named.contains(&it.component) {
                    operations.retry.insert(it.component.clone(), id.clone());
                    operations.aborts.remove(&it.component);
                }
            }
        }
        Operation::Promote { .. } => operations.promotions.extend(promoted.clone()),
        Operation::Abort(_) => operations.aborts.extend(aborted.clone()),
    };
    server.operate(&caller, &app, Action::Operate, &terms, change).await?;
    Ok(Json(answer).into_response())
}

/// The rollouts of these components, of all without any.
fn rollouts<'a>(
    app: &'a Object<App>,
    named: &'a [ComponentName],
) -> impl Iterator<Item = (&'a ComponentName, &'a Memory, &'a Rollout)> {
    let memory = app.status.iter().flat_map(|status| &status.value.memory);
    let wanted = memory.filter(|(name, _)| named.is_empty() || named.contains(name));
    wanted.filter_map(|(name, memory)| Some((name, memory, memory.rollout.as_ref()?)))
}

fn promotions(
    app: &Object<App>,
    named: &[ComponentName],
    all: bool,
) -> Result<BTreeMap<ComponentName, Promotion>, Problem> {
    let tried = rollouts(app, named).filter_map(|(name, _, rollout)| {
        let update = &app.spec.components.get(name)?.update;
        let of = u32::try_from(update.stages().len()).ok()?;
        let step = rollout.trial.as_ref().map_or(of, |trial| trial.step.min(of));
        // At the end there is nothing to wait for but a gate.
        let steps = match step {
            _ if step < of && all => of,
            _ if step < of || !update.gate.is_default() => step + 1,
            _ => return None,
        };
        Some((name.clone(), Promotion { rollout: rollout.reference(), steps }))
    });
    let nothing = "waits for a step or a gate: there is nothing to promote";
    any(tried.collect(), || (format!("no rollout of app {} {nothing}", app.meta.key), "/promote"))
}

fn aborts(
    app: &Object<App>,
    named: &[ComponentName],
) -> Result<BTreeMap<ComponentName, RolloutRef>, Problem> {
    let has_way_back = |memory: &Memory, to| memory.good.is_some_and(|good| good.component != to);
    let rolling = rollouts(app, named).filter(|(_, memory, rollout)| has_way_back(memory, rollout.to));
    let found = rolling.map(|(name, _, rollout)| (name.clone(), rollout.reference()));
    let nothing = "that has something to go back to: there is nothing to abort";
    any(found.collect(), || {
        (format!("nothing is being rolled out of app {} {nothing}", app.meta.key), "/abort")
    })
}

/// What a verb is about, or what is said where there is nothing, and of which part of the request.
fn any<T>(
    found: BTreeMap<ComponentName, T>,
    nothing: impl FnOnce() -> (String, &'static str),
) -> Result<BTreeMap<ComponentName, T>, Problem> {
    if found.is_empty() {
        let (message, pointer) = nothing();
        return Err(Problem::refused(vec![json!({"message": message, "pointer": pointer})]));
    }
    Ok(found)
}
