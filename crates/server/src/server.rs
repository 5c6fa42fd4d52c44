//! The parts, put together.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use plimsoll_agent::{Agent, AgentError, Beside, Log, Reached, Used};
use plimsoll_driver::DriverError;
use plimsoll_engine::{Clock, Hints, Pace};
use plimsoll_model::audit::Action;
use plimsoll_model::id::{InstanceId, ObjectName, ProjectName, TargetName};
use plimsoll_model::kind::{Build, ProjectSpec, TargetSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::{Attached, Kind, ObjectKey, Project, Target};
use plimsoll_reconcile::{
    AppReconciler, Apps, Builds, Certificates, DEFAULT_TARGET, Drivers, Hold, Identity, ImageSource, Images,
    Looks, Orphan, Orphans, Push, Pushes, SweepError, Tombstones, follow,
};
use plimsoll_router::{Ports, RouterDriver};
use plimsoll_store::{Batch, New, Scope, Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::Caller;
use crate::apply::ApplyError;
use crate::backup::installation_key;
use crate::builds::{Builders, log_of};
use crate::certificates;
use crate::content;
use crate::data::{DataDirectory, DataError};
use crate::fetch;
use crate::gate::Gate;
use crate::gauges::Asked;
use crate::images::Sources;
use crate::keyring::Keyring;
use crate::meter::{Meter, Metered};
use crate::plan::Reviews;
use crate::programs;
use crate::receipt;
use crate::store::{self, StoreChoiceError};

/// Pause before a router is asked again that did not say who is woken.
const WOKEN_PAUSE: Duration = Duration::from_secs(1);

/// Time between two looks for instances that nobody owns.
const SWEEP: Duration = Duration::from_mins(1);

/// Time between two tries to tell silent targets of Apps that were given up.
const TEND: Duration = Duration::from_secs(10);

/// Time between two steps towards the end of what is left of such an App.
const BURIAL: Duration = Duration::from_millis(500);

/// Time between two looks for programs that nothing names.
const TIDY: Duration = Duration::from_mins(10);

/// How a control plane is set up.
#[derive(Clone)]
pub struct Settings {
    /// The data directory.
    pub data: PathBuf,
    /// The program itself: `PROGRAM shim DIRECTORY` is a supervisor, `PROGRAM router DIRECTORY INSTALLATION` a router.
    pub program: PathBuf,
    /// Where routes are served; where they were, if it is not given.
    pub routes: Ports,
    /// The authority that gives certificates for routes, if there is one.
    pub acme: Option<plimsoll_certificate::Settings>,
    /// The address of the database that keeps everything; a file in the data directory does if none is given.
    pub store: Option<String>,
    /// The file that opens the installation's secrets; one in the data directory does if none is given.
    pub key_file: Option<PathBuf>,
    /// Drivers in the place of the local node's: for whoever measures the control plane alone.
    pub drivers: Option<Drivers>,
}

/// Why a control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] StoreChoiceError),
    /// The store does not take the first objects.
    #[error("the store cannot be written")]
    Store(#[from] StoreError),
    /// The local node cannot be kept.
    #[error("the local node cannot be kept")]
    Agent(#[from] AgentError),
    /// The port that was asked for cannot be served.
    #[error(
        "routes cannot be served there: stop what has the port, or give another --http-port or --https-port"
    )]
    Router(#[source] DriverError),
    /// A router runs already, and serves elsewhere.
    #[error(
        "routes are served at {0} by a router that runs: leave out where to serve them, or end what it serves first"
    )]
    Served(SocketAddr),
    /// The system refused something else.
    #[error("the operating system refused")]
    Io(#[from] io::Error),
}

struct WallClock;

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock port")]
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The local node: its agent and its router.
struct LocalNode {
    agent: Option<Agent>,
    router: RouterDriver,
    drivers: Drivers,
    /// Where copies get programs by themselves.
    programs: Vec<TcpListener>,
}

impl LocalNode {
    async fn open(data: &DataDirectory, settings: &Settings, hints: &Hints) -> Result<Self, StartError> {
        let directory = data.node()?;
        let target: TargetName = DEFAULT_TARGET.parse().map_err(io::Error::other)?;
        let program = settings.program.display().to_string();
        let tables = data.path().join("router");
        let installation = data.installation().to_string();
        let mut command = vec![program.clone(), "router".into(), tables.display().to_string(), installation];
        let Ports { address, http, https } = settings.routes;
        command.extend(http.map(|port| port.to_string()));
        command.extend(address.map(|address| format!("--address={address}")));
        command.extend(https.map(|port| format!("--https-port={port}")));
        let router = RouterDriver::new(target.clone(), tables, command);
        if let Some(drivers) = settings.drivers.clone() {
            return Ok(Self { agent: None, router, drivers, programs: Vec::new() });
        }
        let marker = hints.clone();
        let (at, programs) = fetch::listen(data.installation()).unzip();
        let agent = Agent::open(plimsoll_agent::Config {
            directory,
            content: data.content(),
            installation: data.installation().clone(),
            target,
            shim: vec![program, "shim".into()],
            programs: at,
            on_change: Arc::new(move |app| marker.mark(app)),
        })?;
        // Who names a place wants that one. Without, a router that does not start is a wait like any other.
        let named = |port: Option<u16>| port.filter(|port| *port != 0);
        if named(http).is_some() || address.is_some() {
            let served = router.address().await.map_err(StartError::Router)?;
            elsewhere(served, address, named(http))?;
        }
        if named(https).is_some() {
            match router.tls_address().await {
                Ok(served) => elsewhere(served, address, named(https))?,
                // One of an earlier version serves nothing encrypted; whoever wants that is told to end it.
                Err(DriverError::Terminal(_)) => {}
                Err(error) => return Err(StartError::Router(error)),
            }
        }
        let drivers = Drivers::new().with(agent.clone()).with(router.clone());
        Ok(Self { agent: Some(agent), router, drivers, programs: programs.unwrap_or_default() })
    }
}

/// Hints in an order of this process's own.
fn new_hints() -> io::Result<Hints> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(Hints::new(u64::from_ne_bytes(seed)))
}

