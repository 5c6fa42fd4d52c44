//! Which engine: the one that is named, or the first that is there.

use std::path::{Path, PathBuf};

use bollard::{API_DEFAULT_VERSION, Docker};
use plimsoll_model::id::InstallationId;
use plimsoll_model::kind::EngineAddress;

use crate::engine::Engine;
use crate::error::EngineError;

/// Seconds that an engine may take for the beginning of an answer.
const PATIENCE: u64 = 60;

/// The environment variable that names an engine, as Docker's own command has it.
const DOCKER_HOST: &str = "DOCKER_HOST";

/// Sockets where engines usually listen: those of the system first, then those of a user.
fn usual_sockets() -> Vec<PathBuf> {
    let mut sockets: Vec<PathBuf> =
        ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from).into();
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    sockets.extend(of_user.iter().flat_map(|it| [it.join("docker.sock"), it.join("podman/podman.sock")]));
    sockets
}

/// Where an engine is when nobody names one: `DOCKER_HOST`, or the first usual socket that is there.
///
/// # Errors
/// When there is none, with where was looked.
pub fn usual_address() -> Result<EngineAddress, EngineError> {
    if let Some(named) = std::env::var(DOCKER_HOST).ok().filter(|named| !named.is_empty()) {
        return Ok(EngineAddress(named));
    }
    let sockets = usual_sockets();
    let found = sockets.iter().find(|socket| socket.exists());
    found.map(|socket| EngineAddress(format!("unix://{}", socket.display()))).ok_or_else(|| {
        let looked: Vec<String> = sockets.iter().map(|socket| socket.display().to_string()).collect();
        EngineError::Missing(format!("{DOCKER_HOST} is not set, and there is no {}", looked.join(", ")))
    })
}

/// An engine at an address. Nothing is asked of it yet. Must be called within a tokio runtime.
///
/// # Errors
/// When the address is none of this machine.
pub fn connect(address: &EngineAddress, installation: &InstallationId) -> Result<Engine, EngineError> {
    let docker = if let Some(path) = address.0.strip_prefix("unix://") {
        if !Path::new(path).exists() {
            return Err(EngineError::Away(format!("there is no socket {path}")));
        }
        Docker::connect_with_unix(path, PATIENCE, API_DEFAULT_VERSION)?
    } else if is_loopback(&address.0) {
        Docker::connect_with_http(&address.0, PATIENCE, API_DEFAULT_VERSION)?
    } else {
        let text = format!(
            "{address} is no engine of this machine: name a socket, as unix:///run/podman/podman.sock, or tcp://127.0.0.1:PORT"
        );
        return Err(EngineError::Refused(text));
    };
    Ok(Engine::new(docker, address.clone(), installation.clone()))
}

/// Directories and addresses of containers mean something on this machine only.
fn is_loopback(address: &str) -> bool {
    let host = address.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).map(|(host, _)| host);
    host.is_some_and(|host| {
        host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
    })
}
