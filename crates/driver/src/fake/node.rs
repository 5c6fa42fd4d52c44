//! A node in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_model::id::{BootId, InstallationId, InstanceId, Slot, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Fence, Scope, Step};
use plimsoll_model::world::{Blockage, Exit, Instance, NodeTime, NodeView, Phase};

use super::script::{Behaviour, Script};
use crate::error::DriverError;
use crate::ledger::Ledger;
use crate::port::{Driver, Fut, Marked, SecretValues, Sighting};

/// Pause before a scripted program that ended is started again.
const BACKOFF: Span = Span::seconds(1);

/// A node in memory. Clones share it.
#[derive(Clone)]
pub struct FakeNode {
    target: TargetName,
    installation: InstallationId,
    script: Script,
    state: Arc<Mutex<State>>,
}

struct State {
    boot: u64,
    elapsed: Span,
    ledger: Ledger,
    copies: BTreeMap<InstanceId, Kept>,
    blocked: Option<Blockage>,
}

/// One copy with its mark.
#[derive(Clone)]
struct Kept {
    marked: Marked,
    instance: Instance,
    /// When the present phase began, and when the present run did.
    phase_began: Span,
    run_began: Span,
    grace_ends: Span,
}

impl FakeNode {
    /// An empty node that serves one installation.
    pub fn new(target: TargetName, installation: InstallationId, script: Script) -> Self {
        let state = State {
            boot: 1,
            elapsed: Span::ZERO,
            ledger: Ledger::default(),
            copies: BTreeMap::new(),
            blocked: None,
        };
        Self { target, installation, script, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass: programs become ready, end, and are started again.
    pub fn advance(&self, by: Span) {
        let mut state = self.lock();
        state.elapsed = state.elapsed.plus(by);
        let (now, blocked) = (state.elapsed, state.blocked);
        for copy in state.copies.values_mut() {
            copy.live_on(now, blocked, self.script.of(copy.instance.revision));
        }
    }

    /// Reboots: every process is gone, what is on disk stays, the clock starts again; then the agent starts what
    /// should run.
    pub fn reboot(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.elapsed = Span::ZERO;
        for copy in state.copies.values_mut() {
            copy.phase_began = Span::ZERO;
            copy.run_began = Span::ZERO;
            copy.instance.phase = match copy.instance.phase {
                Phase::Stopping { .. } | Phase::Stopped => Phase::Stopped,
                phase @ Phase::Done { .. } => phase,
                // One that was never begun is begun now.
                phase @ Phase::Blocked { .. } if copy.instance.hook.is_some() => phase,
                _ if copy.instance.hook.is_some() => {
                    copy.instance.last_exit = Some(Exit::Lost);
                    Phase::Done { exit: Exit::Lost }
                }
                _ => {
                    copy.instance.last_exit = Some(Exit::Lost);
                    copy.instance.restarts += 1;
                    copy.instance.unready_count += u32::from(copy.instance.is_ready());
                    Phase::Unready { since: Span::ZERO }
                }
            };
        }
    }

    /// Makes every start fail for a reason outside of the programs, or ends that.
    pub fn block(&self, by: Option<Blockage>) {
        self.lock().blocked = by;
    }

    /// Kills one running program; the agent will start it again.
    pub fn kill(&self, instance: &InstanceId) {
        let mut state = self.lock();
        let now = state.elapsed;
        if let Some(copy) = state.copies.get_mut(instance).filter(|copy| copy.is_running()) {
            copy.end(now, Exit::Signal(9));
        }
    }

    /// Puts a copy there that no plan made: somebody else's, or what an interrupted deletion left behind.
    pub fn plant(&self, marked: Marked, instance: Instance) {
        let mut state = self.lock();
        let now = state.elapsed;
        let copy = Kept { instance, phase_began: now, run_began: now, grace_ends: now, marked };
        state.copies.insert(copy.marked.instance.clone(), copy);
    }

    /// Every copy there is, with its mark: the truth, for checks.
    pub fn copies(&self) -> Vec<(Marked, Instance)> {
        self.lock().copies.values().map(|copy| (copy.marked.clone(), copy.instance.clone())).collect()
    }
}

impl Kept {
    fn is_running(&self) -> bool {
        matches!(self.instance.phase, Phase::Ready { .. } | Phase::Unready { .. })
    }

    fn enter(&mut self, now: Span, phase: Phase) {
        self.phase_began = now;
        self.instance.phase = phase;
    }

    fn start(&mut self, now: Span, blocked: Option<Blockage>) {
        self.run_began = now;
        match blocked {
            Some(by) => self.enter(now, Phase::Blocked { by }),
            None => self.enter(now, Phase::Unready { since: Span::ZERO }),
        }
    }

    fn end(&mut self, now: Span, exit: Exit) {
        self.instance.unready_count += u32::from(self.instance.is_ready());
        self.instance.last_exit = Some(exit);
        let since = Span::ZERO;
        let is_task = self.instance.hook.is_some();
        self.enter(now, if is_task { Phase::Done { exit } } else { Phase::Backoff { since } });
    }

    /// What time has done to the copy by `now`.
    fn live_on(&mut self, now: Span, blocked: Option<Blockage>, behaviour: Behaviour) {
        match self.instance.phase {
            Phase::Blocked { .. } if blocked.is_none() => self.start(now, None),
            Phase::Backoff { .. } if now >= self.phase_began.plus(BACKOFF) => {
                self.instance.restarts += 1;
                self.start(now, blocked);
            }
            Phase::Stopping { .. } if now >= self.grace_ends => {
                self.instance.last_exit = Some(Exit::Signal(15));
                self.enter(now, Phase::Stopped);
            }
            Phase::Unready { .. } if self.instance.hook.is_some() => self.work(now, behaviour),
            Phase::Ready { .. } | Phase::Unready { .. } => self.behave(now, behaviour),
            _ => {}
        }
        let since = now.minus(self.phase_began);
        self.instance.phase = match self.instance.phase {
            Phase::Unready { .. } => Phase::Unready { since },
            Phase::Ready { .. } => Phase::Ready { since },
            Phase::Backoff { .. } => Phase::Backoff { since },
            Phase::Stopping { .. } => Phase::Stopping { since },
            phase => phase,
        };
    }

    /// The task of a hook does as well as its program does; half of the programs that are no good have tasks that are.
    fn work(&mut self, now: Span, behaviour: Behaviour) {
        let age = now.minus(self.run_began);
        let is_odd = self.instance.revision.0.short().bytes().map(u32::from).sum::<u32>() % 2 == 1;
        let (after, exit) = match behaviour {
            Behaviour::Good { after } => (after, Exit::Code(0)),
            Behaviour::Crashing { after } if is_odd => (after, Exit::Code(1)),
            Behaviour::NeverReady if is_odd => return,
            Behaviour::Crashing { .. } | Behaviour::NeverReady | Behaviour::Flapping { .. } => {
                (Span::seconds(1), Exit::Code(0))
            }
        };
        if age >= after {
            self.end(now, exit);
        }
    }

    fn behave(&mut self, now: Span, behaviour: Behaviour) {
        let age = now.minus(self.run_began);
        let ready = match behaviour {
            Behaviour::Good { after } => age >= after,
            Behaviour::NeverReady => false,
            Behaviour::Crashing { after } => {
                if age >= after {
                    self.end(now, Exit::Code(1));
                }
                return;
            }
            // The last tenth of each period is spent unready.
            Behaviour::Flapping { every } => age.millis % every.millis < every.millis / 10 * 9,
        };
        if ready != self.instance.is_ready() {
            self.instance.unready_count += u32::from(!ready);
            self.instance.probe = (!ready).then(|| "connection refused".to_owned());
            let since = Span::ZERO;
            self.enter(now, if ready { Phase::Ready { since } } else { Phase::Unready { since } });
        }
    }
}

impl State {
    fn execute(
        &mut self,
        step: &Step,
        fence: &Fence,
        installation: &InstallationId,
    ) -> Result<(), DriverError> {
        if fence.installation != *installation {
            return Err(DriverError::Terminal("this node serves another installation".into()));
        }
        self.ledger.admit(fence).map_err(DriverError::Refused)?;
        let (now, blocked) = (self.elapsed, self.blocked);
        let changed = match &step.action {
            Action::Create { instance, .. } => match self.copies.get_mut(instance) {
                Some(copy) if copy.instance.phase == Phase::Stopped => {
                    copy.start(now, blocked);
                    true
                }
                Some(_) => false,
                None => {
                    let copy = new_copy(step, fence, now, blocked)?;
                    self.copies.insert(instance.clone(), copy);
                    true
                }
            },
            Action::Stop { instance, grace } => match self.copies.get_mut(instance) {
                Some(copy)
                    if !matches!(
                        copy.instance.phase,
                        Phase::Stopping { .. } | Phase::Stopped | Phase::Done { .. }
                    ) =>
                {
                    // A scripted program that runs takes a tenth of its grace time to end.
                    let took = if copy.is_running() { Span::millis(grace.millis / 10) } else { Span::ZERO };
                    copy.instance.unready_count += u32::from(copy.instance.is_ready());
                    copy.grace_ends = now.plus(took);
                    copy.enter(now, Phase::Stopping { since: Span::ZERO });
                    true
                }
                _ => false,
            },
            Action::Remove { instance } => match self.copies.get(instance) {
                Some(copy) if !copy.instance.is_live() => self.copies.remove(instance).is_some(),
                Some(_) => return Err(DriverError::Transient(format!("{instance} has not ended yet"))),
                None => false,
            },
            Action::Close => {
                let first = !self.ledger.is_closed(&fence.app);
                self.ledger.close(&fence.app);
                first
            }
            Action::Publish { .. }
            | Action::Admit { .. }
            | Action::Drain { .. }
            | Action::Expel { .. }
            | Action::Withdraw => {
                return Err(DriverError::Terminal("a node has no router's steps".into()));
            }
        };
        if changed {
            self.ledger.record(&fence.app);
        }
        Ok(())
    }
}

fn new_copy(step: &Step, fence: &Fence, now: Span, blocked: Option<Blockage>) -> Result<Kept, DriverError> {
    let incomplete = || DriverError::Terminal("a create names its component and slot".into());
    let (Action::Create { instance, revision, bindings, launch }, Some(component)) =
        (&step.action, &step.component)
    else {
        return Err(incomplete());
    };
    let slot = step.slot.or(launch.hook.map(|_| Slot::default())).ok_or_else(incomplete)?;
    let endpoints = launch
        .ports
        .iter()
        .map(|(name, port)| (name.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, *port))));
    let mut copy = Kept {
        marked: Marked {
            installation: fence.installation.clone(),
            app: fence.app.clone(),
            key: fence.key.clone(),
            instance: instance.clone(),
        },
        instance: Instance {
            component: component.clone(),
            slot,
            revision: *revision,
            bindings: *bindings,
            endpoints: endpoints.collect(),
            phase: Phase::Unready { since: Span::ZERO },
            restarts: 0,
            unready_count: 0,
            probe: None,
            last_exit: None,
            unenforced: Vec::new(),
            hook: launch.hook,
        },
        phase_began: now,
        run_began: now,
        grace_ends: now,
    };
    copy.start(now, blocked);
    Ok(copy)
}

