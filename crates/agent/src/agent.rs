//! The agent as a driver: steps come in, what is seen goes out.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use plimsoll_driver::{Driver, DriverError, Fut, Marked, SecretValues, Sighting};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{BootId, InstallationId, InstanceId, PartName, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Fence, Launch, Scope, Step};
use plimsoll_model::world::{NodeTime, NodeView, Phase};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::cgroups::Cgroups;
use crate::keeper::{Keeper, Setting, Sight};
use crate::ledger::{LedgerFile, NotAdmitted};
use crate::networks::Networks;
use crate::place::{Intent, Mark, Place, log_files, passable_directory, private_directory, sync_directory};
use crate::render::{self, RenderError};
use crate::users::{NoUser, Users};

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

struct State {
    ledger: LedgerFile,
    users: Users,
    copies: BTreeMap<InstanceId, Copy>,
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
            content: config.content.clone(),
            shim: config.shim.clone().into(),
            on_change: config.on_change.clone(),
            cgroups: Arc::new(Cgroups::discover(&config.installation)),
            networks: Arc::new(Networks::new(&directory)),
        };
        let state = Mutex::new(State { ledger, users, copies: BTreeMap::new() });
        let runtime = tokio::runtime::Handle::current();
        let agent = Self { inner: Arc::new(Inner { config, setting, runtime, boot, state }) };
        agent.inner.adopt().map_err(fail(&directory.join("instances")))?;
        tokio::spawn(keep_up(Arc::downgrade(&agent.inner.setting.networks)));
        Ok(agent)
    }
}

impl Agent {
    /// What something says of a kept instance.
    pub(crate) fn with<T>(&self, instance: &InstanceId, say: impl FnOnce(&Mark, &Place) -> T) -> Option<T> {
        let state = self.inner.lock();
        state.copies.get(instance).map(|copy| say(&copy.mark, &copy.place))
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
                None => std::fs::remove_dir_all(entry.path())?,
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
        let (keeper, sight) =
            Keeper::new(instance.clone(), place.clone(), mark.clone(), &self.setting, receiver, phase);
        self.runtime.spawn(keeper.keep());
        state.copies.insert(instance, Copy { mark, place, sight, intent: sender });
    }

    fn execute(&self, step: &Step, fence: &Fence, secrets: &SecretValues) -> Result<(), DriverError> {
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
            _ if !changes => Ok(()),
            Action::Create { instance, revision, bindings, launch } => {
                if let Some(copy) = state.copies.get(instance) {
                    return copy.intend(Intent::Run);
                }
                let (Some(component), Some(slot)) = (&step.component, step.slot) else {
                    return Err(DriverError::Terminal("a create names its component and slot".into()));
                };
                let (address, ports) = self.reach(&state, launch)?;
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
                    launch: Launch::clone(launch),
                };
                self.create(&mut state, instance, mark, secrets)
            }
            Action::Stop { instance, grace } => match state.copies.get(instance) {
                Some(copy) => copy.intend(Intent::Stop(*grace)),
                None => Ok(()),
            },
            Action::Remove { instance } => self.remove(&mut state, instance),
            Action::Close => remove_tree(&self.volumes(&fence.app)),
            Action::Publish { .. }
            | Action::Admit { .. }
            | Action::Drain { .. }
            | Action::Expel { .. }
            | Action::Withdraw => Err(DriverError::Terminal("a node has no router's steps".into())),
        }
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

    /// Writes an instance down under another name, then gives it its own: it is there as a whole or not at all.
    fn create(
        &self,
        state: &mut State,
        instance: &InstanceId,
        mark: Mark,
        secrets: &SecretValues,
    ) -> Result<(), DriverError> {
        let instances = self.config.directory.join("instances");
        // No instance id begins with a dot.
        let draft = Place::at(instances.join(format!(".{instance}")));
        let place = self.place(instance);
        let written = (|| {
            remove_tree_io(draft.path())?;
            private_directory(draft.path(), None)?;
            let slot = self.volumes(&mark.app).join(format!("{}-{}", mark.component, mark.slot.0));
            if !mark.launch.volumes.is_empty() {
                passable_directory(&self.volumes(&mark.app))?;
                passable_directory(&slot)?;
            }
            let run = render::prepare(&draft, &place, &slot, &mark, secrets)?;
            plimsoll_shim::write_durably(draft.path(), plimsoll_shim::RUN, &run)?;
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
        if state.copies.values().all(|copy| copy.mark.address.is_none()) {
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
                Some(copy) if !copy.sight.is_stopped() => {
                    return Err(DriverError::Transient(format!("{instance} has not ended yet")));
                }
                found => found.is_some(),
            },
            Action::Close => !self.ledger.ledger.is_closed(app),
            _ => true,
        })
    }

    /// A port on the loopback address for each declared one.
    fn free_ports(&self, launch: &Launch) -> Result<BTreeMap<PartName, u16>, DriverError> {
        let taken =
            |port: u16| self.copies.values().any(|copy| copy.mark.ports.values().any(|it| *it == port));
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

/// Looks after the node's network for as long as there is an agent.
async fn keep_up(networks: Weak<Networks>) {
    loop {
        tokio::time::sleep(NETWORK_LOOK).await;
        let Some(networks) = networks.upgrade() else { return };
        // What cannot be put right now is tried again; whoever needs the network meanwhile is told.
        tokio::task::spawn_blocking(move || networks.keep_up().ok()).await.ok();
    }
}

fn user(users: &mut Users, key: &ObjectKey) -> Result<Option<u32>, DriverError> {
    let Some(project) = &key.project else { return Ok(None) };
    users.of(project).map_err(|error| match error {
        NoUser::OneProject { .. } => DriverError::Terminal(error.to_string()),
        NoUser::Disk(error) => transient("the user numbers cannot be written", &error),
    })
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
        let files = log_files(&self.inner.config.directory, instance);
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || {
                let texts = files.map(|file| std::fs::read(file).unwrap_or_default()).concat();
                let lines = texts.split(|byte| *byte == b'\n').filter_map(plimsoll_shim::read_line);
                let mut lines: Vec<String> =
                    lines.map(|line| String::from_utf8_lossy(line.text).into_owned()).collect();
                lines.drain(..lines.len().saturating_sub(LAST_WORDS));
                lines
            });
            read.await.unwrap_or_default()
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
            // The disk is waited for on a thread that nobody else waits on.
            let done = tokio::task::spawn_blocking(move || inner.execute(&step, &fence, &secrets)).await;
            done.unwrap_or_else(|error| Err(DriverError::Transient(error.to_string())))
        })
    }
}
