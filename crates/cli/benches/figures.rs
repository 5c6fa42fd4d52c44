//! The figures of `docs/performance.md`: each is printed with the bar it is held to.
//!
//! Whole processes of the release build, in a data directory of their own. `cargo bench -p plimsoll --bench figures`
//! runs them all; a word after `--` runs those whose name contains it. A peer that is not installed is said to be
//! missing. Nothing here decides a test.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on ends here")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod load;

use load::{Asked, Load, backend, request};

const PLIMSOLL: &str = env!("CARGO_BIN_EXE_plimsoll");

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A directory that every user may pass through.
fn directory() -> TempDir {
    let is_root = rustix::process::geteuid().is_root();
    let above = if is_root { "/var/lib".into() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(above).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A control plane in a data directory of its own.
struct Plane {
    directory: TempDir,
    server: Child,
}

impl Plane {
    fn start() -> Self {
        let directory = directory();
        let server = serve(directory.path());
        let plane = Self { directory, server };
        plane.until_ready();
        plane
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PLIMSOLL);
        command.args(arguments).arg("--data-dir").arg(self.directory.path().join("data"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn must(&self, arguments: &[&str]) {
        assert!(self.command(arguments).status().unwrap().success(), "{arguments:?}");
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Until `/readyz` answers.
    fn until_ready(&self) {
        let file = self.directory.path().join("data/api.json");
        until(|| {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let address = text.split('"').nth(3).and_then(|address| address.parse::<SocketAddr>().ok());
            address.is_some_and(|address| get(address, "localhost", "/readyz").is_some())
        });
    }

    fn router(&self) -> Option<SocketAddr> {
        let text = std::fs::read_to_string(self.directory.path().join("data/router/listen.json")).ok()?;
        text.trim_matches('"').parse().ok()
    }

    /// Process numbers of every program, by instance.
    fn programs(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.directory.path().join("data/node/instances")).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path().join("started.json")).unwrap_or_default();
            found.push((entry.file_name().into_string().unwrap(), text));
        }
        found.sort();
        found
    }
}

impl Plane {
    /// Numbers of all POST requests that a copy saw.
    fn posts(&self) -> Vec<u32> {
        let mut posts = Vec::new();
        let list = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|it| it.path());
        for app in list(&self.directory.path().join("data/node/volumes")) {
            for slot in list(&app) {
                let text = std::fs::read_to_string(slot.join("seen/posts")).unwrap_or_default();
                posts.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
        }
        posts
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        for pid in below(self.directory.path()) {
            Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status().ok();
        }
        let network = std::fs::read_to_string(self.directory.path().join("data/node/network.json"));
        if let Ok(text) = network {
            let number: String = text.chars().filter(char::is_ascii_digit).collect();
            let bridge = format!("plim{number}");
            Command::new("nft").args(["delete", "table", "ip", &bridge]).status().ok();
            Command::new("ip").args(["link", "del", &bridge]).status().ok();
        }
    }
}

fn serve(directory: &Path) -> Child {
    let mut command = Command::new(PLIMSOLL);
    command.arg("server").arg("--data-dir").arg(directory.join("data"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Processes that were started with a directory in their command line, or that have a file below it open.
fn below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let open = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if open
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|target| target.starts_with(directory))
        {
            found.push(name);
        }
    }
    found
}

fn until(mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it takes too long");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    began.elapsed()
}

/// The body of a page, if it answers 200.
fn get(address: SocketAddr, host: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains(" 200 ").then_some(answer)
}

/// Proportional set size in KiB: memory, shared pages divided by those who share them; see proc(5), `smaps_rollup`.
fn pss(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

fn role(pid: &str) -> String {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    if words.next().is_some_and(|program| program == PLIMSOLL) {
        words.next().unwrap_or_default()
    } else {
        String::new()
    }
}

fn sleepers(count: u32) -> String {
    format!(
        "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: sleepers}}\nspec:\n  components:\n    sleep:\n      \
         command: [sleep, \"1000\"]\n      replicas: {count}\n      update: {{soak: 0s, surge: 100}}\n"
    )
}

fn memory() {
    let plane = Plane::start();
    let file = plane.write("app.yaml", &sleepers(100));
    plane.must(&["apply", "-f", &file, "--wait"]);
    let pids = below(plane.directory.path());
    let of = |wanted: &str| -> Vec<u64> {
        pids.iter().filter(|pid| role(pid) == wanted).map(|pid| pss(pid)).collect()
    };
    let (server, router, shims) = (of("server"), of("router"), of("shim"));
    let total = server.iter().chain(&router).sum::<u64>();
    println!("idle: PSS of server + router          {:>8.1} MB   bar <= 50 MB", mib(total));
    let mean = shims.iter().sum::<u64>() / u64::try_from(shims.len()).unwrap().max(1);
    println!("idle: mean PSS of {:>3} supervisors     {:>8} KiB  bar <= 1024 KiB", shims.len(), mean);
    let size = std::fs::metadata(PLIMSOLL).unwrap().len() / 1024;
    println!("stripped binary                       {:>8.1} MB   bar <= 40 MB", mib(size));
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

fn hundred() {
    let plane = Plane::start();
    let file = plane.write("app.yaml", &sleepers(100));
    let began = Instant::now();
    plane.must(&["apply", "-f", &file]);
    until(|| plane.programs().iter().filter(|(_, started)| started.contains("program")).count() == 100);
    let ours = began.elapsed();
    match supervisord() {
        Some(peer) => println!(
            "100 x sleep until all run             {:>8.2} s    supervisord {:.2} s, ratio {:.2}   bar <= 1.0 x",
            ours.as_secs_f64(),
            peer.as_secs_f64(),
            ours.as_secs_f64() / peer.as_secs_f64()
        ),
        None => println!(
            "100 x sleep until all run             {:>8.2} s    supervisord is missing",
            ours.as_secs_f64()
        ),
    }
}

/// The same with supervisord: from its start until it has started all.
fn supervisord() -> Option<Duration> {
    let directory = directory();
    let config = directory.path().join("supervisord.conf");
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/stdout\nlogfile_maxbytes=0\npidfile={0}/pid\n\
         [program:sleep]\ncommand=sleep 1000\nnumprocs=100\nprocess_name=sleep-%(process_num)d\nstartsecs=0\n",
        directory.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let began = Instant::now();
    let mut child = Command::new("supervisord")
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let lines = BufReader::new(child.stdout.take()?).lines();
    let running = lines.map_while(Result::ok).filter(|line| line.contains("entered RUNNING state"));
    let took = running.take(100).last().map(|_| began.elapsed());
    Command::new("kill").arg(child.id().to_string()).status().ok();
    child.wait().ok();
    took
}

const PAGE: &str = "import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'hi')
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()
";

fn first_answer() {
    let plane = Plane::start();
    plane.write("page.py", PAGE);
    let page = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: page}\nspec:\n  components:\n    web:\n      \
                program: {file: page.py, runtime: python}\n      ports: {http: 80}\n      health: {http: {port: http}}\n      \
                routes: [{host: page.localhost, port: http}]\n      update: {soak: 0s}\n";
    let file = plane.write("app.yaml", page);
    until(|| plane.router().is_some());
    let began = Instant::now();
    let mut apply = plane.command(&["apply", "-f", &file]).spawn().unwrap();
    until(|| plane.router().is_some_and(|router| get(router, "page.localhost", "/").is_some()));
    let ours = began.elapsed();
    apply.wait().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let began = Instant::now();
    let mut child = Command::new("python3")
        .arg(plane.directory.path().join("page.py"))
        .env("PORT", port.to_string())
        .spawn()
        .unwrap();
    until(|| get(SocketAddr::from(([127, 0, 0, 1], port)), "localhost", "/").is_some());
    let peer = began.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    println!(
        "apply until its URL answers           {:>8} ms   by hand {} ms, difference {} ms   bar <= 300 ms",
        ours.as_millis(),
        peer.as_millis(),
        ours.saturating_sub(peer).as_millis()
    );
}

fn restart() {
    let mut plane = Plane::start();
    let file = plane.write("app.yaml", &sleepers(200));
    plane.must(&["apply", "-f", &file, "--wait"]);
    let before = plane.programs();
    plane.server.kill().unwrap();
    plane.server.wait().unwrap();
    std::fs::remove_file(plane.directory.path().join("data/api.json")).unwrap();
    let began = Instant::now();
    plane.server = serve(plane.directory.path());
    plane.until_ready();
    let took = began.elapsed();
    plane.must(&["wait", "sleepers"]);
    let same = if plane.programs() == before { "the same processes" } else { "OTHER PROCESSES" };
    println!("kill -9 and restart with 200          {:>8} ms   {same}   bar <= 2000 ms", took.as_millis());
}

/// A compiled consumer: asks its provider anew, over a connection of its own, for every request that it gets.
fn relay() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let provider = format!("{}:{}", std::env::var("API_HOST").unwrap(), std::env::var("API_PORT").unwrap());
    let provider: SocketAddr = provider.parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || pass_on(stream, provider));
    }
}

