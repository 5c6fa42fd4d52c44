//! Watches: what changes in a collection, as JSON lines or as events of a stream (SSE).
//!
//! Without a resource version a watch begins with everything that is there. With one it goes on after it, if the changes
//! since are still kept. Bookmarks tell how far a watch is when nothing happens; whoever comes back with the version of the
//! last event or bookmark misses nothing. A watch ends when its caller may not see any more what it shows.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures::StreamExt as _;
use plimsoll_server::{Caller, Server};
use plimsoll_store::{Change, ChangeKind, Query, ResumeToken, Scope, StoreError, Watch};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::limit::Limits;
use crate::listen::{Ending, until_end};
use crate::objects::{ListQuery, View};
use crate::problem::{Problem, Sort};
use crate::request::revision;
use crate::wire::{API_VERSION, sent};

/// Time between two bookmarks.
const BOOKMARK: Duration = Duration::from_secs(30);

/// Objects read at once at the start.
const PAGE: usize = 200;

/// Events that wait for a slow client; then it is the store that keeps them, as long as it can.
const WAITING: usize = 8;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Events,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accepted.contains("text/event-stream") { Self::Events } else { Self::Lines }
    }

    fn write(self, kind: &str, version: Option<u64>, object: &Value) -> Bytes {
        let text = json!({"type": kind, "object": object});
        match (self, version) {
            (Self::Lines, _) => format!("{text}\n").into(),
            (Self::Events, Some(version)) => format!("id: {version}\nevent: {kind}\ndata: {text}\n\n").into(),
            (Self::Events, None) => format!("event: {kind}\ndata: {text}\n\n").into(),
        }
    }
}

/// Whether a request for a list wants to be told of changes too.
pub(crate) fn is_wanted(watch: Option<bool>, headers: &HeaderMap) -> bool {
    watch.unwrap_or_else(|| Form::of(headers) == Form::Events)
}

/// Where a watch begins: after the last event that the client saw, or with everything.
pub(crate) fn start(query: &ListQuery, headers: &HeaderMap) -> Result<Option<ResumeToken>, Problem> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let version = last.or(query.resource_version.as_deref()).filter(|version| *version != "0");
    version.map(|version| revision(version).map(|it| ResumeToken(it.0))).transpose()
}

/// The answer that tells what changes.
pub(crate) async fn stream(
    server: Arc<Server>,
    caller: Caller,
    view: View,
    from: Option<ResumeToken>,
    (limits, mut ending): (Limits, Ending),
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let Some(kind) = view.resource.rows() else {
        let detail = format!("{} are read off other objects: watch those", view.resource.plural);
        return Err(Problem::bad(detail));
    };
    // Refused now rather than told later, if the changes since are not kept any more.
    let changes = match from {
        Some(from) => {
            let one = Query { limit: 1, ..Query::default() };
            if from > server.store().position()
                && from > server.store().rows(&Scope::All, kind, &one).await?.token
            {
                // From another store, or from before a restore.
                return Err(StoreError::Expired.into());
            }
            Some(server.store().changes(&view.scope, kind, Some(from))?)
        }
        None => None,
    };
    let form = Form::of(headers);
    let streaming = limits.stream(caller.user())?;
    let (events, mut received) = mpsc::channel(WAITING);
    let teller = Teller { server, caller, view, form, events };
    tokio::spawn(async move {
        let events = teller.events.clone();
        let _streaming = streaming;
        tokio::select! {
            () = events.closed() => {}
            // The client goes on elsewhere, or here after the next start, from where it is.
            () = until_end(&mut ending) => {}
            ended = teller.tell(changes) => {
                if let Err(problem) = ended {
                    events.send(form.write("ERROR", None, &problem.to_json())).await.ok();
                }
            }
        }
    });
    let stream = futures::stream::poll_fn(move |context| received.poll_recv(context));
    let body = Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>));
    let media = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => "text/event-stream",
    };
    let answer =
        Response::builder().header(header::CONTENT_TYPE, media).header(header::CACHE_CONTROL, "no-store");
    answer.body(body).map_err(|error| Problem::new(Sort::Internal, error.to_string()))
}

