//! The router process: its start and its end.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
use crate::certificates::Certificates;
use crate::control::{self, Control};
use crate::http::{self, Front};
use crate::socket;
use crate::state::State;
use crate::tcp::Listeners;

/// Threads that pass on traffic.
const MOST_WORKERS: usize = 8;

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

/// Where a router serves routes: what is absent stays as it was, and is the loopback address and a usual port at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// The address.
    pub address: Option<IpAddr>,
    /// Its port; 0 for any.
    pub http: Option<u16>,
    /// Its port for encrypted connections; 0 for any.
    pub https: Option<u16>,
}

/// Serves what is in a directory until it is told to end.
///
/// # Errors
/// [`RouterError`], before anything is served.
pub fn run(directory: &Path, installation: InstallationId, ports: Ports) -> Result<(), RouterError> {
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
    runtime.block_on(serve(directory, installation, ports))
}

/// As many workers as there are cores for us, up to a few: a single one wakes nobody else.
fn runtime() -> io::Result<Runtime> {
    match std::thread::available_parallelism().map_or(1, NonZero::get) {
        1 => Builder::new_current_thread().enable_all().build(),
        cores => Builder::new_multi_thread().worker_threads(cores.min(MOST_WORKERS)).enable_all().build(),
    }
}

async fn serve(directory: &Path, installation: InstallationId, ports: Ports) -> Result<(), RouterError> {
    let state = State::open(directory.to_owned(), installation).map_err(failed("read its tables"))?;
    let state = Arc::new(state);
    let certificates = Certificates::open(directory.to_owned()).map_err(failed("read its certificates"))?;
    let certificates = Arc::new(certificates);
    let acceptor = certificates.acceptor().map_err(io::Error::other).map_err(failed("encrypt anything"))?;
    let listening = failed("listen for requests");
    let plain = listen(directory, &PLAIN, ports.address, ports.http).map_err(&listening)?;
    let tls = listen(directory, &ENCRYPTED, ports.address, ports.https).map_err(&listening)?;
    let address = plain.local_addr().map_err(&listening)?;
    let tls_address = tls.local_addr().map_err(&listening)?;
    let shared =
        if address.ip().is_unspecified() { vec![address.port(), tls_address.port()] } else { Vec::new() };
    let listeners = Listeners::beside(shared);
    listeners
        .serve(&state, &tokio::runtime::Handle::current(), &state.routing().services())
        .map_err(failed("listen on an address"))?;
    let socket = control::bind(directory).map_err(failed("make its control socket"))?;
    let front =
        Front::new(state.clone(), certificates.clone(), tls_address.port(), AccessLog::open(directory));
    let control =
        Arc::new(Control { state, listeners, address, tls_address, certificates, end: Notify::new() });
    tokio::select! {
        () = http::serve(plain, None, front.clone()) => {}
        () = http::serve(tls, Some(acceptor), front) => {}
        () = control::serve(socket, control.clone()) => {}
        () = control.end.notified() => {}
    }
    Ok(())
}

/// A listener: the file that says where it was, and the port that it has the first time, if that is free.
struct Place {
    file: &'static str,
    usual: u16,
    /// Another port does for as long as that one is taken.
    is_spare: bool,
}

const PLAIN: Place = Place { file: "listen.json", usual: 8080, is_spare: false };
const ENCRYPTED: Place = Place { file: "listen-tls.json", usual: 8443, is_spare: true };

/// Listens where it is told to, else where it always did.
fn listen(
    directory: &Path,
    place: &Place,
    address: Option<IpAddr>,
    port: Option<u16>,
) -> io::Result<TcpListener> {
    let before = read::<SocketAddr>(directory, place.file)?;
    let ip = address.or(before.map(|it| it.ip())).unwrap_or(Ipv4Addr::LOCALHOST.into());
    // Any port is any port once: afterwards it is the one that people know.
    let known = port.filter(|port| *port != 0).or(before.map(|it| it.port()));
    let listener = if let Some(known) = known {
        let wanted = SocketAddr::new(ip, known);
        let busy = |error: io::Error| io::Error::new(error.kind(), format!("{wanted}: {error}"));
        match bind(wanted) {
            // Nobody has named it: what is served in the clear does not end for it.
            Err(_) if port.is_none() && place.is_spare => return bind(SocketAddr::new(ip, 0)),
            bound => bound.map_err(busy)?,
        }
    } else {
        let usual = if port.is_some() { 0 } else { place.usual };
        bind(SocketAddr::new(ip, usual)).or_else(|_| bind(SocketAddr::new(ip, 0)))?
    };
    write_durably(directory, place.file, &listener.local_addr()?)?;
    Ok(listener)
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(socket::front(at)?)
}
