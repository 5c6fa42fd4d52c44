//! The agent with real supervisors and programs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_agent::{Agent, Config};
use plimsoll_driver::contract::{self, Subject};
use plimsoll_driver::{Driver, DriverError, SecretValues, Sighting};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{
    BindingsHash, ComponentHash, Digest, Effects, Epoch, InstanceId, PlanHash, PlanNo, Slot, Uid,
};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{Content, ListedFile, Listing};
use plimsoll_model::step::{Action, Cause, Fence, Launch, Rendered, Step};
use plimsoll_model::world::{Blockage, Exit, Instance, Limit, Phase};
use tempfile::TempDir;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks at something that gives no notice.
const POLL: Duration = Duration::from_millis(2);

/// A node in a directory of its own, which ends everything it started.
struct Node {
    agent: Agent,
    directory: TempDir,
}

fn config(directory: &Path) -> Config {
    Config {
        directory: directory.join("node"),
        content: directory.join("content"),
        installation: "here".parse().unwrap(),
        target: "local".parse().unwrap(),
        shim: vec![env!("CARGO_BIN_EXE_plimsoll").into(), "shim".into()],
        programs: None,
        on_change: Arc::new(|_| {}),
    }
}

impl Node {
    fn new() -> Self {
        let directory = scratch();
        Self { agent: Agent::open(config(directory.path())).unwrap(), directory }
    }

    fn instance_file(&self, name: &str, file: &str) -> std::path::PathBuf {
        self.directory.path().join("node/instances").join(name).join(file)
    }

    /// Keeps bytes where the agent looks for programs.
    fn content(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of_bytes(bytes);
        std::fs::write(self.directory.path().join("content").join(digest.to_string()), bytes).unwrap();
        digest
    }

    fn record(&self, name: &str, file: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.instance_file(name, file)).unwrap()).unwrap()
    }

    async fn create(&self, name: &str, launch: Launch) {
        create(&self.agent, name, launch).await;
    }

    /// What a program of ours wrote into a file, once that is whole.
    async fn written(&self, name: &str, file: &Path, is_whole: impl Fn(&str) -> bool) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if is_whole(&text) {
                return text;
            }
            let log = || std::fs::read_to_string(self.instance_file(name, "log"));
            assert!(Instant::now() < give_up, "{} was never whole: {text:?}; {:?}", file.display(), log());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until(&self, name: &str, what: &str, is_so: impl Fn(&Instance) -> bool) -> Instance {
        until(&self.agent, name, what, is_so).await
    }
}

impl Drop for Node {
    /// Kills what a test left running. Without its directory nothing is started again meanwhile.
    fn drop(&mut self) {
        let node = self.directory.path().join("node");
        std::fs::rename(node.join("instances"), node.join("ended")).unwrap();
        end_all_in(self.directory.path());
        take_network_down(&node);
    }
}

/// A directory that other users may pass through, and not below `/tmp`: instances have one of their own.
pub(crate) fn scratch() -> TempDir {
    let is_root = rustix::process::geteuid().is_root();
    let above = if is_root { "/var/lib".into() } else { std::env::temp_dir() };
    let directory = tempfile::Builder::new().prefix("plimsoll-test-").tempdir_in(above).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Removes the bridge of a node that was not asked to remove its instances.
pub(crate) fn take_network_down(node: &Path) {
    let Ok(Some(network)) = plimsoll_shim::read::<serde_json::Value>(node, "network.json") else { return };
    let bridge = format!("plim{}", network["number"]);
    // Whoever was ended may have begun with it.
    plimsoll_shim::tool(&["nft", "delete", "table", "ip", &bridge], "").ok();
    plimsoll_shim::tool(&["ip", "link", "del", &bridge], "").ok();
}

/// Processes that have anything below a directory open.
pub(crate) fn processes_in(directory: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let open = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if pid != own && targets.any(|target| target.starts_with(directory)) {
            found.push(pid);
        }
    }
    found
}

/// Kills everything that a test has left below its directory, also what has only begun to start there.
pub(crate) fn end_all_in(directory: &Path) {
    let text = directory.display().to_string();
    let own = i32::try_from(std::process::id()).unwrap();
    let is_of_it = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && String::from_utf8_lossy(&line).contains(&text)
    };
    // What was being started when its server was killed shows whose it is only a moment later.
    let mut was_quiet = false;
    for _ in 0..100 {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids =
            all.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        let found: Vec<i32> = pids.filter(is_of_it).chain(processes_in(directory)).collect();
        for pid in &found {
            signal(*pid, rustix::process::Signal::KILL);
        }
        if found.is_empty() && was_quiet {
            return;
        }
        was_quiet = found.is_empty();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).ok();
}

