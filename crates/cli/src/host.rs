//! A control plane within this process.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use plimsoll_api::{Certificate, End, Endpoint, Issuer, Listen, TlsFiles};
use plimsoll_compat::Allowed;
use plimsoll_model::id::{ProjectName, RuntimeName, UserName};
use plimsoll_model::secret::Sensitive;
use plimsoll_server::{AcmeSettings, DataError, Ports, Server, Settings, StartError};
use sd_notify::NotifyState;
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::Ended;
use crate::compat::{Compatible, System};
use crate::follow::talk;
use crate::install::Install;
use crate::place::Where;

/// Time between two looks whether somebody asked for the end.
const LOOK: Duration = Duration::from_millis(100);

/// Run the control plane of this machine, and its local node
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerCommand {
    #[command(subcommand)]
    action: Option<ServerAction>,
    /// A file with these settings, for what no option and no variable says
    #[arg(long, env = "PLIMSOLL_SERVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: HostOptions,
}

/// What else is done with the control plane of this machine
#[derive(Subcommand)]
enum ServerAction {
    /// Write the unit of a systemd service, and the file with its settings; print them where there is no systemd
    Install(Install),
}

/// How a control plane within this process is set up
#[derive(Args, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct HostOptions {
    /// The port where routes are served, 0 for any [default: the one before; the first time 8080 if it is free]
    #[arg(long, env = "PLIMSOLL_HTTP_PORT", value_name = "PORT")]
    http_port: Option<u16>,
    /// The port where routes are served encrypted, 0 for any [default: the one before; the first time 8443 if it is free]
    #[arg(long, env = "PLIMSOLL_HTTPS_PORT", value_name = "PORT")]
    https_port: Option<u16>,
    /// The address where routes are served, 0.0.0.0 for all of this machine [default: the one before; the first time 127.0.0.1]
    #[arg(long, env = "PLIMSOLL_HTTP_ADDRESS", value_name = "ADDRESS")]
    http_address: Option<IpAddr>,
    /// The directory of the ACME authority that gives certificates for routes; you agree to its terms of service
    #[arg(long, env = "PLIMSOLL_ACME_DIRECTORY", value_name = "URL")]
    acme_directory: Option<String>,
    /// Where the authority writes to when something is wrong with a certificate
    #[arg(long, env = "PLIMSOLL_ACME_CONTACT", value_name = "MAIL", requires = "acme_directory")]
    acme_contact: Option<String>,
    /// The certificates that the authority itself is trusted by, as PEM [default: those of this machine]
    #[arg(long, env = "PLIMSOLL_ACME_CA", value_name = "FILE", requires = "acme_directory")]
    acme_ca: Option<PathBuf>,
    /// The PostgreSQL database that keeps everything [default: a file in the data directory]
    #[arg(long, env = "PLIMSOLL_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// The file that opens the installation's secrets [default: one in the data directory]; `plimsoll key create` makes one
    #[arg(long, env = "PLIMSOLL_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Where the API listens [default: any port of the loopback address]; anything but loopback is encrypted
    #[arg(long, env = "PLIMSOLL_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The API's certificate with its chain, as PEM [default, off loopback: one that is made in the data directory]
    #[arg(long, env = "PLIMSOLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, as PEM
    #[arg(long, env = "PLIMSOLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Connections to the API at the same time; further ones wait [default: 4096]
    #[arg(long, env = "PLIMSOLL_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Requests of each caller in a second, and twice as many at once; 0 for no limit [default: 1000]
    #[arg(long, env = "PLIMSOLL_MAX_RATE", value_name = "N")]
    max_rate: Option<u32>,
    /// The OpenID Connect provider by which people log in, as its tokens name it
    #[arg(long, env = "PLIMSOLL_OIDC_ISSUER", value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer: Option<String>,
    /// What the provider knows this control plane as; redirects to any port of 127.0.0.1 must be fine with it
    #[arg(long, env = "PLIMSOLL_OIDC_CLIENT_ID", value_name = "ID", requires = "oidc_issuer")]
    oidc_client_id: Option<String>,
    /// The file with the secret by which the provider knows that it is this one [default: a public client has none]
    #[arg(long, env = "PLIMSOLL_OIDC_CLIENT_SECRET_FILE", value_name = "FILE", requires = "oidc_issuer")]
    oidc_client_secret_file: Option<PathBuf>,
    /// The claim that is the user's name here [default: email]
    #[arg(long, env = "PLIMSOLL_OIDC_USER_CLAIM", value_name = "CLAIM", requires = "oidc_issuer")]
    oidc_user_claim: Option<String>,
    /// Users of the provider that administrate the platform
    #[arg(
        long,
        env = "PLIMSOLL_OIDC_ADMINS",
        value_name = "USER",
        value_delimiter = ',',
        requires = "oidc_issuer"
    )]
    oidc_admins: Vec<UserName>,
    /// Serve the clients of a system that came before, which show no tokens [default: none]
    #[arg(long, env = "PLIMSOLL_COMPAT", value_name = "SYSTEM")]
    compat: Option<System>,
    /// Where they are served [default: 127.0.0.1:8000]; anything but loopback needs --compat-project and --compat-allow
    #[arg(long, env = "PLIMSOLL_COMPAT_LISTEN", value_name = "ADDRESS:PORT", requires = "compat")]
    compat_listen: Option<SocketAddr>,
    /// The project that their programs are loaded into [default: default]; off loopback it must have a quota
    #[arg(long, env = "PLIMSOLL_COMPAT_PROJECT", value_name = "PROJECT", requires = "compat")]
    compat_project: Option<ProjectName>,
    /// The networks that may come in, beside this machine, such as 10.1.0.0/16
    #[arg(
        long,
        env = "PLIMSOLL_COMPAT_ALLOW",
        value_name = "NETWORK",
        value_delimiter = ',',
        requires = "compat"
    )]
    compat_allow: Vec<Allowed>,
    /// The runtime of the target that runs their programs [default: jolie]
    #[arg(long, env = "PLIMSOLL_COMPAT_RUNTIME", value_name = "RUNTIME", requires = "compat")]
    compat_runtime: Option<RuntimeName>,
    /// The data directory that a file names; commands have an option of their own for it.
    #[arg(skip)]
    data_dir: Option<PathBuf>,
}

