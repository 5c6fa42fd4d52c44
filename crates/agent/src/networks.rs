//! The node's network: a bridge that gives each instance an address, if this node may have one.
//!
//! Instances cannot reach each other through it, nor can anybody outside of the machine reach them; they reach the
//! world with the machine's own address. It is chosen once, when the first instance needs it, and kept for life.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_container::addresses_of_this_machine;
use plimsoll_shim::{Network, read, tool, write_durably};
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";

/// Networks that a node may choose from are 10.209.0.0/22, 10.209.4.0/22 and so on: away from the usual networks
/// of container engines, Kubernetes and homes.
const CHOICES: u8 = 64;
const PREFIX: u8 = 22;

/// How long what was set up is taken to be there still: other tools change networks and flush rules.
const TRUSTED: Duration = Duration::from_secs(10);

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

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

    fn device(self) -> PathBuf {
        Path::new("/sys/class/net").join(self.bridge())
    }

    /// Whose it is: the directory of its node.
    fn owner(self) -> Option<String> {
        let alias = std::fs::read_to_string(self.device().join("ifalias")).ok()?;
        Some(alias.trim_end().to_owned()).filter(|alias| !alias.is_empty())
    }
}

/// What is known about the node's network.
enum State {
    /// Nobody has asked yet.
    NotTried,
    Up {
        chosen: Chosen,
        /// When all of it was there; unknown since something went wrong with it.
        at: Option<Instant>,
    },
    /// This node cannot have one; why.
    Impossible(String),
}

/// The node's network, and whether instances may have mounts of their own.
pub(crate) struct Networks {
    directory: PathBuf,
    state: Mutex<State>,
    has_mounts: OnceLock<bool>,
}

