//! The agent as a driver: steps come in, what is seen goes out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use plimsoll_container::{Engine, EngineError};
use plimsoll_driver::{Driver, DriverError, Fut, Marked, SecretValues, Sighting};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{BootId, Digest, InstallationId, InstanceId, PartName, Slot, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::Content;
use plimsoll_model::step::{Action, Fence, Launch, Scope, Step};
use plimsoll_model::world::{NodeTime, NodeView, Phase};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::cgroups::Cgroups;
use crate::container::{self, Container, Engaged, container_name};
use crate::engines::Engines;
use crate::fetch::{Credentials, Fetch, Fetched};
use crate::keeper::{Keeper, Sight};
use crate::ledger::{LedgerFile, NotAdmitted};
use crate::networks::Networks;
use crate::place::{
    ContainerMark, Intent, Mark, Place, passable_directory, private_directory, sync_directory,
};
use crate::process::Process;
use crate::render::{self, RenderError, Standpoint, Values};
use crate::users::{NoUser, Users};
use crate::vehicle::Vehicle;

/// Time between two looks whether the node's network is as it should be.
const NETWORK_LOOK: Duration = Duration::from_secs(30);

/// Lines that are kept as the last words of a copy.
const LAST_WORDS: usize = 20;

/// Called when something of an App changed, so that somebody looks. A hint, nothing more.
pub type OnChange = Arc<dyn Fn(&ObjectKey) + Send + Sync>;

/// What an agent needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where it keeps everything. Users of instances must be able to pass through the directories above.
    pub directory: PathBuf,
    /// Where the bytes of programs are found, by digest.
    pub content: PathBuf,
    /// Whose instances it keeps.
    pub installation: InstallationId,
    /// The target it serves.
    pub target: TargetName,
    /// The command line that starts a supervisor; the instance's directory is added to it.
    pub shim: Vec<String>,
    /// The stable address where copies get their programs; they need not be able to without one.
    pub programs: Option<SocketAddrV4>,
    /// Told of every change.
    pub on_change: OnChange,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used", path.display())]
pub struct AgentError {
    path: PathBuf,
    source: io::Error,
}

/// An agent. Clones share it; it ends with the last one, and what it keeps runs on.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    setting: Setting,
    runtime: tokio::runtime::Handle,
    boot: BootId,
    state: Mutex<State>,
}

/// What all instances share.
struct Setting {
    shim: Arc<[String]>,
    cgroups: Arc<Cgroups>,
    networks: Arc<Networks>,
    engines: Arc<Engines>,
    credentials: Credentials,
}

struct State {
    ledger: LedgerFile,
    users: Users,
    copies: BTreeMap<InstanceId, Copy>,
}

/// What is left of a step for an engine.
enum Then {
    Nothing,
    RemoveContainer(InstanceId),
    RemoveVolumes(Uid),
}

/// An address of its own, if it has one, and the ports that a program is given.
type Reach = (Option<Ipv4Addr>, BTreeMap<PartName, u16>);

/// One instance and the handles on its keeper.
struct Copy {
    mark: Arc<Mark>,
    place: Place,
    sight: Sight,
    intent: watch::Sender<Intent>,
}