/// One connection of the consumer.
fn pass_on(stream: TcpStream, provider: SocketAddr) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let asked = Asked::read(&mut reader)?;
        let status = match request(provider, asked.number, &mut None) {
            Ok(()) => "200 OK",
            Err(_) => "502 Bad Gateway",
        };
        write!(writer, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

/// A copy of this program where users of instances find it: they may not read the build's directory.
fn own_program(plane: &Plane) -> String {
    let program = plane.directory.path().join("backend");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    program.display().to_string()
}

fn rolling() {
    let rolls: u32 = std::env::var("ROLLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut plane = Plane::start();
    let text = format!(
        "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: load}}\nspec:\n  components:\n    web:\n      \
         command: [{}, backend]\n      replicas: 3\n      ports: {{http: 80}}\n      volumes: {{seen: {{path: seen}}}}\n      \
         health: {{http: {{port: http}}, every: 1s}}\n      routes: [{{host: load.localhost, port: http}}]\n      \
         update: {{soak: 0s}}\n",
        own_program(&plane)
    );
    let file = plane.write("app.yaml", &text);
    plane.must(&["apply", "-f", &file, "--wait"]);
    let (router, seen) = (plane.router().unwrap(), Load::default());
    std::thread::scope(|scope| {
        scope.spawn(|| load::run(router, 1000, &seen));
        for roll in 0..rolls {
            plane.must(&["rollout", "restart", "load"]);
            if roll % 10 == 5 {
                plane.server.kill().unwrap();
                plane.server.wait().unwrap();
                plane.server = serve(plane.directory.path());
                plane.until_ready();
            }
            plane.must(&["wait", "load"]);
        }
        seen.stop.store(true, Ordering::Relaxed);
    });
    let (requests, failed) = (seen.requests.load(Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
    println!("{rolls} rolling updates at 1,000 requests/s   {failed} of {requests} requests failed   bar 0");
    let posts = plane.posts();
    let distinct: BTreeSet<&u32> = posts.iter().collect();
    println!(
        "  of them POST                        {:>8} seen by a copy, {} seen twice   bar 0",
        posts.len(),
        posts.len() - distinct.len()
    );
}

fn provider() {
    let rolls = 20;
    let plane = Plane::start();
    let text = format!(
        "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: load}}\nspec:\n  components:\n    api:\n      \
         command: [{0}, backend]\n      replicas: 3\n      ports: {{http: 80}}\n      \
         health: {{http: {{port: http}}, every: 1s}}\n      provides: {{rest: {{interface: http}}}}\n      \
         update: {{soak: 0s}}\n    web:\n      command: [{0}, relay]\n      replicas: 2\n      ports: {{http: 80}}\n      \
         health: {{tcp: {{port: http}}, every: 1s}}\n      consumes: {{api: {{interface: http, from: api/rest}}}}\n      \
         routes: [{{host: load.localhost, port: http}}]\n      update: {{soak: 0s}}\n",
        own_program(&plane)
    );
    let file = plane.write("app.yaml", &text);
    plane.must(&["apply", "-f", &file, "--wait"]);
    let consumers = || {
        let mut found = plane.programs();
        found.retain(|(name, _)| name.starts_with("web-"));
        found
    };
    let (before, router, seen) = (consumers(), plane.router().unwrap(), Load::default());
    std::thread::scope(|scope| {
        scope.spawn(|| load::run(router, 500, &seen));
        for _ in 0..rolls {
            plane.must(&["rollout", "restart", "load", "--component", "api"]);
            plane.must(&["wait", "load"]);
        }
        seen.stop.store(true, Ordering::Relaxed);
    });
    let (requests, failed) = (seen.requests.load(Ordering::Relaxed), seen.failed.load(Ordering::Relaxed));
    let same = if consumers() == before { "the same consumers" } else { "OTHER CONSUMERS" };
    println!(
        "{rolls} rolls of a provider at 500 requests/s   {failed} of {requests} requests failed, {same}   bar 0"
    );
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("backend") => return backend(),
        Some("relay") => return relay(),
        _ => {}
    }
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with("--")).unwrap_or_default();
    let figures: [(&str, fn()); 6] = [
        ("memory", memory),
        ("hundred", hundred),
        ("first-answer", first_answer),
        ("restart", restart),
        ("rolling", rolling),
        ("provider", provider),
    ];
    for (name, figure) in figures {
        if name.contains(&wanted) {
            figure();
        }
    }
}
