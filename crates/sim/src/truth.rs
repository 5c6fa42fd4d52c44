//! The truth, and what must hold of it whatever happens.

use std::collections::BTreeMap;

use plimsoll_driver::Marked;
use plimsoll_driver::fake::{FakeNode, FakeRouter};
use plimsoll_model::id::{ComponentName, InstallationId, Uid};
use plimsoll_model::world::{Instance, Phase};
use plimsoll_model::{App, Object};

use crate::audit::{Numbers, numbers};

/// What the world is held to between the control planes' steps.
pub(crate) struct Truth {
    installation: InstallationId,
    /// The most copies of a component that any declaration since it last settled allows.
    ceilings: BTreeMap<(Uid, ComponentName), usize>,
    stateful: Vec<(Uid, ComponentName)>,
    foreign: Vec<(Marked, Instance)>,
}

impl Truth {
    pub(crate) fn new(installation: InstallationId) -> Self {
        Self { installation, ceilings: BTreeMap::new(), stateful: Vec::new(), foreign: Vec::new() }
    }

    /// A declaration may allow more copies than the ones before; it forbids none that are there already.
    /// What a stale reading called settled may still have more; those copies were allowed once and stay so.
    pub(crate) fn declared(&mut self, app: &Object<App>, settled: bool, node: &FakeNode) {
        let copies = node.copies();
        for (name, component) in &app.spec.components {
            let Numbers { replicas, surge, .. } = numbers(name, component, &app.operations);
            let key = (app.meta.uid.clone(), name.clone());
            let ceiling = self.ceilings.entry(key.clone()).or_default();
            let live = copies.iter().filter(|(marked, it)| {
                settled
                    && marked.app == app.meta.uid
                    && it.component == *name
                    && it.is_live()
                    && it.hook.is_none()
            });
            let settled = settled && live.count() <= replicas + surge;
            *ceiling = if settled { replicas + surge } else { (*ceiling).max(replicas + surge) };
            if !component.volumes.is_empty() && !self.stateful.contains(&key) {
                self.stateful.push(key);
            }
        }
    }

    /// A copy of another installation appeared; it must stay as it is.
    pub(crate) fn foreign(&mut self, marked: Marked, instance: Instance) {
        self.foreign.push((marked, instance));
    }

    /// What is wrong with the world as it is.
    pub(crate) fn check(&self, node: &FakeNode) -> Option<String> {
        let copies = node.copies();
        let mut by_component: BTreeMap<(&Uid, &ComponentName), usize> = BTreeMap::new();
        let mut by_slot = BTreeMap::new();
        let live =
            copies.iter().filter(|(marked, it)| marked.installation == self.installation && it.is_live());
        let mut tasks = BTreeMap::new();
        for (marked, it) in live {
            if it.hook.is_some() {
                if let Some(other) = tasks.insert((&marked.app, &it.component), &marked.instance) {
                    return Some(format!("{other} and {} run at the same time", marked.instance));
                }
                continue;
            }
            *by_component.entry((&marked.app, &it.component)).or_default() += 1;
            let key = (marked.app.clone(), it.component.clone());
            let version = if self.stateful.contains(&key) { None } else { Some((it.revision, it.bindings)) };
            let twin = by_slot.insert((key, it.slot, version), &marked.instance);
            if let Some(twin) = twin {
                return Some(format!("{twin} and {} run in the same slot", marked.instance));
            }
        }
        for ((app, component), count) in by_component {
            let ceiling = self.ceilings.get(&(app.clone(), component.clone()));
            if ceiling.is_some_and(|ceiling| count > *ceiling) {
                return Some(format!("{count} copies of {app}/{component} run, {ceiling:?} are allowed"));
            }
        }
        self.foreign.iter().find_map(|(marked, instance)| {
            let there = copies.iter().find(|(other, _)| other.instance == marked.instance);
            let same =
                there.is_some_and(|(_, it)| !matches!(it.phase, Phase::Stopping { .. } | Phase::Stopped));
            (!same).then(|| {
                format!("{} of another installation was touched ({:?})", marked.instance, instance.phase)
            })
        })
    }

    /// What is left of Apps that are not there any more.
    pub(crate) fn leftovers(
        &self,
        node: &FakeNode,
        router: &FakeRouter,
        apps: &[Object<App>],
    ) -> Vec<String> {
        let known = |uid: &Uid| apps.iter().any(|app| app.meta.uid == *uid);
        let mut found = Vec::new();
        for (marked, _) in node.copies() {
            if marked.installation == self.installation && !known(&marked.app) {
                found.push(format!("{} is left of {}", marked.instance, marked.app));
            }
        }
        found.extend(
            router.apps().iter().filter(|uid| !known(uid)).map(|uid| format!("a table is left of {uid}")),
        );
        found
    }
}
