//! The figures of containers in `docs/performance.md`: each is printed with the bar it is held to, and beside its peer in the
//! same run where there is one.
//!
//! Whole processes of the release build, with an engine of their own. `cargo bench -p plimsoll --bench containers` runs them
//! all; a word after `--` runs those whose name contains it. Only root may; nothing here decides a test.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on ends here")]

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use plimsoll_testkit::{BUSYBOX, Engine, Make};
use tempfile::TempDir;

mod load;

use load::Load;

const PLIMSOLL: &str = env!("CARGO_BIN_EXE_plimsoll");

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// A control plane whose containers an engine keeps.
struct Plane<'a> {
    engine: &'a Engine,
    directory: TempDir,
    server: Child,
}

impl<'a> Plane<'a> {
    fn start(engine: &'a Engine) -> Self {
        let directory = tempfile::tempdir_in("/var/lib").unwrap();
        let server = serve(&directory, engine);
        let plane = Self { engine, directory, server };
        plane.until_ready();
        plane
    }

    fn until_ready(&self) {
        until(|| self.command(&["auth", "whoami"]).status().unwrap().success());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PLIMSOLL);
        command.args(arguments).arg("--data-dir").arg(self.directory.path().join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The same with a volume for each copy.
    fn apply_kept(&self, replicas: u32, version: u32) -> bool {
        self.apply(replicas, version, ", surge: 0, unavailable: 5}\n      volumes: {kept: {path: /kept}")
    }

    /// Applies an App of so many sleeping copies of a version, and waits until it runs as declared.
    fn apply(&self, replicas: u32, version: u32, more: &str) -> bool {
        let text = format!(
            "apiVersion: plimsoll.dev/v1
kind: App
metadata: {{name: many}}
spec:
  components:
    main:
      image: {BUSYBOX}
      command: [sh, -c, \"trap 'exit 0' TERM; sleep 100000 & wait\"]
      env: {{VERSION: '{version}'}}
      replicas: {replicas}
      grace: 1s
      update: {{soak: 1ms{more}}}
"
        );
        let path = self.directory.path().join("many.yaml");
        std::fs::write(&path, text).unwrap();
        self.command(&["apply", "--wait", "-f", &path.display().to_string()]).status().unwrap().success()
    }

    fn running(&self) -> BTreeSet<String> {
        self.engine.run(&["ps", "--quiet", "--no-trunc"]).lines().map(str::to_owned).collect()
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn resume(&mut self) {
        std::fs::remove_file(self.directory.path().join("data/api.json")).ok();
        self.server = serve(&self.directory, self.engine);
        self.until_ready();
    }
}

impl Drop for Plane<'_> {
    fn drop(&mut self) {
        self.command(&["delete", "many"]).status().unwrap();
        self.server.kill().ok();
        self.server.wait().ok();
        // The router outlives its server.
        let data = self.directory.path().display().to_string();
        Command::new("pkill").args(["-9", "-f", &format!("plimsoll router {data}")]).status().ok();
    }
}

fn serve(directory: &TempDir, engine: &Engine) -> Child {
    let mut command = Command::new(PLIMSOLL);
    command.args(["server", "--http-port", "0", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(directory.path().join("data")).env("DOCKER_HOST", engine.address());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn until(mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "it was never so");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The engine's own limit: as many `docker run` at once.
fn by_hand(engine: &Engine, copies: u32) -> Duration {
    let began = Instant::now();
    let script = "trap 'exit 0' TERM; sleep 100000 & wait";
    let runs = (0..copies).map(|_| {
        let mut command = engine.command(&["run", "--detach", BUSYBOX, "sh", "-c", script]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    });
    let runs: Vec<Child> = runs.collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let took = began.elapsed();
    let all = engine.run(&["ps", "--all", "--quiet"]);
    let all: Vec<&str> = all.lines().collect();
    engine.run(&[&["rm", "--force"], &all[..]].concat());
    took
}

/// How long 20 containers take from apply to Ready, and a rolling update of them.
fn created_and_rolled(engine: &Engine) -> (Duration, Duration) {
    let plane = Plane::start(engine);
    let began = Instant::now();
    assert!(plane.apply(20, 1, ", surge: 5"));
    let created = began.elapsed();
    let began = Instant::now();
    assert!(plane.apply(20, 2, ", surge: 5"));
    (created, began.elapsed())
}

/// 20 containers and a rolling update of them, against the engine's own ways.
fn twenty() {
    let engine = Engine::start(Make::Docker);
    // The first containers of an engine take longer, whoever makes them.
    by_hand(&engine, 4);
    let (mut ratios, mut rolls) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let peer = by_hand(&engine, 20);
        let (ours, rolled) = created_and_rolled(&engine);
        rolls.push(rolled);
        println!("  20 containers: {ours:.1?}, by hand {peer:.1?}; rolled in {rolled:.1?}");
        ratios.push(ours.as_secs_f64() / peer.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    rolls.sort();
    println!("20 containers, apply to Ready, against 20 docker run: {:.2} x (bar 1.15 x)", ratios[1]);
    println!("rolling update of 20, surge 5: {:.1?} (the bar is 0.6 x docker service update)", rolls[1]);
}

/// How long a command of the engine takes that must succeed; nothing if it is not done after two minutes.
fn timed(engine: &Engine, arguments: &[&str]) -> Option<Duration> {
    let began = Instant::now();
    let mut command = engine.command(arguments);
    let mut running =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while began.elapsed() < Duration::from_mins(2) {
        if let Some(status) = running.try_wait().unwrap() {
            return status.success().then(|| began.elapsed());
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    None
}

/// The same 20 as a service of the engine's own Swarm mode, created and rolled.
fn swarm() {
    let engine = Engine::start(Make::Docker);
    by_hand(&engine, 4);
    let began = timed(
        &engine,
        &["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377"],
    );
    if began.is_none() {
        println!("Swarm does not start here: no peer for these rows");
        return;
    }
    let (mut created, mut rolled) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let script = "trap 'exit 0' TERM; sleep 100000 & wait";
        let rolling = ["--update-parallelism", "5", "--update-order", "start-first"];
        let create = ["service", "create", "--name", "many", "--replicas", "20", "--stop-grace-period", "1s"];
        let image = ["--no-resolve-image", BUSYBOX, "sh", "-c", script];
        let peer = timed(&engine, &[&create[..], &rolling, &image].concat());
        let update = ["service", "update", "--no-resolve-image", "--env-add", "VERSION=2", "many"];
        let peer_rolled = peer.and_then(|_| timed(&engine, &update));
        timed(&engine, &["service", "rm", "many"]);
        until(|| engine.run(&["ps", "--all", "--quiet"]).is_empty());
        let (Some(peer), Some(peer_rolled)) = (peer, peer_rolled) else {
            println!("services do not start here: no peer for these rows");
            break;
        };
        let (ours, ours_rolled) = created_and_rolled(&engine);
        println!(
            "  created in {ours:.1?}, the service in {peer:.1?}; rolled in {ours_rolled:.1?}, the service in {peer_rolled:.1?}"
        );
        created.push(ours.as_secs_f64() / peer.as_secs_f64());
        rolled.push(ours_rolled.as_secs_f64() / peer_rolled.as_secs_f64());
    }
    timed(&engine, &["swarm", "leave", "--force"]);
    for (what, ratios) in [
        ("20 containers, against docker service create", &mut created),
        ("rolling update, against docker service update", &mut rolled),
    ] {
        ratios.sort_by(f64::total_cmp);
        if let Some(median) = ratios.get(ratios.len() / 2) {
            println!("{what}: {median:.2} x (bar 0.6 x)");
        }
    }
}

/// Memory of the server and the router with 200 containers.
fn memory() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::start(&engine);
    assert!(plane.apply(200, 1, ", surge: 5"));
    let data = plane.directory.path().display().to_string();
    let found =
        Command::new("pgrep").args(["-f", &format!("plimsoll (server|router).*{data}")]).output().unwrap();
    let pids = String::from_utf8(found.stdout).unwrap();
    let pss: u64 = pids.lines().map(pss).sum();
    println!("PSS of server + router with 200 containers: {} MB (bar 60 MB)", pss * 1024 / 1_000_000);
}

/// In KiB.
fn pss(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// From apply to rolled back, of an update that does not become ready.
fn bad() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::start(&engine);
    assert!(plane.apply(5, 1, ", surge: 5"));
    let before = plane.running();
    let began = Instant::now();
    let probe = ", surge: 5, deadline: 10s}\n      health: {exec: {command: [\"false\"]}, start: 1m";
    assert!(!plane.apply(5, 2, probe), "it is told that it was rolled back");
    let took = began.elapsed();
    println!("bad update, apply to rolled back: {took:.1?} (bar: deadline of 10 s + 5 s)");
    println!("  {} of 5 copies were never touched", plane.running().intersection(&before).count());
}

/// `kill -9` of the server at random moments of a rolling update of 20.
fn killed() {
    let engine = Engine::start(Make::Docker);
    let mut plane = Plane::start(&engine);
    assert!(plane.apply(20, 0, ", surge: 5"));
    let mut seed = std::process::id();
    let mut wrong = 0;
    for version in 1..=20 {
        let path = plane.directory.path().join("many.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace(&format!("VERSION: '{}'", version - 1), &format!("VERSION: '{version}'"));
        std::fs::write(&path, text).unwrap();
        let file = path.display().to_string();
        assert!(plane.command(&["apply", "-f", &file]).status().unwrap().success());
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        std::thread::park_timeout(Duration::from_millis(u64::from(seed >> 16) % 4000));
        plane.kill();
        plane.resume();
        assert!(plane.command(&["wait", "many"]).status().unwrap().success());
        let all = engine.run(&["ps", "--all", "--quiet"]).lines().count();
        let current = engine.run(&["ps", "--quiet", "--no-trunc"]);
        let ids: Vec<&str> = current.lines().collect();
        let environment = engine.run(&[&["inspect", "--format", "{{.Config.Env}}"], &ids[..]].concat());
        let of_version =
            environment.lines().filter(|line| line.contains(&format!("VERSION={version} "))).count();
        let of_version =
            of_version + environment.lines().filter(|it| it.contains(&format!("VERSION={version}]"))).count();
        if all != 20 || of_version != 20 {
            wrong += 1;
            println!("  version {version}: {all} containers, {of_version} of them of it");
        }
    }
    println!("kill -9 during 20 rolling updates of 20 containers: {wrong} with another end (bar 0)");
}

/// An image with this very program, which is the backend of the load, and the libraries that it needs.
fn make_backend(engine: &Engine, directory: &TempDir) {
    let root = directory.path().join("root");
    let program = std::env::current_exe().unwrap();
    let needed = Command::new("ldd").arg(&program).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
    std::fs::create_dir_all(root.join("seen")).unwrap();
    std::fs::copy(&program, root.join("backend")).unwrap();
    for library in libraries {
        let inside = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(library, inside).unwrap();
    }
    let archive = directory.path().join("backend.tar").display().to_string();
    let packed = Command::new("tar").args(["-C", &root.display().to_string(), "-cf", &archive, "."]).status();
    assert!(packed.unwrap().success());
    engine.run(&["import", &archive, "localhost/backend:1"]);
}

/// What the containers of the load have noted, each on its volume.
fn posts(engine: &Engine) -> Vec<u32> {
    let volumes = engine.run(&["volume", "ls", "--quiet"]);
    let places =
        volumes.lines().map(|it| engine.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", it]));
    let texts = places.map(|place| std::fs::read_to_string(format!("{place}/posts")).unwrap_or_default());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Rolling updates of containers under a load, with the server killed now and then.
fn rolls() {
    let rolls: u32 = std::env::var("ROLLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let engine = Engine::start(Make::Docker);
    let mut plane = Plane::start(&engine);
    make_backend(&engine, &plane.directory);
    let text = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: many}\nspec:\n  components:\n    web:\n      \
         image: localhost/backend:1\n      command: [/backend, backend]\n      replicas: 3\n      ports: {http: 80}\n      \
         env: {PORT: '80', HOST: 0.0.0.0}\n      volumes: {seen: {path: /seen}}\n      \
         health: {http: {port: http}, every: 1s}\n      routes: [{host: load.localhost, port: http}]\n      update: {soak: 0s}\n";
    let path = plane.directory.path().join("load.yaml");
    std::fs::write(&path, text).unwrap();
    let must =
        |plane: &Plane<'_>, arguments: &[&str]| assert!(plane.command(arguments).status().unwrap().success());
    must(&plane, &["apply", "--wait", "-f", &path.display().to_string()]);
    let listen = std::fs::read_to_string(plane.directory.path().join("data/router/listen.json")).unwrap();
    let (router, seen) = (listen.trim_matches('"').parse().unwrap(), Load::default());
    std::thread::scope(|scope| {
        scope.spawn(|| load::run(router, 1000, &seen));
        for roll in 0..rolls {
            must(&plane, &["rollout", "restart", "many"]);
            if roll % 10 == 5 {
                plane.kill();
                plane.resume();
            }
            must(&plane, &["wait", "many"]);
        }
        seen.stop.store(true, Ordering::Relaxed);
    });
    let (requests, failed) = (seen.requests.load(Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
    println!(
        "{rolls} rolling updates of 3 containers at 1,000 requests/s: {failed} of {requests} failed (bar 0)"
    );
    let posts = posts(&engine);
    let twice = posts.len() - posts.iter().collect::<BTreeSet<_>>().len();
    println!("  of them {} POST seen by a copy, {twice} seen twice (bar 0)", posts.len());
}

/// The engine itself is killed in the middle of rolling updates, and started again.
fn engine_killed() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::start(&engine);
    let (mut wrong, mut seed) = (0, std::process::id());
    let said = |engine: &Engine| {
        let volumes = engine.run(&["volume", "ls", "--quiet"]);
        let places =
            volumes.lines().map(|it| engine.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", it]));
        let texts =
            places.map(|place| (std::fs::read_to_string(format!("{place}/word")).unwrap_or_default(), place));
        texts.collect::<BTreeSet<_>>()
    };
    assert!(plane.apply_kept(20, 0));
    for (word, place) in said(&engine) {
        assert!(word.is_empty());
        std::fs::write(format!("{place}/word"), &place).unwrap();
    }
    let before = said(&engine);
    for version in 1..=5 {
        let began = Instant::now();
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let moment = Duration::from_millis(u64::from(seed >> 16) % 4000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::park_timeout(moment);
                engine.kill();
                engine.resume();
            });
            assert!(plane.apply_kept(20, version));
        });
        let all = engine.run(&["ps", "--all", "--quiet"]).lines().count();
        let is_kept = said(&engine) == before;
        if all != 20 || !is_kept {
            wrong += 1;
        }
        println!(
            "  killed after {moment:.1?}, converged {:.1?} after apply: {all} containers, volumes kept: {is_kept}",
            began.elapsed()
        );
    }
    println!(
        "kill -9 of the engine during 5 rolling updates of 20 with volumes: {wrong} with another end (bar 0)"
    );
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("backend") {
        return load::backend();
    }
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let scenes: [(&str, fn()); 7] = [
        ("twenty", twenty),
        ("swarm", swarm),
        ("memory", memory),
        ("bad", bad),
        ("killed", killed),
        ("engine", engine_killed),
        ("rolls", rolls),
    ];
    for (name, scene) in scenes {
        if name.contains(&wanted) {
            scene();
        }
    }
}
