//! The listener: connections with limits and an end, encrypted wherever others could listen in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// How long the head of a request may take, and how long a kept connection may wait for the next one.
const HEAD_WITHIN: Duration = Duration::from_mins(1);

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How long requests that are being answered may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Pause before the next connection when the system has no room for one.
const PAUSE: Duration = Duration::from_millis(50);

/// Requests at the same time on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Told to everything that would not end by itself, such as watches.
pub(crate) type Ending = watch::Receiver<bool>;

/// Waits until the end is asked for.
pub(crate) async fn until_end(ending: &mut Ending) {
    drop(ending.wait_for(|ends| *ends).await);
}

/// A bound listener.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// What encrypts connections from now on, if they are to be.
    pub(crate) tls: Option<watch::Receiver<TlsAcceptor>>,
    /// Connections at the same time; further ones wait.
    pub(crate) connections: usize,
}

impl Listener {
    /// Where clients on this machine find it.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        let mut address = self.socket.local_addr()?;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(address)
    }

    /// Serves until the end is asked for, and then for as long as what was begun takes, within limits.
    pub(crate) async fn serve(self, app: Router, mut ending: Ending) {
        let room = Arc::new(Semaphore::new(self.connections));
        let graceful = GracefulShutdown::new();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_WITHIN)
            .max_concurrent_streams(STREAMS);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&room) => accepted,
                () = until_end(&mut ending) => break,
            };
            let Some((stream, from, permit)) = accepted else { continue };
            let app = app.clone();
            let (asked, has_asked) = watch::channel(false);
            let service = tower::service_fn(move |mut request: Request<Incoming>| {
                asked.send_replace(true);
                request.extensions_mut().insert(ConnectInfo(from));
                app.clone().oneshot(request)
            });
            let service = TowerToHyperService::new(service);
            let tls = self.tls.as_ref().map(|tls| tls.borrow().clone());
            let (builder, watcher) = (builder.clone(), graceful.watcher());
            tokio::spawn(async move {
                let Some(stream) = encrypted(stream, tls).await else { return };
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                // A client that breaks off is its own affair; one that asks for nothing is in the way of others.
                tokio::select! {
                    _ = watcher.watch(connection.into_owned()) => {}
                    () = silence(has_asked) => {}
                }
                drop(permit);
            });
        }
        drop(self.socket);
        tokio::time::timeout(DRAIN, graceful.shutdown()).await.ok();
    }

    /// The next connection, once there is room for it.
    async fn accept(
        &self,
        room: &Arc<Semaphore>,
    ) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let permit = room.clone().acquire_owned().await.ok()?;
        let Ok((stream, from)) = self.socket.accept().await else {
            tokio::time::sleep(PAUSE).await;
            return None;
        };
        // Answers are small and somebody waits for them.
        stream.set_nodelay(true).ok();
        Some((stream, from, permit))
    }
}

/// Ends when nothing was asked for long enough; never, once something was.
async fn silence(mut has_asked: watch::Receiver<bool>) {
    if tokio::time::timeout(HEAD_WITHIN, has_asked.wait_for(|asked| *asked)).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// A connection, whatever carries it.
trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

async fn encrypted(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Box<dyn Carrier>> {
    let Some(tls) = tls else { return Some(Box::new(stream)) };
    let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await;
    Some(Box::new(handshake.ok()?.ok()?))
}