impl Driver for FakeNode {
    fn scope(&self) -> Scope {
        Scope::Node(self.target.clone())
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move {
            let state = self.lock();
            let ours =
                |copy: &&Kept| copy.marked.app == *app && copy.marked.installation == self.installation;
            let boot: BootId = format!("boot-{}", state.boot).parse().expect("a valid boot id");
            Ok(Sighting::Node(NodeView {
                now: NodeTime { boot, elapsed: state.elapsed },
                following: state.ledger.following(app),
                effects: state.ledger.effects(app),
                closed: state.ledger.is_closed(app),
                instances: state
                    .copies
                    .values()
                    .filter(ours)
                    .map(|copy| (copy.marked.instance.clone(), copy.instance.clone()))
                    .collect(),
            }))
        })
    }

    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>> {
        Box::pin(async move { Ok(self.lock().copies.values().map(|copy| copy.marked.clone()).collect()) })
    }

    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        _: &'a SecretValues,
    ) -> Fut<'a, Result<(), DriverError>> {
        Box::pin(async move { self.lock().execute(step, fence, &self.installation) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Subject;

    impl Subject for FakeNode {
        fn driver(&self) -> &dyn Driver {
            self
        }

        async fn pass_time(&self) {
            self.advance(Span::millis(100));
        }
    }

    #[test]
    fn the_fake_keeps_the_contract() {
        let make = async || {
            let (target, here) = ("local".parse().unwrap(), "here".parse().unwrap());
            FakeNode::new(target, here, Script::default())
        };
        futures::executor::block_on(crate::contract::every(make));
    }
}
