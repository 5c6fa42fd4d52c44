//! The pass over one App: addresses, table, each component in dependency order, then the numbered plan.

mod sides;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_model::app::Component;
use plimsoll_model::id::{ComponentHash, ComponentName, ObjectName, RevisionNo};
use plimsoll_model::operations::Power;
use plimsoll_model::quantity::Span;
use plimsoll_model::relation::EndpointRef;
use plimsoll_model::revision::{ComponentRevision, Evidence, RejectionRecord};
use plimsoll_model::status::{
    ComponentStatus, InstanceStatus, Memory, Rejected, Rollout, Scaling, StageStatus,
};
use plimsoll_model::step::{Action, Cause, Deviation, Plan, Scope, Step, Table};
use plimsoll_model::update::Budget;
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::world::{Presence, RouterView, ServiceIp};

use self::sides::Side;
use crate::bindings::{self, Bindings};
use crate::decide::{Course, Decision};
use crate::hooks::{self, Hooks};
use crate::input::{EndpointView, Input};
use crate::resolve::{PERSON_DEADLINE, Resolution};
use crate::rollout::{self, Gate, Judge, Verdict};
use crate::routing::{self, is_routed};
use crate::scale::{self, Measured, Scaled};
use crate::steps::{Blueprint, Steps};
use crate::survey::{Survey, Wanted, count};
use crate::{address, trial, waits};

/// A component revision to work towards.
struct Goal<'a> {
    revision: &'a ComponentRevision,
    hash: ComponentHash,
    /// The App revision that holds it.
    source: RevisionNo,
    /// The revision declared.
    declared: ComponentHash,
    /// The rejection that keeps the declared revision from being worked towards.
    rejected: Option<Reason>,
}

/// One component in the making of a decision.
struct Subject<'a> {
    name: &'a ComponentName,
    /// Its declaration; absent when it left, or the whole App leaves.
    declared: Option<&'a Component>,
    goal: Option<Goal<'a>>,
    bindings: Result<Bindings, Vec<Reason>>,
    survey: Survey<'a>,
    /// Tasks of its hooks.
    tasks: Vec<hooks::Task<'a>>,
    /// More copies are asked for than there may be.
    limited: bool,
    replicas: u32,
    /// Endpoints it consumes that are not ready.
    unready: Vec<EndpointRef>,
    /// A provider in the same App that is being rolled first.
    rolling_first: Option<ComponentName>,
    /// The router cannot divide the traffic as its declaration wants.
    undivided: bool,
}

impl Subject<'_> {
    /// What says how far its hooks are.
    fn hooks(&self) -> Option<Hooks<'_>> {
        let revision = self.goal.as_ref()?.revision;
        Some(Hooks { revision, tasks: &self.tasks, now: self.survey.now })
    }

    fn budget(&self) -> Budget {
        let has_volumes = self.goal.as_ref().is_some_and(|goal| !goal.revision.volumes.is_empty());
        let declared = self.declared.map(|it| it.update.budget(self.replicas, has_volumes));
        declared.unwrap_or(Budget { replicas: 0, surge: 0, unavailable: 0 })
    }
}

/// A component with what became of its rollout.
pub(crate) struct Judged<'a> {
    subject: Subject<'a>,
    verdict: Verdict,
}

/// How long a person may let a rollout wait.
const PAUSE_DEADLINE: Span = Span::seconds(7 * 86_400);

/// How long it may take until what copies have to do is known.
const MEASURED_WITHIN: Span = Span::seconds(60);