impl HostOptions {
    /// The settings of a file, which refuses what it does not know.
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let settings: Self =
            toml::from_str(&text).with_context(|| format!("{} cannot be understood", file.display()))?;
        if settings.tls_cert.is_some() != settings.tls_key.is_some() {
            bail!("{}: tls-cert and tls-key belong together", file.display());
        }
        if settings.oidc_issuer.is_some() != settings.oidc_client_id.is_some() {
            bail!("{}: oidc-issuer and oidc-client-id belong together", file.display());
        }
        Ok(settings)
    }

    /// These settings, and those of a file where nothing is said here.
    fn or(self, file: Self) -> Self {
        let (tls_cert, tls_key) = if self.tls_cert.is_some() {
            (self.tls_cert, self.tls_key)
        } else {
            (file.tls_cert, file.tls_key)
        };
        Self {
            http_port: self.http_port.or(file.http_port),
            https_port: self.https_port.or(file.https_port),
            http_address: self.http_address.or(file.http_address),
            acme_directory: self.acme_directory.or(file.acme_directory),
            acme_contact: self.acme_contact.or(file.acme_contact),
            acme_ca: self.acme_ca.or(file.acme_ca),
            store: self.store.or(file.store),
            key_file: self.key_file.or(file.key_file),
            listen: self.listen.or(file.listen),
            tls_cert,
            tls_key,
            max_connections: self.max_connections.or(file.max_connections),
            max_rate: self.max_rate.or(file.max_rate),
            oidc_issuer: self.oidc_issuer.or(file.oidc_issuer),
            oidc_client_id: self.oidc_client_id.or(file.oidc_client_id),
            oidc_client_secret_file: self.oidc_client_secret_file.or(file.oidc_client_secret_file),
            oidc_user_claim: self.oidc_user_claim.or(file.oidc_user_claim),
            oidc_admins: if self.oidc_admins.is_empty() { file.oidc_admins } else { self.oidc_admins },
            compat: self.compat.or(file.compat),
            compat_listen: self.compat_listen.or(file.compat_listen),
            compat_project: self.compat_project.or(file.compat_project),
            compat_allow: if self.compat_allow.is_empty() { file.compat_allow } else { self.compat_allow },
            compat_runtime: self.compat_runtime.or(file.compat_runtime),
            data_dir: self.data_dir.or(file.data_dir),
        }
    }

    /// Where routes are served. Whoever wants any port wants any for both.
    fn routes(&self) -> Ports {
        let any = self.http_port.filter(|port| *port == 0);
        Ports { address: self.http_address, http: self.http_port, https: self.https_port.or(any) }
    }

    fn acme(&self) -> Option<AcmeSettings> {
        let (contact, roots) = (self.acme_contact.clone(), self.acme_ca.clone());
        self.acme_directory.clone().map(|directory| AcmeSettings { directory, contact, roots })
    }

    /// The clients of another system that are served, if they are.
    fn compatible(&self) -> anyhow::Result<Option<Compatible>> {
        if self.compat.is_none() {
            let has_more = self.compat_listen.is_some() || !self.compat_allow.is_empty();
            if has_more || self.compat_project.is_some() || self.compat_runtime.is_some() {
                bail!(
                    "compat-listen, -project, -allow and -runtime are about `compat`, which names no system"
                );
            }
        }
        let compatible = |system| Compatible {
            system,
            listen: self.compat_listen,
            project: self.compat_project.clone(),
            allow: self.compat_allow.clone(),
            runtime: self.compat_runtime.clone(),
        };
        Ok(self.compat.map(compatible))
    }

    fn issuer(&self) -> anyhow::Result<Option<Issuer>> {
        let both = self.oidc_issuer.clone().zip(self.oidc_client_id.clone());
        let Some((url, client)) = both else { return Ok(None) };
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("{} cannot be read", file.display()))?;
            anyhow::Ok(Sensitive::new(text.trim().to_owned()))
        };
        let secret = self.oidc_client_secret_file.as_ref().map(read).transpose()?;
        let claim = self.oidc_user_claim.clone().unwrap_or_else(|| "email".to_owned());
        Ok(Some(Issuer { url, client, secret, claim, administrators: self.oidc_admins.clone() }))
    }

    fn listen(&self) -> anyhow::Result<Listen> {
        let (tls, usual) = (self.tls_cert.clone().zip(self.tls_key.clone()), Listen::default());
        Ok(Listen {
            address: self.listen.unwrap_or(usual.address),
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            connections: self.max_connections.unwrap_or(usual.connections),
            rate: self.max_rate.unwrap_or(usual.rate),
            issuer: self.issuer()?,
        })
    }
}

