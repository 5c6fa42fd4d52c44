//! The admin token: made once, kept in a file that only its owner may read, known here by its hash.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use plimsoll_model::id::Digest;

use crate::problem::Problem;

/// The token's file in the data directory.
pub(crate) const FILE: &str = "admin.token";

/// What a token begins with, so that tools that look for lost secrets know it.
const PREFIX: &str = "plim_";

/// The hash of the installation's admin token; makes the token if there is none.
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
    let token = format!("{PREFIX}{}", plimsoll_server::random_text()?);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

/// Lets through what carries the token. Hashes are compared, so that time tells nothing of the token itself.
pub(crate) async fn check(State(hash): State<Digest>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    if given.is_some_and(|token| Digest::of_bytes(token.trim().as_bytes()) == hash) {
        return next.run(request).await;
    }
    let detail = "give the token of the data directory's admin.token as `Authorization: Bearer TOKEN`";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response()
}
