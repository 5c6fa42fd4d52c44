//! The end of a run: the faults stop, and everything must settle, equal to a fresh installation.

use std::collections::BTreeSet;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use plimsoll_driver::fake::Behaviour;
use plimsoll_model::id::TargetName;
use plimsoll_model::quantity::Span;
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::{App, Object, ObjectKey};

use crate::chaos::lock;
use crate::run::{Failure, World};

/// Rounds of one second that a calm world may take to settle.
const MOST_ROUNDS: u32 = 600;

/// Rounds without a write after which nothing more is expected.
const QUIET_ROUNDS: u32 = 60;

/// The grace time of orphans, and some more.
const ORPHANS_GONE: Span = Span::seconds(1_300);

impl World {
    /// Ends the faults and runs one control plane until everything has settled; returns whether nothing waits
    /// for a person.
    pub(crate) fn calm_down(&mut self) -> Result<bool, Box<Failure>> {
        lock(&self.chaos).calm = true;
        self.note("calm");
        self.node.block(None);
        self.planes.clear();
        let plane = self.plane();
        self.planes.push(plane);
        let mend = self.rng.bool();
        self.scenario.release(mend).now_or_never().expect("memory answers at once");
        self.learn_declarations(None);
        while !lock(&self.chaos).late.is_empty() {
            self.deliver_late();
        }
        let mut quiet = 0;
        for _ in 0..MOST_ROUNDS {
            let before = self.memory.commits();
            self.round()?;
            quiet = if self.memory.commits() == before { quiet + 1 } else { 0 };
            if quiet >= QUIET_ROUNDS {
                break;
            }
        }
        let waits = self.remaining_waits();
        self.explain(&waits)?;
        self.gates_are_decided(&waits)?;
        self.remove_orphans()?;
        let left = self.truth.leftovers(&self.node, &self.router, &self.apps());
        if let Some(what) = left.into_iter().next() {
            return Err(self.failure(what));
        }
        if !waits.is_empty() || self.runs_a_bad_program() {
            return Ok(false);
        }
        self.is_silent()?;
        self.is_like_new()?;
        Ok(true)
    }

    /// One second in which everything that is due is done.
    pub(crate) fn round(&mut self) -> Result<(), Box<Failure>> {
        self.scan(0);
        for _ in 0..1_000 {
            if self.planes[0].pass.is_none() && self.planes[0].queue.due() != Some(Span::ZERO) {
                break;
            }
            self.poll(0);
        }
        self.verify()?;
        for (marked, _) in self.node.copies() {
            self.router.load(&marked.app, &marked.instance, 0);
        }
        self.advance(Span::seconds(1));
        Ok(())
    }

    fn remaining_waits(&self) -> Vec<(Object<App>, Wait)> {
        let mut found = Vec::new();
        for app in self.apps() {
            let record = app.status.as_ref().and_then(|status| status.value.outcome.clone());
            found.extend(record.into_iter().flat_map(|it| it.waits).map(|it| (app.clone(), it.wait)));
        }
        found
    }

    /// The Apps that an App consumes, and those that they consume in turn.
    fn providers(&self, app: &Object<App>) -> BTreeSet<ObjectKey> {
        let (apps, mut found, mut open) = (self.apps(), BTreeSet::new(), vec![app.clone()]);
        while let Some(app) = open.pop() {
            let consumed = app.spec.components.values().flat_map(|it| it.consumes.values());
            for name in consumed.filter_map(|consume| consume.from.app.clone()) {
                let key = app.meta.key.sibling(name);
                if found.insert(key.clone()) {
                    open.extend(apps.iter().find(|it| it.meta.key == key).cloned());
                }
            }
        }
        found
    }