impl Agent {
    /// Opens the agent's directory and keeps on keeping what is in it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(config: Config) -> Result<Self, AgentError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError { path, source }
        };
        let directory = config.directory.clone();
        for passable in [&directory, &directory.join("instances"), &directory.join("volumes")] {
            passable_directory(passable).map_err(fail(passable))?;
        }
        private_directory(&config.content, None).map_err(fail(&config.content))?;
        let ledger = LedgerFile::open(directory.join("ledger")).map_err(fail(&directory.join("ledger")))?;
        let users = Users::open(&directory).map_err(fail(&directory))?;
        let boot = plimsoll_shim::boot_id().map_err(fail(Path::new("/proc")))?;
        let setting = Setting {
            shim: config.shim.clone().into(),
            cgroups: Arc::new(Cgroups::discover(&config.installation)),
            networks: Arc::new(Networks::new(&directory)),
            engines: Arc::new(Engines::new(&config.installation, &directory.join("volumes"))),
            credentials: Credentials::open(&directory).map_err(fail(&directory))?,
        };
        let state = Mutex::new(State { ledger, users, copies: BTreeMap::new() });
        let runtime = tokio::runtime::Handle::current();
        let agent = Self { inner: Arc::new(Inner { config, setting, runtime, boot, state }) };
        agent.inner.adopt().map_err(fail(&directory.join("instances")))?;
        let Setting { networks, engines, .. } = &agent.inner.setting;
        tokio::spawn(keep_up(Arc::downgrade(networks), Arc::downgrade(engines)));
        tokio::spawn(find_lost(Arc::downgrade(&agent.inner)));
        Ok(agent)
    }
}

impl Agent {
    /// What something says of a kept instance.
    pub(crate) fn with<T>(&self, instance: &InstanceId, say: impl FnOnce(&Mark, &Place) -> T) -> Option<T> {
        let state = self.inner.lock();
        state.copies.get(instance).map(|copy| say(&copy.mark, &copy.place))
    }

    /// The engine and the container of an instance that is one.
    pub(crate) fn container(&self, instance: &InstanceId) -> Option<(Engine, String)> {
        self.inner.container_of(instance).map(|(engine, name, _)| (engine, name))
    }

    /// Whose program whoever shows a credential gets: that of the one copy it is good for, and from nowhere else than that
    /// copy's own address, where it has one.
    pub fn fetched(&self, credential: &str, from: IpAddr) -> Option<Fetched> {
        let shown = Digest::of_bytes(credential.as_bytes());
        let state = self.inner.lock();
        let mut fetching = state.copies.iter().filter_map(|(instance, copy)| {
            let Some(Content::Fetched { digest }) = copy.mark.launch.content else { return None };
            Some((instance, copy, digest))
        });
        let (instance, copy, digest) = fetching
            .find(|(instance, ..)| self.inner.setting.credentials.of(instance).hash() == shown)
            .filter(|(_, copy, _)| copy.should_run() && copy.mark.address.is_none_or(|own| from == own))?;
        plimsoll_shim::note(copy.place.path(), "it gets its program");
        Some(Fetched { app: copy.mark.key.clone(), instance: instance.clone(), digest })
    }

    pub(crate) fn engines(&self) -> &Engines {
        &self.inner.setting.engines
    }

    /// The command line of a supervisor, without its directory.
    pub(crate) fn shim(&self) -> &[String] {
        &self.inner.config.shim
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, instance: &InstanceId) -> Place {
        Place::at(self.config.directory.join("instances").join(instance.as_str()))
    }

    fn volumes(&self, app: &Uid) -> PathBuf {
        self.config.directory.join("volumes").join(app.as_str())
    }