/// Has sources built by the local node, and returns what tells of pushes.
fn build(
    tasks: &mut JoinSet<()>,
    data: &DataDirectory,
    (store, agent): (&Store, &Option<Agent>),
    hold: &Hold,
    (clock, hints): (&Arc<dyn Clock>, &Hints),
) -> Pushes {
    let builders = Builders {
        store: store.clone(),
        opener: data.keyring().clone(),
        agent: agent.clone(),
        content: data.content(),
        logs: data.builds(),
    };
    plimsoll_build::git::sweep();
    let (pushes, heard) = Pushes::new();
    let (store, clock, hints) = (store.clone(), clock.clone(), hints.clone());
    tasks.spawn(Builds::new(store, Arc::new(builders), clock, hints, hold.clone(), heard).run());
    pushes
}

/// Refuses what is served elsewhere than it is wanted.
fn elsewhere(served: SocketAddr, address: Option<IpAddr>, port: Option<u16>) -> Result<(), StartError> {
    let is_there =
        port.is_none_or(|port| port == served.port()) && address.is_none_or(|ip| ip == served.ip());
    if is_there { Ok(()) } else { Err(StartError::Served(served)) }
}

/// A control plane at work. It ends when this is dropped; what it keeps runs on.
pub struct Server {
    data: DataDirectory,
    store: Store,
    clock: Arc<dyn Clock>,
    agent: Option<Agent>,
    router: RouterDriver,
    reconciler: AppReconciler,
    pub(crate) reviews: Reviews,
    orphans: watch::Receiver<Vec<Orphan>>,
    hints: Hints,
    meter: Meter,
    identity: Identity,
    gate: Gate,
    drivers: Drivers,
    images: Arc<dyn ImageSource>,
    looks: Looks,
    pushes: Pushes,
    /// Held by whoever removes programs that nothing names, or needs them to stay.
    pub(crate) tidying: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever moves everything to another store.
    pub(crate) migrating: tokio::sync::Mutex<()>,
    /// Held by whoever looks for room for a program.
    pub(crate) loading: tokio::sync::Mutex<()>,
    programs: Mutex<Vec<TcpListener>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Takes the data directory and begins to work.
    ///
    /// # Errors
    /// [`StartError`]; then the data directory is free again.
    #[expect(clippy::too_many_lines, reason = "all of it is put together in one place")]
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let data = DataDirectory::take(&settings.data, settings.key_file.as_deref())?;
        let gate = Gate::default();
        let store = store::open(&data, settings.store.as_deref(), &gate).await?;
        // The store has been brought to this version: there is no way back any more.
        data.keyring().forget_before().map_err(DataError::from)?;
        let clock: Arc<dyn Clock> = Arc::new(WallClock);
        declare_defaults(&store, clock.now()).await?;
        let hints = new_hints()?;
        let LocalNode { agent, router, drivers, programs } =
            LocalNode::open(&data, &settings, &hints).await?;
        let hold = Hold::new(data.held().is_some());
        let identity = Identity { installation: data.installation().clone(), epoch: data.epoch(), hold };
        let reconciler = AppReconciler::new(
            store.clone(),
            drivers.clone(),
            identity.clone(),
            clock.clone(),
            data.keyring().clone(),
            Arc::new(Asked::of(hints.clone(), agent.clone())),
            plimsoll_reconcile::Settings::default(),
        );
        let (mut tasks, meter) = (JoinSet::new(), Meter::default());
        let census = Arc::new(Apps(store.clone()));
        tasks.spawn(plimsoll_engine::run(
            hints.clone(),
            Arc::new(Metered { inner: reconciler.clone(), meter: meter.clone() }),
            census,
            Pace::default(),
        ));
        tasks.spawn(follow(store.clone(), hints.clone()));
        let (found, orphans) = watch::channel(Vec::new());
        tasks.spawn(sweep(Orphans::new(store.clone(), drivers.clone(), identity.clone()), found));
        tasks.spawn(bury(Tombstones::new(store.clone(), drivers.clone(), identity.clone())));
        let images: Arc<dyn ImageSource> = Arc::new(Sources::new(agent.clone()));
        let (looks, asked) = Looks::new();
        tasks.spawn(Images::new(store.clone(), images.clone(), clock.clone(), hints.clone(), asked).run());
        let pushes = build(&mut tasks, &data, (&store, &agent), &identity.hold, (&clock, &hints));
        if settings.drivers.is_none() {
            tasks.spawn(keep(router.clone(), hints.clone()));
            let source = certificates::Sources::new(&settings, data.path(), router.clone(), clock.clone());
            let (opener, hold) = (data.keyring().clone(), identity.hold.clone());
            let (store, clock, hints) = (store.clone(), clock.clone(), hints.clone());
            let certificates = Certificates::new(store, Arc::new(source), opener, clock, hints, hold);
            tasks.spawn(certificates.run());
        }
        let tidying = Arc::default();
        tasks.spawn(tidy(store.clone(), data.content(), identity.hold.clone(), Arc::clone(&tidying)));
        Ok(Self {
            data,
            store,
            clock,
            agent,
            router,
            reconciler,
            reviews: Reviews::default(),
            orphans,
            hints,
            meter,
            identity,
            gate,
            drivers,
            images,
            looks,
            pushes,
            tidying,
            migrating: tokio::sync::Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            programs: Mutex::new(programs),
            _tasks: tasks,
        })
    }

    /// Everything declared and recorded.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The data directory.
    pub fn data(&self) -> &DataDirectory {
        &self.data
    }

    /// The agent of the local node, if there is one.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Where copies ask for their programs, for the one who answers them; nobody gets them twice.
    pub fn program_listeners(&self) -> Vec<TcpListener> {
        std::mem::take(&mut *self.programs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where a copy is reached, if it is one of the local node.
    pub fn reached(&self, instance: &InstanceId) -> Option<Reached> {
        self.agent.as_ref()?.reached(instance)
    }

    /// A command that runs beside a copy's program, if it is one of the local node.
    pub fn beside(&self, instance: &InstanceId, argv: &[String], terminal: bool) -> Option<Beside> {
        self.agent.as_ref()?.beside(instance, argv, terminal)
    }

    /// Where a copy's words are, if it is one of the local node.
    pub fn log(&self, instance: &InstanceId) -> Option<Log> {
        self.agent.as_ref()?.log(instance)
    }

    /// When the latest run of a copy began, in milliseconds since 1970 UTC, if it is one of the local node.
    pub fn began(&self, instance: &InstanceId) -> Option<u64> {
        self.agent.as_ref()?.began(instance)
    }

    /// What the processes of copies use now, of those that run on the local node.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn used(&self, instances: &[InstanceId]) -> io::Result<BTreeMap<InstanceId, Used>> {
        self.agent.as_ref().map_or_else(|| Ok(BTreeMap::new()), |agent| agent.used(instances))
    }

    /// Records that somebody runs a command beside a copy's program.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn note_exec(&self, caller: &Caller, kind: &str, copy: &ObjectKey) -> Result<(), StoreError> {
        let entry = self.entry(caller, Action::Exec, kind, copy);
        self.store.commit(&Scope::All, Batch::new().audited(entry)).await
    }

    /// The file with the certificate of the installation's own authority, once there is one.
    pub fn authority(&self) -> Option<PathBuf> {
        let file = self.data.path().join(plimsoll_certificate::OwnAuthority::FILE);
        file.exists().then_some(file)
    }

    /// The router of the local node.
    pub fn router(&self) -> &RouterDriver {
        &self.router
    }

    /// Copies of this installation that no App owned at the latest look.
    pub fn orphans(&self) -> Vec<Orphan> {
        self.orphans.borrow().clone()
    }

    /// What is measured here.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Everything that is measured, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.meter.text(&self.hints, self.store.position().0)
    }

    /// Wall time, for stamps that people read.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Copies of this installation that no App owns now.
    pub(crate) async fn find_orphans(&self) -> Result<Vec<Orphan>, SweepError> {
        Orphans::new(self.store.clone(), self.drivers.clone(), self.identity.clone()).find().await
    }

    /// Records that something was done with the installation as a whole.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn note(&self, caller: &Caller, action: Action) -> Result<(), StoreError> {
        let installation = installation_key(self.data.installation());
        let entry = self.entry(caller, action, "installation", &installation);
        self.store.commit(&Scope::All, Batch::new().audited(entry)).await
    }

    /// Records that something was refused that is done with the installation as a whole.
    pub async fn note_refused(&self, caller: &Caller, action: Action, error: &ApplyError) {
        let installation = installation_key(self.data.installation());
        self.note_refusal(caller, action, "installation", &installation, error).await;
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Tells of repositories that have moved.
    pub(crate) fn pushes(&self) -> &Pushes {
        &self.pushes
    }

    /// Has something built again. `false` if so much waits that it is not.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rebuild(&self, caller: &Caller, build: &ObjectKey) -> Result<bool, StoreError> {
        let entry = self.entry(caller, Action::Deploy, Build::PLURAL, build);
        self.store.commit(&Scope::All, Batch::new().audited(entry)).await?;
        Ok(self.pushes.tell(Push::Build(build.clone())))
    }

    /// Where the log of a build lies.
    pub fn build_log(&self, project: &ProjectName, build: &ObjectName) -> PathBuf {
        log_of(&self.data.builds(), project, build)
    }

    /// Has images looked at.
    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    pub(crate) fn image_source(&self) -> &dyn ImageSource {
        &*self.images
    }

    pub(crate) fn hints(&self) -> &Hints {
        &self.hints
    }

    pub(crate) fn reconciler(&self) -> &AppReconciler {
        &self.reconciler
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        self.data.keyring()
    }
}

