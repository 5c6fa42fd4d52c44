//! Questions whose answers are read by us, and only as far as they matter: engines say more than the library's types know, and
//! one word that is not known must not hide everything else.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::engine::Engine;
use crate::error::EngineError;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_mins(1);

/// The version of the API that is spoken: Docker has it since 20.10, Podman since 3.0.
const VERSION: &str = "v1.41";

impl Engine {
    /// Asks for something below the API's version.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let address = &self.inner.address.0;
        let asked = async {
            match address.strip_prefix("unix://") {
                Some(socket) => ask_over(UnixStream::connect(socket).await?, path).await,
                None => ask_over(TcpStream::connect(address.trim_start_matches("tcp://")).await?, path).await,
            }
        };
        let late = |_| EngineError::Away(format!("no answer within {}s", WITHIN.as_secs()));
        let (status, body) = timeout(WITHIN, asked).await.map_err(late)??;
        let said = || String::from_utf8_lossy(&body).trim().to_owned();
        match status {
            200 => serde_json::from_slice(&body).map_err(|error| EngineError::Refused(error.to_string())),
            404 => Err(EngineError::NotFound(said())),
            _ => Err(EngineError::Refused(said())),
        }
    }
}

async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> Result<(u16, Bytes), EngineError> {
    let away = |error: &dyn std::error::Error| EngineError::Away(error.to_string());
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| away(&error))?;
    // It ends with this question, whatever becomes of it.
    let mut background = JoinSet::new();
    background.spawn(connection);
    let request =
        Request::get(format!("/{VERSION}{path}")).header(header::HOST, "engine").body(Empty::<Bytes>::new());
    let answer =
        sender.send_request(request.map_err(|error| away(&error))?).await.map_err(|error| away(&error))?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| away(&error))?;
    Ok((status, body.to_bytes()))
}