    /// Finds every instance that is there. What is not under its final name was never finished and never ran.
    fn adopt(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.config.directory.join("instances"))? {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().and_then(|name| name.parse::<InstanceId>().ok()) {
                Some(instance) => {
                    let place = Place::at(entry.path());
                    if let Some(mark) = place.mark()? {
                        let intent = place.intent()?;
                        // Nothing is known of it until its keeper has looked.
                        self.keep(&mut self.lock(), instance, place, mark, (intent, Phase::Unknown));
                    }
                }
                // What cannot be cleared away now is in nobody's way.
                None => drop(std::fs::remove_dir_all(entry.path())),
            }
        }
        Ok(())
    }

    fn keep(
        &self,
        state: &mut State,
        instance: InstanceId,
        place: Place,
        mark: Mark,
        (intent, phase): (Intent, Phase),
    ) {
        let mark = Arc::new(mark);
        let (sender, receiver) = watch::channel(intent);
        let vehicle = self.vehicle(&instance, &place, &mark);
        let on_change = self.config.on_change.clone();
        let (keeper, sight) = Keeper::new(place.clone(), mark.clone(), vehicle, on_change, receiver, phase);
        self.runtime.spawn(keeper.keep());
        state.copies.insert(instance, Copy { mark, place, sight, intent: sender });
    }

    fn vehicle(&self, instance: &InstanceId, place: &Place, mark: &Arc<Mark>) -> Vehicle {
        let (place, mark, content) = (place.clone(), mark.clone(), self.config.content.clone());
        let Setting { shim, cgroups, networks, engines, .. } = &self.setting;
        if mark.container.is_some() {
            let name = container_name(&mark, instance);
            return Vehicle::Container(Container { name, place, mark, content, engines: engines.clone() });
        }
        Vehicle::Process(Process {
            instance: instance.clone(),
            place,
            mark,
            content,
            shim: shim.clone(),
            cgroups: cgroups.clone(),
            networks: networks.clone(),
        })
    }

    /// The engine for a new container, and the network that it is to be in.
    async fn engage(&self, launch: &Launch, key: &ObjectKey) -> Result<Engaged, DriverError> {
        let failed = |error: EngineError| {
            let text = error.to_string();
            if error.is_retryable() { DriverError::Transient(text) } else { DriverError::Terminal(text) }
        };
        let engine = self.setting.engines.get(launch.engine.as_ref()).map_err(failed)?;
        let facts = engine.facts().await.map_err(failed)?;
        let project =
            key.project.as_ref().ok_or_else(|| DriverError::Terminal("it has no project".into()))?;
        let subnet = engine.network(project, None).await.map_err(failed)?;
        let subnet = (!facts.is_rootless).then_some(subnet);
        Ok(Engaged { network: engine.network_name(project), engine, subnet })
    }

    /// The engine, the name and the owner of an instance that is a container.
    fn container_of(&self, instance: &InstanceId) -> Option<(Engine, String, ObjectKey)> {
        let state = self.lock();
        let mark = &state.copies.get(instance)?.mark;
        let engine = self.setting.engines.get(Some(&mark.container.as_ref()?.engine)).ok()?;
        Some((engine, container_name(mark, instance), mark.key.clone()))
    }

    /// Carries out what concerns an engine, once the step is admitted.
    async fn execute_there(self: &Arc<Self>, then: Then) -> Result<(), DriverError> {
        let failed = |error: EngineError| DriverError::Transient(error.to_string());
        match then {
            Then::Nothing => Ok(()),
            Then::RemoveContainer(instance) => {
                let Some((engine, name, key)) = self.container_of(&instance) else {
                    return Err(DriverError::Transient(format!("the engine of {instance} is not there")));
                };
                engine.remove(&name).await.map_err(failed)?;
                let inner = self.clone();
                on_disk(move || inner.remove(&mut inner.lock(), &instance)).await?;
                self.leave_network(&engine, &key).await;
                Ok(())
            }
            Then::RemoveVolumes(app) => {
                self.setting.engines.remove_volumes(&app).await.map_err(failed)?;
                let volumes = self.volumes(&app);
                on_disk(move || remove_tree(&volumes)).await
            }
        }
    }

    /// Removes a project's network with its last container.
    async fn leave_network(&self, engine: &Engine, key: &ObjectKey) {
        let is_left = self.lock().copies.values().any(|copy| {
            let container = copy.mark.container.as_ref();
            container.is_some_and(|it| it.engine == *engine.address()) && copy.mark.key.project == key.project
        });
        if let Some(project) = key.project.as_ref().filter(|_| !is_left)
            && let Some(subnet) = engine.remove_network(project).await
        {
            self.setting.engines.forget(subnet);
        }
    }

    fn execute(
        &self,
        step: &Step,
        fence: &Fence,
        secrets: &SecretValues,
        engaged: Option<&Engaged>,
    ) -> Result<Then, DriverError> {
        if fence.installation != self.config.installation {
            return Err(DriverError::Terminal("this node serves another installation".into()));
        }
        let mut state = self.lock();
        let changes = state.would_change(&step.action, &fence.app)?;
        let closes = step.action == Action::Close;
        state.ledger.admit(fence, changes, closes).map_err(|reason| match reason {
            NotAdmitted::Refused(refusal) => DriverError::Refused(refusal),
            NotAdmitted::Disk(error) => transient("the ledger cannot be written", &error),
        })?;
        match &step.action {
            // What was cut off is done to its end: nothing is left of an App that is gone.
            Action::Close => return Ok(Then::RemoveVolumes(fence.app.clone())),
            _ if !changes => Ok(()),
            Action::Create { instance, revision, bindings, launch } => {
                if let Some(copy) = state.copies.get(instance) {
                    return copy.intend(Intent::Run).map(|()| Then::Nothing);
                }
                // The task of a hook has no position: it has no volumes.
                let slot = step.slot.or(launch.hook.map(|_| Slot::default()));
                let (Some(component), Some(slot)) = (&step.component, slot) else {
                    return Err(DriverError::Terminal("a create names its component and slot".into()));
                };
                let (address, ports) = match engaged {
                    Some(engaged) => (state.free_address(engaged)?, launch.ports.clone()),
                    None => self.reach(&state, launch)?,
                };
                let container = engaged.map(|engaged| {
                    let published =
                        if address.is_none() { state.free_ports(launch)? } else { BTreeMap::new() };
                    Ok(ContainerMark { engine: engaged.engine.address().clone(), published })
                });
                let mark = Mark {
                    installation: fence.installation.clone(),
                    app: fence.app.clone(),
                    key: fence.key.clone(),
                    component: component.clone(),
                    slot,
                    revision: *revision,
                    bindings: *bindings,
                    ports,
                    address,
                    user: user(&mut state.users, &fence.key)?,
                    container: container.transpose()?,
                    launch: Launch::clone(launch),
                };
                self.create(&mut state, instance, mark, secrets, engaged)
            }
            Action::Stop { instance, grace } => match state.copies.get(instance) {
                Some(copy) => copy.intend(Intent::Stop(*grace)),
                None => Ok(()),
            },
            Action::Remove { instance } => {
                if state.copies.get(instance).is_some_and(|copy| copy.mark.container.is_some()) {
                    return Ok(Then::RemoveContainer(instance.clone()));
                }
                self.remove(&mut state, instance)
            }
            Action::Publish { .. }
            | Action::Admit { .. }
            | Action::Drain { .. }
            | Action::Expel { .. }
            | Action::Withdraw => Err(DriverError::Terminal("a node has no router's steps".into())),
        }
        .map(|()| Then::Nothing)
    }

    /// Where a new instance is reached: in a network of its own if there can be one, or else on the loopback address.
    fn reach(&self, state: &State, launch: &Launch) -> Result<Reach, DriverError> {
        let taken = state.copies.values().filter_map(|copy| copy.mark.address).collect();
        let address = self.setting.networks.free_address(&taken);
        match address.map_err(|error| transient("the instance has no address", &error))? {
            Some(address) => Ok((Some(address), launch.ports.clone())),
            None => Ok((None, state.free_ports(launch)?)),
        }
    }

    /// Makes a directory for a container that has none.
    fn take_over(&self, instance: InstanceId, mark: Mark) -> io::Result<()> {
        let mut state = self.lock();
        let place = self.place(&instance);
        if state.copies.contains_key(&instance) || place.path().exists() {
            return Ok(());
        }
        let draft = Place::at(self.config.directory.join("instances").join(format!(".{instance}")));
        remove_tree_io(draft.path())?;
        private_directory(draft.path(), None)?;
        draft.write_begun()?;
        draft.write_mark(&mark)?;
        std::fs::rename(draft.path(), place.path())?;
        self.keep(&mut state, instance, place, mark, (Intent::Run, Phase::Unknown));
        Ok(())
    }

    /// Writes an instance down under another name, then gives it its own: it is there as a whole or not at all.
    fn create(
        &self,
        state: &mut State,
        instance: &InstanceId,
        mark: Mark,
        secrets: &SecretValues,
        engaged: Option<&Engaged>,
    ) -> Result<(), DriverError> {
        let instances = self.config.directory.join("instances");
        // No instance id begins with a dot.
        let draft = Place::at(instances.join(format!(".{instance}")));
        let place = self.place(instance);
        let fetches = matches!(mark.launch.content, Some(Content::Fetched { .. }));
        if fetches && self.config.programs.is_none() {
            let text =
                "the address where copies get their programs cannot be had: ports 8020 to 8039 are in use";
            return Err(DriverError::Transient(text.to_owned()));
        }
        let at = self.config.programs.filter(|_| fetches);
        let fetch = at.map(|at| Fetch { at, credential: self.setting.credentials.of(instance).into_text() });
        let written = (|| {
            remove_tree_io(draft.path())?;
            private_directory(draft.path(), None)?;
            let slot = self.volumes(&mark.app).join(format!("{}-{}", mark.component, mark.slot.0));
            if !mark.launch.volumes.is_empty() {
                passable_directory(&self.volumes(&mark.app))?;
                passable_directory(&slot)?;
            }
            if let Some(engaged) = engaged {
                if !mark.launch.volumes.is_empty() {
                    self.setting.engines.note_volumes(&mark.app, engaged.engine.address())?;
                }
                let is_led = mark.address.is_some();
                let from = if is_led { Standpoint::Container } else { Standpoint::Node };
                let values = Values { secrets, from, fetch: fetch.as_ref() };
                let recipe = container::recipe(&draft, &place, &slot, &mark, engaged, values)?;
                draft.write_recipe(&recipe)?;
            } else {
                let values = Values { secrets, from: Standpoint::Node, fetch: fetch.as_ref() };
                let run = render::prepare(&draft, &place, &slot, &mark, values)?;
                plimsoll_shim::write_durably(draft.path(), plimsoll_shim::RUN, &run)?;
            }
            draft.write_mark(&mark)?;
            std::fs::rename(draft.path(), place.path())?;
            sync_directory(&instances)?;
            Ok(())
        })();
        if let Err(error) = written {
            remove_tree_io(draft.path()).ok();
            return Err(match error {
                RenderError::Disk(error) => transient("the instance cannot be written", &error),
                error => DriverError::Terminal(error.to_string()),
            });
        }
        let phase = Phase::Unready { since: Span::ZERO };
        self.keep(state, instance.clone(), place, mark, (Intent::Run, phase));
        Ok(())
    }

    fn remove(&self, state: &mut State, instance: &InstanceId) -> Result<(), DriverError> {
        let Some(copy) = state.copies.get(instance) else { return Ok(()) };
        let gone = self.config.directory.join("instances").join(format!(".{instance}"));
        std::fs::rename(copy.place.path(), &gone)
            .map_err(|error| transient("the instance cannot be removed", &error))?;
        copy.intent.send_replace(Intent::Remove);
        state.copies.remove(instance);
        self.setting.cgroups.remove(instance);
        // What is left of it under that name is cleared away when an agent starts.
        remove_tree_io(&gone).ok();
        if !state.copies.values().any(|copy| copy.mark.address.is_some() && copy.mark.container.is_none()) {
            // The next instance makes it again, should it be left half there.
            self.setting.networks.give_back().ok();
        }
        Ok(())
    }
}

