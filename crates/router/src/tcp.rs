//! Stable addresses: connections, led to a ready member as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_model::world::from_containers;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::socket;
use crate::state::{InFlight, State};

/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a connection waits for a member when none is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks for a ready member.
const LOOK: Duration = Duration::from_millis(20);

/// The addresses that are listened to.
pub(crate) struct Listeners {
    tasks: Mutex<BTreeMap<SocketAddr, Vec<AbortHandle>>>,
    /// Ports at which routes are served at every address.
    shared: Vec<u16>,
}

impl Listeners {
    /// None yet, beside those of the front.
    pub(crate) fn beside(shared: Vec<u16>) -> Self {
        Self { tasks: Mutex::default(), shared }
    }

    /// Listens to exactly these addresses. If one cannot be had, everything stays as it was.
    pub(crate) fn serve(
        &self,
        state: &Arc<State>,
        runtime: &tokio::runtime::Handle,
        wanted: &BTreeSet<SocketAddr>,
    ) -> io::Result<()> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for at in wanted.iter().filter(|at| !tasks.contains_key(at)) {
            let listener = socket::stable(*at, &self.shared, false)
                .map_err(|error| io::Error::new(error.kind(), format!("{at}: {error}")))?;
            new.push((*at, listener));
        }
        for (at, listener) in new {
            let _guard = runtime.enter();
            // Where it cannot be had, no container will ask for it either.
            let listeners = [Some(listener), for_containers(at, &self.shared).ok()];
            let mut serving = Vec::new();
            for listener in listeners.into_iter().flatten() {
                let listener = TcpListener::from_std(listener)?;
                serving.push(runtime.spawn(accept(at, listener, state.clone())).abort_handle());
            }
            tasks.insert(at, serving);
        }
        tasks.retain(|at, serving| {
            let keep = wanted.contains(at);
            if !keep {
                serving.iter().for_each(AbortHandle::abort);
            }
            keep
        });
        Ok(())
    }
}

/// A listener where containers reach a stable address. The address need not be this machine's yet: it becomes so with
/// the first container.
fn for_containers(at: SocketAddr, shared: &[u16]) -> io::Result<std::net::TcpListener> {
    let SocketAddr::V4(at) = at else { return Err(io::ErrorKind::Unsupported.into()) };
    socket::stable(SocketAddr::from((from_containers(*at.ip()), at.port())), shared, true)
}

/// Listens to a stable address that the router does not serve: as the node sees it and, where that can be had, as containers
/// do.
///
/// # Errors
/// When somebody else has it.
pub fn listen_beside(at: SocketAddr) -> io::Result<Vec<std::net::TcpListener>> {
    let shared = [at.port()];
    let mut listeners = vec![socket::stable(at, &shared, false)?];
    listeners.extend(for_containers(at, &shared));
    Ok(listeners)
}

async fn accept(at: SocketAddr, listener: TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(lead(at, client, state.clone()));
            }
            // Too many files are open, or the client is gone already: others may still come.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn lead(at: SocketAddr, mut client: TcpStream, state: Arc<State>) {
    let Ok(Some((mut member, _in_flight))) = tokio::time::timeout(PATIENCE, connect(at, &state)).await else {
        return;
    };
    client.set_nodelay(true).ok();
    member.set_nodelay(true).ok();
    // Either side may break off at any time; that is theirs to handle.
    tokio::io::copy_bidirectional(&mut client, &mut member).await.ok();
}

/// Connects to a member; when none is ready, waits for one. `None` when the address is served no more.
async fn connect(at: SocketAddr, state: &State) -> Option<(TcpStream, InFlight)> {
    loop {
        let mut tried = Vec::new();
        let backend = state.routing().service(at)?.clone();
        while let Some(in_flight) = backend.pick(&tried) {
            tried.push(in_flight.endpoint);
            let connected = tokio::time::timeout(CONNECT, TcpStream::connect(in_flight.endpoint)).await;
            if let Ok(Ok(member)) = connected {
                return Some((member, in_flight));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
