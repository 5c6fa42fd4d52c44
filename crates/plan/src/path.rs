//! The Path: the plans that this planner makes in a modelled world until it settles.
//!
//! The model is the world in which everything goes as hoped: copies become ready at once, drains end, processes
//! end when asked, and time passes as far as the planner asks for. What `plimsoll plan` prints and what `apply`
//! follows is therefore the same code.

use plimsoll_model::id::{Effects, PathHash, PlanNo, RevisionNo};
use plimsoll_model::quantity::Span;
use plimsoll_model::status::PlanRef;
use plimsoll_model::step::{Action, Plan, Scope, Step};
use plimsoll_model::wait::Wait;
use plimsoll_model::world::{
    Exit, Instance, Member, MemberState, NodeTime, NodeView, Phase, Presence, Recent, RouterView, TargetView,
    World,
};
use serde::{Deserialize, Serialize};

use crate::decide::{Course, decide};
use crate::input::Input;
use crate::outline::Outline;

/// More plans than any rollout of a declaration within its limits needs.
const MOST_PLANS: usize = 20_000;

/// The way from the observed world to the settled end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The plans in order; each is made after the one before has had its effect.
    pub plans: Vec<Plan>,
    /// What still keeps the App from being settled at the end; empty when it settles.
    pub waits: Vec<Wait>,
    /// The App revision it leads to.
    pub revision: Option<RevisionNo>,
    /// Identity of the change it makes.
    pub hash: PathHash,
    /// What that identity is made of.
    pub outline: Outline,
}

/// Runs the planner in a modelled world until nothing changes any more.
pub fn path(input: &Input) -> Path {
    walk(input).0
}

/// What is there at the end of the Path.
pub fn destination(input: &Input) -> Input {
    Input { hopeful: input.hopeful, ..walk(input).1 }
}

fn walk(input: &Input) -> (Path, Input) {
    let mut at = Input { hopeful: true, ..input.clone() };
    let mut plans = Vec::new();
    let (mut waits, mut revision) = (Vec::new(), None);
    for _ in 0..MOST_PLANS {
        let decision = decide(&at);
        waits = decision.waits;
        revision = decision.revision;
        let memory_moved = decision.memory != at.status.memory;
        at.status.memory = decision.memory;
        at.status.rejected = decision.rejected;
        at.status.components = decision.components;
        at.status.revision = decision.revision;
        if let Some(new) = decision.new_revision {
            at.context.revisions.insert(new.number, new);
        }
        match decision.course {
            Course::Adopt(plan) => {
                at.status.plan = Some(PlanRef { no: plan.no, hash: plan.hash() });
                plan.steps.iter().for_each(|step| carry_out(&mut at.world, step));
                at.parent = Some(Plan::clone(&plan));
                plans.push(*plan);
            }
            // In a world that obeys, a plan has its whole effect at once; what is left of it after that
            // would be left for ever.
            Course::Continue(_) => break,
            Course::Rest if decision.gone => break,
            Course::Rest => match decision.next_look {
                Some(look) => pass(&mut at.world, look),
                None if memory_moved => {}
                None => break,
            },
        }
    }
    let outline = Outline::of(input, revision, &plans);
    (Path { plans, waits, revision, hash: outline.hash(), outline }, at)
}

/// Lets time pass: what is ready has been ready for longer, what drains is done.
pub fn pass(world: &mut World, by: Span) {
    for view in world.targets.values_mut() {
        if let Presence::Present(node) = &mut view.node {
            node.now.elapsed = node.now.elapsed.plus(by);
            for instance in node.instances.values_mut() {
                instance.phase = match instance.phase {
                    Phase::Ready { since } => Phase::Ready { since: since.plus(by) },
                    Phase::Stopping { .. } | Phase::Stopped => Phase::Stopped,
                    phase @ (Phase::Unknown | Phase::Done { .. }) => phase,
                    Phase::Blocked { .. } | Phase::Unready { .. } | Phase::Backoff { .. } => {
                        Phase::Ready { since: Span::ZERO }
                    }
                };
            }
        }
        if let Presence::Present(router) = &mut view.router {
            for member in router.members.values_mut() {
                if let MemberState::Draining { since } = member.state {
                    member.state = MemberState::Draining { since: since.plus(by) };
                    member.in_flight = 0;
                }
            }
        }
    }
}

