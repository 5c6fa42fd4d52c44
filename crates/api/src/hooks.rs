//! What pipelines and registries say: images to deploy, and images that have moved.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::ObjectKey;
use plimsoll_model::access::Verb;
use plimsoll_model::audit::Action;
use plimsoll_model::id::{PartName, ProjectName};
use plimsoll_model::image::ImageRef;
use plimsoll_model::words::in_words;
use plimsoll_server::{Caller, Delivery, DeployError, Deployed, HookError, Known, Named, Server, Wish};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limit::{Asker, Limits};
use crate::problem::{Problem, Sort};
use crate::request::{Asked, At, Body, Name, WriteQuery, again, json as from_json, replayed};

/// Images that one notification tells of at most.
const MOST_IMAGES: usize = 1000;

/// What was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployments {
    /// Each component.
    pub deployed: Vec<Deployed>,
}

/// What a delivery to a hook says.
#[derive(Deserialize)]
#[serde(tag = "type", content = "data")]
enum Announcement {
    /// An image is to be deployed.
    #[serde(rename = "deploy")]
    Deploy(Wish),
    /// A tag leads elsewhere now: whoever follows it is to know.
    #[serde(rename = "image.moved")]
    Moved(Moved),
    /// Somebody has pushed to a repository: whoever follows it is to build what is there now.
    #[serde(rename = "source.pushed")]
    Pushed(Pushed),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved {
    image: ImageRef,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pushed {
    repository: String,
}

/// What registries send, as far as it matters: <https://distribution.github.io/distribution/about/notifications>.
#[derive(Deserialize)]
struct Envelope {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    action: String,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    repository: Option<String>,
}

/// Deploys an image, for whoever has a token.
pub(crate) async fn deploy(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(project): At<ProjectName>,
    Asked(WriteQuery { dry_run, .. }): Asked<WriteQuery>,
    name: Name,
    Body(body): Body,
) -> Result<Response, Problem> {
    // Whoever may not learns nothing of what is wrong with a wish.
    let all = ObjectKey::in_project(project.clone(), plimsoll_server::name_of_project(&project));
    server.permit(&caller, (Verb::Deploy, Action::Deploy), &all, dry_run.is_some()).await?;
    let wish: Wish = from_json(&body)?;
    let named = name.of(&caller, &format!("deploy {project}"), &body).filter(|_| dry_run.is_none());
    if let Some(answer) = replayed(&server, named.as_ref()).await? {
        return Ok(again(answer));
    }
    let deployed = server.deploy(&caller, &project, &wish, dry_run.is_some()).await?;
    let answer = json!(Deployments { deployed });
    if let Some(named) = &named {
        // Deploying the same again does nothing.
        server.keep_receipt(named, &answer.to_string()).await?;
    }
    Ok(Json(answer).into_response())
}

/// Takes a signed delivery, once.
pub(crate) async fn deliver(
    State(server): State<Arc<Server>>,
    Extension(limits): Extension<Limits>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    At((project, name)): At<(ProjectName, PartName)>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let delivery = Delivery {
        id: header(&headers, "webhook-id")?,
        timestamp: header(&headers, "webhook-timestamp")?,
        signature: header(&headers, "webhook-signature")?,
        body: &body,
    };
    let caller = match server.open_hook(&project, &name, delivery, Some(from.ip())).await {
        Ok(caller) => caller,
        Err(error) => {
            // Whoever tries secrets may do so slowly.
            limits.refuse_delivery(Some(from.ip()))?;
            if let HookError::Refused { caller, why } = &error
                && limits.may_tell(caller.user())
            {
                // Nobody learns by the time of the answer whether there is such a hook.
                let (server, caller, why) = (server.clone(), caller.clone(), why.clone());
                tokio::spawn(async move { server.note_delivery(&caller, &project, &name, why).await });
            }
            return Err(error.into());
        }
    };
    limits.ask(&Asker::User(caller.user().clone()))?;
    let named = Named::new(caller.user(), "hook", delivery.id, &body);
    match server.known(&named).await? {
        Known::New => {}
        Known::Another => {
            let detail = "another delivery had this webhook-id: give each its own";
            return Err(Problem::new(Sort::Conflict, detail));
        }
        Known::Done(answer) => {
            // Whoever sends again signs again. What has the same time as before was sent by somebody who only listened.
            let before: Value = serde_json::from_str(&answer).unwrap_or_default();
            if before["signedAt"] == delivery.timestamp {
                let detail = "this delivery came before: it was carried out then";
                return Err(Problem::new(Sort::Conflict, detail));
            }
            return Ok(again(answer));
        }
    }
    let mut answer = match from_json(&body)? {
        Announcement::Deploy(wish) => {
            json!(Deployments { deployed: server.deploy(&caller, &project, &wish, false).await? })
        }
        Announcement::Moved(Moved { image }) => {
            let repository = image.repository();
            look(&server, &caller, [(Some(repository.registry().to_owned()), repository.path().to_owned())])
                .await?;
            json!({"asked": repository})
        }
        Announcement::Pushed(Pushed { repository }) => {
            if !server.hear_of_push(&caller, &repository).await? {
                let detail = "too much is to be built at the moment: say it again later";
                return Err(Problem::new(Sort::Unavailable, detail));
            }
            json!({"asked": repository})
        }
    };
    answer["signedAt"] = delivery.timestamp.into();
    server.keep_receipt(&named, &answer.to_string()).await?;
    Ok(Json(answer).into_response())
}

/// Takes what a registry says of itself, for whoever has a token. It is a hint: what a tag leads to, the registry is asked.
pub(crate) async fn notice(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Envelope { events } = from_json(&body)?;
    if events.len() > MOST_IMAGES {
        let detail = format!("{} events are more than {MOST_IMAGES}", events.len());
        return Err(Problem::new(Sort::TooLarge, detail));
    }
    let moving = events.into_iter().filter(|it| it.action == "push" || it.action == "delete");
    let paths: std::collections::BTreeSet<String> = moving.filter_map(|it| it.target.repository).collect();
    let asked = paths.len();
    // What a registry is called depends on who asks it.
    look(&server, &caller, paths.into_iter().map(|path| (None, path))).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"asked": asked}))))
}