impl ServerCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        if let Some(ServerAction::Install(install)) = self.action {
            return install.run();
        }
        let file = self.config.as_deref().map(HostOptions::read).transpose()?.unwrap_or_default();
        let options = self.options.or(file);
        let data = self.place.local().data_or(options.data_dir.clone())?;
        let host = Host::start(data.clone(), options, true)?;
        talk(&format!("serving {}; the admin token is in {}/admin.token", data.display(), data.display()));
        match host.endpoint.fingerprint {
            None => talk(&format!("the API listens on http://{}", host.endpoint.address)),
            Some(fingerprint) => {
                talk(&format!("the API listens on https://{}", host.endpoint.address));
                talk(&format!("its certificate has the fingerprint sha256:{fingerprint}"));
            }
        }
        while host.interrupts() == 0 {
            std::thread::park_timeout(LOOK);
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
    /// Takes a data directory and serves it. A service reads its certificate again when its terminal hangs up.
    fn start(data: PathBuf, options: HostOptions, is_service: bool) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let interrupts = Arc::new(AtomicU32::new(0));
        let counted = interrupts.clone();
        let (server, endpoint, end, serving) = runtime.block_on(async {
            // From here on an interrupt is counted and waited for, not an end.
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let listen = options.listen()?;
            let (routes, acme) = (options.routes(), options.acme());
            let compat = options.compatible()?;
            let HostOptions { store, key_file, .. } = options;
            let settings = Settings { data, program, routes, acme, store, key_file, drivers: None };
            let server = Arc::new(Server::start(settings).await?);
            let (endpoint, mut serving) = plimsoll_api::serve(server.clone(), listen).await?;
            if let Some(compat) = compat {
                compat.serve(&server, &mut serving).await?;
            }
            let (end, certificate) = (serving.end(), serving.certificate());
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
            if is_service && certificate.is_used() {
                let mut reload = signal(SignalKind::hangup())?;
                tokio::spawn(async move {
                    while reload.recv().await.is_some() {
                        renew(&certificate);
                    }
                });
            }
            tokio::spawn(tell_service_manager());
            anyhow::Ok((server, endpoint, end, serving))
        })?;
        Ok(Self { endpoint, server, end, serving, interrupts, runtime })
    }

    /// [`Host::start`], unless another process serves the directory already.
    pub(crate) fn start_unless_owned(data: PathBuf, options: HostOptions) -> anyhow::Result<Option<Self>> {
        match Self::start(data, options, false) {
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
        notify(NotifyState::Stopping);
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

/// Reads the certificate again, and says what became of it.
fn renew(certificate: &Certificate) {
    match certificate.reload() {
        Ok(Some(fingerprint)) => {
            talk(&format!("the certificate now has the fingerprint sha256:{fingerprint}"));
        }
        Ok(None) => talk("there is no certificate to be read again"),
        Err(error) => talk(&format!("the certificate stays as it was: {:#}", anyhow::Error::from(error))),
    }
}

/// Tells the service manager, if there is one, that everything is ready, and then, as often as it wants to hear that, that
/// this process is still alive. A store that does not answer is no reason for a new process.
async fn tell_service_manager() {
    notify(NotifyState::Ready);
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(within / 2);
    loop {
        ticks.tick().await;
        notify(NotifyState::Watchdog);
    }
}

/// Whoever is not there needs not be told.
fn notify(state: NotifyState<'_>) {
    sd_notify::notify(&[state]).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_key_and_others_are_refused() {
        let example: HostOptions = toml::from_str(crate::install::EXAMPLE).unwrap();
        assert_eq!(example.http_port, Some(8080));
        let whole = crate::install::EXAMPLE.replace("\n#", "\n").replace("\n ", "\n# ");
        let known = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let keys = whole.lines().filter(known).collect::<Vec<_>>().join("\n");
        let all: HostOptions = toml::from_str(&keys).unwrap();
        assert!(
            all.store.is_some()
                && all.key_file.is_some()
                && all.oidc_issuer.is_some()
                && all.oidc_client_secret_file.is_some()
                && all.tls_key.is_some()
                && all.max_rate.is_some(),
            "{keys}"
        );
        assert!(all.compat.is_some() && all.compat_allow.len() == 1, "{keys}");
        assert!(all.max_connections.is_some() && all.listen.is_some() && all.data_dir.is_some(), "{keys}");
        let error = toml::from_str::<HostOptions>("max-rates = 5").err().unwrap().to_string();
        assert!(error.contains("max-rates") && error.contains("max-rate`"), "{error}");
        let given = HostOptions { http_port: Some(1), ..HostOptions::default() };
        assert_eq!(given.or(example).http_port, Some(1), "an option comes before the file");
    }
}
