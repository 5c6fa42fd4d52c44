//! Who is asking: the token of a request, or a problem.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::Project;
use plimsoll_model::access::{Restriction, Role};
use plimsoll_model::id::{Digest, ObjectName, ProjectName, UserName};
use plimsoll_server::{AccessError, Caller, Server, TOKEN_PREFIX};
use plimsoll_store::{Query, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limit::{Asker, Limits};
use crate::problem::{Problem, Sort};
use crate::programs;

/// The administrator's token in the data directory.
pub(crate) const FILE: &str = "admin.token";

/// The hash of the installation's own token; makes the token if there is none.
pub(crate) fn load_or_make(data: &Path) -> io::Result<Digest> {
    let path = data.join(FILE);
    let token = match std::fs::read_to_string(&path) {
        Ok(token) => token,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
        Err(error) => return Err(error),
    };
    Ok(Digest::of_bytes(token.trim().as_bytes()))
}

fn make(path: &Path) -> io::Result<String> {
    let token = format!("{TOKEN_PREFIX}{}", plimsoll_server::random_text()?);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

/// What the check needs.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) server: Arc<Server>,
    pub(crate) admin: Digest,
    pub(crate) limits: Limits,
}

/// Lets through whoever shows a token, and says whom to the handlers.
pub(crate) async fn check(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip());
    let token = token(&request).map(str::to_owned);
    let asked = caller(&door, token.as_deref(), from).await.and_then(|caller| {
        door.limits.ask(&Asker::User(caller.user().clone()))?;
        // Whoever owns a program has one path, whatever else is behind this door.
        if caller.owns.as_ref().is_some_and(|owned| request.uri().path() != programs::path(&owned.key)) {
            return Err(AccessError::Owner.into());
        }
        Ok(caller)
    });
    match asked {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The token that a request shows.
fn token(request: &Request) -> Option<&str> {
    let given = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

async fn caller(door: &Door, token: Option<&str>, from: Option<IpAddr>) -> Result<Caller, Problem> {
    let found = known(door, token, from).await;
    if let Err(Problem { sort: Sort::Unauthorized, .. }) = &found {
        // Whoever tries tokens may do so slowly.
        door.limits.ask(&Asker::Unknown(from))?;
    }
    found
}

async fn known(door: &Door, token: Option<&str>, from: Option<IpAddr>) -> Result<Caller, Problem> {
    let Some(token) = token else {
        let detail = "give a token as `Authorization: Bearer TOKEN`; the administrator's is in the data directory's \
                      admin.token";
        return Err(Problem::new(Sort::Unauthorized, detail));
    };
    if Digest::of_bytes(token.as_bytes()) == door.admin {
        return Ok(Caller::administrator(from));
    }
    let found = Caller::of_token(door.server.store(), token, from, door.server.now()).await?;
    found.ok_or_else(|| Problem::new(Sort::Unauthorized, "the token is unknown, revoked or has ended"))
}

/// Who somebody is, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhoAmI {
    /// The user.
    pub user: UserName,
    /// The token that was shown; none for the one of the data directory.
    pub token: Option<ObjectName>,
    /// Whether they may do everything.
    pub administrator: bool,
    /// What the token is restricted to.
    pub only: Restriction,
    /// Their role in each project that they see.
    pub projects: BTreeMap<ProjectName, Role>,
}

/// Who the caller is, and in which projects what.
pub(crate) async fn whoami(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<WhoAmI>, Problem> {
    let mut projects = BTreeMap::new();
    for project in server.store().list::<Project>(&Scope::All, &Query::default()).await? {
        let Ok(name) = project.meta.key.name.as_str().parse::<ProjectName>() else { continue };
        let role = if caller.is_administrator {
            Some(Role::Admin)
        } else {
            project.spec.members.get(caller.user()).copied()
        };
        let is_within = caller.only.projects.is_empty() || caller.only.projects.contains(&name);
        if let Some(role) = role.filter(|_| is_within) {
            projects.insert(name, role);
        }
    }
    Ok(Json(WhoAmI {
        user: caller.actor.user.clone(),
        token: caller.actor.token.clone(),
        administrator: caller.is_platform(),
        only: caller.only.clone(),
        projects,
    }))
}
