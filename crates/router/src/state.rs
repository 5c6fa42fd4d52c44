//! What is served: each App's table and members, with the ledger, in memory and on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use plimsoll_driver::{DriverError, Ledger, LedgerLine};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{ComponentHash, ComponentName, InstallationId, InstanceId, PartName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Fence, Split, Step, Table};
use plimsoll_model::world::{Member as MemberView, MemberState, RouterView};
use plimsoll_shim::{read, write_durably};
use serde::{Deserialize, Serialize};

use crate::hold::{Holding, Sleeper};
use crate::load::Load;

/// A copy that receives or has received traffic.
#[derive(Debug)]
pub(crate) struct Member {
    record: MemberRecord,
    /// Shared with what replaces this entry when its state changes.
    load: Arc<Load>,
    since: Instant,
}

/// A member as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberRecord {
    component: ComponentName,
    endpoints: BTreeMap<PartName, SocketAddr>,
    draining: bool,
    /// What it runs; not known of one that a router of an earlier version admitted.
    #[serde(default)]
    revision: Option<ComponentHash>,
}

/// One App's share as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    ledger: LedgerLine,
    table: Table,
    members: BTreeMap<InstanceId, MemberRecord>,
    /// The App's name.
    #[serde(default)]
    key: Option<ObjectKey>,
}

#[derive(Debug, Default, Clone)]
struct App {
    key: Option<ObjectKey>,
    table: Table,
    members: BTreeMap<InstanceId, Arc<Member>>,
}

/// One request or connection at a member. It counts until this is dropped.
pub(crate) struct InFlight {
    pub(crate) endpoint: SocketAddr,
    pub(crate) load: Arc<Load>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.end();
    }
}

/// Members that share traffic, each by where it answers and what it has to do.
#[derive(Debug, Default)]
struct Group {
    seats: Vec<(SocketAddr, Arc<Load>)>,
    turn: AtomicUsize,
}

impl Group {
    fn of(seats: Vec<(SocketAddr, Arc<Load>)>) -> Self {
        Self { seats, turn: AtomicUsize::new(0) }
    }

    /// The member with the least to do that has not been tried yet; among equals each has its turn.
    fn pick(&self, tried: &[SocketAddr]) -> Option<InFlight> {
        let (turn, count) = (self.turn.fetch_add(1, Ordering::Relaxed), self.seats.len());
        let in_turn = (0..count).map(|index| &self.seats[(turn + index) % count]);
        let free = in_turn.filter(|(endpoint, _)| !tried.contains(endpoint));
        let (endpoint, load) = free.min_by_key(|(_, load)| load.in_flight())?;
        load.begin();
        Some(InFlight { endpoint: *endpoint, load: load.clone() })
    }
}

/// The members that share the traffic of one port of one component.
#[derive(Debug)]
pub(crate) struct Backend {
    members: Group,
    /// Members that get a share of their own.
    apart: Group,
    /// That share in percent.
    weight: u8,
    turn: AtomicUsize,
    /// Whom to wake where nobody is ready.
    pub(crate) sleeper: Option<Sleeper>,
}

impl Backend {
    fn new(members: Group, apart: Group, weight: u8) -> Self {
        // Tables change often: turns that always began anew would never come to a small share.
        Self {
            members,
            apart,
            weight: weight.min(100),
            turn: AtomicUsize::new(fastrand::usize(..100)),
            sleeper: None,
        }
    }

    /// A member for a request or connection, other than those that have been tried.
    pub(crate) fn pick(&self, tried: &[SocketAddr]) -> Option<InFlight> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % 100;
        let weight = usize::from(self.weight);
        // As many turns of a hundred as the weight says, spread evenly.
        if (turn + 1) * weight / 100 > turn * weight / 100 {
            return self.apart.pick(tried).or_else(|| self.members.pick(tried));
        }
        self.members.pick(tried).or_else(|| self.apart.pick(tried).filter(|_| weight > 0))
    }

    /// Nobody is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.seats.is_empty() && (self.apart.seats.is_empty() || self.weight == 0)
    }
}