fn launch(argv: &[&str]) -> Launch {
    Launch { grace: Span::seconds(1), ..Launch::of(argv.iter().map(|&part| part.to_owned()).collect()) }
}

fn app() -> Uid {
    "app".parse().unwrap()
}

pub(crate) async fn effects(agent: &Agent) -> Effects {
    match agent.observe(&app()).await.unwrap() {
        Sighting::Node(view) => view.effects,
        Sighting::Router(_) => panic!("an agent is a node"),
    }
}

pub(crate) async fn execute(agent: &Agent, action: Action) {
    try_execute(agent, action).await.unwrap();
}

pub(crate) async fn try_execute(agent: &Agent, action: Action) -> Result<(), DriverError> {
    let seen = effects(agent).await;
    let step = Step {
        target: "local".parse().unwrap(),
        component: Some("main".parse().unwrap()),
        slot: Some(Slot(0)),
        action,
        after: Vec::new(),
        cause: Cause::Heal,
    };
    let fence = Fence {
        installation: "here".parse().unwrap(),
        epoch: Epoch(1),
        app: app(),
        key: ObjectKey::in_project("demo".parse().unwrap(), "a".parse().unwrap()),
        plan: PlanNo(seen.0 + 1),
        hash: PlanHash(Digest::of_json(&seen)),
        seen,
    };
    agent.execute(&step, &fence, &SecretValues::new()).await
}

async fn create(agent: &Agent, name: &str, launch: Launch) {
    try_create(agent, name, launch).await.unwrap();
}

/// A step that makes an instance.
pub(crate) fn creation(name: &str, launch: Launch) -> Action {
    Action::Create {
        instance: name.parse().unwrap(),
        revision: ComponentHash(Digest::of_bytes(b"r")),
        bindings: BindingsHash(Digest::of_bytes(b"b")),
        launch: Box::new(launch),
    }
}

async fn try_create(agent: &Agent, name: &str, launch: Launch) -> Result<(), DriverError> {
    try_execute(agent, creation(name, launch)).await
}

