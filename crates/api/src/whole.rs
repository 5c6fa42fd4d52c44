//! What is asked of the installation as a whole: backups, the hold after a restore, the move to another store,
//! the keys of secrets.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as Sent, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_model::audit::Action;
use plimsoll_server::{ApplyError, Caller, Migrated, OnHold, Recipients, Rotated, Server};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::problem::{Problem, Sort};
use crate::request::{Body, json as from_json};

/// Bytes of a piece of a backup that is sent.
const PIECE: usize = 64 << 10;

/// Pieces that wait to be sent at most.
const WAITING: usize = 8;

/// How long a client may take for a piece. Until it has everything the store keeps what was there at that moment.
const TAKEN_WITHIN: Duration = Duration::from_mins(1);

/// For whom a backup is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewBackup {
    recipients: Vec<String>,
}

/// Lets administrators through, and writes down whoever else tried.
async fn permit(server: &Server, caller: &Caller, what: &'static str, action: Action) -> Result<(), Problem> {
    let Err(error) = caller.platform(what) else { return Ok(()) };
    let error = ApplyError::Access(error);
    server.note_refused(caller, action, &error).await;
    Err(error.into())
}

/// A backup of this moment. One that fails on its way ends without its end, which clients see.
pub(crate) async fn back_up(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Body(body): Body,
) -> Result<Response, Problem> {
    permit(&server, &caller, "take a backup", Action::Backup).await?;
    let NewBackup { recipients } = from_json(&body)?;
    let recipients = Recipients::new(recipients)?;
    server.note(&caller, Action::Backup).await?;
    let (pieces, mut waiting) = mpsc::channel::<Result<Bytes, io::Error>>(WAITING);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        if let Err(error) = server.back_up(&recipients, out) {
            // Whoever went away needs not be told.
            pieces.blocking_send(Err(io::Error::other(error))).ok();
        }
    });
    // Until something is there it can still be refused.
    let Some(first) = waiting.recv().await else {
        return Err(Problem::new(Sort::Internal, "the backup ended before it began"));
    };
    let first = first.map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
    let rest = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
    let all = futures::StreamExt::chain(futures::stream::iter([Ok(first)]), rest);
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Sent::from_stream(all)).into_response())
}

/// Passes on what is written to it, piece by piece.
struct Pieces(mpsc::Sender<Result<Bytes, io::Error>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = tokio::time::timeout(TAKEN_WITHIN, self.0.send(Ok(Bytes::copy_from_slice(bytes))));
        match Handle::current().block_on(sent) {
            Ok(Ok(())) => Ok(bytes.len()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The restore that was not released, and what its release would do; `null` if there is none.
pub(crate) async fn hold(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Option<OnHold>>, Problem> {
    caller.platform("see what a restore would do")?;
    Ok(Json(server.on_hold().await?))
}

/// Lets everything be done after a restore.
pub(crate) async fn release(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Problem> {
    permit(&server, &caller, "release a restore", Action::Release).await?;
    Ok(Json(json!({"released": server.release(&caller).await?})))
}

/// Where everything is to move.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Move {
    to: String,
}

/// Moves everything to a PostgreSQL database.
pub(crate) async fn migrate(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Body(body): Body,
) -> Result<Json<Migrated>, Problem> {
    permit(&server, &caller, "move everything to another store", Action::Migrate).await?;
    let Move { to } = from_json(&body)?;
    // A client that goes away does not cut it off halfway.
    let moving = tokio::spawn(async move { server.migrate(&caller, &to).await });
    let moved = moving.await.map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
    Ok(Json(moved?))
}

/// Seals all secrets with a new key.
pub(crate) async fn rotate(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Rotated>, Problem> {
    permit(&server, &caller, "seal all secrets anew", Action::Rotate).await?;
    // A client that goes away does not cut it off halfway.
    let rotating = tokio::spawn(async move { server.rotate(&caller).await });
    let rotated = rotating.await.map_err(|error| Problem::new(Sort::Internal, error.to_string()))?;
    Ok(Json(rotated?))
}
