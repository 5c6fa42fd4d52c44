//! What an App's copies said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::StreamExt as _;
use plimsoll_agent::Log;
use plimsoll_model::access::Verb;
use plimsoll_model::id::{ComponentName, InstanceId, ObjectName, ProjectName};
use plimsoll_model::{App, ObjectKey};
use plimsoll_server::{Caller, Server};
use plimsoll_shim::Stream;
use plimsoll_store::Scope;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::limit::Limits;
use crate::listen::{Ending, until_end};
use crate::problem::{Problem, Sort};
use crate::request::{Asked, At};

/// Lines sent unless more or fewer are asked for.
const USUAL_TAIL: usize = 200;

/// How often is looked for new lines, while somebody follows.
const LOOK: Duration = Duration::from_millis(200);

/// How often is asked whether whoever follows still may.
const RENEWAL: Duration = Duration::from_secs(30);

/// Lines that wait to be sent at most.
const WAITING: usize = 64;

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
    /// Only lines of the runs before the present one.
    #[serde(default)]
    previous: bool,
    /// Go on with what is said from now on, as JSON lines.
    #[serde(default)]
    follow: bool,
}

pub(crate) async fn logs(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(query): Asked<LogQuery>,
    (Extension(limits), Extension(ending)): (Extension<Limits>, Extension<Ending>),
) -> Result<Response, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Read).await?;
    let key = ObjectKey::in_project(project, name);
    let reader = Reader { server, scope, key, query };
    let instances = reader.instances().await?;
    if let (Some(instance), true) = (&reader.query.instance, instances.is_empty()) {
        return Err(Problem::not_found(format!("instance {instance} of app {}", reader.key)));
    }
    let mut cursors = Cursors::new();
    let mut lines = reader.lines(instances, &mut cursors).await?;
    let tail = reader.query.tail.unwrap_or(USUAL_TAIL).min(MOST);
    lines.drain(..lines.len().saturating_sub(tail));
    if !reader.query.follow {
        return Ok(Json(lines).into_response());
    }
    let streaming = limits.stream(caller.user())?;
    let (to, mut said) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _streaming = streaming;
        // It ends with its client, with the App, or with the server.
        reader.follow(&caller, (lines, cursors), to, ending).await.ok();
    });
    let body = futures::stream::poll_fn(move |context| said.poll_recv(context));
    let body = Body::from_stream(body.map(Ok::<_, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Up to where the logs of copies were read.
type Cursors = BTreeMap<InstanceId, Cursor>;

/// Up to where one log was read: a log that is full gets another name, and a new one takes its place.
#[derive(Default)]
struct Cursor {
    inode: u64,
    offset: u64,
    /// Whether an engine was asked before, and the stamp of the last line that it told.
    is_known: bool,
    stamp: Option<String>,
}

impl Cursor {
    /// The whole lines since the last time, of the file before and the present one. What is not there has no lines.
    fn advance(&mut self, files: &[PathBuf; 2]) -> Vec<u8> {
        let mut said = Vec::new();
        let [before, now] = files;
        let Ok(now) = File::open(now) else { return said };
        let Ok(inode) = now.metadata().map(|it| it.ino()) else { return said };
        if inode != self.inode {
            // Never read, or the rest of what has another name by now.
            if let Ok(before) = File::open(before)
                && let Ok(metadata) = before.metadata()
                && (self.inode == 0 || metadata.ino() == self.inode)
            {
                rest(before, self.offset, &mut said);
            }
            (self.inode, self.offset) = (inode, 0);
        }
        self.offset += rest(now, self.offset, &mut said);
        said
    }
}

/// Adds the whole lines of a file from an offset, and says how long they are.
fn rest(mut file: File, offset: u64, said: &mut Vec<u8>) -> u64 {
    let mut text = Vec::new();
    // What cannot be read now is read the next time.
    if file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut text)).is_err() {
        return 0;
    }
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    said.extend_from_slice(&text[..end]);
    end as u64
}

/// Reads what an App's copies said.
struct Reader {
    server: Arc<Server>,
    scope: Scope,
    key: ObjectKey,
    query: LogQuery,
}

impl Reader {
    /// The copies that are meant and are there now.
    async fn instances(&self) -> Result<Vec<InstanceId>, Problem> {
        let app = self.server.store().get::<App>(&self.scope, &self.key).await?;
        let app = app.ok_or_else(|| Problem::not_found(format!("app {}", self.key)))?;
        let components = app.status.into_iter().flat_map(|status| status.value.components);
        let wanted = components.filter(|(name, _)| self.query.component.as_ref().is_none_or(|it| it == name));
        let instances = wanted.flat_map(|(_, component)| component.instances.into_iter().map(|it| it.id));
        Ok(instances.filter(|id| self.query.instance.as_ref().is_none_or(|it| it == id)).collect())
    }