async fn until(agent: &Agent, name: &str, what: &str, is_so: impl Fn(&Instance) -> bool) -> Instance {
    let (give_up, id) = (Instant::now() + PATIENCE, name.parse::<InstanceId>().unwrap());
    loop {
        let Sighting::Node(view) = agent.observe(&app()).await.unwrap() else { panic!("an agent is a node") };
        let seen = view.instances.get(&id).cloned();
        match seen {
            Some(it) if is_so(&it) => return it,
            seen if Instant::now() > give_up => panic!("{name} was never {what}; last seen was {seen:?}"),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn pid(node: &Node, name: &str, who: &str) -> i32 {
    i32::try_from(node.record(name, "started.json")[who]["pid"].as_i64().unwrap()).unwrap()
}

impl Subject for Node {
    fn driver(&self) -> &dyn Driver {
        &self.agent
    }

    async fn pass_time(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_keeps_the_contract_of_drivers() {
    contract::every(async || Node::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_adopts_what_runs() {
    let node = Node::new();
    node.create("a", launch(&["sleep", "1000"])).await;
    node.until("a", "ready", Instance::is_ready).await;
    let before = pid(&node, "a", "program");
    let second = Agent::open(config(node.directory.path())).unwrap();
    let seen = until(&second, "a", "ready", Instance::is_ready).await;
    assert_eq!((pid(&node, "a", "program"), seen.restarts), (before, 0), "the same process, never restarted");
    assert_eq!(effects(&second).await, Effects(1), "the ledger is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_is_started_again_and_its_words_are_kept() {
    let node = Node::new();
    node.create("a", launch(&["sh", "-c", "echo out; echo err >&2; exit 3"])).await;
    let seen = node.until("a", "restarted", |it| it.restarts >= 1).await;
    assert_eq!(seen.last_exit, Some(Exit::Code(3)));
    let log = std::fs::read(node.instance_file("a", "log")).unwrap();
    let lines: Vec<_> = log.split(|byte| *byte == b'\n').filter_map(plimsoll_shim::read_line).collect();
    let said = |stream| lines.iter().find(|line| line.stream == stream).map(|line| line.text);
    assert_eq!(said(plimsoll_shim::Stream::Out), Some(&b"out"[..]));
    assert_eq!(said(plimsoll_shim::Stream::Err), Some(&b"err"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_says_so() {
    let node = Node::new();
    node.create("a", launch(&["/no/such/program"])).await;
    let seen = node.until("a", "ended", |it| it.last_exit.is_some()).await;
    assert_eq!(seen.last_exit, Some(Exit::Exec(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_leaves_nothing_running_twice() {
    let node = Node::new();
    node.create("a", launch(&["sleep", "1000"])).await;
    node.until("a", "ready", Instance::is_ready).await;
    let (shim, program) = (pid(&node, "a", "shim"), pid(&node, "a", "program"));
    signal(shim, rustix::process::Signal::KILL);
    let seen = node.until("a", "ready again", |it| it.restarts == 1 && it.is_ready()).await;
    assert_eq!(seen.last_exit, Some(Exit::Lost));
    assert_ne!(pid(&node, "a", "program"), program);
    assert!(!is_running(program), "the one that lost its supervisor was ended first");
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_ignores_it_and_what_has_left_its_group() {
    let node = Node::new();
    // The inner shell leaves session and group, and loses its parent.
    let script =
        "setsid -f sh -c 'echo $$ > stray; exec sleep 1000'; trap '' TERM; while :; do sleep 1; done";
    node.create("a", launch(&["sh", "-c", script])).await;
    node.until("a", "ready", Instance::is_ready).await;
    let stray = node.instance_file("a", "work/stray");
    let stray: i32 = node.written("a", &stray, |text| text.ends_with('\n')).await.trim().parse().unwrap();
    let program = pid(&node, "a", "program");
    execute(&node.agent, Action::Stop { instance: "a".parse().unwrap(), grace: Span::millis(100) }).await;
    let seen = node.until("a", "stopped", |it| it.phase == Phase::Stopped).await;
    assert_eq!(seen.last_exit, Some(Exit::Signal(9)));
    assert!(!is_running(program) && !is_running(stray), "nothing of it is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_what_was_declared_and_nothing_of_ours() {
    let node = Node::new();
    let text = |text: &str| Rendered::text(text);
    let mut launch = launch(&["sh", "{file}", "one"]);
    launch.content = Some(Content::Inline {
        name: "main.sh".into(),
        text: "env | sort > env.txt; id -u > uid.txt; cat etc/app.conf > conf.txt; ls data; exec sleep 1000"
            .into(),
    });
    launch.env.insert("COLOUR".parse().unwrap(), text("red"));
    launch.files.insert("etc/app.conf".into(), text("key = value\n"));
    launch.ports.insert("http".parse().unwrap(), 8080);
    let relation = BTreeMap::from([("host".parse().unwrap(), text("127.64.0.1"))]);
    launch.bindings.insert("db".parse().unwrap(), relation);
    let volume = plimsoll_model::step::VolumeMount { path: "data".into(), size: None };
    launch.volumes.insert("data".parse().unwrap(), volume);
    node.create("a", launch).await;
    let work = node.instance_file("a", "work");
    node.written("a", &work.join("conf.txt"), |text| !text.is_empty()).await;
    let env = std::fs::read_to_string(work.join("env.txt")).unwrap();
    let names: Vec<&str> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let ours = [
        "COLOUR",
        "HOME",
        "LANG",
        "PATH",
        "PLIMSOLL_APP",
        "PLIMSOLL_COMPONENT",
        "PLIMSOLL_SLOT",
        "PORT",
        "PORT_HTTP",
        "PWD",
        "SERVICE_BINDING_ROOT",
        "TMPDIR",
    ];
    // The shell itself adds PWD and, some of them, `_`.
    assert_eq!(names.into_iter().filter(|name| *name != "_").collect::<Vec<_>>(), ours);
    assert_eq!(std::fs::read_to_string(work.join("conf.txt")).unwrap(), "key = value\n");
    assert_eq!(std::fs::read_to_string(node.instance_file("a", "bindings/db/host")).unwrap(), "127.64.0.1");
    if rustix::process::geteuid().is_root() {
        let user: u32 = std::fs::read_to_string(work.join("uid.txt")).unwrap().trim().parse().unwrap();
        assert!(user >= 210_000, "the program runs as its project's own user, not as {user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_enforced_or_said_not_to_be() {
    let node = Node::new();
    let mut launch = launch(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"]);
    launch.resources.pids = Some(5);
    launch.volumes.insert(
        "data".parse().unwrap(),
        plimsoll_model::step::VolumeMount { path: "data".into(), size: Some("1Mi".parse().unwrap()) },
    );
    node.create("a", launch).await;
    let seen = node.until("a", "started", |it| it.phase != Phase::Unknown && !it.unenforced.is_empty()).await;
    assert!(seen.unenforced.contains(&Limit::VolumeSize), "{seen:?}");
    if seen.unenforced.contains(&Limit::Pids) {
        assert!(!rustix::process::geteuid().is_root(), "root may limit processes here");
    } else {
        // The shell cannot fork so often, and ends for it.
        node.until("a", "ended by its limit", |it| it.last_exit.is_some_and(|exit| exit != Exit::Code(0)))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_probe_and_a_dead_program_is_started_again() {
    let node = Node::new();
    let mut launch = launch(&["sh", "-c", "touch healthy; exec sleep 1000"]);
    launch.health = serde_json::from_value(serde_json::json!({
        "exec": {"command": ["test", "-e", "healthy"]},
        "every": "50ms", "failures": 2, "start": "0s", "live": {"failures": 5},
    }))
    .unwrap();
    node.create("a", launch).await;
    node.until("a", "ready", Instance::is_ready).await;
    std::fs::remove_file(node.instance_file("a", "work/healthy")).unwrap();
    let seen = node.until("a", "unready", |it| it.unready_count == 1).await;
    assert!(seen.probe.is_some_and(|said| said.contains("test")), "what the probe saw is known");
    let seen = node.until("a", "ready again", |it| it.restarts == 1 && it.is_ready()).await;
    assert_eq!((seen.unready_count, seen.last_exit), (1, Some(Exit::Signal(15))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_running_serves_until_it_fails() {
    let node = Node::new();
    let mut launch = launch(&["sh", "-c", "touch healthy; exec sleep 1000"]);
    launch.health = serde_json::from_value(serde_json::json!({
        "exec": {"command": ["test", "-e", "healthy"]}, "every": "50ms", "failures": 3, "live": {"failures": 1000},
    }))
    .unwrap();
    node.create("a", launch).await;
    node.until("a", "ready", Instance::is_ready).await;
    let may_serve = |it: &Instance| matches!(it.phase, Phase::Unknown | Phase::Ready { .. });
    let second = Agent::open(config(node.directory.path())).unwrap();
    until(&second, "a", "ready", |it| {
        assert!(may_serve(it), "{:?} is what nobody has seen", it.phase);
        it.is_ready()
    })
    .await;
    // One that fails is unknown for as many probes as one that was ready stays so.
    std::fs::remove_file(node.instance_file("a", "work/healthy")).unwrap();
    let third = Agent::open(config(node.directory.path())).unwrap();
    until(&third, "a", "told what its probe said", |it| {
        assert!(may_serve(it), "{:?} after one failure", it.phase);
        it.probe.is_some()
    })
    .await;
    let seen = until(&third, "a", "unready", |it| matches!(it.phase, Phase::Unready { .. })).await;
    assert_eq!(seen.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_a_network_of_its_own_and_a_way_out() {
    let node = Node::new();
    if !rustix::process::geteuid().is_root() {
        node.create("a", launch(&["sleep", "1000"])).await;
        let seen = node.until("a", "ready", Instance::is_ready).await;
        assert!(
            seen.unenforced.contains(&Limit::Network) && seen.unenforced.contains(&Limit::Tmp),
            "{seen:?}"
        );
        return;
    }
    // Another machine that knows the way to this one, and none to its instances.
    let other = Other::new();
    let script = "import http.server, os, socket\n\
         own = socket.create_connection(('10.208.77.2', 80), 5).recv(100).decode()\n\
         open('/tmp/seen', 'w').write(own)\n\
         http.server.HTTPServer(('127.0.0.1', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()\n";
    for name in ["a", "b"] {
        let mut launch = launch(&["python3", "{file}"]);
        launch.content = Some(Content::Inline { name: "main.py".into(), text: script.into() });
        launch.ports.insert("http".parse().unwrap(), 8080);
        let health = serde_json::json!({"http": {"port": "http", "path": "/"}, "every": "50ms"});
        launch.health = serde_json::from_value(health).unwrap();
        node.create(name, launch).await;
    }
    for name in ["a", "b"] {
        let seen = node.until(name, "ready", Instance::is_ready).await;
        assert!(seen.unenforced.is_empty(), "{seen:?}");
        assert_eq!(seen.endpoints.values().next().unwrap().port(), 8080, "the declared port, in both copies");
        let peer = std::fs::read_to_string(node.instance_file(name, "tmp/seen")).unwrap();
        assert_eq!(peer, "10.208.77.1", "it goes out with this machine's address");
    }
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_leads_out_of_the_instance_is_not_written() {
    let node = Node::new();
    let file = ListedFile { digest: node.content(b"echo stolen"), executable: true };
    let listing = Listing { files: [("../../stolen".to_owned(), file)].into() };
    let mut launch = launch(&["sh", "-c", "exec sleep 1000"]);
    let digest = node.content(&serde_json::to_vec(&listing).unwrap());
    launch.content = Some(Content::Tree { digest, entry: None });
    node.create("a", launch).await;
    node.until("a", "blocked", |it| it.phase == Phase::Blocked { by: Blockage::Content }).await;
    assert!(!node.instance_file("stolen", "").exists() && !node.instance_file("a", "stolen").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_where_a_program_may_have_put_a_link() {
    let node = Node::new();
    let data = plimsoll_model::step::VolumeMount { path: "data".into(), size: None };
    let with = |change: &dyn Fn(&mut Launch)| {
        let mut launch = launch(&["sleep", "1000"]);
        launch.volumes.insert("data".parse().unwrap(), data.clone());
        change(&mut launch);
        launch
    };
    for (name, change) in [
        (
            "workdir",
            &(|launch: &mut Launch| launch.workdir = Some("data/run".into())) as &dyn Fn(&mut Launch),
        ),
        ("file", &|launch| drop(launch.files.insert("data/etc/x".into(), Rendered::text("x")))),
        ("volume", &|launch| {
            let inner = plimsoll_model::step::VolumeMount { path: "./data/inner".into(), size: None };
            launch.volumes.insert("inner".parse().unwrap(), inner);
        }),
    ] {
        let refused = try_create(&node.agent, name, with(change)).await.unwrap_err();
        assert!(refused.to_string().contains("lies in a volume"), "{name}: {refused}");
    }
    // Until its first start nobody else may pass into an instance's directory; the program waits for its content.
    let mut waiting = with(&|_| {});
    waiting.content = Some(Content::File { name: "main".into(), digest: Digest::of_bytes(b"main") });
    node.create("waiting", waiting).await;
    node.until("waiting", "blocked", |it| it.phase == Phase::Blocked { by: Blockage::Content }).await;
    let mode = || node.instance_file("waiting", "").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    // Half of a program that a crash left there is not run.
    std::fs::write(node.instance_file("waiting", "work/main"), "ma").unwrap();
    node.content(b"main");
    node.until("waiting", "started", |it| {
        matches!(it.phase, Phase::Unready { .. } | Phase::Ready { .. } | Phase::Backoff { .. })
    })
    .await;
    assert_eq!(mode(), 0o711);
    assert_eq!(std::fs::read_to_string(node.instance_file("waiting", "work/main")).unwrap(), "main");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_cannot_be_made_is_not_the_programs_fault() {
    let node = Node::new();
    if !rustix::process::geteuid().is_root() {
        // Instances share the node's network.
        return;
    }
    node.create("a", launch(&["sleep", "1000"])).await;
    node.until("a", "ready", Instance::is_ready).await;
    take_network_down(&node.directory.path().join("node"));
    signal(pid(&node, "a", "program"), rustix::process::Signal::KILL);
    // Without its bridge nothing can be started, until the agent has made it again.
    node.until("a", "ready again", |it| it.restarts >= 1 && it.is_ready()).await;
}

/// Another machine: a network beside ours in which one server tells whoever connects where they come from.
struct Other {
    server: std::process::Child,
}

impl Other {
    fn new() -> Self {
        let server = std::process::Command::new("unshare")
            .args(["--net", "python3", "-c"])
            .arg(
                "import socket, sys\n\
                 sys.stdin.readline()\n\
                 server = socket.create_server(('10.208.77.2', 80))\n\
                 while True:\n  peer, address = server.accept()\n  peer.sendall(address[0].encode())\n  peer.close()\n",
            )
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut other = Self { server };
        let pid = other.server.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let give_up = Instant::now() + PATIENCE;
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
            assert!(Instant::now() < give_up, "the other machine has no network of its own");
            std::thread::yield_now();
        }
        let here = format!(
            "link add beside-test type veth peer name eth0 netns {pid}\n\
             addr add 10.208.77.1/24 dev beside-test\nlink set beside-test up\n"
        );
        plimsoll_shim::tool(&["ip", "-batch", "-"], &here).unwrap();
        let there = "addr add 10.208.77.2/24 dev eth0\nlink set eth0 up\n";
        plimsoll_shim::tool(&["nsenter", "-t", &pid, "-n", "ip", "-batch", "-"], there).unwrap();
        std::io::Write::write_all(other.server.stdin.as_mut().unwrap(), b"go\n").unwrap();
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
