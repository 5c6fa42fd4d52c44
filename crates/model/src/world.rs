//! What was observed: the world as drivers report it, with its age and its gaps.
//!
//! Absent, unknown and present are three different things. A failed read leaves [`Presence::Unknown`], never a
//! guess, and nothing unknown is ever created again or forgotten.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::hook::HookPoint;
use crate::id::{
    BindingsHash, BootId, ComponentHash, ComponentName, Effects, InstanceId, PartName, PlanNo, Slot,
    TargetName,
};
use crate::quantity::Span;
use crate::step::Table;

/// A reading that may have failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence<T> {
    /// Surely nothing there.
    Absent,
    /// Something may be there; the reading failed.
    Unknown,
    /// This is there.
    Present(T),
}

impl<T> Presence<T> {
    /// What is there, if that is known.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// True when the reading failed.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

/// A moment on a node's own monotonic clock. It says nothing across boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTime {
    /// The boot it belongs to.
    pub boot: BootId,
    /// Time since that boot.
    pub elapsed: Span,
}

impl NodeTime {
    /// Time that passed from `earlier` to here; `None` across boots.
    pub fn since(&self, earlier: &Self) -> Option<Span> {
        (self.boot == earlier.boot).then(|| self.elapsed.minus(earlier.elapsed))
    }
}

/// All that was observed of one App.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Each target that may hold something of the App.
    pub targets: BTreeMap<TargetName, TargetView>,
}

/// One target's share of an App.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// The instances.
    pub node: Presence<NodeView>,
    /// The App's table in the router.
    pub router: Presence<RouterView>,
}

/// What a node's agent reports of one App.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node's clock when it answered.
    pub now: NodeTime,
    /// The newest plan of the App that was begun here.
    pub following: PlanNo,
    /// Effects recorded for the App so far.
    pub effects: Effects,
    /// The App was closed here: its volumes are gone and every later effect is refused.
    pub closed: bool,
    /// Everything that carries the App's mark.
    pub instances: BTreeMap<InstanceId, Instance>,
}

/// One copy as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The component it is a copy of.
    pub component: ComponentName,
    /// Its position.
    pub slot: Slot,
    /// What it runs.
    pub revision: ComponentHash,
    /// What it was given.
    pub bindings: BindingsHash,
    /// Where its ports are reached by the router.
    pub endpoints: BTreeMap<PartName, SocketAddr>,
    /// What it is doing.
    pub phase: Phase,
    /// Times the agent started it again in place.
    pub restarts: u32,
    /// Times it went from ready to unready; never reset in an instance's life.
    pub unready_count: u32,
    /// Output of the last failed probe, cut.
    pub probe: Option<String>,
    /// How its last run ended.
    pub last_exit: Option<Exit>,
    /// Limits that were declared and that its node cannot enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<Limit>,
    /// The hook whose task it is; a copy of the component is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookPoint>,
}

/// Something that a node may keep a copy within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Limit {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// The room of a volume.
    VolumeSize,
    /// Its own network: it shares the node's.
    Network,
    /// Its own `/tmp`: it shares the node's.
    Tmp,
    /// User, root file system and capabilities: those are a container's.
    Security,
    /// The way to other components: their addresses are out of its reach.
    Addresses,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::VolumeSize => "volume size",
            Self::Network => "own network",
            Self::Tmp => "own /tmp",
            Self::Security => "security",
            Self::Addresses => "addresses of other components",
        })
    }
}

/// What a copy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Phase {
    /// The agent cannot say: its record is there, the process could not be examined.
    Unknown,
    /// It cannot be started for a reason outside of it, such as a full disk. The agent keeps trying.
    Blocked {
        /// The reason.
        by: Blockage,
    },
    /// Running, not ready for this long.
    Unready {
        /// Time in this state.
        since: Span,
    },
    /// Running and ready for this long.
    Ready {
        /// Time in this state.
        since: Span,
    },
    /// Ended, to be started again by the agent.
    Backoff {
        /// Time in this state.
        since: Span,
    },
    /// It was asked to end and has not ended yet.
    Stopping {
        /// Time in this state.
        since: Span,
    },
    /// Nothing of it runs; its record is still there.
    Stopped,
    /// The task of a hook has ended by itself and is not started again.
    Done {
        /// How.
        exit: Exit,
    },
}

