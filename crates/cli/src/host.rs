//! A control plane within this process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use clap::Args;
use plimsoll_api::{End, Endpoint, Listen, TlsFiles};
use plimsoll_server::{DataError, Server, Settings, StartError};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

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
    /// Where the API listens [default: any port of the loopback address]; anything but loopback is encrypted
    #[arg(long, env = "PLIMSOLL_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The API's certificate with its chain, as PEM [default, off loopback: one that is made in the data directory]
    #[arg(long, env = "PLIMSOLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, as PEM
    #[arg(long, env = "PLIMSOLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Connections to the API at the same time; further ones wait
    #[arg(long, env = "PLIMSOLL_MAX_CONNECTIONS", value_name = "N", default_value_t = Listen::default().connections)]
    max_connections: usize,
    /// Requests of each caller in a second, and twice as many at once; 0 for no limit
    #[arg(long, env = "PLIMSOLL_MAX_RATE", value_name = "N", default_value_t = Listen::default().rate)]
    max_rate: u32,
}

impl HostOptions {
    fn listen(&self) -> Listen {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Listen {
            address: self.listen.unwrap_or(Listen::default().address),
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            connections: self.max_connections,
            rate: self.max_rate,
        }
    }
}

impl ServerCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let data = self.place.local().data()?;
        let host = Host::start(data.clone(), self.options)?;
        talk(&format!("serving {}; the admin token is in {}/admin.token", data.display(), data.display()));
        match host.endpoint.fingerprint {
            None => talk(&format!("the API listens on http://{}", host.endpoint.address)),
            Some(fingerprint) => {
                talk(&format!("the API listens on https://{}", host.endpoint.address));
                talk(&format!("its certificate has the fingerprint sha256:{fingerprint}"));
            }
        }
        while host.interrupts() == 0 {
            pause();
        }
        talk("the control plane ends; what runs goes on");
        host.finish();
        Ok(Ended::Done)
    }
}

/// A control plane that works for as long as this is kept.
pub(crate) struct Host {
    endpoint: Endpoint,
    server: Arc<Server>,
    end: End,
    serving: JoinHandle<()>,
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
        let (server, endpoint, end, serving) = runtime.block_on(async {
            // From here on an interrupt is counted and waited for, not an end.
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let listen = options.listen();
            let HostOptions { http_port, store, .. } = options;
            let settings = Settings { data, program, http_port, store, drivers: None };
            let server = Arc::new(Server::start(settings).await?);
            let (endpoint, serving) = plimsoll_api::serve(server.clone(), listen).await?;
            let end = serving.end();
            let serving = tokio::spawn(serving.run());
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            anyhow::Ok((server, endpoint, end, serving))
        })?;
        Ok(Self { endpoint, server, end, serving, interrupts, runtime })
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

    /// Lets nobody in any more and finishes what was begun.
    fn finish(self) {
        self.end.ask();
        // What did not end within its limits is cut off with the process.
        self.runtime.block_on(self.serving).ok();
    }

    /// Ends the router too, unless it still serves something.
    pub(crate) fn end_router(&self) {
        // One that cannot be reached any more needs no end.
        self.runtime.block_on(self.server.router().end()).ok();
    }
}