impl State {
    /// Whether a step has anything to do here.
    fn would_change(&self, action: &Action, app: &Uid) -> Result<bool, DriverError> {
        let copy = |instance| self.copies.get(instance);
        Ok(match action {
            Action::Create { instance, .. } => copy(instance).is_none_or(|copy| !copy.should_run()),
            Action::Stop { instance, .. } => copy(instance).is_some_and(Copy::should_run),
            Action::Remove { instance } => match copy(instance) {
                Some(copy) if !copy.sight.has_ended() => {
                    return Err(DriverError::Transient(format!("{instance} has not ended yet")));
                }
                found => found.is_some(),
            },
            Action::Close => !self.ledger.ledger.is_closed(app),
            _ => true,
        })
    }

    /// An address in the network of an engine, where that leads anywhere.
    fn free_address(&self, engaged: &Engaged) -> Result<Option<Ipv4Addr>, DriverError> {
        let Some(subnet) = engaged.subnet else { return Ok(None) };
        let taken: BTreeSet<Ipv4Addr> = self.copies.values().filter_map(|copy| copy.mark.address).collect();
        let free = subnet.hosts().find(|address| !taken.contains(address));
        let full = || DriverError::Transient(format!("all addresses of {subnet} are taken"));
        free.map(Some).ok_or_else(full)
    }