/// Why an agent cannot start a copy, where that is not the copy's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Blockage {
    /// The node's disk is full or read-only.
    Disk,
    /// The node has no room for another process.
    Processes,
    /// The program's content has not reached the node.
    Content,
    /// The node cannot set up the copy's network.
    Network,
    /// The node's container engine does not answer, or there is none.
    Engine,
    /// The engine refuses to make or start the container.
    Refused,
    /// The image is on its way.
    Pulling,
    /// Neither registry nor engine has the image.
    Image,
    /// The registry does not let the engine have the image.
    ImageForbidden,
    /// The registry does not answer.
    Registry,
}

impl fmt::Display for Blockage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "its disk is full or read-only",
            Self::Processes => "it has no room for another process",
            Self::Content => "the program's content has not reached it",
            Self::Network => "it cannot set up the copy's network",
            Self::Engine => "its container engine does not answer",
            Self::Refused => "its container engine refuses the container",
            Self::Pulling => "the image is being pulled",
            Self::Image => "there is no such image",
            Self::ImageForbidden => "the registry does not let it have the image",
            Self::Registry => "the image's registry does not answer",
        })
    }
}

impl Instance {
    /// Ready for traffic.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Whether a process of it may be running, now or by the agent's own doing.
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Stopped | Phase::Done { .. })
    }

    /// How long it has been ready without a break.
    pub fn ready_for(&self) -> Option<Span> {
        match self.phase {
            Phase::Ready { since } => Some(since),
            _ => None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It could not be started: `errno` of the exec call.
    Exec(i32),
    /// Its container engine refused it: the copy's log has the reason.
    Refused,
    /// The kernel killed it when it went beyond its memory.
    OutOfMemory,
    /// It is gone and nobody saw it end, as after a reboot.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Exec(errno) => write!(f, "could not be executed (errno {errno})"),
            Self::Refused => f.write_str("refused by its container engine"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

/// The one stable address of a component, for life; its ports keep their declared numbers on it.
pub type ServiceIp = Ipv4Addr;

/// Where containers reach a stable address: their own loopback network is in the way of 127.64.0.0/10, so it is the
/// same host of 240.64.0.0/10 for them, a range that nobody has in use (RFC 1112, class E).
pub fn from_containers(ip: ServiceIp) -> Ipv4Addr {
    let [_, rest @ ..] = ip.octets();
    Ipv4Addr::new(240, rest[0], rest[1], rest[2])
}

/// What a router reports of one App.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterView {
    /// The newest plan of the App that was begun here.
    pub following: PlanNo,
    /// Effects recorded for the App so far.
    pub effects: Effects,
    /// The App was withdrawn here: every later effect is refused.
    pub closed: bool,
    /// It divides traffic as tables say; one of an earlier version does not.
    #[serde(default)]
    pub divides: bool,
    /// It has requests wait for a component that sleeps, and says so; one of an earlier version does not.
    #[serde(default)]
    pub wakes: bool,
    /// Requests that wait for a copy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<ComponentName, u32>,
    /// Addresses and routes, as last published.
    pub table: Table,
    /// Instances that receive or have received traffic.
    pub members: BTreeMap<InstanceId, Member>,
}

/// One instance as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The component whose traffic it shares.
    pub component: ComponentName,
    /// Whether it gets new connections.
    pub state: MemberState,
    /// Connections and requests under way.
    pub in_flight: u32,
    /// Time since there were any, or since it gets them; absent while there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
    /// What was counted of its HTTP requests.
    #[serde(default, skip_serializing_if = "Recent::is_empty")]
    pub recent: Recent,
}

/// HTTP requests of the last minute. They are counted in memory: a router that was started anew begins at zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recent {
    /// Requests that the copy should have answered.
    pub requests: u64,
    /// Of these, those that it answered with 5xx, or not at all.
    pub failures: u64,
    /// How many were answered after at least which time, and before the next larger one.
    pub answered: BTreeMap<Span, u64>,
}

impl Recent {
    /// True when nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What several copies had together.
    pub fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for it in all {
            sum.requests += it.requests;
            sum.failures += it.failures;
            for (at_least, count) in &it.answered {
                *sum.answered.entry(*at_least).or_default() += count;
            }
        }
        sum
    }

    /// The time that all but this many percent of the answered ones took at least; `None` where none was.
    pub fn percentile(&self, percent: u8) -> Option<Span> {
        let all: u64 = self.answered.values().sum();
        let rank = (all * u64::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        self.answered.iter().find_map(|(at_least, count)| {
            seen += count;
            (seen >= rank).then_some(*at_least)
        })
    }
}

/// Whether a member gets new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It does.
    Active,
    /// It does not any more, for this long.
    Draining {
        /// Time in this state.
        since: Span,
    },
}
