//! The node's network: a bridge that gives each instance an address, if this node may have one.
//!
//! Instances cannot reach each other through it, nor can anybody outside of the machine reach them; they reach the
//! world with the machine's own address. It is chosen once, when the first instance needs it, and kept for life.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use plimsoll_shim::{Network, read, tool, write_durably};
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";

/// Networks that a node may choose from are 10.209.0.0/22, 10.209.4.0/22 and so on: away from the usual networks
/// of container engines, Kubernetes and homes.
const CHOICES: u8 = 64;
const PREFIX: u8 = 22;

/// The network of a node, as it is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Chosen {
    /// Which of the choices.
    number: u8,
}

impl Chosen {
    fn bridge(self) -> String {
        format!("plim{}", self.number)
    }

    /// The address of a host of this network; 1 is the node itself.
    fn host(self, host: u16) -> Ipv4Addr {
        let [high, low] = (u16::from(self.number) * 4 * 256 + host).to_be_bytes();
        Ipv4Addr::new(10, 209, high, low)
    }

    fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        (2..1023).map(move |host| self.host(host))
    }
}

/// What is known about the node's network.
enum State {
    /// Nobody has asked yet.
    NotTried,
    Up(Chosen),
    /// This node cannot have one.
    Impossible,
}

/// The node's network.
pub(crate) struct Networks {
    directory: PathBuf,
    state: std::sync::Mutex<State>,
}

impl Networks {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: std::sync::Mutex::new(State::NotTried) }
    }

    /// An address that nobody has, or `None` where instances share the node's network.
    pub(crate) fn free_address(&self, taken: &BTreeSet<Ipv4Addr>) -> io::Result<Option<Ipv4Addr>> {
        let Some(chosen) = self.up()? else { return Ok(None) };
        let free = chosen.hosts().find(|address| !taken.contains(address));
        free.map(Some).ok_or_else(|| io::Error::other("all addresses of the node's network are taken"))
    }

    /// The network of an instance with this address.
    pub(crate) fn of(&self, address: Ipv4Addr, ports: Vec<u16>) -> io::Result<Network> {
        let chosen = self.up()?.filter(|chosen| chosen.hosts().any(|it| it == address));
        let chosen = chosen.ok_or_else(|| io::Error::other("the node has lost its network"))?;
        let [_, _, high, low] = address.octets();
        Ok(Network {
            bridge: chosen.bridge(),
            cable: format!("{}-{high:02x}{low:02x}", chosen.bridge()),
            address,
            prefix: PREFIX,
            gateway: chosen.host(1),
            ports,
        })
    }

    /// Sets the network up, once in this process' life.
    fn up(&self) -> io::Result<Option<Chosen>> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let State::NotTried = *state {
            let kept = read(&self.directory, FILE)?;
            *state = match kept {
                // Instances have addresses in it: whatever is in the way now has to go.
                Some(chosen) => {
                    self.set_up(chosen)?;
                    State::Up(chosen)
                }
                None => self.choose()?.map_or(State::Impossible, State::Up),
            };
        }
        match *state {
            State::Up(chosen) => Ok(Some(chosen)),
            _ => Ok(None),
        }
    }

    /// The first choice that nobody else has; `None` if there is none or we may not.
    fn choose(&self) -> io::Result<Option<Chosen>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        for number in 0..CHOICES {
            let chosen = Chosen { number };
            if is_used(chosen) {
                continue;
            }
            // Of two that choose at once, one makes it.
            match tool(&["ip", "link", "add", &chosen.bridge(), "type", "bridge"], "") {
                Err(_) if Path::new("/sys/class/net").join(chosen.bridge()).exists() => {}
                Err(_) => return Ok(None),
                Ok(()) if self.set_up(chosen).is_ok() => {
                    write_durably(&self.directory, FILE, &chosen)?;
                    return Ok(Some(chosen));
                }
                Ok(()) => {
                    take_down(chosen);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Makes what is not there: after a reboot that is everything.
    fn set_up(&self, chosen: Chosen) -> io::Result<()> {
        let bridge = chosen.bridge();
        let device = Path::new("/sys/class/net").join(&bridge);
        if !device.exists() {
            tool(&["ip", "link", "add", &bridge, "type", "bridge"], "")?;
        }
        let owner = self.directory.display().to_string();
        let alias = std::fs::read_to_string(device.join("ifalias")).unwrap_or_default();
        match alias.trim_end() {
            "" => std::fs::write(device.join("ifalias"), &owner)?,
            other if other == owner => {}
            other => return Err(io::Error::other(format!("{bridge} belongs to {other}"))),
        }
        tool(
            &["ip", "-batch", "-"],
            &format!("addr replace {}/{PREFIX} dev {bridge}\nlink set {bridge} up\n", chosen.host(1)),
        )?;
        // Addresses of services are loopback addresses, also for those who come through the bridge.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        tool(&["nft", "-f", "-"], &rules(&bridge, chosen.host(0)))?;
        let forward = "/proc/sys/net/ipv4/ip_forward";
        if std::fs::read_to_string(forward)?.trim() == "0" {
            std::fs::write(forward, "1")?;
        }
        Ok(())
    }

    /// Takes the network down and forgets it, when no instance is left.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let State::Up(chosen) = *state {
            std::fs::remove_file(self.directory.join(FILE))?;
            take_down(chosen);
            *state = State::NotTried;
        }
        Ok(())
    }
}

/// Whether an address or a route of this machine lies in the network, or a bridge has its name.
fn is_used(chosen: Chosen) -> bool {
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let words = routes.split_whitespace().map(|word| word.split('/').next().unwrap_or(word));
    let mut addresses = words.filter_map(|word| word.parse::<Ipv4Addr>().ok());
    let first = u32::from(chosen.host(0));
    Path::new("/sys/class/net").join(chosen.bridge()).exists()
        || addresses.any(|address| u32::from(address) >> (32 - PREFIX) == first >> (32 - PREFIX))
}

/// What may pass. Each network has a table of its own, replaced as a whole.
fn rules(bridge: &str, network: Ipv4Addr) -> String {
    format!(
        "table ip {bridge}
delete table ip {bridge}
table ip {bridge} {{
  chain out {{
    type nat hook postrouting priority srcnat
    ip saddr {network}/{PREFIX} oifname != \"{bridge}\" masquerade
  }}
  chain between {{
    type filter hook forward priority filter
    iifname \"{bridge}\" oifname \"plim*\" drop
    oifname \"{bridge}\" ct state new drop
  }}
  chain in {{
    type filter hook input priority filter
    iifname \"{bridge}\" ip daddr 127.0.0.0/8 ip daddr != 127.64.0.0/10 drop
  }}
}}
"
    )
}

fn take_down(chosen: Chosen) {
    let bridge = chosen.bridge();
    tool(&["nft", "delete", "table", "ip", &bridge], "").ok();
    tool(&["ip", "link", "del", &bridge], "").ok();
}
