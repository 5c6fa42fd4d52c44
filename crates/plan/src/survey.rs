//! One component's copies as they are: every instance with its traffic, wherever it runs.

use plimsoll_model::id::{BindingsHash, ComponentHash, ComponentName, InstanceId, Slot, TargetName};
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Instance, MemberState, NodeTime, Phase, Presence, Recent, World};

/// How long a draining copy may finish its requests before it is stopped all the same.
pub(crate) const DRAIN_LIMIT: Span = Span::seconds(30);

/// One copy with its traffic.
#[derive(Debug, Clone)]
pub(crate) struct Copy<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) target: &'a TargetName,
    pub(crate) instance: &'a Instance,
    pub(crate) traffic: Traffic,
    /// Requests and connections under way on it, as the router says.
    pub(crate) in_flight: u32,
    /// How long it has had none, as the router says.
    pub(crate) idle: Option<Span>,
    /// What the router has counted of it.
    pub(crate) recent: Option<&'a Recent>,
    /// Whether it runs what is wanted, with what is wanted, where it is wanted.
    pub(crate) fresh: bool,
}

/// A copy's share of the component's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// The router did not answer.
    Unknown,
    /// None, and none under way.
    None,
    /// It gets new connections.
    Active,
    /// It gets none any more.
    Draining { in_flight: u32, since: Span },
}

/// What the copies are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub(crate) target: &'a TargetName,
    pub(crate) revision: ComponentHash,
    /// `None` while bindings cannot be resolved: then no copy is outdated because of them.
    pub(crate) bindings: Option<BindingsHash>,
}

/// All copies of one component.
#[derive(Debug, Clone)]
pub(crate) struct Survey<'a> {
    pub(crate) copies: Vec<Copy<'a>>,
    /// Whether the router shares out the component's traffic, so that a copy counts only once it is admitted.
    pub(crate) routed: bool,
    /// The wanted target's clock; `None` when its node does not answer.
    pub(crate) now: Option<&'a NodeTime>,
    /// A node or router that may hold something of the component does not answer.
    pub(crate) blind: bool,
}

impl Copy<'_> {
    pub(crate) fn slot(&self) -> Slot {
        self.instance.slot
    }

    pub(crate) fn is_live(&self) -> bool {
        self.instance.is_live()
    }

    /// Nothing is under way on it: it may be stopped without harm.
    pub(crate) fn is_drained(&self) -> bool {
        match self.traffic {
            Traffic::None => true,
            Traffic::Draining { in_flight, since } => in_flight == 0 || since >= DRAIN_LIMIT,
            Traffic::Unknown | Traffic::Active => false,
        }
    }
}

impl<'a> Survey<'a> {
    pub(crate) fn take(
        world: &'a World,
        component: &ComponentName,
        routed: bool,
        wanted: Option<Wanted<'a>>,
    ) -> Self {
        let mut copies = Vec::new();
        let mut blind = false;
        let mut now = None;
        for (target, view) in &world.targets {
            blind |= view.node.is_unknown() || (routed && view.router.is_unknown());
            let Presence::Present(node) = &view.node else { continue };
            if wanted.is_some_and(|wanted| wanted.target == target) {
                now = Some(&node.now);
            }
            for (id, instance) in
                node.instances.iter().filter(|(_, it)| it.component == *component && it.hook.is_none())
            {
                let member = view.router.present().and_then(|router| router.members.get(id));
                let traffic = match &view.router {
                    Presence::Unknown => Traffic::Unknown,
                    Presence::Absent => Traffic::None,
                    Presence::Present(_) => match member.map(|member| (member.state, member.in_flight)) {
                        None => Traffic::None,
                        Some((MemberState::Active, _)) => Traffic::Active,
                        Some((MemberState::Draining { since }, in_flight)) => {
                            Traffic::Draining { in_flight, since }
                        }
                    },
                };
                let in_flight = member.map_or(0, |member| member.in_flight);
                let idle = member.and_then(|member| member.idle);
                let recent = member.map(|member| &member.recent);
                let fresh = wanted.is_some_and(|wanted| {
                    wanted.target == target
                        && wanted.revision == instance.revision
                        && wanted.bindings.is_none_or(|bindings| bindings == instance.bindings)
                });
                copies.push(Copy { id, target, instance, traffic, in_flight, idle, recent, fresh });
            }
        }
        if wanted.is_some_and(|wanted| !world.targets.contains_key(wanted.target)) {
            blind = true;
        }
        Self { copies, routed, now, blind }
    }

    /// Those of the copies that are of one revision, or all others.
    pub(crate) fn of(&self, revision: ComponentHash, is: bool) -> Self {
        let copies = self.copies.iter().filter(|copy| (copy.instance.revision == revision) == is);
        Self { copies: copies.cloned().collect(), ..self.clone() }
    }

    /// Whether a copy serves: ready and, where there is traffic to share, admitted to it.
    pub(crate) fn is_available(&self, copy: &Copy<'_>) -> bool {
        copy.instance.is_ready() && (!self.routed || copy.traffic == Traffic::Active)
    }

    pub(crate) fn available(&self) -> u32 {
        count(self.copies.iter().filter(|copy| self.is_available(copy)))
    }

    pub(crate) fn live(&self) -> u32 {
        count(self.copies.iter().filter(|copy| copy.is_live()))
    }

    pub(crate) fn fresh(&self) -> impl Iterator<Item = &Copy<'a>> {
        self.copies.iter().filter(|copy| copy.fresh)
    }

    pub(crate) fn has_live_stale(&self) -> bool {
        self.copies.iter().any(|copy| !copy.fresh && copy.is_live())
    }

    pub(crate) fn has_blocked(&self) -> bool {
        self.copies.iter().any(|copy| matches!(copy.instance.phase, Phase::Blocked { .. } | Phase::Unknown))
    }
}

pub(crate) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
