//! A router in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_model::id::{InstallationId, InstanceId, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Fence, Scope, Step, Table};
use plimsoll_model::world::{Member, MemberState, Recent, RouterView};

use crate::error::DriverError;
use crate::ledger::Ledger;
use crate::port::{Driver, Fut, Marked, SecretValues, Sighting};

/// A router in memory. Clones share it.
#[derive(Clone)]
pub struct FakeRouter {
    target: TargetName,
    installation: InstallationId,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    elapsed: Span,
    ledger: Ledger,
    tables: BTreeMap<Uid, AppTable>,
}

#[derive(Default)]
struct AppTable {
    table: Table,
    members: BTreeMap<InstanceId, Kept>,
}

struct Kept {
    member: Member,
    draining_since: Span,
}

impl FakeRouter {
    /// An empty router that serves one installation.
    pub fn new(target: TargetName, installation: InstallationId) -> Self {
        Self { target, installation, state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass.
    pub fn advance(&self, by: Span) {
        let mut state = self.lock();
        state.elapsed = state.elapsed.plus(by);
        let now = state.elapsed;
        for kept in state.tables.values_mut().flat_map(|table| table.members.values_mut()) {
            if let MemberState::Draining { since } = &mut kept.member.state {
                *since = now.minus(kept.draining_since);
            }
        }
    }

    /// Sets the requests under way at a member.
    pub fn load(&self, app: &Uid, instance: &InstanceId, in_flight: u32) {
        let mut state = self.lock();
        if let Some(kept) = state.tables.get_mut(app).and_then(|table| table.members.get_mut(instance)) {
            kept.member.in_flight = in_flight;
        }
    }

    /// One App's share: the truth, for checks.
    pub fn view(&self, app: &Uid) -> RouterView {
        self.lock().view(app)
    }

    /// Every App that has anything here: the truth, for checks.
    pub fn apps(&self) -> Vec<Uid> {
        let state = self.lock();
        let used = |table: &AppTable| !table.table.is_empty() || !table.members.is_empty();
        state.tables.iter().filter(|(_, table)| used(table)).map(|(app, _)| app.clone()).collect()
    }
}

impl State {
    fn view(&self, app: &Uid) -> RouterView {
        let table = self.tables.get(app);
        RouterView {
            following: self.ledger.following(app),
            effects: self.ledger.effects(app),
            closed: self.ledger.is_closed(app),
            divides: true,
            // Nobody asks for anything here.
            wakes: false,
            waiting: BTreeMap::new(),
            table: table.map(|it| it.table.clone()).unwrap_or_default(),
            members: table
                .into_iter()
                .flat_map(|it| it.members.iter().map(|(id, kept)| (id.clone(), kept.member.clone())))
                .collect(),
        }
    }

    fn execute(
        &mut self,
        step: &Step,
        fence: &Fence,
        installation: &InstallationId,
    ) -> Result<(), DriverError> {
        if fence.installation != *installation {
            return Err(DriverError::Terminal("this router serves another installation".into()));
        }
        self.ledger.admit(fence).map_err(DriverError::Refused)?;
        let now = self.elapsed;
        let app = self.tables.entry(fence.app.clone()).or_default();
        let changed = match &step.action {
            Action::Publish { table } => {
                let changed = app.table != *table;
                app.table = table.clone();
                changed
            }
            Action::Admit { instance, .. } => {
                let component = step
                    .component
                    .clone()
                    .ok_or_else(|| DriverError::Terminal("an admission names its component".into()))?;
                let kept = app.members.entry(instance.clone()).or_insert_with(|| Kept {
                    member: Member {
                        component,
                        state: MemberState::Draining { since: Span::ZERO },
                        in_flight: 0,
                        idle: None,
                        recent: Recent::default(),
                    },
                    draining_since: now,
                });
                let changed = kept.member.state != MemberState::Active;
                kept.member.state = MemberState::Active;
                changed
            }
            Action::Drain { instance } => match app.members.get_mut(instance) {
                Some(kept) if kept.member.state == MemberState::Active => {
                    kept.member.state = MemberState::Draining { since: Span::ZERO };
                    kept.draining_since = now;
                    true
                }
                _ => false,
            },
            Action::Expel { instance } => app.members.remove(instance).is_some(),
            Action::Withdraw => {
                let first = !self.ledger.is_closed(&fence.app);
                self.tables.remove(&fence.app);
                self.ledger.close(&fence.app);
                first
            }
            Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. } | Action::Close => {
                return Err(DriverError::Terminal("a router has no node's steps".into()));
            }
        };
        if changed {
            self.ledger.record(&fence.app);
        }
        Ok(())
    }
}

impl Driver for FakeRouter {
    fn scope(&self) -> Scope {
        Scope::Router(self.target.clone())
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move { Ok(Sighting::Router(self.lock().view(app))) })
    }

    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>> {
        // Members are found through their App; a router holds no instances of its own.
        Box::pin(async move { Ok(Vec::new()) })
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