    /// After so much time every gate has passed or failed, unless a provider is to blame.
    fn gates_are_decided(&self, waits: &[(Object<App>, Wait)]) -> Result<(), Box<Failure>> {
        for app in self.apps().iter().filter(|app| app.meta.deleting.is_none()) {
            let excused = waits.iter().any(|(other, wait)| {
                other.meta.key == app.meta.key
                    && matches!(
                        wait.reason(),
                        Reason::ProviderNotReady { .. }
                            | Reason::ProviderMissing { .. }
                            | Reason::ProviderRolling { .. }
                    )
            });
            // A provider that flaps is ready now, and not when its consumer starts.
            let providers = self.providers(app);
            let copies = self.node.copies();
            let is_bad = |revision| !matches!(self.script.of(revision), Behaviour::Good { .. });
            let excused = excused
                || copies.iter().any(|(marked, it)| providers.contains(&marked.key) && is_bad(it.revision));
            let memory = app.status.iter().flat_map(|status| &status.value.memory);
            for (name, memory) in memory.filter(|_| !excused) {
                if let Some(rollout) = memory.rollout.as_ref().filter(|rollout| rollout.failed.is_none()) {
                    let what = format!("{}/{name} still rolls out: {rollout:?}", app.meta.key);
                    return Err(self.failure(what));
                }
            }
        }
        Ok(())
    }

    /// A program that flaps may happen to be ready now and not a second later.
    fn runs_a_bad_program(&self) -> bool {
        let copies = self.node.copies();
        copies.iter().any(|(_, it)| !matches!(self.script.of(it.revision), Behaviour::Good { .. }))
    }

    /// In a calm world nothing may wait but for a person, a bad program, or one of these.
    fn explain(&self, waits: &[(Object<App>, Wait)]) -> Result<(), Box<Failure>> {
        for (app, wait) in waits {
            let is_bad = || {
                let Some((status, name)) = app.status.as_ref().zip(wait.component()) else { return false };
                let copies = status.value.components.get(name).into_iter().flat_map(|it| {
                    it.revision.into_iter().chain(it.instances.iter().map(|copy| copy.revision))
                });
                // What is being rolled out may have no copy yet, because what comes before one fails.
                let memory = status.value.memory.get(name);
                let next = memory.and_then(|memory| memory.rollout.as_ref()).map(|rollout| rollout.to);
                copies.chain(next).any(|revision| !matches!(self.script.of(revision), Behaviour::Good { .. }))
            };
            let fine = match wait.reason() {
                Reason::Rejected { .. } | Reason::ProviderMissing { .. } | Reason::RouteTaken { .. } => true,
                // Somebody has killed it, or its program was drawn anew for the same revision since: there is nothing to go back
                // to, and what has failed once is run again only if a person says so.
                Reason::HookFailed { verdict, .. }
                    if verdict.ends_with("signal 9") || verdict.ends_with("exit code 1") =>
                {
                    true
                }
                Reason::GateFailed { .. }
                | Reason::HookFailed { .. }
                | Reason::NotReady { .. }
                | Reason::Crashing { .. }
                | Reason::Soaking => is_bad(),
                Reason::ProviderNotReady { from } => {
                    let provider = from.app.as_ref().unwrap_or(&app.meta.key.name);
                    let apps = self.apps();
                    let status = apps
                        .iter()
                        .find(|it| it.meta.key.name == *provider)
                        .and_then(|it| it.status.as_ref());
                    let component = status.and_then(|it| it.value.components.get(&from.component));
                    let bad = |revision| !matches!(self.script.of(revision), Behaviour::Good { .. });
                    component.is_some_and(|it| it.desired == 0 || it.revision.is_some_and(bad))
                        || waits
                            .iter()
                            .any(|(other, reason)| other.meta.key.name == *provider && reason != wait)
                }
                // What comes first has a wait of its own.
                Reason::HookDue { .. } => waits.iter().any(|(other, it)| {
                    other.meta.key == app.meta.key && it != wait && it.component() == wait.component()
                }),
                _ => false,
            };
            if !fine {
                let memory = app.status.iter().flat_map(|status| &status.value.memory);
                let memory = memory.filter(|(name, _)| Some(*name) == wait.component());
                let found: Vec<_> = memory.map(|(_, memory)| format!("{memory:?}")).collect();
                return Err(self.failure(format!(
                    "{} still waits: {}; {found:?}",
                    app.meta.key,
                    wait.reason()
                )));
            }
        }
        Ok(())
    }

