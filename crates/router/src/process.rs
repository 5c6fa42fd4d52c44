//! The router process: its start and its end.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use plimsoll_model::id::InstallationId;
use plimsoll_shim::{read, write_durably};
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::access::AccessLog;
use crate::control::{self, Control};
use crate::http;
use crate::state::State;
use crate::tcp::Listeners;

/// Where routes are served the first time, if that port is free; afterwards always where they were.
const USUAL_PORT: u16 = 8080;

/// Threads that pass on traffic.
const MOST_WORKERS: usize = 8;

const LISTEN: &str = "listen.json";
const LOCK: &str = "lock";

/// Why a router could not start.
#[derive(Debug, thiserror::Error)]
#[error("the router cannot {what}")]
pub struct RouterError {
    what: &'static str,
    /// Another one serves the directory.
    pub is_locked: bool,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RouterError {
    move |source| RouterError { what, is_locked: false, source }
}

/// Serves what is in a directory until it is told to end: on the given port of the loopback address, or where it did
/// before, or on the usual port, or on any.
///
/// # Errors
/// [`RouterError`], before anything is served.
pub fn run(directory: &Path, installation: InstallationId, port: Option<u16>) -> Result<(), RouterError> {
    // It outlives whoever started it. A leader of a process group is separated well enough already.
    rustix::process::setsid().ok();
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make its directory"))?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK))
        .map_err(failed("open its lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| RouterError {
        is_locked: true,
        ..failed("take its lock: another one runs")(errno.into())
    })?;
    let runtime = runtime().map_err(failed("start its threads"))?;
    runtime.block_on(serve(directory, installation, port))
}

/// As many workers as there are cores for us, up to a few: a single one wakes nobody else.
fn runtime() -> io::Result<Runtime> {
    match std::thread::available_parallelism().map_or(1, NonZero::get) {
        1 => Builder::new_current_thread().enable_all().build(),
        cores => Builder::new_multi_thread().worker_threads(cores.min(MOST_WORKERS)).enable_all().build(),
    }
}

async fn serve(directory: &Path, installation: InstallationId, port: Option<u16>) -> Result<(), RouterError> {
    let state = State::open(directory.to_owned(), installation).map_err(failed("read its tables"))?;
    let state = Arc::new(state);
    let listener = listen(directory, port).await.map_err(failed("listen for requests"))?;
    let address = listener.local_addr().map_err(failed("listen for requests"))?;
    let listeners = Listeners::default();
    listeners
        .serve(&state, &tokio::runtime::Handle::current(), &state.routing().services())
        .map_err(failed("listen on an address"))?;
    let socket = control::bind(directory).map_err(failed("make its control socket"))?;
    let control = Arc::new(Control { state: state.clone(), listeners, address, end: Notify::new() });
    tokio::select! {
        () = http::serve(listener, state, AccessLog::open(directory)) => {}
        () = control::serve(socket, control.clone()) => {}
        () = control.end.notified() => {}
    }
    Ok(())
}

/// Listens where it is told to, else where it always did.
async fn listen(directory: &Path, port: Option<u16>) -> io::Result<TcpListener> {
    // Any port is any port once: afterwards it is the one that people know.
    let told = port.filter(|port| *port != 0).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let wanted = match told {
        Some(address) => Some(address),
        None => read::<SocketAddr>(directory, LISTEN)?,
    };
    let usual = if port.is_some() { 0 } else { USUAL_PORT };
    let listener = match wanted {
        Some(address) => {
            let busy = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
            TcpListener::bind(address).await.map_err(busy)?
        }
        None => match TcpListener::bind((Ipv4Addr::LOCALHOST, usual)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        },
    };
    write_durably(directory, LISTEN, &listener.local_addr()?)?;
    Ok(listener)
}
