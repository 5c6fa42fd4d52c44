//! One engine, and what is done with single containers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{SystemInfoCgroupDriverEnum, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptions, StartContainerOptions, StopContainerOptionsBuilder,
};
use plimsoll_model::id::{Digest, InstallationId, Uid};
use plimsoll_model::kind::EngineAddress;
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Exit, Limit};
use serde::Deserialize;
use tokio::sync::{OnceCell, watch};

use crate::error::EngineError;
use crate::follow::{self, Seen, View};
use crate::network::Subnet;
use crate::pull::Pulls;
use crate::spec::{self, Mount, Recipe};

/// Whose a container, volume or network is.
pub(crate) const INSTALLATION: &str = "dev.plimsoll.installation";

/// The App that a volume belongs to.
pub(crate) const APP: &str = "dev.plimsoll.app";

/// How long an engine may take on top of the grace time to say that a container ended.
const STOPPED: Duration = Duration::from_mins(1);

/// An engine. Clones share it; it is followed until the last one is gone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) docker: Docker,
    pub(crate) address: EngineAddress,
    pub(crate) installation: InstallationId,
    facts: OnceCell<Facts>,
    pub(crate) view: watch::Sender<Arc<View>>,
    /// Given to each look before it begins: what an earlier look saw does not replace what a later one did.
    looks: AtomicU64,
    pub(crate) pulls: Pulls,
    /// Networks that were seen a moment ago. Held by whoever makes or removes one: Docker makes two of one name when
    /// asked twice.
    pub(crate) networks: tokio::sync::Mutex<BTreeMap<String, (Subnet, Instant)>>,
}

/// Who made an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Docker, or whatever speaks as it does.
    Docker,
    /// Podman.
    Podman,
}

/// What an engine is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who made it.
    pub maker: Maker,
    /// Whether it runs without root: its containers' addresses lead nowhere on the node then.
    pub is_rootless: bool,
    /// What it can keep a container within.
    pub limits: BTreeSet<Limit>,
}

/// What an engine says of a container, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: InspectedState,
    config: InspectedConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    /// Its state: a word, of which engines have more and more.
    status: String,
    running: bool,
    #[serde(rename = "OOMKilled", default)]
    oom_killed: bool,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    finished_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    labels: Option<HashMap<String, String>>,
}