/// A route in the order in which it is tried.
#[derive(Debug)]
pub(crate) struct Route {
    path: String,
    /// Who answers.
    pub(crate) backend: Arc<Backend>,
    /// Whether it is served encrypted only.
    pub(crate) tls: bool,
    /// For how long clients are told so.
    pub(crate) hsts: Option<Span>,
}

/// What is served at one moment, ready to be looked up.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    hosts: HashMap<String, Vec<Route>>,
    services: HashMap<SocketAddr, Arc<Backend>>,
}

impl Routing {
    /// The route of a request: the exact host before `*.` hosts, the longest path first.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Route> {
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let hosts = [self.hosts.get(host), wildcard.as_ref().and_then(|host| self.hosts.get(host))];
        let mut routes = hosts.into_iter().flatten().flatten();
        routes.find(|route| covers(&route.path, path))
    }

    /// The backend of a stable address.
    pub(crate) fn service(&self, at: SocketAddr) -> Option<&Arc<Backend>> {
        self.services.get(&at)
    }

    /// Every stable address that is served.
    pub(crate) fn services(&self) -> BTreeSet<SocketAddr> {
        self.services.keys().copied().collect()
    }
}

/// Whether a path begins with whole segments of a prefix.
fn covers(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All of it, shared.
pub(crate) struct State {
    directory: PathBuf,
    installation: InstallationId,
    inner: Mutex<Inner>,
    routing: RwLock<Arc<Routing>>,
    /// Requests that wait for components that sleep.
    pub(crate) holding: Arc<Holding>,
}

#[derive(Default)]
struct Inner {
    ledger: Ledger,
    apps: BTreeMap<Uid, App>,
}

impl State {
    /// Reads what was served before.
    pub(crate) fn open(directory: PathBuf, installation: InstallationId) -> io::Result<Self> {
        let mut inner = Inner::default();
        std::fs::create_dir_all(directory.join("apps"))?;
        for entry in std::fs::read_dir(directory.join("apps"))? {
            let name = entry?.file_name();
            let Some(uid) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            let uid: Uid = uid.parse().map_err(io::Error::other)?;
            let record: Record = read(&directory.join("apps"), &format!("{uid}.json"))?
                .ok_or_else(|| io::Error::other(format!("the table of {uid} cannot be understood")))?;
            inner.ledger.learn(record.ledger);
            let members = record.members.into_iter().map(|(id, record)| (id, Arc::new(Member::new(record))));
            inner.apps.insert(uid, App { key: record.key, table: record.table, members: members.collect() });
        }
        let routing = RwLock::new(Arc::new(inner.routing()));
        Ok(Self { directory, installation, inner: Mutex::new(inner), routing, holding: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is served now.
    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.routing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nobody receives traffic or has any left to finish.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.lock();
        let mut members = inner.apps.values().flat_map(|app| app.members.values());
        members.all(|it| it.record.draining && it.load.in_flight() == 0)
    }

    /// One App's share.
    pub(crate) fn view(&self, app: &Uid) -> RouterView {
        let inner = self.lock();
        let share = inner.apps.get(app);
        RouterView {
            following: inner.ledger.following(app),
            effects: inner.ledger.effects(app),
            closed: inner.ledger.is_closed(app),
            divides: true,
            wakes: true,
            waiting: self.holding.waiting(app),
            table: share.map(|it| it.table.clone()).unwrap_or_default(),
            members: share
                .into_iter()
                .flat_map(|it| it.members.iter().map(|(id, member)| (id.clone(), member.view())))
                .collect(),
        }
    }

    /// Carries out a step: on disk first, then in what is served. `listen` is asked to serve new addresses before
    /// anything is changed.
    pub(crate) fn execute(
        &self,
        step: &Step,
        fence: &Fence,
        listen: impl FnOnce(&BTreeSet<SocketAddr>) -> io::Result<()>,
    ) -> Result<(), DriverError> {
        if fence.installation != self.installation {
            return Err(DriverError::Terminal("this router serves another installation".into()));
        }
        let mut inner = self.lock();
        let mut ledger = inner.ledger.clone();
        ledger.admit(fence).map_err(DriverError::Refused)?;
        let old = inner.apps.get(&fence.app).cloned().unwrap_or_default();
        let (mut new, changed) = changed(old, step, ledger.is_closed(&fence.app))?;
        new.key = Some(fence.key.clone());
        if changed {
            ledger.record(&fence.app);
        }
        if step.action == Action::Withdraw {
            ledger.close(&fence.app);
        }
        let mut next = Inner { ledger, apps: inner.apps.clone() };
        next.apps.insert(fence.app.clone(), new);
        let routing = next.routing();
        listen(&routing.services())
            .map_err(|error| DriverError::Transient(format!("an address cannot be served: {error}")))?;
        next.save(&self.directory, &fence.app)
            .map_err(|error| DriverError::Transient(format!("the table cannot be written: {error}")))?;
        *inner = next;
        *self.routing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routing);
        Ok(())
    }
}

/// An App's share after a step, and whether that is another one.
fn changed(mut app: App, step: &Step, closed: bool) -> Result<(App, bool), DriverError> {
    let changed = match &step.action {
        Action::Publish { table } => {
            let changed = app.table != *table;
            app.table = table.clone();
            changed
        }
        Action::Admit { instance, endpoints, revision } => {
            let component = step
                .component
                .clone()
                .ok_or_else(|| DriverError::Terminal("an admission names its component".into()))?;
            let (endpoints, revision) = (endpoints.clone(), *revision);
            let record = MemberRecord { component, endpoints, draining: false, revision };
            let old = app.members.get(instance);
            let changed = old.is_none_or(|old| old.record != record);
            if changed {
                app.members.insert(instance.clone(), Arc::new(Member::after(old, record)));
            }
            changed
        }
        Action::Drain { instance } => match app.members.get(instance) {
            Some(old) if !old.record.draining => {
                let record = MemberRecord { draining: true, ..old.record.clone() };
                let member = Arc::new(Member::after(Some(old), record));
                app.members.insert(instance.clone(), member);
                true
            }
            _ => false,
        },
        Action::Expel { instance } => app.members.remove(instance).is_some(),
        Action::Withdraw => {
            app = App::default();
            !closed
        }
        Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. } | Action::Close => {
            return Err(DriverError::Terminal("a router has no node's steps".into()));
        }
    };
    Ok((app, changed))
}

impl Inner {
    fn save(&self, directory: &std::path::Path, uid: &Uid) -> io::Result<()> {
        let Some(ledger) = self.ledger.line(uid) else { return Ok(()) };
        let app = self.apps.get(uid).cloned().unwrap_or_default();
        let members = app.members.iter().map(|(id, member)| (id.clone(), member.record.clone()));
        let record = Record { ledger, table: app.table, members: members.collect(), key: app.key };
        write_durably(&directory.join("apps"), &format!("{uid}.json"), &record)
    }

    /// Everything that is served, ready to be looked up.
    fn routing(&self) -> Routing {
        let mut routing = Routing::default();
        for (uid, app) in &self.apps {
            let mut backends: HashMap<(&ComponentName, &PartName), Arc<Backend>> = HashMap::new();
            for (component, service) in &app.table.services {
                for (port, number) in &service.ports {
                    let backend = Arc::new(Backend {
                        sleeper: service.hold.map(|hold| app.sleeper(uid, component, hold)),
                        ..app.backend(component, service.split, port)
                    });
                    backends.insert((component, port), backend.clone());
                    routing.services.insert(SocketAddr::new(IpAddr::V4(service.ip), *number), backend);
                }
            }
            for route in &app.table.routes {
                let Some(backend) = backends.get(&(&route.component, &route.port)) else { continue };
                let routes = routing.hosts.entry(route.host.to_lowercase()).or_default();
                routes.push(Route {
                    path: route.path.clone(),
                    backend: backend.clone(),
                    tls: route.tls.is_on(),
                    hsts: route.hsts,
                });
            }
        }
        for routes in routing.hosts.values_mut() {
            routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        }
        routing
    }
}

impl App {
    fn sleeper(&self, uid: &Uid, component: &ComponentName, hold: Span) -> Sleeper {
        Sleeper { app: uid.clone(), component: component.clone(), key: self.key.clone(), hold }
    }

    fn backend(&self, component: &ComponentName, split: Option<Split>, port: &PartName) -> Backend {
        let active =
            self.members.values().filter(|it| it.record.component == *component && !it.record.draining);
        // What a router of an earlier version admitted was there before anything could be tried.
        let is_apart =
            |it: &Member| split.zip(it.record.revision).is_some_and(|(split, its)| its != split.good);
        let (apart, members): (Vec<_>, Vec<_>) = active.partition(|it| is_apart(it));
        let seats = |members: Vec<&Arc<Member>>| {
            let seats = members.into_iter();
            Group::of(
                seats.filter_map(|it| Some((*it.record.endpoints.get(port)?, it.load.clone()))).collect(),
            )
        };
        Backend::new(seats(members), seats(apart), split.map_or(0, |split| split.others))
    }
}

impl Member {
    fn new(record: MemberRecord) -> Self {
        Self { record, load: Arc::default(), since: Instant::now() }
    }

    /// The same member in another state: what is under way stays counted.
    fn after(old: Option<&Arc<Self>>, record: MemberRecord) -> Self {
        let load = old.map(|old| old.load.clone()).unwrap_or_default();
        Self { record, load, since: Instant::now() }
    }

    fn view(&self) -> MemberView {
        let since = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let state = if self.record.draining {
            MemberState::Draining { since: Span::millis(since) }
        } else {
            MemberState::Active
        };
        MemberView {
            component: self.record.component.clone(),
            state,
            in_flight: self.load.in_flight(),
            idle: self.load.idle(self.since),
            recent: self.load.recent(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_by_whole_segments() {
        assert!(covers("/", "/"));
        assert!(covers("/", "/a"));
        assert!(covers("/a", "/a"));
        assert!(covers("/a/", "/a/b"));
        assert!(!covers("/a", "/ab"));
    }

    #[test]
    fn members_take_turns_and_a_busy_one_is_spared() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let seats = vec![(at(1), Arc::default()), (at(2), Arc::default())];
        let backend = Backend::new(Group::of(seats), Group::default(), 0);
        let first = backend.pick(&[]).unwrap();
        let second = backend.pick(&[]).unwrap();
        assert_ne!(first.endpoint, second.endpoint);
        drop(first);
        let busy = second.endpoint;
        assert_ne!(backend.pick(&[]).unwrap().endpoint, busy);
        assert_ne!(backend.pick(&[]).unwrap().endpoint, busy);
        assert!(backend.pick(&[at(1), at(2)]).is_none());
    }

    #[test]
    fn a_share_is_kept_to_the_request_and_nothing_means_nothing() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let seat = |port| Group::of(vec![(at(port), Arc::default())]);
        for weight in [0, 1, 5, 33, 50, 99, 100] {
            let backend = Backend::new(seat(1), seat(2), weight);
            let apart = (0..300).filter(|_| backend.pick(&[]).unwrap().endpoint == at(2)).count();
            assert_eq!(apart, usize::from(weight) * 3);
            let in_row = (0..50).map(|_| backend.pick(&[]).unwrap().endpoint == at(2)).collect::<Vec<_>>();
            assert!(weight != 50 || in_row.windows(2).all(|pair| pair[0] != pair[1]), "evenly: {in_row:?}");
        }
        let only_apart = Backend::new(Group::default(), seat(2), 0);
        assert!(only_apart.pick(&[]).is_none() && only_apart.is_empty());
        let only_apart = Backend::new(Group::default(), seat(2), 1);
        assert!(only_apart.pick(&[]).is_some(), "rather a new copy than none");
        let only_old = Backend::new(seat(1), Group::default(), 100);
        assert!(only_old.pick(&[]).is_some());
    }
}