    /// What copies said since the cursors, in order of time; lines of one copy stay in their order.
    async fn lines(
        &self,
        instances: Vec<InstanceId>,
        cursors: &mut Cursors,
    ) -> Result<Vec<LogEntry>, Problem> {
        let logs: Vec<(InstanceId, Log)> =
            instances.into_iter().filter_map(|it| Some((it.clone(), self.server.log(&it)?))).collect();
        let mut lines = self.told_by_engines(&logs, cursors).await?;
        let mut known = std::mem::take(cursors);
        let read = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            for (instance, log) in logs {
                let text = known.entry(instance.clone()).or_default().advance(&log.files);
                let said = text.split(|byte| *byte == b'\n').filter_map(plimsoll_shim::read_line);
                lines.extend(said.map(|line| LogEntry {
                    instance: instance.clone(),
                    at: line.millis,
                    error: line.stream == Stream::Err,
                    text: String::from_utf8_lossy(line.text).into_owned(),
                }));
            }
            (lines, known)
        });
        let (read, known) = read.await.map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
        *cursors = known;
        lines.extend(read);
        let after = self.query.after.unwrap_or(0);
        let began: BTreeMap<InstanceId, u64> = if self.query.previous {
            cursors.keys().filter_map(|it| Some((it.clone(), self.server.began(it)?))).collect()
        } else {
            BTreeMap::new()
        };
        lines
            .retain(|line| line.at > after && began.get(&line.instance).is_none_or(|began| line.at < *began));
        lines.sort_by_key(|line| line.at);
        Ok(lines)
    }

    /// What the programs of containers said since the cursors. While somebody follows, an engine that does not answer
    /// is one that has nothing to tell.
    async fn told_by_engines(
        &self,
        logs: &[(InstanceId, Log)],
        cursors: &mut Cursors,
    ) -> Result<Vec<LogEntry>, Problem> {
        // Without other conditions the last lines of each are enough for the last lines of all.
        let is_plain = self.query.after.unwrap_or(0) == 0 && !self.query.previous;
        let tail = is_plain.then(|| self.query.tail.unwrap_or(USUAL_TAIL).min(MOST));
        let mut lines = Vec::new();
        for (instance, log) in logs {
            let Some((engine, container)) = &log.container else { continue };
            let cursor = cursors.entry(instance.clone()).or_default();
            let tail = tail.filter(|_| !std::mem::replace(&mut cursor.is_known, true));
            let told = match engine.logs(container, cursor.stamp.as_deref(), tail).await {
                Ok(told) => told,
                Err(_) if self.query.follow => Vec::new(),
                Err(error) => return Err(Problem::new(Sort::Unavailable, error.to_string())),
            };
            cursor.stamp = told.last().map(|line| line.stamp.clone()).or(cursor.stamp.take());
            lines.extend(told.into_iter().map(|line| LogEntry {
                instance: instance.clone(),
                at: line.at,
                error: line.is_error,
                text: String::from_utf8_lossy(&line.text).into_owned(),
            }));
        }
        Ok(lines)
    }

    /// Tells lines, and then whatever is said, of copies that come later too.
    async fn follow(
        &self,
        caller: &Caller,
        (mut lines, mut cursors): (Vec<LogEntry>, Cursors),
        to: mpsc::Sender<Bytes>,
        mut ending: Ending,
    ) -> Result<(), Problem> {
        let mut looks = tokio::time::interval(LOOK);
        let mut renewals = tokio::time::interval(RENEWAL);
        loop {
            for line in &lines {
                let mut text = serde_json::to_vec(line).unwrap_or_default();
                text.push(b'\n');
                if to.send(text.into()).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                _ = looks.tick() => {}
                () = to.closed() => return Ok(()),
                () = until_end(&mut ending) => return Ok(()),
                _ = renewals.tick() => {
                    let Some(now) = caller.renewed(self.server.store(), self.server.now()).await? else {
                        return Ok(());
                    };
                    let Some(project) = &self.key.project else { return Ok(()) };
                    now.within(self.server.store(), project, Verb::Read).await?;
                }
            }
            lines = self.lines(self.instances().await?, &mut cursors).await?;
        }
    }
}