impl Engine {
    pub(crate) fn new(docker: Docker, address: EngineAddress, installation: InstallationId) -> Self {
        let (view, _) = watch::channel(Arc::new(View::default()));
        let inner = Arc::new(Inner {
            docker,
            address,
            installation,
            facts: OnceCell::new(),
            view,
            looks: AtomicU64::new(0),
            pulls: Pulls::default(),
            networks: tokio::sync::Mutex::default(),
        });
        tokio::spawn(follow::follow(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Where it answers.
    pub fn address(&self) -> &EngineAddress {
        &self.inner.address
    }

    /// What is seen of its containers that are ours, as it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// What it is and can do.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn facts(&self) -> Result<&Facts, EngineError> {
        self.inner.facts.get_or_try_init(|| self.ask_facts()).await
    }

    async fn ask_facts(&self) -> Result<Facts, EngineError> {
        let docker = &self.inner.docker;
        let (version, info) = tokio::try_join!(docker.version(), docker.info())?;
        let components = version.components.unwrap_or_default();
        let is_podman = components.iter().any(|component| component.name.contains("Podman"));
        let is_rootless = info.security_options.iter().flatten().any(|option| option.contains("rootless"));
        // Without a manager of control groups there is nobody to set a limit.
        let has_groups = info.cgroup_driver != Some(SystemInfoCgroupDriverEnum::NONE);
        let limits = [
            (Limit::Cpu, info.cpu_cfs_quota),
            (Limit::Memory, info.memory_limit),
            (Limit::Pids, info.pids_limit),
        ];
        Ok(Facts {
            maker: if is_podman { Maker::Podman } else { Maker::Docker },
            is_rootless,
            limits: limits
                .into_iter()
                .filter(|(_, can)| has_groups && *can == Some(true))
                .map(|it| it.0)
                .collect(),
        })
    }

    /// Makes a container; one of that name that is there and ours is the one.
    ///
    /// # Errors
    /// `NotFound` when the engine does not have the image; `Conflict` when somebody else's has the name.
    pub async fn create(&self, name: &str, recipe: &Recipe) -> Result<(), EngineError> {
        let facts = self.facts().await?;
        for mount in &recipe.mounts {
            if let Mount::Volume { name, labels, .. } = mount {
                // By itself, because Podman gives no labels to one that comes with a container.
                let request = VolumeCreateRequest {
                    name: Some(name.clone()),
                    labels: Some(labels.clone().into_iter().collect()),
                    ..VolumeCreateRequest::default()
                };
                self.inner.docker.create_volume(request).await?;
            }
        }
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.inner.docker.create_container(Some(options), spec::body(recipe, facts)).await;
        match made.map_err(EngineError::from) {
            Ok(_) => Ok(()),
            // Podman says it with another code than Docker.
            Err(EngineError::Conflict(said) | EngineError::Refused(said))
                if said.contains("already in use") =>
            {
                match self.look(name).await? {
                    Some(_) => Ok(()),
                    None => Err(EngineError::Conflict(format!("container {name} is somebody else's"))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Starts a container that does not run, and says what is seen then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(&self, name: &str) -> Result<Seen, EngineError> {
        let started = self.inner.docker.start_container(name, None::<StartContainerOptions>).await;
        started?;
        let seen = self.look(name).await?;
        seen.ok_or_else(|| EngineError::NotFound(format!("container {name} was removed as it was started")))
    }

    /// Asks a container to end by the signal that its image names, and kills it after a time. Returns at once: its end
    /// is seen.
    pub fn stop(&self, name: &str, grace: Span) {
        let seconds = i32::try_from(grace.millis.div_ceil(1000)).unwrap_or(i32::MAX);
        // Engines take their client's leaving for an order to kill.
        let patience = Duration::from_millis(grace.millis) + STOPPED;
        let (docker, name) = (self.inner.docker.clone().with_timeout(patience), name.to_owned());
        tokio::spawn(async move {
            let options = StopContainerOptionsBuilder::new().t(seconds).build();
            // Whether it worked is seen; whoever wants its end asks again.
            docker.stop_container(&name, Some(options)).await.ok();
        });
    }

    /// Removes a container of ours, running or not, with the volumes that nobody named. One that is not there, or
    /// somebody else's, is removed.
    ///
    /// # Errors
    /// When the engine does not do it.
    pub async fn remove(&self, name: &str) -> Result<(), EngineError> {
        if self.look(name).await?.is_none() {
            return Ok(());
        }
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.inner.docker.remove_container(name, Some(options)).await;
        match removed.map_err(EngineError::from) {
            Ok(()) | Err(EngineError::NotFound(_)) => {
                self.forget(name, self.inner.looks.fetch_add(1, Ordering::Relaxed));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at one container; `None` if it is not there, or not ours.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn look(&self, name: &str) -> Result<Option<Seen>, EngineError> {
        let order = self.inner.looks.fetch_add(1, Ordering::Relaxed);
        let found: Inspected = match self.ask(&format!("/containers/{name}/json")).await {
            Ok(found) => found,
            Err(EngineError::NotFound(_)) => {
                self.forget(name, order);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let labels = found.config.labels.unwrap_or_default();
        if labels.get(INSTALLATION).is_none_or(|of| *of != *self.inner.installation.as_str()) {
            return Ok(None);
        }
        let InspectedState { status, running, oom_killed, pid, exit_code, started_at, finished_at } =
            found.state;
        // Podman says of one that is ending that it does not run.
        let is_running = running || ["paused", "stopping", "removing"].contains(&&*status);
        let was_started = !["created", "configured", "initialized"].contains(&&*status);
        // An engine that was down when a run ended says 0 and that it never has.
        let is_seen_to_end = !finished_at.starts_with(NEVER) || started_at.starts_with(NEVER);
        let exit = match (oom_killed, is_seen_to_end) {
            (true, _) => Exit::OutOfMemory,
            (false, true) => Exit::Code(exit_code),
            (false, false) => Exit::Lost,
        };
        let seen = Seen {
            order,
            is_running,
            pid: Some(pid).filter(|pid| is_running && *pid > 0),
            began: millis(&started_at).filter(|_| was_started),
            ended: millis(&finished_at).filter(|_| was_started && !is_running),
            exit: (was_started && !is_running).then_some(exit),
        };
        self.publish(name, seen.clone());
        Ok(Some(seen))
    }

    fn publish(&self, name: &str, seen: Seen) {
        self.inner.view.send_if_modified(|view| {
            let known = view.containers.get(name);
            if known.is_some_and(|known| known.order > seen.order || known.says_the_same(&seen)) {
                return false;
            }
            Arc::make_mut(view).containers.insert(name.to_owned(), seen);
            true
        });
    }

    /// Takes a container out of the view, unless a later look saw it.
    fn forget(&self, name: &str, order: u64) {
        self.inner.view.send_if_modified(|view| {
            let is_older = view.containers.get(name).is_some_and(|known| known.order <= order);
            is_older && Arc::make_mut(view).containers.remove(name).is_some()
        });
    }

    /// Removes every volume of an App.
    ///
    /// # Errors
    /// When the engine does not do it, or one is still in use.
    pub async fn remove_volumes(&self, app: &Uid) -> Result<(), EngineError> {
        let filters = HashMap::from([("label", vec![format!("{APP}={app}")])]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let found = self.inner.docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
        let marks = self.marks(app);
        // Engines differ in what several labels mean, and this is people's data: what they list is looked at again.
        let is_own = |labels: &HashMap<String, String>| {
            marks.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        for volume in found.into_iter().filter(|volume| is_own(&volume.labels)) {
            let removed = self.inner.docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await;
            match removed.map_err(EngineError::from) {
                Ok(()) | Err(EngineError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The marks of something of an App.
    pub fn marks(&self, app: &Uid) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTALLATION.to_owned(), self.inner.installation.to_string()),
            (APP.to_owned(), app.to_string()),
        ])
    }

    /// The id of an image that the engine has under a name; `None` if it has none.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn image_id(&self, name: &str) -> Result<Option<Digest>, EngineError> {
        match self.inner.docker.inspect_image(name).await.map_err(EngineError::from) {
            Ok(image) => Ok(image.id.and_then(|id| id.parse().ok())),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How engines write the time of what has not happened.
const NEVER: &str = "0001-01-01T";

/// A time as engines write it, in milliseconds since 1970 UTC.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let at: plimsoll_model::object::Timestamp = text.parse().ok()?;
    (at.0 > 0).then_some(at.0)
}