    /// A port on the loopback address for each declared one.
    fn free_ports(&self, launch: &Launch) -> Result<BTreeMap<PartName, u16>, DriverError> {
        let taken = |port: u16| {
            let shared = self.copies.values().filter(|copy| copy.mark.address.is_none());
            shared.flat_map(|copy| copy.mark.endpoints().into_values()).any(|at| at.port() == port)
        };
        let mut found = BTreeMap::new();
        let mut held = Vec::new();
        for name in launch.ports.keys() {
            let port = loop {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .map_err(|error| transient("no port is free", &error))?;
                let port =
                    listener.local_addr().map_err(|error| transient("no port is free", &error))?.port();
                // Held until all are chosen, so that each is another one.
                held.push(listener);
                if !taken(port) {
                    break port;
                }
            };
            found.insert(name.clone(), port);
        }
        Ok(found)
    }
}

impl Copy {
    fn should_run(&self) -> bool {
        *self.intent.borrow() == Intent::Run
    }

    /// Writes an intent down, then makes it known to the keeper.
    fn intend(&self, intent: Intent) -> Result<(), DriverError> {
        self.place
            .write_intent(intent)
            .map_err(|error| transient("the instance's intent cannot be written", &error))?;
        self.intent.send_replace(intent);
        Ok(())
    }
}