async fn bury(tombstones: Tombstones) {
    loop {
        // A target that answered is on its way; one that did not is asked again later.
        let is_busy = tombstones.tend().await.unwrap_or(false);
        tokio::time::sleep(if is_busy { BURIAL } else { TEND }).await;
    }
}

/// Keeps the router up, and has Apps looked at that it is asked for while they sleep.
async fn keep(router: RouterDriver, hints: Hints) {
    tokio::select! {
        () = router.keep() => {}
        () = wake(&router, &hints) => {}
    }
}

async fn wake(router: &RouterDriver, hints: &Hints) {
    let mut heard = 0;
    loop {
        match router.woken(&mut heard).await {
            Ok(apps) => apps.iter().for_each(|app| hints.mark(app)),
            Err(_) => tokio::time::sleep(WOKEN_PAUSE).await,
        }
    }
}

async fn sweep(mut orphans: Orphans, found: watch::Sender<Vec<Orphan>>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        // What could not be examined now is examined at the next tick.
        if let Ok(now) = orphans.sweep().await {
            found.send_replace(now);
        }
    }
}

async fn tidy(store: Store, content: PathBuf, hold: Hold, tidying: Arc<tokio::sync::Mutex<()>>) {
    let mut ticks = tokio::time::interval(TIDY);
    loop {
        ticks.tick().await;
        if hold.is_on() {
            continue;
        }
        let _tidying = tidying.lock().await;
        // What is in the way now is tidied away at the next tick.
        content::collect(&store, &content).await.ok();
        receipt::collect(&store, WallClock.now()).await.ok();
        programs::collect(&store, WallClock.now()).await.ok();
    }
}

/// The local target and the default project, unless they are there.
async fn declare_defaults(store: &Store, at: Timestamp) -> Result<(), StoreError> {
    ensure::<Target>(store, DEFAULT_TARGET, TargetSpec::local(), at).await?;
    ensure::<Project>(store, "default", ProjectSpec::default(), at).await
}

async fn ensure<K: Kind<Operations = ()>>(
    store: &Store,
    name: &str,
    spec: K::Spec,
    at: Timestamp,
) -> Result<(), StoreError> {
    let key = ObjectKey::of_installation(name.parse().expect("a built-in name is valid"));
    if store.get::<K>(&Scope::All, &key).await?.is_some() {
        return Ok(());
    }
    let uid = format!("{}-{name}", K::NAME.to_lowercase()).parse().expect("a built-in uid is valid");
    store
        .commit(
            &Scope::All,
            Batch::new().create(New::<K> {
                uid,
                key,
                owner: None,
                at,
                attached: Attached::default(),
                spec,
                operations: (),
            }),
        )
        .await
}