pub(crate) struct Planner<'a> {
    input: &'a Input,
    resolution: &'a Resolution,
    memory: BTreeMap<ComponentName, Memory>,
    endpoints: BTreeMap<EndpointRef, EndpointView>,
    claims: BTreeMap<ComponentName, ServiceIp>,
    components: BTreeMap<ComponentName, ComponentStatus>,
    rejections: BTreeMap<ObjectName, RejectionRecord>,
    released: Vec<ServiceIp>,
    waits: Vec<Wait>,
    looks: Vec<Span>,
    steps: Steps<'a>,
    gone: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(input: &'a Input, resolution: &'a Resolution) -> Self {
        let mut waits = waits::of_drivers(&input.world);
        waits.extend(resolution.waits.iter().cloned());
        let no = input.plan_no().next();
        Self {
            input,
            resolution,
            memory: input.status.memory.clone(),
            endpoints: input.context.endpoints.clone(),
            claims: BTreeMap::new(),
            components: BTreeMap::new(),
            rejections: BTreeMap::new(),
            released: Vec::new(),
            waits,
            looks: Vec::new(),
            steps: Steps::new(&input.uid, no, input.parent.as_ref()),
            gone: false,
        }
    }

    /// The declaration of a component, while the App is not leaving as a whole.
    fn declared(&self, name: &ComponentName) -> Option<&'a Component> {
        self.input.spec.components.get(name).filter(|_| !self.input.deleting)
    }

    fn off(&self) -> bool {
        self.input.deleting || self.input.operations.power == Power::Off
    }

    /// Components declared, providers before their consumers, then those that left the declaration and are
    /// still remembered or running.
    pub(crate) fn in_order(&self) -> Vec<ComponentName> {
        fn visit<'a>(
            planner: &Planner<'a>,
            name: &'a ComponentName,
            done: &mut BTreeSet<&'a ComponentName>,
            out: &mut Vec<ComponentName>,
        ) {
            if !done.insert(name) {
                return;
            }
            if let Some(component) = planner.input.spec.components.get(name) {
                for consume in component.consumes.values().filter(|consume| consume.from.app.is_none()) {
                    if let Some((provider, _)) =
                        planner.input.spec.components.get_key_value(&consume.from.component)
                    {
                        visit(planner, provider, done, out);
                    }
                }
            }
            out.push(name.clone());
        }
        let nodes = self.input.world.targets.values().filter_map(|view| view.node.present());
        let running = nodes.flat_map(|node| node.instances.values().map(|it| &it.component));
        let (mut done, mut out) = (BTreeSet::new(), Vec::new());
        for name in self.input.spec.components.keys().chain(self.input.status.memory.keys()).chain(running) {
            visit(self, name, &mut done, &mut out);
        }
        out
    }

    /// Gives every component with traffic its address, and makes its endpoints known to consumers.
    pub(crate) fn allocate_addresses(&mut self) {
        if self.input.deleting {
            return;
        }
        let mut avoid = self.input.context.avoid.clone();
        avoid.extend(self.memory.values().filter_map(|memory| memory.address));
        for (name, component) in &self.input.spec.components {
            let memory = self.memory.entry(name.clone()).or_default();
            if is_routed(component) && memory.address.is_none() {
                let ip = address::choose(&self.input.uid, name, &avoid);
                avoid.insert(ip);
                memory.address = Some(ip);
                self.claims.insert(name.clone(), ip);
            }
            let address = memory.address;
            let ready = Survey::take(&self.input.world, name, true, None).available() > 0;
            for (endpoint, provide) in &component.provides {
                let only = || component.ports.keys().next().cloned();
                let from = EndpointRef { app: None, component: name.clone(), endpoint: endpoint.clone() };
                let view = EndpointView {
                    interface: provide.interface.clone(),
                    address,
                    ports: component.ports.clone(),
                    port: provide.port.clone().or_else(only),
                    data: provide.data.clone(),
                    ready,
                };
                self.endpoints.insert(from, view);
            }
        }
    }

    fn router(&self) -> Option<&'a RouterView> {
        self.input.world.targets.get(&self.input.context.target).and_then(|view| view.router.present())
    }

    /// Brings the router's table of addresses and routes to what is declared, and to how far rollouts are.
    pub(crate) fn publish(&mut self, judged: &[Judged<'a>]) {
        let (input, context) = (self.input, &self.input.context);
        if let Some(apps) = &context.cycle {
            let reason = Reason::RelationCycle { apps: apps.clone() };
            self.waits.push(Wait::new(None, reason, PERSON_DEADLINE));
        }
        if input.deleting {
            return;
        }
        let splits = judged.iter().filter_map(|Judged { subject, .. }| {
            let memory = self.memory.get(subject.name)?;
            let split = match self.gate(subject, memory) {
                _ if subject.undivided => None,
                Some(gate) if gate.replicas > 0 => trial::split(memory, &subject.survey, &gate),
                // Where nothing can be decided, or all copies go, it stays as it is.
                _ => self.router().and_then(|router| router.table.services.get(subject.name)?.split),
            };
            Some((subject.name.clone(), split?))
        });
        let splits = splits.collect();
        let left = |name: &&ComponentName| !input.spec.components.contains_key(*name);
        let leaving: Vec<ComponentName> =
            self.memory.keys().filter(left).filter(|name| self.may_have_copies(name)).cloned().collect();
        let (table, taken) = routing::table(input, &self.memory, &splits, &leaving, self.router());
        self.waits.extend(taken);
        for (target, view) in &input.world.targets {
            let here = *target == context.target;
            let present = match &view.router {
                Presence::Unknown => continue,
                Presence::Absent => &Table::default(),
                Presence::Present(router) => &router.table,
            };
            // The App moved away: its old table goes once nothing runs there any more.
            let deserted = || view.node.present().is_some_and(|node| node.instances.is_empty());
            if here && *present != table {
                self.steps.publish(target, table.clone());
            } else if !here && !present.is_empty() && deserted() {
                self.steps.publish(target, Table::default());
            }
        }
    }

    fn may_have_copies(&self, name: &ComponentName) -> bool {
        self.input.world.targets.values().any(|view| match &view.node {
            Presence::Absent => false,
            Presence::Unknown => true,
            Presence::Present(node) => node.instances.values().any(|it| it.component == *name),
        })
    }

    /// What a component works towards: what is declared, unless that was rejected or a pause holds it back.
    fn goal(&self, name: &ComponentName) -> Option<Goal<'a>> {
        let (input, context) = (self.input, &self.input.context);
        let revision = self.resolution.components.get(name)?;
        let source = self.resolution.number?;
        let declared = revision.hash();
        let memory = self.memory.get(name)?;
        let lifted = input.operations.retry.get(name);
        let is_rejected = |(id, it): &(&ObjectName, &Rejected)| {
            it.component == *name && it.revision == declared && lifted != Some(*id)
        };
        let rejection = input.status.rejected.iter().find(is_rejected);
        let started = memory.rollout.as_ref().is_some_and(|rollout| rollout.to == declared);
        let held = rejection.is_some() || (input.operations.paused && !started);
        match memory.good.filter(|good| held && good.component != declared) {
            Some(good) => {
                // Without the content of what was good nothing is worked towards: least of all what was rejected.
                let revision = context.revisions.get(&good.revision)?.components.get(name)?;
                let rejected =
                    rejection.map(|(id, _)| Reason::Rejected { rejection: id.clone(), revision: declared });
                Some(Goal { revision, hash: good.component, source: good.revision, declared, rejected })
            }
            None => Some(Goal { revision, hash: declared, source, declared, rejected: None }),
        }
    }

    fn subject(&self, name: &'a ComponentName) -> Subject<'a> {
        let (input, context) = (self.input, &self.input.context);
        let declared = self.declared(name);
        let goal = declared.and_then(|_| self.goal(name));
        let restarts = input.operations.restarts.get(name).copied().unwrap_or(0);
        let bindings = match (declared, &goal) {
            (Some(declared), Some(goal)) => {
                bindings::resolve(name, declared, goal.revision, &self.endpoints, context, restarts)
            }
            _ => Err(Vec::new()),
        };
        let wanted = goal.as_ref().map(|goal| Wanted {
            target: &context.target,
            revision: goal.hash,
            bindings: bindings.as_ref().ok().map(|bindings| bindings.hash),
        });
        let survey = Survey::take(&input.world, name, declared.is_some_and(is_routed), wanted);
        let consumed =
            || declared.into_iter().flat_map(|it| it.consumes.values().map(|consume| &consume.from));
        let unready = consumed().filter(|from| self.endpoints.get(from).is_some_and(|it| !it.ready));
        let rolling = |from: &&EndpointRef| {
            let memory = self.memory.get(&from.component).filter(|_| from.app.is_none());
            memory.and_then(|memory| memory.rollout.as_ref()).is_some_and(|rollout| rollout.failed.is_none())
        };
        let rolling_first = consumed().find(rolling).filter(|_| survey.has_live_stale());
        let replicas = declared.map_or(0, Component::replicas);
        Subject {
            name,
            declared,
            goal,
            replicas: input
                .operations
                .replicas
                .get(name)
                .copied()
                .unwrap_or(replicas)
                .min(plimsoll_model::app::MOST_COPIES),
            unready: unready.cloned().collect(),
            rolling_first: rolling_first.map(|from| from.component.clone()),
            undivided: declared.is_some_and(|it| it.update.strategy.is_staged() && is_routed(it))
                && self.router().is_some_and(|router| !router.divides),
            tasks: hooks::tasks(&input.world, name),
            limited: false,
            bindings,
            survey,
        }
    }

    /// Judges one component's rollout.
    pub(crate) fn judge(&mut self, name: &'a ComponentName) -> Judged<'a> {
        let mut subject = self.subject(name);
        let mut memory = self.memory.remove(name).unwrap_or_default();
        self.scale(&mut subject, &mut memory);
        hooks::learn(&mut memory, &subject.tasks, subject.survey.now);
        let verdict = self.advance(&mut memory, &subject);
        hooks::forget(&mut memory, &subject.tasks, self.is_blind());
        self.memory.insert(name.clone(), memory);
        Judged { subject, verdict }
    }

    /// Whether a node does not answer that may have something of the App.
    fn is_blind(&self) -> bool {
        self.input.world.targets.values().any(|view| view.node.is_unknown())
    }

    /// Decides about one component.
    pub(crate) fn component(&mut self, judged: Judged<'a>) {
        let Judged { subject, verdict } = judged;
        let name = subject.name;
        self.record(&subject);
        if let Verdict::Reject(evidence) = verdict {
            self.reject(&subject, evidence);
            return;
        }
        let mut memory = self.memory.remove(name).unwrap_or_default();
        let hook = match verdict {
            Verdict::Rolling { hook, .. } => hook,
            Verdict::Idle | Verdict::Reject(_) => None,
        };
        let may_start = self.rules(&memory, &subject).may_create
            && !self.input.operations.paused
            && subject.rolling_first.is_none()
            && !subject.undivided;
        self.tasks(&subject, &mut memory, hook, may_start);
        let sides = self.sides(&memory, &subject, hook);
        let keep_stopped = subject.declared.is_some() && (self.off() || subject.goal.is_none());
        // What is declared of its end holds to the end.
        let grace = self.input.spec.components.get(name).map_or(Span::seconds(10), Component::grace);
        for side in &sides {
            self.steps.follow(name, &side.survey, &side.moves, grace, keep_stopped);
            self.create(name, &memory, side);
        }
        self.explain(&subject, &memory, &sides, &verdict);
        self.looks.extend(waits::look(&subject.survey.copies));
        if let Verdict::Rolling { look, .. } = verdict {
            self.looks.extend(look);
        }
        if subject.declared.is_some() || self.may_have_copies(name) {
            self.memory.insert(name.clone(), memory);
        } else {
            self.released.extend(memory.address);
        }
    }

    fn reject(&mut self, subject: &Subject<'_>, evidence: Evidence) {
        let Some(goal) = &subject.goal else { return };
        let no = self.input.plan_no();
        let identity = plimsoll_model::id::Digest::of_json(&self.input.uid).short();
        let id = format!("{}.{}.{}.{no}", self.input.key.name, &identity[..6], subject.name);
        // What is aborted before anything was planned for it has the number of another one.
        let taken = |id: &str| self.input.status.rejected.keys().any(|name| name.as_str() == id);
        let mut ids = std::iter::once(id.clone()).chain((2..).map(|more| format!("{id}-{more}")));
        let id = ids.find(|id| !taken(id)).expect("numbers do not end");
        let record = RejectionRecord {
            app: self.input.uid.clone(),
            component: subject.name.clone(),
            revision: goal.declared,
            digest: goal.revision.content.as_ref().and_then(plimsoll_model::revision::Content::digest),
            evidence,
        };
        self.rejections.insert(id.parse().expect("names and a number form a name"), record);
    }

    /// What a component's rollout is held to; `None` where nothing is rolled out.
    fn gate<'s>(&'s self, subject: &'s Subject<'a>, memory: &Memory) -> Option<Gate<'s>> {
        let (Some(declared), Some(goal), false) = (subject.declared, &subject.goal, self.off()) else {
            return None;
        };
        let operations = &self.input.operations;
        let has_way_back =
            goal.hash == goal.declared && memory.good.is_some_and(|good| good.component != goal.hash);
        let rollout = memory.rollout.as_ref().map(Rollout::reference);
        let promoted = operations.promotions.get(subject.name).filter(|it| Some(it.rollout) == rollout);
        let aborted = operations.aborts.get(subject.name).is_some_and(|it| Some(*it) == rollout);
        Some(Gate {
            wanted: Wanted {
                target: &self.input.context.target,
                revision: goal.hash,
                bindings: subject.bindings.as_ref().ok().map(|bindings| bindings.hash),
            },
            source: goal.source,
            declared: goal.declared,
            replicas: subject.replicas,
            budget: subject.budget(),
            update: &declared.update,
            excused: !subject.unready.is_empty()
                || subject.rolling_first.is_some()
                || subject.undivided
                || operations.paused
                || self.input.context.cycle.is_some()
                || subject.survey.blind,
            plan: self.input.plan_no(),
            promoted: promoted.map_or(0, |it| it.steps),
            judge: match has_way_back {
                true if self.input.hopeful => Judge::Hope,
                true => Judge::Evidence { answers: &self.input.context.answers, aborted },
                false => Judge::Nobody,
            },
            hooks: subject.hooks()?,
        })
    }

    /// How many copies are wanted, where that follows what is measured and no person says it.
    fn scale(&mut self, subject: &mut Subject<'a>, memory: &mut Memory) {
        let Some(declared) = subject.declared else { return };
        let Some(scale) = &declared.scale else {
            memory.scaling = None;
            return;
        };
        let state = memory.scaling.get_or_insert_with(|| Scaling::at(declared.replicas()));
        if let Some(said) = self.input.operations.replicas.get(subject.name) {
            *state = Scaling::at(*said);
            return;
        }
        if state.wanted > 0 || scale.to_zero.is_none() {
            state.wanted = state.wanted.clamp(scale.min, scale.max);
        }
        // On a Path it stays as it is: nobody knows what there will be to do.
        if let (Some(goal), false, false) = (&subject.goal, self.off(), self.input.hopeful) {
            let measured = Measured {
                survey: &subject.survey,
                used: &self.input.context.used,
                limits: goal.revision.resources,
                router: self.router(),
                waiting: self.router().and_then(|it| it.waiting.get(subject.name).copied()).unwrap_or(0),
                is_rolling: memory.rollout.is_some(),
            };
            let Scaled { limited, undecided, look } = scale::advance(state, scale, measured);
            self.looks.push(look);
            subject.limited = limited;
            if let Some(why) = undecided {
                let reason = Reason::ScaleUndecided { why };
                self.waits.push(Wait::new(Some(subject.name.clone()), reason, MEASURED_WITHIN));
            }
        }
        subject.replicas = state.wanted;
    }

    fn advance(&self, memory: &mut Memory, subject: &Subject<'a>) -> Verdict {
        match self.gate(subject, memory) {
            Some(gate) => rollout::advance(memory, &subject.survey, &gate),
            // Nobody knows what is to run: what was under way stays as it is.
            None if subject.declared.is_some() && !self.off() => {
                rollout::stand_still(memory, &subject.survey)
            }
            None => {
                memory.rollout = None;
                Verdict::Idle
            }
        }
    }

    fn create(&mut self, name: &ComponentName, memory: &Memory, side: &Side<'_>) {
        let Some((revision, Ok(bindings))) = &side.made_of else { return };
        if side.moves.create.is_empty() && side.moves.revive.is_empty() {
            return;
        }
        match bindings.launch(revision, memory.address, &self.input.context) {
            Ok(launch) => {
                let blueprint = Blueprint {
                    target: &self.input.context.target,
                    component: name,
                    revision,
                    bindings: bindings.hash,
                    launch,
                };
                self.steps.create(&side.moves, &side.survey, &blueprint);
            }
            Err(reason) => {
                self.waits.push(Wait::new(Some(name.clone()), reason, PERSON_DEADLINE));
            }
        }
    }

    /// Says why the component is not where it should be, if it is not.
    fn explain(&mut self, subject: &Subject<'_>, memory: &Memory, sides: &[Side<'_>], verdict: &Verdict) {
        let wait = |reason, deadline| Wait::new(Some(subject.name.clone()), reason, deadline);
        for Side { survey, moves, .. } in sides {
            self.waits.extend(waits::of_copies(
                subject.name,
                self.input.spec.components.get(subject.name),
                survey,
                moves,
            ));
        }
        let (Some(declared), false) = (subject.declared, self.off()) else { return };
        let deadline = declared.update.deadline();
        if let Err(missing) = &subject.bindings {
            self.waits.extend(missing.iter().map(|reason| wait(reason.clone(), PERSON_DEADLINE)));
        }
        let in_place = count(subject.survey.fresh().filter(|copy| copy.is_live())) >= subject.replicas;
        if !in_place || subject.survey.has_live_stale() {
            let unready = subject.unready.iter().cloned();
            self.waits.extend(unready.map(|from| wait(Reason::ProviderNotReady { from }, deadline)));
        }
        if let Some(provider) = &subject.rolling_first {
            let reason = Reason::ProviderRolling { provider: provider.clone() };
            self.waits.push(wait(reason, deadline.plus(deadline)));
        }
        if subject.undivided && subject.survey.has_live_stale() {
            let scope = Scope::Router(self.input.context.target.clone());
            self.waits.push(wait(Reason::RouterOutdated { scope }, PERSON_DEADLINE));
        }
        let goal = subject.goal.as_ref();
        let held_back = goal.is_some_and(|goal| goal.hash != goal.declared && goal.rejected.is_none());
        if self.input.operations.paused && (subject.survey.has_live_stale() || held_back) {
            self.waits.push(wait(Reason::Paused, PAUSE_DEADLINE));
        }
        self.waits
            .extend(goal.and_then(|goal| goal.rejected.clone()).map(|reason| wait(reason, PERSON_DEADLINE)));
        // Where something is missing, nothing can be said of a gate.
        let judged = memory.rollout.as_ref().filter(|_| subject.bindings.is_ok());
        if let Some(reason) = judged.and_then(|_| Self::failed_task(subject, memory)) {
            self.waits.push(wait(reason, PERSON_DEADLINE));
            return;
        }
        if let Some(verdict) = judged.and_then(|rollout| rollout.failed.clone()) {
            self.waits.push(wait(Reason::GateFailed { verdict }, PERSON_DEADLINE));
            return;
        }
        if matches!(verdict, Verdict::Rolling { soaking: true, .. }) {
            self.waits.push(wait(Reason::Soaking, declared.update.soak().plus(deadline)));
        }
        if let Verdict::Rolling { undecided: Some(why), .. } = verdict {
            self.waits.push(wait(Reason::GateUndecided { why: why.clone() }, deadline));
        }
        let stages = declared.update.stages();
        let stage = memory.rollout.as_ref().and_then(|it| trial::stage(it.trial.as_ref()?, stages));
        let is_held_up = subject.undivided
            || self.input.operations.paused
            || subject.rolling_first.is_some()
            || matches!(verdict, Verdict::Rolling { hook: Some(_), .. })
            || !subject.unready.is_empty();
        if let (Some(status), Some(stage), false) = (trial::status(memory, stages), stage, is_held_up) {
            let StageStatus { step, of, weight, hold } = status;
            let soak = stage.soak.unwrap_or(declared.update.soak());
            let limit = if hold { PAUSE_DEADLINE } else { soak.plus(deadline) };
            self.waits.push(wait(Reason::Trying { step, of, weight, hold }, limit));
        }
    }

    /// What people want to see of the component.
    fn record(&mut self, subject: &Subject<'_>) {
        let survey = &subject.survey;
        if subject.declared.is_none() && survey.copies.is_empty() && subject.tasks.is_empty() {
            return;
        }
        let serving = survey.fresh().filter(|copy| survey.is_available(copy));
        let instances = survey.copies.iter().map(|copy| InstanceStatus {
            id: copy.id.clone(),
            slot: copy.slot(),
            target: copy.target.clone(),
            revision: copy.instance.revision,
            state: (&copy.instance.phase).into(),
            restarts: copy.instance.restarts,
            hook: None,
            exit: None,
        });
        let tasks = subject.tasks.iter().map(|task| InstanceStatus {
            id: task.id.clone(),
            slot: task.instance.slot,
            target: task.target.clone(),
            revision: task.instance.revision,
            state: (&task.instance.phase).into(),
            restarts: task.instance.restarts,
            hook: Some(task.hook),
            exit: task.instance.last_exit.filter(|_| !task.is_live()),
        });
        let status = ComponentStatus {
            desired: if self.off() { 0 } else { subject.replicas },
            ready: count(serving),
            available: survey.available(),
            revision: subject.goal.as_ref().map(|goal| goal.hash),
            stage: subject
                .declared
                .and_then(|declared| trial::status(self.memory.get(subject.name)?, declared.update.stages())),
            limited: subject.limited,
            unenforced: survey
                .copies
                .iter()
                .flat_map(|copy| copy.instance.unenforced.iter().copied())
                .collect(),
            instances: instances.chain(tasks).collect(),
        };
        self.components.insert(subject.name.clone(), status);
    }

    /// Members without an instance go; and when the App leaves, its table and then its volumes.
    pub(crate) fn expel_and_close(&mut self) {
        self.steps.expel_lost(&self.input.world);
        if !self.input.deleting || !self.steps.is_empty() {
            return;
        }
        let mut left = false;
        for (target, view) in &self.input.world.targets {
            match (&view.node, &view.router) {
                (Presence::Unknown, _) | (_, Presence::Unknown) => left = true,
                (Presence::Present(node), _) if !node.instances.is_empty() => left = true,
                (node, router) => {
                    // Also where nothing was ever seen: a step given up long ago may still arrive.
                    let ends = [
                        node.present().filter(|node| !node.closed).map(|_| Action::Close),
                        router.present().filter(|router| !router.closed).map(|_| Action::Withdraw),
                    ];
                    for action in ends.into_iter().flatten() {
                        self.steps.end(target, action);
                        left = true;
                    }
                }
            }
        }
        self.gone = !left;
    }

    pub(crate) fn finish(mut self) -> Decision {
        let steps = self.steps.into_vec();
        self.waits.sort();
        self.waits.dedup();
        let mut rejected = self.input.status.rejected.clone();
        rejected.retain(|_, it| self.memory.contains_key(&it.component));
        rejected.extend(self.rejections.iter().map(|(id, it)| {
            (id.clone(), Rejected { component: it.component.clone(), revision: it.revision })
        }));
        Decision {
            course: course(self.input, self.resolution.number.unwrap_or_default(), steps),
            memory: self.memory,
            components: self.components,
            revision: self.resolution.number,
            new_revision: self.resolution.new.clone(),
            rejections: self.rejections,
            rejected,
            claims: self.claims,
            released: self.released,
            waits: self.waits,
            next_look: self.looks.into_iter().min(),
            gone: self.gone,
        }
    }
}