impl Networks {
    pub(crate) fn new(directory: &Path) -> Self {
        let state = Mutex::new(State::NotTried);
        Self { directory: directory.to_owned(), state, has_mounts: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an instance may have mounts of its own: not without root, nor in most containers.
    pub(crate) fn has_mounts(&self) -> bool {
        if let Some(known) = self.has_mounts.get() {
            return *known;
        }
        match tool(&["unshare", "--mount", "true"], "").map_err(Refused::from) {
            // Nothing is known: a start that goes wrong for it is tried again.
            Err(Refused::Now(_)) => true,
            tried => *self.has_mounts.get_or_init(|| tried.is_ok()),
        }
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

    /// Has the network looked at anew before anybody uses it again.
    pub(crate) fn distrust(&self) {
        if let State::Up { at, .. } = &mut *self.lock() {
            *at = None;
        }
    }

    /// Puts back what others took away of a network that is in use.
    pub(crate) fn keep_up(&self) -> io::Result<()> {
        let mut state = self.lock();
        let is_used = !matches!(*state, State::NotTried) || self.directory.join(FILE).exists();
        if is_used { self.up_locked(&mut state).map(drop) } else { Ok(()) }
    }

    /// Sets the network up, unless it was found in order just now.
    fn up(&self) -> io::Result<Option<Chosen>> {
        self.up_locked(&mut self.lock())
    }

    fn up_locked(&self, state: &mut State) -> io::Result<Option<Chosen>> {
        let known = match *state {
            State::Impossible(_) => return Ok(None),
            State::Up { chosen, at: Some(at) } if at.elapsed() < TRUSTED => return Ok(Some(chosen)),
            State::Up { chosen, .. } => Some(chosen),
            State::NotTried => read(&self.directory, FILE)?,
        };
        let chosen = match known {
            // Instances have addresses in it: whatever is in the way now has to go.
            Some(chosen) => self.set_up(chosen).map_err(Refused::Now),
            None => self.choose(),
        };
        match chosen {
            Ok(chosen) => {
                *state = State::Up { chosen, at: Some(Instant::now()) };
                Ok(Some(chosen))
            }
            Err(Refused::Now(error)) => Err(error),
            Err(Refused::ForGood(why)) => {
                *state = State::Impossible(why);
                Ok(None)
            }
        }
    }

    /// Why instances share the node's network, if that is certain.
    pub(crate) fn why_shared(&self) -> Option<String> {
        match &*self.lock() {
            State::Impossible(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// The first choice that nobody else has.
    fn choose(&self) -> Result<Chosen, Refused> {
        for needed in
            [&["unshare", "--net", "true"][..], &["ip", "link", "show", "lo"], &["nft", "list", "tables"]]
        {
            tool(needed, "")?;
        }
        for number in 0..CHOICES {
            let chosen = Chosen { number };
            // What a crash left of an earlier choice is chosen again.
            let is_ours = chosen.owner().is_some_and(|owner| *owner == *self.directory.display().to_string());
            if !is_ours && is_used(chosen) {
                continue;
            }
            match self.add(chosen) {
                // Of two that choose at once, one makes it.
                Err(_) if !is_ours && chosen.device().exists() => continue,
                Err(error) if !is_ours => return Err(error.into()),
                _ => {}
            }
            let done = self.set_up(chosen).and_then(|chosen| {
                write_durably(&self.directory, FILE, &chosen)?;
                Ok(chosen)
            });
            if done.is_err() {
                take_down(chosen);
            }
            return Ok(done?);
        }
        Err(Refused::ForGood("all of 10.209.0.0/16 is in use".to_owned()))
    }

    /// Makes the bridge. Its hardware address is given: the kernel would choose another one with each change of ports.
    fn add(&self, chosen: Chosen) -> io::Result<()> {
        let (bridge, owner) = (chosen.bridge(), self.directory.display().to_string());
        let [a, b, c, d] = chosen.host(1).octets();
        let address = format!("02:70:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let script =
            format!("link add {bridge} address {address} type bridge\nlink set {bridge} alias \"{owner}\"\n");
        tool(&["ip", "-batch", "-"], &script)
    }

    /// Makes what is not there: after a reboot that is everything.
    fn set_up(&self, chosen: Chosen) -> io::Result<Chosen> {
        let bridge = chosen.bridge();
        if !chosen.device().exists() {
            self.add(chosen)?;
        }
        match chosen.owner() {
            Some(owner) if *owner == *self.directory.display().to_string() => {}
            other => {
                let other = other.unwrap_or_else(|| "somebody else".to_owned());
                return Err(io::Error::other(format!("{bridge} belongs to {other}")));
            }
        }
        tool(
            &["ip", "-batch", "-"],
            &format!("addr replace {}/{PREFIX} dev {bridge}\nlink set {bridge} up\n", chosen.host(1)),
        )?;
        tool(&["nft", "-f", "-"], &rules(&bridge, chosen.host(0)))?;
        // Addresses of services are loopback addresses, also for those who come through the bridge. Only now, when the
        // rules keep the rest of them out of reach.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        if std::fs::read_to_string(FORWARD)?.trim() == "0" {
            std::fs::write(FORWARD, "1")?;
        }
        Ok(chosen)
    }

    /// Takes the network down and forgets it, when no instance is left.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        let mut state = self.lock();
        let chosen = match *state {
            State::Up { chosen, .. } => Some(chosen),
            _ => read(&self.directory, FILE)?,
        };
        if let Some(chosen) = chosen {
            take_down(chosen);
            std::fs::remove_file(self.directory.join(FILE))?;
            *state = State::NotTried;
        }
        Ok(())
    }
}

/// Why there is no network.
enum Refused {
    /// That may be another time.
    Now(io::Error),
    /// This machine does not let us.
    ForGood(String),
}

impl From<io::Error> for Refused {
    /// A tool that could not be started for want of memory or processes says nothing about this machine.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
            | io::ErrorKind::StorageFull
            | io::ErrorKind::BrokenPipe => Self::Now(error),
            _ => Self::ForGood(error.to_string()),
        }
    }
}

/// Whether an address or a route of this machine lies in the network, or a bridge has its name.
fn is_used(chosen: Chosen) -> bool {
    let first = u32::from(chosen.host(0));
    Path::new("/sys/class/net").join(chosen.bridge()).exists()
        || addresses_of_this_machine()
            .into_iter()
            .any(|address| u32::from(address) >> (32 - PREFIX) == first >> (32 - PREFIX))
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
    // The bridge last: while it is there, nobody else takes its number.
    tool(&["nft", "delete", "table", "ip", &bridge], "").ok();
    tool(&["ip", "link", "del", &bridge], "").ok();
}
