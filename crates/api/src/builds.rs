//! What is asked of builds beside what is known of them: what they say, and that they be tried again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::ObjectKey;
use plimsoll_model::access::Verb;
use plimsoll_model::audit::Action;
use plimsoll_model::id::{ObjectName, ProjectName};
use plimsoll_model::kind::{Build, BuildState};
use plimsoll_server::{Caller, Server};
use plimsoll_store::Scope;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::limit::Limits;
use crate::listen::{Ending, until_end};
use crate::problem::{Problem, Sort};
use crate::request::{Asked, At, WriteQuery};

/// How often is looked for more, while somebody follows.
const LOOK: Duration = Duration::from_millis(200);

/// Pieces that wait to be sent at most.
const WAITING: usize = 16;

/// Bytes of a piece.
const PIECE: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// Go on with what is said, until it is built or not.
    #[serde(default)]
    follow: bool,
}

/// What the latest attempt to build something has said.
pub(crate) async fn log(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(query): Asked<LogQuery>,
    (Extension(limits), Extension(ending)): (Extension<Limits>, Extension<Ending>),
) -> Result<Response, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let file = server.build_log(&project, &name);
    let key = ObjectKey::in_project(project, name);
    let log = Log { server, scope, key, file, offset: 0 };
    log.is_building().await?.ok_or_else(|| Problem::not_found(format!("build {}", log.key)))?;
    let streaming = limits.stream(caller.user())?;
    let (to, mut said) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _streaming = streaming;
        // It ends with its client, with the build, or with the server.
        log.tell(query.follow, to, ending).await.ok();
    });
    let body = futures::stream::poll_fn(move |context| said.poll_recv(context));
    let body = futures::StreamExt::map(body, Ok::<Bytes, std::convert::Infallible>);
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(body)).into_response())
}

struct Log {
    server: Arc<Server>,
    scope: Scope,
    key: ObjectKey,
    file: PathBuf,
    offset: u64,
}

impl Log {
    /// Whether it is being built now; `None` if there is no such build.
    async fn is_building(&self) -> Result<Option<bool>, Problem> {
        let build = self.server.store().get::<Build>(&self.scope, &self.key).await?;
        Ok(build.map(|it| matches!(it.spec.state, BuildState::Building { .. })))
    }

    async fn tell(
        mut self,
        follow: bool,
        to: mpsc::Sender<Bytes>,
        mut ending: Ending,
    ) -> Result<(), Problem> {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            // Whatever was said before this is read afterwards.
            let goes_on = follow && self.is_building().await? == Some(true);
            loop {
                let (file, offset) = (self.file.clone(), self.offset);
                let piece = tokio::task::spawn_blocking(move || piece(&file, offset)).await;
                let piece = piece.map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
                if piece.is_empty() {
                    break;
                }
                self.offset += piece.len() as u64;
                if to.send(piece.into()).await.is_err() {
                    return Ok(());
                }
            }
            if !goes_on {
                return Ok(());
            }
            tokio::select! {
                _ = looks.tick() => {}
                () = to.closed() => return Ok(()),
                () = until_end(&mut ending) => return Ok(()),
            }
        }
    }
}

/// What follows an offset of a file; nothing of one that is not there.
fn piece(file: &Path, offset: u64) -> Vec<u8> {
    let mut piece = Vec::new();
    if let Ok(mut file) = File::open(file)
        && file.seek(SeekFrom::Start(offset)).is_ok()
    {
        file.take(PIECE).read_to_end(&mut piece).ok();
    }
    piece
}

/// Has something built again, though nothing of it has changed.
pub(crate) async fn retry(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(WriteQuery { dry_run, .. }): Asked<WriteQuery>,
) -> Result<Json<Value>, Problem> {
    let key = ObjectKey::in_project(project, name);
    let scope = server.permit(&caller, (Verb::Deploy, Action::Deploy), &key, dry_run.is_some()).await?;
    let build = server.store().get::<Build>(&scope, &key).await?;
    build.ok_or_else(|| Problem::not_found(format!("build {key}")))?;
    if dry_run.is_none() && !server.rebuild(&caller, &key).await? {
        return Err(Problem::new(
            Sort::Unavailable,
            "too much is to be built at the moment: say it again later",
        ));
    }
    Ok(Json(json!({"asked": key.to_string()})))
}