/// A plan whose steps are all part of the current plan is that plan, still under way.
fn course(input: &Input, revision: RevisionNo, steps: Vec<Step>) -> Course {
    if steps.is_empty() {
        return Course::Rest;
    }
    let scopes: BTreeSet<Scope> = steps.iter().map(Step::scope).collect();
    let ledger = |scope: &Scope| match scope {
        Scope::Node(target) => {
            let node = input.world.targets.get(target)?.node.present()?;
            Some((node.following, node.effects))
        }
        Scope::Router(target) => {
            let router = input.world.targets.get(target)?.router.present();
            Some(router.map(|router| (router.following, router.effects)).unwrap_or_default())
        }
    };
    if let Some(parent) = &input.parent {
        let known =
            |step: &Step| parent.steps.iter().any(|it| it.target == step.target && it.action == step.action);
        // Where it has not begun and others have acted since, the far side would refuse it for ever.
        let can_go_on = |scope: &Scope| {
            ledger(scope).is_some_and(|(following, effects)| {
                following == parent.no || parent.seen.get(scope) == Some(&effects)
            })
        };
        if parent.revision == revision && steps.iter().all(known) && scopes.iter().all(can_go_on) {
            return Course::Continue(steps);
        }
    }
    let seen = scopes.into_iter().filter_map(|scope| ledger(&scope).map(|(_, effects)| (scope, effects)));
    Course::Adopt(Box::new(Plan {
        app: input.uid.clone(),
        key: input.key.clone(),
        no: input.plan_no().next(),
        parent: input.status.plan.map(|plan| plan.hash),
        generation: input.generation,
        revision,
        seen: seen.collect(),
        deviation: deviation(&steps),
        steps,
    }))
}

/// Why these steps are on no Path: there, all goes as hoped. A rollback says more than what it heals on the way.
fn deviation(steps: &[Step]) -> Option<Deviation> {
    let mut rolled_back = steps.iter().filter(|step| step.cause == Cause::Rollback);
    let rolled_back = rolled_back.find_map(|step| step.component.clone());
    let healed = steps.iter().filter(|step| step.cause == Cause::Heal);
    let mut healed = healed.filter_map(|step| step.component.clone().zip(step.slot));
    rolled_back
        .map(|component| Deviation::RolledBack { component })
        .or_else(|| healed.next().map(|(component, slot)| Deviation::Healed { component, slot }))
}