async fn look(
    server: &Server,
    caller: &Caller,
    images: impl IntoIterator<Item = (Option<String>, String)>,
) -> Result<(), Problem> {
    if server.look(caller, images).await? {
        return Ok(());
    }
    Err(Problem::new(Sort::Unavailable, "too many images are asked for at the moment: say it again later"))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Problem> {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| text.len() <= 1024);
    let missing = || {
        let detail = format!("the header {name} is missing: sign deliveries as standardwebhooks.com says");
        Problem::new(Sort::Unauthorized, detail)
    };
    text.ok_or_else(missing)
}

impl From<HookError> for Problem {
    fn from(error: HookError) -> Self {
        match error {
            HookError::Unknown | HookError::Refused { .. } | HookError::Time => {
                Self::new(Sort::Unauthorized, error.to_string())
            }
            HookError::Store(error) => error.into(),
        }
    }
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Self {
        let sort = match error {
            DeployError::Access(error) => return error.into(),
            DeployError::Apply(error) => return error.into(),
            DeployError::Store(error) => return error.into(),
            DeployError::NotOfHook(_) => Sort::Forbidden,
            DeployError::NoApp(_) | DeployError::Nothing { .. } => Sort::NotFound,
            DeployError::Older { .. } => Sort::Conflict,
            DeployError::Unsaid { .. } if error.is_retryable() => Sort::Unavailable,
            DeployError::NoDigest(_)
            | DeployError::OfThisMachine(_)
            | DeployError::Future(_)
            | DeployError::Missing(_)
            | DeployError::Unsaid { .. } => Sort::Invalid,
        };
        Self::new(sort, in_words(&error))
    }
}
