//! An instance's own network and own `/tmp`, by the kernel's namespaces. See namespaces(7), veth(4), ip(8), nft(8).
//!
//! The network is one end of a cable whose other end is a port of the node's bridge. Three things hold in it:
//! connections that come in reach programs that listen on 127.0.0.1 only, as they may everywhere else; stable
//! addresses, 127.64.0.0/10, lead to the node, where the router listens on them; everything else goes out through
//! the node. `ip` and `nft` do the work: they are on every Debian machine, and this process must stay small.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

/// Where the tools of the system are, whatever the caller's environment says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Where systemd-resolved keeps the name servers that it asks itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Directories that all users of a machine share.
pub const SHARED: [&str; 2] = ["/tmp", "/var/tmp"];

/// A network for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The node's bridge.
    pub bridge: String,
    /// The name of the cable's end at the bridge.
    pub cable: String,
    /// The instance's address.
    pub address: Ipv4Addr,
    /// Bits of it that are the node's network.
    pub prefix: u8,
    /// The node's own address in that network.
    pub gateway: Ipv4Addr,
    /// Ports on which it may be reached.
    pub ports: Vec<u16>,
}

/// Runs a tool of the system with a script on its standard input.
///
/// # Errors
/// When it is not there, or with its first words when it fails.
pub fn tool(command: &[&str], script: &str) -> io::Result<()> {
    let Some((name, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(name)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name}: {}", said.lines().next().unwrap_or("it failed"))))
}

/// Leaves the node's network for one of its own.
pub(crate) fn enter_network(network: &Network) -> io::Result<()> {
    let Network { bridge, cable, address, prefix, gateway, ports } = network;
    let node = File::open("/proc/self/ns/net")?;
    leave(UnshareFlags::NEWNET)?;
    let own = File::open("/proc/self/ns/net")?;
    // What an earlier run left of the cable has gone with its namespace, or goes now.
    let node_path = format!("/proc/{}/fd/{}", std::process::id(), node.as_raw_fd());
    // The same for each use of an address: neighbours remember the hardware address of an earlier user for a while.
    let [a, b, c, d] = address.octets();
    let inside = format!(
        "link add eth0 address 02:70:{a:02x}:{b:02x}:{c:02x}:{d:02x} type veth peer name {cable} netns {node_path}\n\
         link set lo up\n\
         addr add {address}/{prefix} dev eth0\n\
         link set eth0 up\n\
         route add default via {gateway}\n\
         route del local 127.0.0.0/8 dev lo table local\n\
         route add local 127.0.0.0/10 dev lo table local\n\
         route add local 127.128.0.0/9 dev lo table local\n"
    );
    let outside = format!(
        "link set {cable} master {bridge} up\n\
         link set {cable} type bridge_slave isolated on\n"
    );
    move_into_link_name_space(node.as_fd(), Some(LinkNameSpaceType::Network))?;
    // The kernel takes a network down some time after its last process has ended.
    tool(&["ip", "link", "del", cable], "").ok();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    tool(&["ip", "-batch", "-"], &inside)?;
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?;
    // Nobody else is here who could mind which port the program takes.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let rules = format!(
            "table ip plimsoll {{\n\
             chain in {{\n type nat hook prerouting priority dstnat\n\
             iifname eth0 tcp dport {{ {} }} dnat to 127.0.0.1\n }}\n}}\n",
            ports.join(", ")
        );
        tool(&["nft", "-f", "-"], &rules)?;
    }
    move_into_link_name_space(node.as_fd(), Some(LinkNameSpaceType::Network))?;
    let plugged = tool(&["ip", "-batch", "-"], &outside);
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    plugged
}

/// Mounts for this process and what it starts: a `/tmp` of its own if given, and name servers that can be reached
/// from its network.
pub(crate) fn enter_mounts(tmp: Option<&Path>, has_network: bool) -> io::Result<()> {
    let servers = has_network && asks_this_machine() && Path::new(RESOLVED).exists();
    if tmp.is_none() && !servers {
        return Ok(());
    }
    leave(UnshareFlags::NEWNS)?;
    // What is mounted from here on is not seen outside; what is mounted outside still is seen here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    if let Some(tmp) = tmp {
        for shared in SHARED {
            mount_bind(tmp, shared)?;
        }
    }
    if servers {
        mount_bind(RESOLVED, "/etc/resolv.conf")?;
    }
    Ok(())
}

/// Whether all name servers are on the loopback address, out of reach from another network.
fn asks_this_machine() -> bool {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).peekable();
    servers.peek().is_some() && servers.all(|server| server.trim().starts_with("127."))
}

#[expect(deprecated, reason = "it is unsound for shared file descriptors only, which are not left here")]
fn leave(what: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(what)?)
}

/// Enters the network and the mounts of a process.
pub(crate) fn join(pid: i32) -> io::Result<()> {
    for (name, kind) in [("net", LinkNameSpaceType::Network), ("mnt", LinkNameSpaceType::Mount)] {
        let theirs = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        let same = std::fs::read_link(&theirs)? == std::fs::read_link(format!("/proc/self/ns/{name}"))?;
        if !same {
            move_into_link_name_space(File::open(&theirs)?.as_fd(), Some(kind))?;
        }
    }
    Ok(())
}
