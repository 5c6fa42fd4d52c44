//! A control plane within this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use clap::Args;
use plimsoll_server::{DataError, Server, Settings, StartError};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::Ended;
use crate::client::Where;
use crate::follow::{pause, talk};

/// Run the control plane of this machine, and its local node
#[derive(Args)]
pub(crate) struct ServerCommand {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: HostOptions,
}

/// How a control plane within this process is set up
#[derive(Args, Clone)]
pub(crate) struct HostOptions {
    /// The port where routes are served, 0 for any [default: the one before; the first time 8080 if it is free]
    #[arg(long, env = "PLIMSOLL_HTTP_PORT", value_name = "PORT")]
    http_port: Option<u16>,
    /// The PostgreSQL database that keeps everything [default: a file in the data directory]
    #[arg(long, env = "PLIMSOLL_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
}

impl ServerCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let data = self.place.local().data()?;
        let host = Host::start(data.clone(), self.options)?;
        talk(&format!("serving {}; the admin token is in {}/admin.token", data.display(), data.display()));
        talk(&format!("the API listens on http://{}", host.address));
        while host.interrupts() == 0 {
            pause();
        }
        talk("the control plane ends; what runs goes on");
        Ok(Ended::Done)
    }
}

/// A control plane that works for as long as this is kept.
pub(crate) struct Host {
    pub(crate) address: std::net::SocketAddr,
    server: Arc<Server>,
    interrupts: Arc<AtomicU32>,
    runtime: Runtime,
}

impl Host {
    /// Takes a data directory and serves it.
    pub(crate) fn start(data: PathBuf, options: HostOptions) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let interrupts = Arc::new(AtomicU32::new(0));
        let counted = interrupts.clone();
        let (server, address) = runtime.block_on(async {
            // From here on an interrupt is counted and waited for, not an end.
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let HostOptions { http_port, store } = options;
            let server =
                Arc::new(Server::start(Settings { data, program, http_port, store, drivers: None }).await?);
            let (endpoint, serving) = plimsoll_api::serve(server.clone()).await?;
            tokio::spawn(serving);
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            anyhow::Ok((server, endpoint.address))
        })?;
        Ok(Self { address, server, interrupts, runtime })
    }

    /// [`Host::start`], unless another process serves the directory already.
    pub(crate) fn start_unless_owned(data: PathBuf, options: HostOptions) -> anyhow::Result<Option<Self>> {
        match Self::start(data, options) {
            Ok(host) => Ok(Some(host)),
            Err(error) => match error.downcast_ref::<StartError>() {
                Some(StartError::Data(DataError::Owned { .. })) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// How often the process was asked to end.
    pub(crate) fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Ends the router too, unless it still serves something.
    pub(crate) fn end_router(&self) {
        // One that cannot be reached any more needs no end.
        self.runtime.block_on(self.server.router().end()).ok();
    }
}