    fn remove_orphans(&mut self) -> Result<(), Box<Failure>> {
        let mut waited = Span::ZERO;
        while waited < ORPHANS_GONE {
            let plane = &mut self.planes[0];
            let turn = plane.turn.clone();
            let mut sweep = Box::pin(plane.orphans.sweep());
            let found = loop {
                turn.grant();
                let polled = sweep.as_mut().poll(&mut Context::from_waker(futures::task::noop_waker_ref()));
                if let Poll::Ready(found) = polled {
                    break found;
                }
            };
            drop(sweep);
            if found.is_ok_and(|found| found.is_empty()) {
                return Ok(());
            }
            waited = waited.plus(Span::seconds(100));
            self.advance(Span::seconds(100));
            self.verify()?;
        }
        Err(self.failure("orphans are still there".into()))
    }

    /// Settled means silent: nothing is written and nothing is done, however often it is looked at.
    fn is_silent(&mut self) -> Result<(), Box<Failure>> {
        let before = (self.memory.commits(), self.effects());
        for _ in 0..5 {
            self.round()?;
        }
        if (self.memory.commits(), self.effects()) == before {
            Ok(())
        } else {
            Err(self.failure("a settled world was written to".into()))
        }
    }

    fn effects(&self) -> Vec<(String, String)> {
        let copies = self.node.copies();
        let copies =
            copies.iter().map(|(marked, it)| (marked.instance.to_string(), format!("{:?}", it.revision)));
        copies.collect()
    }

    /// Everything is as a fresh installation would make it.
    fn is_like_new(&self) -> Result<(), Box<Failure>> {
        for app in self.apps() {
            let target: TargetName = "local".parse().expect("a valid target name");
            let spec = plimsoll_model::kind::TargetSpec::local();
            let tags = plimsoll_plan::resolve::Tags::default();
            let wanted = plimsoll_plan::resolve::resolve(&app.spec, &target, Some(&spec), tags);
            let wanted = wanted.unwrap_or_default().components;
            let copies = self.node.copies();
            let mine = copies.iter().filter(|(marked, _)| marked.app == app.meta.uid);
            let (tasks, mine): (Vec<_>, Vec<_>) = mine.partition(|(_, it)| it.hook.is_some());
            if let Some((marked, task)) = tasks
                .iter()
                .find(|(_, it)| wanted.get(&it.component).is_none_or(|wanted| wanted.hash() != it.revision))
            {
                return Err(self.failure(format!("{} is left: {:?}", marked.instance, task.phase)));
            }
            let view = self.router.view(&app.meta.uid);
            let mut expected = 0;
            for (name, component) in &app.spec.components {
                let replicas = crate::audit::numbers(name, component, &app.operations).replicas;
                expected += replicas;
                let revision = wanted.get(name).map(plimsoll_model::revision::ComponentRevision::hash);
                let mut slots: Vec<u32> = mine
                    .iter()
                    .filter(|(_, it)| it.component == *name && it.is_ready() && Some(it.revision) == revision)
                    .map(|(_, it)| it.slot.0)
                    .collect();
                slots.sort_unstable();
                if slots != (0..u32::try_from(replicas).unwrap_or(u32::MAX)).collect::<Vec<_>>() {
                    return Err(
                        self.failure(format!("{}/{name} has slots {slots:?}, not {replicas}", app.meta.key))
                    );
                }
            }
            if mine.len() != expected {
                return Err(self.failure(format!(
                    "{} has {} copies, not {expected}",
                    app.meta.key,
                    mine.len()
                )));
            }
            if view.members.keys().any(|id| !mine.iter().any(|(marked, _)| marked.instance == *id)) {
                return Err(self.failure(format!("{} has members without a copy", app.meta.key)));
            }
        }
        Ok(())
    }
}
