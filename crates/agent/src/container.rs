//! An instance as a container of an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_container::{Attachment, Engine, EngineError, Mount, PullError, Recipe, Seen, Subnet, spec};
use plimsoll_model::app::Security;
use plimsoll_model::id::InstanceId;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::PinnedImage;
use plimsoll_model::step::Launch;
use plimsoll_model::world::{Blockage, Exit, Limit, Phase};
use rustix::process::{getegid, geteuid};

use crate::engines::Engines;
use crate::place::{Mark, Place, private_directory};
use crate::probe::Way;
use crate::process::blockage;
use crate::render::{self, RenderError, Values, own_environment, text};
use crate::runner::Latest;
use crate::vehicle::NotStarted;

/// Time on top of the grace time after which an engine that did not end a container is asked again.
const OVERRULED: Duration = Duration::from_secs(10);

/// The label with an instance's whole mark.
pub(crate) const MARK: &str = "dev.plimsoll.mark";

/// Where relation data is seen in an image, as the Service Binding specification has it.
const BINDINGS: &str = "/bindings";

/// `errno` of an executable that is not there, that may not be executed, and that is none.
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOEXEC: i32 = 8;

/// What runs an instance as a container.
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) mark: Arc<Mark>,
    pub(crate) content: PathBuf,
    pub(crate) engines: Arc<Engines>,
}

/// A container that runs.
pub(crate) struct Run {
    engine: Engine,
    name: String,
}

impl Container {
    fn engine(&self) -> io::Result<Engine> {
        let address = self.mark.container.as_ref().map(|container| &container.engine);
        self.engines.get(address).map_err(io::Error::other)
    }

    fn note(&self, text: &str) {
        plimsoll_shim::note(self.place.path(), text);
    }

    async fn look(&self) -> io::Result<Option<Seen>> {
        self.engine()?.look(&self.name).await.map_err(io::Error::other)
    }

    pub(crate) async fn adopt(&self) -> io::Result<Option<Run>> {
        // What never began does not run, whatever the engine is doing.
        if !self.place.has_begun()? || !self.look().await?.is_some_and(|seen| seen.is_running) {
            return Ok(None);
        }
        let engine = self.engine()?;
        // It runs as it is; what others took away of its network is put back from here on.
        self.lead(&engine).await.ok();
        Ok(Some(Run { engine, name: self.name.clone() }))
    }

    pub(crate) async fn latest(&self) -> io::Result<Latest> {
        if !self.place.has_begun()? {
            return Ok(Latest { attempt: 0, exit: None });
        }
        let exit = self.look().await?.map_or(Some(Exit::Lost), |seen| seen.exit);
        Ok(Latest { attempt: 1, exit })
    }

    pub(crate) async fn start(&self, enter: impl Fn(Phase)) -> io::Result<Result<Run, NotStarted>> {
        let blocked = |by| Ok(Err(NotStarted::Blocked(by)));
        let Ok(engine) = self.engine() else { return blocked(Blockage::Engine) };
        if !self.place.has_begun()? {
            match render::place_content(&self.place, &self.mark, &self.content) {
                Ok(true) => {}
                Err(RenderError::Disk(error)) => return blocked(blockage(&error)),
                Ok(false) | Err(_) => return blocked(Blockage::Content),
            }
        }
        if let Err(error) = engine.facts().await {
            // One that may run is unknown; one that never began waits for the engine.
            return if self.place.has_begun()? {
                Err(io::Error::other(error))
            } else {
                blocked(Blockage::Engine)
            };
        }
        if let Err(error) = self.lead(&engine).await {
            self.note(&format!("its network cannot be set up: {error}"));
            return blocked(Blockage::Network);
        }
        // What never began may be there all the same; then making it finds it.
        let is_made = self.place.has_begun()? && self.look().await?.is_some();
        if !is_made && let Err(not) = self.make(&engine, enter).await? {
            return Ok(Err(not));
        }
        self.place.write_begun()?;
        match engine.start(&self.name).await {
            // What ended at once is a run that ended.
            Ok(_) => Ok(Ok(Run { engine, name: self.name.clone() })),
            Err(EngineError::Away(error)) => Err(io::Error::other(error)),
            Err(error) => {
                let said = error.to_string();
                self.note(&format!("it cannot be started: {said}"));
                if is_without_network(&said) {
                    // It is made anew, in a network that is there; what it wrote beside its volumes goes.
                    engine.remove(&self.name).await.ok();
                    if let Some(project) = &self.mark.key.project {
                        engine.distrust_network(project).await;
                    }
                    return blocked(Blockage::Network);
                }
                Ok(Err(refused(&said)))
            }
        }
    }

