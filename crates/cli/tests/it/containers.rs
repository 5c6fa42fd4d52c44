//! The agent with real container engines.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_agent::{Agent, Config};
use plimsoll_driver::contract::{self, Subject};
use plimsoll_driver::{Driver, Sighting};
use plimsoll_model::id::{Digest, Effects, InstanceId};
use plimsoll_model::kind::EngineAddress;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::PinnedImage;
use plimsoll_model::step::{Action, Launch, VolumeMount};
use plimsoll_model::world::{Exit, Instance, Phase};
use plimsoll_testkit::{BUSYBOX, Engine, Make};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::agent::{creation, effects, execute, scratch, try_execute};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(40);

/// Pause between two looks at something that gives no notice.
const POLL: Duration = Duration::from_millis(10);

/// The image as an engine has it that has it by itself.
fn image(engine: &Engine, name: &str) -> PinnedImage {
    let id = engine.run(&["image", "inspect", "--format", "{{.Id}}", name]);
    PinnedImage { repository: name.split(':').next().unwrap().parse().unwrap(), digest: id.parse().unwrap() }
}

/// A node whose containers an engine keeps that many nodes may share, one after the other.
struct Node<'a> {
    agent: Agent,
    engine: &'a Engine,
    image: PinnedImage,
    directory: TempDir,
}

fn open(directory: &TempDir) -> Agent {
    Agent::open(Config {
        directory: directory.path().join("node"),
        content: directory.path().join("content"),
        installation: "here".parse().unwrap(),
        target: "local".parse().unwrap(),
        shim: vec![env!("CARGO_BIN_EXE_plimsoll").into(), "shim".into()],
        programs: None,
        on_change: Arc::new(|_| {}),
    })
    .unwrap()
}

impl<'a> Node<'a> {
    fn new(engine: &'a Engine) -> Self {
        let directory = scratch();
        Self { agent: open(&directory), engine, image: image(engine, BUSYBOX), directory }
    }

    /// A command line in the engine's image.
    fn launch(&self, argv: &[&str]) -> Launch {
        Launch {
            image: Some(self.image.clone()),
            engine: Some(EngineAddress(self.engine.address())),
            grace: Span::seconds(1),
            ..Launch::of(argv.iter().map(|&part| part.to_owned()).collect())
        }
    }

    async fn execute(&self, action: Action) {
        execute(&self.agent, action).await;
    }

    async fn create(&self, name: &str, launch: Launch) {
        self.execute(creation(name, launch)).await;
    }

