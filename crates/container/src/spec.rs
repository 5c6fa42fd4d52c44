//! From a recipe to what an engine takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig,
    Mount as Native, MountType, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use plimsoll_model::app::{Resources, Security};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::PinnedImage;
use plimsoll_model::world::Limit;
use serde::{Deserialize, Serialize};

use crate::engine::{Facts, Maker};

/// Bytes of output that an engine keeps of a container, in two files.
const LOG_FILE: &str = "10m";

/// Processes and threads of a container that declares no limit: a fork bomb ends in it.
const USUAL_PIDS: i64 = 4096;

/// Everything a container is made of. It is kept beside the instance and may hold secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// Its image.
    pub image: PinnedImage,
    /// Instead of the image's entry point, unless empty.
    pub entrypoint: Vec<String>,
    /// Instead of the image's arguments, unless empty.
    pub args: Vec<String>,
    /// Environment beside the image's.
    pub env: BTreeMap<String, String>,
    /// Working directory, if not the image's.
    pub workdir: Option<String>,
    /// User, if not the image's.
    pub user: Option<String>,
    /// What it sees of the node and of volumes.
    pub mounts: Vec<Mount>,
    /// How it is reached.
    pub attachment: Attachment,
    /// Ports that the program listens on.
    pub ports: BTreeSet<u16>,
    /// Limits.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// Time to end.
    pub grace: Span,
    /// Whose it is, for people and for us.
    pub labels: BTreeMap<String, String>,
}

/// Something that a container sees at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mount {
    /// A file or directory of the node.
    Bind {
        /// Which.
        from: PathBuf,
        /// Where it is seen.
        at: String,
        /// Whether it may be written.
        writable: bool,
    },
    /// A volume of the engine.
    Volume {
        /// Its name.
        name: String,
        /// Where it is seen.
        at: String,
        /// Its marks.
        labels: BTreeMap<String, String>,
    },
}

/// How a container is reached from its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Attachment {
    /// At an address of its own in a network of the engine.
    Address {
        /// The network.
        network: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// By ports of the node's loopback address, by the container's own.
    Published {
        /// The network.
        network: String,
        /// The node's port for each of the container's.
        ports: BTreeMap<u16, u16>,
    },
}

/// The image as an engine takes it: one that is there only by its id is named by that.
pub fn image_name(image: &PinnedImage) -> String {
    if image.repository.is_of_this_machine() { format!("sha256:{}", image.digest) } else { image.to_string() }
}

/// What of a recipe an engine cannot give.
pub fn unenforced(recipe: &Recipe, facts: &Facts) -> Vec<Limit> {
    let Resources { cpu, memory, pids } = recipe.resources;
    let declared =
        [(Limit::Cpu, cpu.is_some()), (Limit::Memory, memory.is_some()), (Limit::Pids, pids.is_some())];
    let declared = declared.into_iter().filter(|(_, is_declared)| *is_declared).map(|(limit, _)| limit);
    declared.filter(|limit| !facts.limits.contains(limit)).collect()
}

/// What an engine takes to make a container.
pub fn body(recipe: &Recipe, facts: &Facts) -> ContainerCreateBody {
    let non_empty = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let port_name = |port: &u16| format!("{port}/tcp");
    let hash = |labels: &BTreeMap<String, String>| labels.clone().into_iter().collect::<HashMap<_, _>>();
    let (network, address) = match &recipe.attachment {
        Attachment::Address { network, address } => (network.clone(), Some(address.to_string())),
        Attachment::Published { network, .. } => (network.clone(), None),
    };
    let endpoint = EndpointSettings {
        ipam_config: address.map(|address| EndpointIpamConfig {
            ipv4_address: Some(address),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    ContainerCreateBody {
        image: Some(image_name(&recipe.image)),
        entrypoint: non_empty(&recipe.entrypoint),
        cmd: non_empty(&recipe.args),
        env: Some(recipe.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: recipe.workdir.clone(),
        user: recipe.user.clone(),
        labels: Some(hash(&recipe.labels)),
        exposed_ports: Some(recipe.ports.iter().map(port_name).collect()),
        stop_timeout: Some(i64::try_from(recipe.grace.millis.div_ceil(1000)).unwrap_or(i64::MAX)),
        host_config: Some(host(recipe, facts, &network)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network, endpoint)])),
        }),
        ..ContainerCreateBody::default()
    }
}

fn host(recipe: &Recipe, facts: &Facts, network: &str) -> HostConfig {
    let Resources { cpu, memory, pids } = recipe.resources;
    let can = |limit| facts.limits.contains(&limit);
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = memory.filter(|_| can(Limit::Memory)).map(|memory| bytes(memory.bytes));
    let published = match &recipe.attachment {
        Attachment::Address { .. } => None,
        Attachment::Published { ports, .. } => Some(
            ports
                .iter()
                .map(|(inside, outside)| {
                    let binding = PortBinding {
                        host_ip: Some(Ipv4Addr::LOCALHOST.to_string()),
                        host_port: Some(outside.to_string()),
                    };
                    (format!("{inside}/tcp"), Some(vec![binding]))
                })
                .collect(),
        ),
    };
    let is_mounted = |path: &str| {
        recipe.mounts.iter().any(|mount| match mount {
            Mount::Bind { at, .. } | Mount::Volume { at, .. } => at == path,
        })
    };
    let writable = ["/tmp", "/run"].into_iter().filter(|path| !is_mounted(path));
    let tmpfs = recipe
        .security
        .read_only
        .then(|| writable.map(|path| (path.to_owned(), "rw,nosuid,nodev,mode=1777".to_owned())).collect());
    HostConfig {
        network_mode: Some(network.to_owned()),
        port_bindings: published,
        mounts: Some(recipe.mounts.iter().map(mount).collect()),
        tmpfs,
        nano_cpus: cpu.filter(|_| can(Limit::Cpu)).map(|cpu| bytes(cpu.millicores).saturating_mul(1_000_000)),
        memory,
        // No swap beyond it, or the limit would only slow it down.
        memory_swap: memory,
        pids_limit: can(Limit::Pids).then(|| pids.map_or(USUAL_PIDS, i64::from)),
        readonly_rootfs: Some(recipe.security.read_only),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(recipe.security.capabilities().into_iter().map(|it| it.name().to_owned()).collect()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(log(facts.maker)),
        ..HostConfig::default()
    }
}

/// Output is kept where it can be asked for, whatever the engine does with it otherwise, and not without end.
fn log(maker: Maker) -> HostConfigLogConfig {
    let (driver, files) = match maker {
        Maker::Docker => ("json-file", Some(("max-file".to_owned(), "2".to_owned()))),
        Maker::Podman => ("k8s-file", None),
    };
    let size = ("max-size".to_owned(), LOG_FILE.to_owned());
    HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some([size].into_iter().chain(files).collect()),
    }
}

fn mount(mount: &Mount) -> Native {
    match mount {
        Mount::Bind { from, at, writable } => Native {
            typ: Some(MountType::BIND),
            source: Some(from.display().to_string()),
            target: Some(at.clone()),
            read_only: Some(!writable),
            ..Native::default()
        },
        Mount::Volume { name, at, .. } => Native {
            typ: Some(MountType::VOLUME),
            source: Some(name.clone()),
            target: Some(at.clone()),
            ..Native::default()
        },
    }
}
