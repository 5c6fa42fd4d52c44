//! Connections to members: kept open between requests.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::UPGRADE;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

use crate::passing::Passing;

/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Bytes that the kernel takes from a member ahead of its client. Members are near: more would only let a large answer run
/// ahead of all others, and fill memory for a slow client.
const AHEAD: u32 = 128 << 10;

/// Connections kept for each member while nothing is asked over them.
const MOST_IDLE: usize = 256;

/// Idle connections by member.
#[derive(Default)]
pub(crate) struct Upstream {
    idle: Mutex<HashMap<SocketAddr, Vec<SendRequest<Passing>>>>,
}

/// Why a member gave no answer.
pub(crate) enum NoAnswer {
    /// It never saw the request, which is given back.
    NotSent(Box<Request<Passing>>),
    /// It may have seen it.
    Broken(hyper::Error),
}

/// A request that may be asked twice: it changes nothing (RFC 9110, section 9.2.1) and has no body.
fn again(request: &Request<Passing>) -> Option<Request<Passing>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    (safe && request.body().is_end_stream() && !request.headers().contains_key(UPGRADE)).then(|| {
        let mut copy = Request::new(Passing::empty());
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        copy
    })
}

impl Upstream {
    /// Sends a request to a member.
    pub(crate) async fn send(
        &self,
        member: SocketAddr,
        request: Request<Passing>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let mut request = request;
        // A kept connection may have been closed meanwhile; then the request comes back, and a new one is made.
        let mut spare = again(&request);
        while let Some(mut sender) = self.take(member) {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(member, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    // Or just as it was used, and nobody knows whether the member saw it: once more, over a new one.
                    None => match spare.take() {
                        Some(spare) => {
                            request = spare;
                            break;
                        }
                        None => return Err(NoAnswer::Broken(error.into_error())),
                    },
                },
            }
        }
        let Ok(mut sender) = connect(member).await else {
            return Err(NoAnswer::NotSent(Box::new(request)));
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.keep(member, sender);
                Ok(response)
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) => Err(NoAnswer::NotSent(Box::new(unsent))),
                None => Err(NoAnswer::Broken(error.into_error())),
            },
        }
    }

    fn take(&self, member: SocketAddr) -> Option<SendRequest<Passing>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(&member)?;
        kept.retain(|sender| !sender.is_closed());
        // One whose answer is still being read is not ready.
        let ready = kept.iter().rposition(SendRequest::is_ready)?;
        Some(kept.swap_remove(ready))
    }

    fn keep(&self, member: SocketAddr, sender: SendRequest<Passing>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(member).or_default();
        if kept.len() < MOST_IDLE && !sender.is_closed() {
            kept.push(sender);
        }
    }
}

async fn connect(member: SocketAddr) -> io::Result<SendRequest<Passing>> {
    let socket = if member.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(AHEAD)?;
    let stream = tokio::time::timeout(CONNECT, socket.connect(member))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the member or with the last use of its sender; whoever waits for an answer is told.
    tokio::spawn(async move { connection.with_upgrades().await.ok() });
    Ok(sender)
}