    async fn until(&self, name: &str, what: &str, is_so: impl Fn(&Instance) -> bool) -> Instance {
        let (give_up, id) = (Instant::now() + PATIENCE, name.parse::<InstanceId>().unwrap());
        loop {
            let Sighting::Node(view) = self.agent.observe(&"app".parse().unwrap()).await.unwrap() else {
                panic!("an agent is a node")
            };
            let seen = view.instances.get(&id).cloned();
            match seen {
                Some(it) if is_so(&it) => return it,
                seen if Instant::now() > give_up => {
                    let log = self.log(name);
                    panic!("{name} was never {what}; last seen was {seen:?}; {log}");
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// What the agent noted of an instance.
    fn log(&self, name: &str) -> String {
        let log = self.directory.path().join("node/instances").join(name).join("log");
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }

    async fn remove(&self, name: &str) {
        self.execute(Action::Stop { instance: name.parse().unwrap(), grace: Span::seconds(1) }).await;
        self.until(name, "stopped", |it| it.phase == Phase::Stopped).await;
        self.execute(Action::Remove { instance: name.parse().unwrap() }).await;
    }

    /// The container of an instance, as the engine's own command says it in a format.
    fn inspect(&self, name: &str, format: &str) -> String {
        self.engine.run(&["inspect", "--format", format, &container(name)])
    }

    /// What a command says in the container of an instance.
    fn exec(&self, name: &str, command: &[&str]) -> String {
        self.engine.run(&[&["exec", &container(name)], command].concat())
    }
}

/// The name of an instance's container.
fn container(name: &str) -> String {
    let installation = Digest::of_bytes(b"here").short();
    format!("plimsoll-{}-{name}", &installation[..6])
}

impl Drop for Node<'_> {
    /// Without its directory nothing is started again meanwhile.
    fn drop(&mut self) {
        let node = self.directory.path().join("node");
        std::fs::rename(node.join("instances"), node.join("ended")).unwrap();
        let left = self.engine.run(&["ps", "--all", "--quiet"]);
        for container in left.lines() {
            self.engine.command(&["rm", "--force", container]).output().unwrap();
        }
    }
}

impl Subject for Node<'_> {
    fn driver(&self) -> &dyn Driver {
        &self.agent
    }

    async fn pass_time(&self) {
        tokio::time::sleep(POLL).await;
    }

    fn launch(&self) -> Launch {
        self.launch(&["sleep", "1000"])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_the_contract_of_drivers() {
    let engine = Engine::start(Make::Docker);
    contract::every(async || Node::new(&engine)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_keeps_the_contract_of_drivers() {
    let engine = Engine::start(Make::Podman);
    contract::every(async || Node::new(&engine)).await;
}

/// Runs a test on each engine, with an engine of its own.
macro_rules! on_both {
    ($($(#[$doc:meta])* $name:ident => $test:ident;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn docker() {
                $test(Engine::start(Make::Docker)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn podman() {
                $test(Engine::start(Make::Podman)).await;
            }
        }
    )*};
}

on_both! {
    runs_go_on => runs_go_on_without_us;
    ends => ends_are_told_apart;
    rights => rights_are_few;
    volumes => volumes_are_kept_until_the_app_is_gone;
    engine_away => an_engine_that_was_killed_comes_back;
    by_hand => what_others_do_to_a_container_is_put_right;
}

/// A new agent adopts what runs.
async fn runs_go_on_without_us(engine: Engine) {
    let mut node = Node::new(&engine);
    node.create("a", node.launch(&["sleep", "1000"])).await;
    node.until("a", "ready", Instance::is_ready).await;
    let before = node.inspect("a", "{{.State.Pid}} {{.Id}}");
    node.agent = open(&node.directory);
    let seen = node.until("a", "ready", Instance::is_ready).await;
    assert_eq!((node.inspect("a", "{{.State.Pid}} {{.Id}}"), seen.restarts), (before, 0));
    assert_eq!(effects(&node.agent).await, Effects(1), "the ledger is known");
    node.remove("a").await;
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]), "", "a removed container is gone");
}

async fn ends_are_told_apart(engine: Engine) {
    let node = Node::new(&engine);
    node.create("code", node.launch(&["sh", "-c", "echo out; exit 3"])).await;
    node.create("missing", node.launch(&["/no/such/program"])).await;
    let mut hungry = node.launch(&["sh", "-c", "x=1; while true; do x=$x$x$x$x; done"]);
    hungry.resources.memory = Some("16Mi".parse().unwrap());
    node.create("hungry", hungry).await;
    let seen = node.until("code", "restarted", |it| it.restarts >= 1).await;
    assert_eq!(seen.last_exit, Some(Exit::Code(3)), "{}", node.log("code"));
    let seen = node.until("missing", "ended", |it| it.last_exit.is_some()).await;
    assert_eq!(seen.last_exit, Some(Exit::Exec(2)));
    let seen = node.until("hungry", "ended", |it| it.last_exit.is_some()).await;
    // Podman does not see it with control groups of version 1.
    let is_told = seen.last_exit == Some(Exit::OutOfMemory);
    assert!(
        is_told || (engine.make() == Make::Podman && seen.last_exit == Some(Exit::Code(137))),
        "{seen:?}"
    );
}

async fn rights_are_few(engine: Engine) {
    let node = Node::new(&engine);
    let mut launch = node.launch(&["sleep", "1000"]);
    node.create("usual", launch.clone()).await;
    launch.security.user = Some("1000:1000".into());
    launch.security.read_only = true;
    launch.security.capabilities = Some([].into());
    launch.resources.pids = Some(20);
    launch.resources.cpu = Some("500m".parse().unwrap());
    node.create("tight", launch).await;
    node.until("usual", "ready", Instance::is_ready).await;
    let seen = node.until("tight", "ready", Instance::is_ready).await;
    assert_eq!(seen.unenforced, [], "everything is enforced");
    let status = node.exec("usual", &["cat", "/proc/1/status"]);
    let line = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
    };
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE: see capabilities(7).
    assert_eq!(line(&status, "CapBnd"), "00000000000004fb");
    assert_eq!(line(&status, "NoNewPrivs"), "1");
    let status = node.exec("tight", &["cat", "/proc/1/status"]);
    assert_eq!(
        (line(&status, "CapBnd"), line(&status, "Uid")),
        ("0".repeat(16), "1000\t1000\t1000\t1000".into())
    );
    node.exec("tight", &["touch", "/tmp/x"]);
    let refused = engine.command(&["exec", &container("tight"), "touch", "/data/x"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only"), "{refused:?}");
    assert_eq!(node.inspect("tight", "{{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}"), "20 500000000");
}

async fn volumes_are_kept_until_the_app_is_gone(engine: Engine) {
    let node = Node::new(&engine);
    let launch = || {
        let mut launch = node.launch(&["sh", "-c", "echo x >> /data/count; sleep 1000"]);
        launch.volumes.insert("data".parse().unwrap(), VolumeMount { path: "/data".into(), size: None });
        launch
    };
    node.create("a", launch()).await;
    node.until("a", "ready", Instance::is_ready).await;
    node.remove("a").await;
    node.create("b", launch()).await;
    node.until("b", "ready", Instance::is_ready).await;
    let lines = || node.exec("b", &["cat", "/data/count"]).lines().count();
    let give_up = Instant::now() + PATIENCE;
    while lines() < 2 {
        assert!(Instant::now() < give_up, "the slot's volume was not kept");
        tokio::time::sleep(POLL).await;
    }
    node.remove("b").await;
    assert_eq!(engine.run(&["volume", "ls", "--quiet"]), "plimsoll.app.main.0.data");
    let of_another = ["--label", "dev.plimsoll.installation=here", "--label", "dev.plimsoll.app=other"];
    engine.run(&[&["volume", "create"], &of_another[..], &["theirs"]].concat());
    node.execute(Action::Close).await;
    assert_eq!(engine.run(&["volume", "ls", "--quiet"]), "theirs", "those of another App stay");
}

async fn an_engine_that_was_killed_comes_back(engine: Engine) {
    let node = Node::new(&engine);
    let mut launch = node.launch(&["sh", "-c", "echo x >> /data/count; sleep 1000"]);
    launch.volumes.insert("data".parse().unwrap(), VolumeMount { path: "/data".into(), size: None });
    node.create("a", launch.clone()).await;
    node.until("a", "ready", Instance::is_ready).await;
    engine.kill();
    // It is refused, or waits for the engine.
    try_execute(&node.agent, creation("b", node.launch(&["sleep", "1000"]))).await.ok();
    engine.resume();
    let give_up = Instant::now() + PATIENCE;
    while try_execute(&node.agent, creation("b", node.launch(&["sleep", "1000"]))).await.is_err() {
        assert!(Instant::now() < give_up, "it is not used again");
        tokio::time::sleep(POLL).await;
    }
    node.until("b", "ready", Instance::is_ready).await;
    node.until("a", "ready", Instance::is_ready).await;
    let running = || engine.run(&["ps", "--quiet"]).lines().count();
    let give_up = Instant::now() + PATIENCE;
    while running() != 2 {
        assert!(Instant::now() < give_up, "{} run", running());
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]).lines().count(), 2, "nothing is there twice");
    assert!(!node.exec("a", &["cat", "/data/count"]).is_empty(), "its volume is whole");
}

async fn what_others_do_to_a_container_is_put_right(engine: Engine) {
    let node = Node::new(&engine);
    node.create("a", node.launch(&["sleep", "1000"])).await;
    node.until("a", "ready", Instance::is_ready).await;
    engine.run(&["rm", "--force", &container("a")]);
    let seen = node.until("a", "ready again", |it| it.restarts == 1 && it.is_ready()).await;
    assert_eq!(seen.last_exit, Some(Exit::Lost));
    engine.run(&["kill", &container("a")]);
    let seen = node.until("a", "ready again", |it| it.restarts == 2 && it.is_ready()).await;
    assert_eq!(seen.last_exit, Some(Exit::Code(137)));
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]).lines().count(), 1);
}
