//! Stable addresses: connections, led to a ready member as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::state::{InFlight, State};

/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a connection waits for a member when none is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks for a ready member.
const LOOK: Duration = Duration::from_millis(20);

/// The addresses that are listened to.
#[derive(Default)]
pub(crate) struct Listeners {
    tasks: Mutex<BTreeMap<SocketAddr, AbortHandle>>,
}

impl Listeners {
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
            let listener = std::net::TcpListener::bind(at)
                .map_err(|error| io::Error::new(error.kind(), format!("{at}: {error}")))?;
            listener.set_nonblocking(true)?;
            new.push((*at, listener));
        }
        for (at, listener) in new {
            let _guard = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            let task = runtime.spawn(accept(at, listener, state.clone()));
            tasks.insert(at, task.abort_handle());
        }
        tasks.retain(|at, task| {
            let keep = wanted.contains(at);
            if !keep {
                task.abort();
            }
            keep
        });
        Ok(())
    }
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