/// Looks after the node's networks for as long as there is an agent.
async fn keep_up(networks: Weak<Networks>, engines: Weak<Engines>) {
    loop {
        tokio::time::sleep(NETWORK_LOOK).await;
        let (Some(networks), Some(engines)) = (networks.upgrade(), engines.upgrade()) else { return };
        // What cannot be put right now is tried again; whoever needs the network meanwhile is told.
        let kept = move || (networks.keep_up().ok(), engines.keep_up().ok());
        tokio::task::spawn_blocking(kept).await.ok();
    }
}

/// Takes over containers that are ours and whose directories are lost, once the usual engine has said what it has.
async fn find_lost(inner: Weak<Inner>) {
    let Some(engine) = inner.upgrade().and_then(|inner| inner.setting.engines.get(None).ok()) else { return };
    let mut view = engine.view();
    let Ok(view) = view.wait_for(|view| view.is_answering).await.map(|view| view.clone()) else { return };
    let Some(inner) = inner.upgrade() else { return };
    for (name, marks) in &view.marks {
        let Some(mark) = marks.get(container::MARK).and_then(|text| serde_json::from_str::<Mark>(text).ok())
        else {
            continue;
        };
        let instance = name.splitn(3, '-').nth(2).and_then(|name| name.parse::<InstanceId>().ok());
        let Some(instance) = instance else { continue };
        // It may have been removed since it was listed.
        let is_there = engine.look(name).await.is_ok_and(|seen| seen.is_some());
        if is_there && *name == container_name(&mark, &instance) {
            // A disk that does not take it now takes it when an agent starts the next time.
            inner.take_over(instance, mark).ok();
        }
    }
}