    /// Sees to it that the project's network is there, and leads to the node.
    async fn lead(&self, engine: &Engine) -> Result<(), EngineError> {
        let (Some(address), Some(project)) = (self.mark.address, &self.mark.key.project) else {
            return Ok(());
        };
        let subnet = engine.network(project, Subnet::of(address)).await?;
        let engines = self.engines.clone();
        let led = tokio::task::spawn_blocking(move || engines.lead(subnet)).await;
        led.map_err(io::Error::other)?.map_err(|error| EngineError::Refused(error.to_string()))?;
        Ok(())
    }

    /// Makes the container, with its image if that is not there.
    async fn make(&self, engine: &Engine, enter: impl Fn(Phase)) -> io::Result<Result<(), NotStarted>> {
        let blocked = |by| Ok(Err(NotStarted::Blocked(by)));
        let Some(recipe) = self.place.recipe()? else {
            self.note("nothing says what its container is made of");
            return blocked(Blockage::Refused);
        };
        let made = match engine.create(&self.name, &recipe).await {
            Err(EngineError::NotFound(_)) if !recipe.image.repository.is_of_this_machine() => {
                enter(Phase::Blocked { by: Blockage::Pulling });
                if let Err(by) = self.pull(engine, &recipe.image).await {
                    return blocked(by);
                }
                engine.create(&self.name, &recipe).await
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(Ok(())),
            Err(EngineError::Away(error)) => Err(io::Error::other(error)),
            Err(error @ EngineError::NotFound(_)) => {
                self.note(&error.to_string());
                blocked(Blockage::Image)
            }
            Err(error) => {
                let said = error.to_string();
                self.note(&format!("its container cannot be made: {said}"));
                Ok(Err(refused(&said)))
            }
        }
    }

    async fn pull(&self, engine: &Engine, image: &PinnedImage) -> Result<(), Blockage> {
        let login = self.engines.logins.get(image.repository.registry()).await;
        let pulled = engine.pull(image, login.as_ref(), |progress| self.note(progress)).await;
        pulled.map_err(|error| {
            self.note(&format!("{image} cannot be pulled: {error}"));
            match error {
                PullError::Missing(_) => Blockage::Image,
                PullError::Forbidden(_) => Blockage::ImageForbidden,
                PullError::Registry(_) => Blockage::Registry,
                PullError::Disk(_) => Blockage::Disk,
                PullError::Engine(_) => Blockage::Engine,
            }
        })
    }

    pub(crate) async fn unenforced(&self) -> Vec<Limit> {
        let mut unenforced = Vec::new();
        if let (Ok(engine), Ok(Some(recipe))) = (self.engine(), self.place.recipe())
            && let Ok(facts) = engine.facts().await
        {
            unenforced = spec::unenforced(&recipe, facts);
        }
        if self.mark.launch.volumes.values().any(|volume| volume.size.is_some()) {
            unenforced.push(Limit::VolumeSize);
        }
        let is_led = self.mark.address.is_some() && geteuid().is_root();
        if !is_led {
            unenforced.push(Limit::Addresses);
        }
        unenforced
    }

    pub(crate) fn way_beside(&self) -> Way {
        match self.engine() {
            Ok(engine) => Way::Container(engine, self.name.clone()),
            Err(error) => Way::Nowhere(error.to_string()),
        }
    }
}

impl Run {
    /// Waits until the engine says that nothing of it runs. May be asked again.
    pub(crate) async fn ended(&self) {
        let mut view = self.engine.view();
        let has_ended = |view: &Arc<plimsoll_container::View>| {
            view.is_answering && view.containers.get(&self.name).is_none_or(|seen| !seen.is_running)
        };
        // The engine's own part of it is there for as long as we are.
        view.wait_for(has_ended).await.ok();
    }

    pub(crate) async fn end(&self, grace: Span) {
        self.engine.stop(&self.name, grace);
        let limit = Duration::from_millis(grace.millis) + OVERRULED;
        tokio::time::timeout(limit, self.ended()).await.ok();
    }

