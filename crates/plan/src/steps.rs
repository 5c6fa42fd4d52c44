//! Steps from moves: what is due now for each copy, in an order that is safe to carry out.

use std::collections::BTreeMap;

use plimsoll_model::id::{BindingsHash, ComponentName, InstanceId, PlanNo, Slot, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::ComponentRevision;
use plimsoll_model::step::{Action, Cause, Launch, Plan, Step, StepNo, Table};
use plimsoll_model::world::{Phase, Presence, World};

use crate::replace::Moves;
use crate::survey::{Survey, Traffic};

/// The steps of a plan under construction.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    app: &'a Uid,
    no: PlanNo,
    parent: Option<&'a Plan>,
    steps: Vec<Step>,
    /// The publication that admissions come after, by target.
    published: BTreeMap<TargetName, StepNo>,
}

/// What a new copy of a component is made of.
pub(crate) struct Blueprint<'a> {
    pub(crate) target: &'a TargetName,
    pub(crate) component: &'a ComponentName,
    pub(crate) revision: &'a ComponentRevision,
    pub(crate) bindings: BindingsHash,
    pub(crate) launch: Launch,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(app: &'a Uid, no: PlanNo, parent: Option<&'a Plan>) -> Self {
        Self { app, no, parent, steps: Vec::new(), published: BTreeMap::new() }
    }

    pub(crate) fn into_vec(self) -> Vec<Step> {
        self.steps
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn push(&mut self, step: Step) -> StepNo {
        let no = StepNo(u32::try_from(self.steps.len()).expect("a plan has fewer than 2^32 steps"));
        self.steps.push(step);
        no
    }

    pub(crate) fn publish(&mut self, target: &TargetName, table: Table) {
        let no = self.push(Step {
            target: target.clone(),
            component: None,
            slot: None,
            action: Action::Publish { table },
            after: Vec::new(),
            cause: Cause::Routing,
        });
        self.published.insert(target.clone(), no);
    }

    /// The last step of an App on a node or in a router.
    pub(crate) fn end(&mut self, target: &TargetName, action: Action) {
        self.push(Step {
            target: target.clone(),
            component: None,
            slot: None,
            action,
            after: Vec::new(),
            cause: Cause::Retire,
        });
    }

    /// New copies, and stopped ones that are started again under their old id.
    pub(crate) fn create(&mut self, moves: &Moves<'_>, survey: &Survey<'_>, blueprint: &Blueprint<'_>) {
        let revision = blueprint.revision.hash();
        let push = |this: &mut Self, instance: InstanceId, slot: Slot, cause: Cause| {
            this.push(Step {
                target: blueprint.target.clone(),
                component: Some(blueprint.component.clone()),
                slot: Some(slot),
                action: Action::Create {
                    instance,
                    revision,
                    bindings: blueprint.bindings,
                    launch: Box::new(blueprint.launch.clone()),
                },
                after: Vec::new(),
                cause,
            });
        };
        for copy in &survey.copies {
            if let Some((id, cause)) = moves.revive.iter().find(|(id, _)| *id == copy.id) {
                push(self, (*id).clone(), copy.slot(), *cause);
            }
        }
        for (slot, cause) in &moves.create {
            let id = self
                .pending(blueprint, *slot)
                .cloned()
                .unwrap_or_else(|| InstanceId::derive(self.app, blueprint.component, *slot, self.no));
            push(self, id, *slot, *cause);
        }
    }

    /// The id under which the current plan already creates this very copy. Its effect has not been seen yet;
    /// under a new id it could come to exist twice.
    fn pending(&self, blueprint: &Blueprint<'_>, at: Slot) -> Option<&'a InstanceId> {
        let wanted = blueprint.revision.hash();
        self.parent?.steps.iter().find_map(|step| match &step.action {
            Action::Create { instance, revision, bindings, .. }
                if step.target == *blueprint.target
                    && step.component.as_ref() == Some(blueprint.component)
                    && step.slot == Some(at)
                    && *revision == wanted
                    && *bindings == blueprint.bindings =>
            {
                Some(instance)
            }
            _ => None,
        })
    }

    /// A step about the task of a hook: it has no slot and no traffic.
    pub(crate) fn task(
        &mut self,
        target: &TargetName,
        component: &ComponentName,
        action: Action,
        cause: Cause,
    ) {
        self.push(Step {
            target: target.clone(),
            component: Some(component.clone()),
            slot: None,
            action,
            after: Vec::new(),
            cause,
        });
    }

    /// Traffic follows readiness; copies that are to end are drained, stopped and, unless kept, removed.
    pub(crate) fn follow(
        &mut self,
        component: &ComponentName,
        survey: &Survey<'_>,
        moves: &Moves<'_>,
        grace: Span,
        keep_stopped: bool,
    ) {
        for copy in &survey.copies {
            let retired = moves.retire.iter().find(|(id, _)| *id == copy.id).map(|(_, cause)| *cause);
            let instance = copy.id.clone();
            let step = |action: Action, cause: Cause, after: Vec<StepNo>| Step {
                target: copy.target.clone(),
                component: Some(component.clone()),
                slot: Some(copy.slot()),
                action,
                after,
                cause,
            };
            let ready = copy.instance.is_ready();
            match (retired, copy.traffic, copy.instance.phase) {
                (Some(cause), Traffic::Active, _) => {
                    self.push(step(Action::Drain { instance }, cause, Vec::new()));
                }
                // What is unknown may well serve: it goes on until it is known not to.
                (None, Traffic::Active, phase) if !ready && phase != Phase::Unknown => {
                    self.push(step(Action::Drain { instance }, Cause::Routing, Vec::new()));
                }
                (None, Traffic::None | Traffic::Draining { .. }, _) if ready && survey.routed => {
                    let after = self.published.get(copy.target).copied().into_iter().collect();
                    let endpoints = copy.instance.endpoints.clone();
                    let revision = Some(copy.instance.revision);
                    let admit = Action::Admit { instance, endpoints, revision };
                    self.push(step(admit, Cause::Routing, after));
                }
                (retired, traffic, Phase::Stopped) => {
                    let keep = copy.fresh && (retired.is_none() || keep_stopped);
                    if !keep && copy.is_drained() {
                        let cause = retired.unwrap_or(Cause::Retire);
                        let member = matches!(traffic, Traffic::Draining { .. });
                        let expelled = member.then(|| {
                            self.push(step(Action::Expel { instance: instance.clone() }, cause, Vec::new()))
                        });
                        self.push(step(Action::Remove { instance }, cause, expelled.into_iter().collect()));
                    }
                }
                (Some(cause), _, phase) if !matches!(phase, Phase::Stopping { .. }) && copy.is_drained() => {
                    self.push(step(Action::Stop { instance, grace }, cause, Vec::new()));
                }
                _ => {}
            }
        }
    }

    /// Members whose instance surely does not exist any more.
    pub(crate) fn expel_lost(&mut self, world: &World) {
        for (target, view) in &world.targets {
            let (Presence::Present(node), Presence::Present(router)) = (&view.node, &view.router) else {
                continue;
            };
            for (instance, member) in &router.members {
                if !node.instances.contains_key(instance) {
                    self.push(Step {
                        target: target.clone(),
                        component: Some(member.component.clone()),
                        slot: None,
                        action: Action::Expel { instance: instance.clone() },
                        after: Vec::new(),
                        cause: Cause::Routing,
                    });
                }
            }
        }
    }
}