struct Teller {
    server: Arc<Server>,
    caller: Caller,
    view: View,
    form: Form,
    events: mpsc::Sender<Bytes>,
}

impl Teller {
    /// Tells until the client is gone, or something is in the way.
    async fn tell(&self, changes: Option<Watch>) -> Result<(), Problem> {
        let mut changes = match changes {
            Some(changes) => changes,
            None => self.tell_all().await?,
        };
        let mut bookmarks = tokio::time::interval(BOOKMARK);
        bookmarks.reset();
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(change)) => self.tell_one(change).await?,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
                _ = bookmarks.tick() => {
                    if !self.is_still_allowed().await? {
                        return Err(Problem::new(Sort::Forbidden, "what may be seen has changed: ask again"));
                    }
                    let position = self.server.store().position();
                    // Everything up to that position can be had at once, and is told first.
                    while let Some(change) = futures::FutureExt::now_or_never(changes.next()) {
                        match change {
                            Some(change) => self.tell_one(change?).await?,
                            None => return Ok(()),
                        }
                    }
                    self.bookmark(position).await;
                }
            }
        }
    }

    /// Tells everything that is there, and where what changes from then on comes from.
    async fn tell_all(&self) -> Result<Watch, Problem> {
        let (mut after, mut start) = (None, None);
        loop {
            let (items, version, next) = self.view.page(&self.server, PAGE, after).await?;
            // Changes since the first page may be of objects that a later page has; they are told twice then.
            let start = *start.get_or_insert(version);
            for item in items {
                // Without an id: they come in the order of names, and nobody could go on after one of them.
                self.send("ADDED", None, &item).await;
            }
            after = next;
            if after.is_none() {
                let start = ResumeToken(start);
                self.bookmark(start).await;
                let kind = self.view.resource.rows().ok_or_else(|| Problem::bad("nothing to watch"))?;
                return Ok(self.server.store().changes(&self.view.scope, kind, Some(start))?);
            }
        }
    }

    async fn tell_one(&self, change: Change) -> Result<(), Problem> {
        if !self.view.admits(&change.key) {
            return Ok(());
        }
        let version = Some(change.token.0);
        let (kind, row) = match change.kind {
            ChangeKind::Created(row) => ("ADDED", row),
            ChangeKind::Changed(row) => ("MODIFIED", row),
            ChangeKind::Deleted(_) => {
                let object = json!({
                    "apiVersion": API_VERSION,
                    "kind": self.view.resource.kind,
                    "metadata": {
                        "uid": change.uid,
                        "project": change.key.project,
                        "name": change.key.name,
                        "resourceVersion": change.token.0.to_string(),
                    },
                });
                self.send("DELETED", version, &object).await;
                return Ok(());
            }
        };
        let object = sent(&self.view.resource, &row)?;
        match (self.view.selector.admits(&object), kind) {
            (true, kind) => self.send(kind, version, &object).await,
            // It may have been selected before.
            (false, "MODIFIED") => self.send("DELETED", version, &object).await,
            (false, _) => {}
        }
        Ok(())
    }

    async fn bookmark(&self, position: ResumeToken) {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": self.view.resource.kind,
            "metadata": {"resourceVersion": position.0.to_string()},
        });
        self.send("BOOKMARK", Some(position.0), &object).await;
    }

    async fn send(&self, kind: &str, version: Option<u64>, object: &Value) {
        // Whoever has gone away is noticed by whoever runs this.
        self.events.send(self.form.write(kind, version, object)).await.ok();
    }

    /// Whether the caller still sees what this watch shows.
    async fn is_still_allowed(&self) -> Result<bool, Problem> {
        let now = self.caller.renewed(self.server.store(), self.server.now()).await?;
        let Some(now) = now else { return Ok(false) };
        match self.view.again(&self.server, &now).await {
            Ok(view) => Ok(view.sees_as(&self.view)),
            Err(Problem { sort: Sort::NotFound | Sort::Forbidden, .. }) => Ok(false),
            Err(problem) => Err(problem),
        }
    }
}