    pub(crate) async fn outcome(&self) -> io::Result<Exit> {
        match self.engine.look(&self.name).await.map_err(io::Error::other)? {
            None => Ok(Exit::Lost),
            Some(Seen { is_running: false, exit, .. }) => Ok(exit.unwrap_or(Exit::Lost)),
            Some(_) => {
                self.end(Span::ZERO).await;
                match self.engine.look(&self.name).await.map_err(io::Error::other)? {
                    Some(seen) if seen.is_running => Err(io::Error::other("the engine does not end it")),
                    seen => Ok(seen.and_then(|seen| seen.exit).unwrap_or(Exit::Lost)),
                }
            }
        }
    }
}

/// What it means that an engine refuses a container: its declaration is wrong, unless the engine's words are about itself
/// or the node.
fn refused(said: &str) -> NotStarted {
    let lower = said.to_lowercase();
    let of_the_node = [
        "no space left",
        "containerd",
        "conmon",
        "connection refused",
        "cgroup",
        "timeout",
        "timed out",
        "deadline",
        "temporarily",
        "too many open files",
        "cannot allocate memory",
        "network",
        "already in use",
        "input/output",
        "read-only file system",
        "operation not permitted",
        "no route",
        "somebody else",
        "state improper",
        "must be in",
    ];
    match not_executable(said) {
        Some(exit) => NotStarted::Failed(exit),
        None if of_the_node.iter().any(|words| lower.contains(words)) => {
            NotStarted::Blocked(Blockage::Refused)
        }
        None => NotStarted::Failed(Exit::Refused),
    }
}

/// Whether the network that a container was made with is gone.
fn is_without_network(said: &str) -> bool {
    said.contains("network") && (said.contains("not found") || said.contains("no such network"))
}

/// Whether an engine's words are about the program itself: its command is not there, or cannot be executed.
fn not_executable(said: &str) -> Option<Exit> {
    let lower = said.to_lowercase();
    let words = ["exec: \"", "executable file", "exec user process", "exec /"];
    let about_exec = words.iter().any(|words| lower.contains(words));
    if about_exec && lower.contains("permission denied") {
        return Some(Exit::Exec(EACCES));
    }
    if lower.contains("exec format error") {
        return Some(Exit::Exec(ENOEXEC));
    }
    let is_missing = ["executable file not found", "no such file or directory", "not a directory"];
    (about_exec && is_missing.iter().any(|words| lower.contains(words))).then_some(Exit::Exec(ENOENT))
}

/// An engine, and how its containers are reached.
#[derive(Clone)]
pub(crate) struct Engaged {
    pub(crate) engine: Engine,
    pub(crate) network: String,
    /// The addresses of the network; `None` where those lead nowhere on the node.
    pub(crate) subnet: Option<Subnet>,
}

/// The name of an instance's container: of this installation only, whoever else uses the engine.
pub(crate) fn container_name(mark: &Mark, instance: &InstanceId) -> String {
    let installation = plimsoll_model::id::Digest::of_bytes(mark.installation.as_str().as_bytes()).short();
    format!("plimsoll-{}-{instance}", &installation[..6])
}

/// What an instance's container is made of. Files are written into `place`, which is not yet under its final name;
/// `home` is. `volumes` is the node's directory for volumes of programs in this slot.
pub(crate) fn recipe(
    place: &Place,
    home: &Place,
    volumes: &Path,
    mark: &Mark,
    engaged: &Engaged,
    values: Values<'_>,
) -> Result<Recipe, RenderError> {
    let Mark { launch, .. } = mark;
    let image = launch.image.clone().ok_or(RenderError::Recipe("it has no image"))?;
    let network = engaged.network.clone();
    let attachment = if let Some(address) = mark.address {
        Attachment::Address { network, address }
    } else {
        let published = mark.container.as_ref().map(|it| it.published.clone()).unwrap_or_default();
        let ports = launch.ports.iter().filter_map(|(name, inside)| Some((*inside, *published.get(name)?)));
        Attachment::Published { network, ports: ports.collect() }
    };
    let mut labels = engaged.engine.marks(&mark.app);
    labels.insert(
        "dev.plimsoll.project".to_owned(),
        mark.key.project.as_ref().map(ToString::to_string).unwrap_or_default(),
    );
    labels.insert("dev.plimsoll.name".to_owned(), mark.key.name.to_string());
    labels.insert("dev.plimsoll.component".to_owned(), mark.component.to_string());
    labels.insert(MARK.to_owned(), serde_json::to_string(&without_contents(mark))?);
    let blank = Recipe {
        image,
        entrypoint: launch.argv.clone(),
        args: launch.args.clone(),
        env: BTreeMap::new(),
        workdir: launch.workdir.clone(),
        user: launch.security.user.clone(),
        mounts: Vec::new(),
        attachment,
        ports: launch.ports.values().copied().collect::<BTreeSet<u16>>(),
        resources: launch.resources,
        security: launch.security.clone(),
        grace: launch.grace,
        labels,
    };
    if launch.content.is_some() {
        program(blank, (place, home, volumes), mark, engaged, values)
    } else {
        of_image(blank, place, home, mark, engaged, values)
    }
}

/// A mark as far as it is needed to keep a container whose directory was lost.
fn without_contents(mark: &Mark) -> Mark {
    let mut mark = mark.clone();
    let Launch { content, env, files, bindings, argv, args, .. } = &mut mark.launch;
    *content = None;
    env.clear();
    files.clear();
    bindings.clear();
    argv.clear();
    args.clear();
    mark
}

/// A program in an image: it finds everything where it would as a process.
fn program(
    blank: Recipe,
    (place, home, volumes): (&Place, &Place, &Path),
    mark: &Mark,
    engaged: &Engaged,
    values: Values<'_>,
) -> Result<Recipe, RenderError> {
    let mut run = render::prepare(place, home, volumes, mark, values)?;
    // The image's own, unless they are declared.
    run.env.retain(|name, _| {
        !["PATH", "LANG"].contains(&name.as_str()) || mark.launch.env.keys().any(|it| it.as_str() == name)
    });
    let bind = |path: PathBuf, writable| Mount::Bind { at: path.display().to_string(), from: path, writable };
    let mut mounts = vec![bind(home.work(), true), bind(home.bindings(), false)];
    mounts.push(Mount::Bind { from: home.tmp(), at: "/tmp".to_owned(), writable: true });
    // By the names that links in the working directory lead to.
    mounts.extend(mark.launch.volumes.keys().map(|name| bind(volumes.join(name.as_str()), true)));
    run.env.insert("TMPDIR".to_owned(), "/tmp".to_owned());
    // Without root everything here is the agent's own user's; an engine without root calls that one root.
    let own = || match engaged.subnet {
        Some(_) => format!("{}:{}", geteuid().as_raw(), getegid().as_raw()),
        None => "0:0".to_owned(),
    };
    let user = mark.user.map_or_else(own, |user| format!("{user}:{user}"));
    Ok(Recipe {
        entrypoint: run.argv,
        args: Vec::new(),
        env: run.env,
        workdir: Some(run.directory),
        // What it writes lies on the node, where it must be nobody else's, and nothing with more rights.
        user: Some(user),
        security: Security { user: None, capabilities: Some(BTreeSet::new()), ..blank.security.clone() },
        mounts,
        ..blank
    })
}

/// An image with its own program.
fn of_image(
    blank: Recipe,
    place: &Place,
    home: &Place,
    mark: &Mark,
    engaged: &Engaged,
    values: Values<'_>,
) -> Result<Recipe, RenderError> {
    let Mark { launch, .. } = mark;
    let mut mounts = Vec::new();
    let mut env = own_environment(mark, values)?;
    if !launch.files.is_empty() {
        private_directory(&place.files(), None)?;
    }
    for (number, (path, rendered)) in launch.files.iter().enumerate() {
        let number = number.to_string();
        render::write_readable(&place.files().join(&number), text(rendered, values)?.as_bytes())?;
        mounts.push(Mount::Bind { from: home.files().join(number), at: path.clone(), writable: false });
    }
    if !launch.bindings.is_empty() {
        render::readable_directory(&place.bindings())?;
        for (relation, data) in &launch.bindings {
            let directory = place.bindings().join(relation.as_str());
            render::readable_directory(&directory)?;
            for (key, rendered) in data {
                let file = directory.join(key.as_str());
                render::write_readable(&file, text(rendered, values)?.as_bytes())?;
            }
        }
        mounts.push(Mount::Bind { from: home.bindings(), at: BINDINGS.to_owned(), writable: false });
        env.insert("SERVICE_BINDING_ROOT".to_owned(), BINDINGS.to_owned());
    }
    for (name, volume) in &launch.volumes {
        mounts.push(Mount::Volume {
            // No part of it has a dot: no two volumes share a name.
            name: format!("plimsoll.{}.{}.{}.{name}", mark.app, mark.component, mark.slot.0),
            at: volume.path.clone(),
            labels: engaged.engine.marks(&mark.app),
        });
    }
    Ok(Recipe { env, mounts, ..blank })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_the_programs_fault() {
        for (said, exit) in [
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown",
                Some(ENOENT),
            ),
            (
                "crun: executable file `nope` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found",
                Some(ENOENT),
            ),
            (
                "unable to start container process: exec: \"/etc/passwd\": permission denied: unknown",
                Some(EACCES),
            ),
            ("network 1234 not found", None),
            ("error mounting /x to rootfs: no such file or directory", None),
            ("driver failed programming external connectivity: port is already allocated", None),
        ] {
            assert_eq!(not_executable(said), exit.map(Exit::Exec), "{said}");
        }
    }

    #[test]
    fn a_wrong_declaration_is_told_from_a_sick_node() {
        for (said, is_declared) in [
            ("unable to find user nobody2: no matching entries in passwd file", true),
            ("Duplicate mount point: /data", true),
            ("write /var/lib/docker/x: no space left on device", false),
            ("dial unix /run/containerd/containerd.sock: connect: connection refused", false),
        ] {
            let not = refused(said);
            assert_eq!(matches!(not, NotStarted::Failed(Exit::Refused)), is_declared, "{said}");
        }
    }
}