fn user(users: &mut Users, key: &ObjectKey) -> Result<Option<u32>, DriverError> {
    let Some(project) = &key.project else { return Ok(None) };
    users.of(project).map_err(|error| match error {
        NoUser::OneProject { .. } => DriverError::Terminal(error.to_string()),
        NoUser::Disk(error) => transient("the user numbers cannot be written", &error),
    })
}

/// Waits for the disk on a thread that nobody else waits on.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(DriverError::Transient(error.to_string())))
}

fn transient(what: &str, error: &io::Error) -> DriverError {
    DriverError::Transient(format!("{what}: {error}"))
}

fn remove_tree_io(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<(), DriverError> {
    remove_tree_io(path).map_err(|error| transient("the volumes cannot be removed", &error))
}

impl Driver for Agent {
    fn scope(&self) -> Scope {
        Scope::Node(self.inner.config.target.clone())
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move {
            let state = self.inner.lock();
            let ledger = &state.ledger.ledger;
            let ours = state.copies.iter().filter(|(_, copy)| {
                copy.mark.app == *app && copy.mark.installation == self.inner.config.installation
            });
            let instances =
                ours.map(|(instance, copy)| (instance.clone(), copy.sight.instance(&copy.mark))).collect();
            let now = clock_gettime(ClockId::Boottime);
            let millis = now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000;
            Ok(Sighting::Node(NodeView {
                now: NodeTime { boot: self.inner.boot.clone(), elapsed: Span::millis(millis) },
                following: ledger.following(app),
                effects: ledger.effects(app),
                closed: ledger.is_closed(app),
                instances,
            }))
        })
    }

    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>> {
        Box::pin(async move {
            let state = self.inner.lock();
            Ok(state.copies.iter().map(|(instance, copy)| copy.mark.marked(instance)).collect())
        })
    }

    fn last_words<'a>(&'a self, instance: &'a InstanceId) -> Fut<'a, Vec<String>> {
        Box::pin(async move {
            let Some(log) = self.log(instance) else { return Vec::new() };
            let read = tokio::task::spawn_blocking(move || {
                let texts = log.files.map(|file| std::fs::read(file).unwrap_or_default()).concat();
                let lines = texts.split(|byte| *byte == b'\n').filter_map(plimsoll_shim::read_line);
                lines.map(|line| (line.millis, String::from_utf8_lossy(line.text).into_owned())).collect()
            });
            let mut lines: Vec<(u64, String)> = read.await.unwrap_or_default();
            if let Some((engine, container)) = log.container {
                // An engine that does not answer leaves what was noted here.
                let said = engine.logs(&container, None, Some(LAST_WORDS)).await.unwrap_or_default();
                lines.extend(said.iter().map(|it| (it.at, String::from_utf8_lossy(&it.text).into_owned())));
                lines.sort_by_key(|(at, _)| *at);
            }
            lines.drain(..lines.len().saturating_sub(LAST_WORDS));
            lines.into_iter().map(|(_, text)| text).collect()
        })
    }

    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        secrets: &'a SecretValues,
    ) -> Fut<'a, Result<(), DriverError>> {
        let (inner, step, fence, secrets) =
            (self.inner.clone(), step.clone(), fence.clone(), secrets.clone());
        Box::pin(async move {
            let engaged = match &step.action {
                Action::Create { launch, .. } if launch.image.is_some() => {
                    Some(inner.engage(launch, &fence.key).await?)
                }
                _ => None,
            };
            let here = inner.clone();
            let then = on_disk(move || here.execute(&step, &fence, &secrets, engaged.as_ref())).await?;
            inner.execute_there(then).await
        })
    }
}