/// The effect of a step in a world that obeys.
pub fn carry_out(world: &mut World, step: &Step) {
    let scope = step.scope();
    let Some(view) = world.targets.get_mut(&step.target) else { return };
    match scope {
        Scope::Node(_) => {
            if let Presence::Present(node) = &mut view.node {
                node.effects = node.effects.next();
                on_node(node, step);
            }
        }
        Scope::Router(_) => {
            if view.router == Presence::Absent {
                view.router = Presence::Present(new_router());
            }
            if let Presence::Present(router) = &mut view.router {
                router.effects = router.effects.next();
                on_router(router, step);
            }
        }
    }
}

fn on_node(node: &mut NodeView, step: &Step) {
    match &step.action {
        Action::Create { instance, revision, bindings, launch } => {
            let Some(component) = step.component.clone() else { return };
            let phase = match launch.hook {
                Some(_) => Phase::Done { exit: Exit::Code(0) },
                None => Phase::Ready { since: Span::ZERO },
            };
            let copy = Instance {
                component,
                slot: step.slot.unwrap_or_default(),
                revision: *revision,
                bindings: *bindings,
                endpoints: std::collections::BTreeMap::new(),
                phase,
                restarts: 0,
                unready_count: 0,
                probe: None,
                last_exit: None,
                unenforced: Vec::new(),
                hook: launch.hook,
            };
            node.instances.insert(instance.clone(), copy);
        }
        Action::Stop { instance, .. } => {
            if let Some(copy) = node.instances.get_mut(instance) {
                copy.phase = Phase::Stopped;
            }
        }
        Action::Remove { instance } => {
            node.instances.remove(instance);
        }
        Action::Close => node.closed = true,
        Action::Publish { .. }
        | Action::Admit { .. }
        | Action::Drain { .. }
        | Action::Expel { .. }
        | Action::Withdraw => {}
    }
}

fn on_router(router: &mut RouterView, step: &Step) {
    match &step.action {
        Action::Publish { table } => router.table = table.clone(),
        Action::Admit { instance, .. } => {
            let Some(component) = step.component.clone() else { return };
            let member = Member {
                component,
                state: MemberState::Active,
                in_flight: 0,
                idle: None,
                recent: Recent::default(),
            };
            router.members.insert(instance.clone(), member);
        }
        Action::Drain { instance } => {
            if let Some(member) = router.members.get_mut(instance) {
                member.state = MemberState::Draining { since: Span::ZERO };
                member.in_flight = 0;
            }
        }
        Action::Expel { instance } => {
            router.members.remove(instance);
        }
        Action::Withdraw => *router = RouterView { closed: true, ..new_router() },
        Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. } | Action::Close => {}
    }
}

fn new_router() -> RouterView {
    RouterView { divides: true, ..RouterView::default() }
}

/// A world in which nothing of an App exists yet on a target that answers.
///
/// # Panics
/// Never: the boot id is a valid name.
pub fn empty_world(target: &plimsoll_model::id::TargetName) -> World {
    let node = NodeView {
        now: NodeTime { boot: "boot".parse().expect("a valid boot id"), elapsed: Span::ZERO },
        following: PlanNo(0),
        effects: Effects(0),
        closed: false,
        instances: std::collections::BTreeMap::new(),
    };
    let view = TargetView { node: Presence::Present(node), router: Presence::Present(new_router()) };
    World { targets: std::collections::BTreeMap::from([(target.clone(), view)]) }
}
