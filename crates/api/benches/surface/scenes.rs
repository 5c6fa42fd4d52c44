//! The measurements.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tempfile::TempDir;

use crate::connection::Connection;

const BASE: &str = "/apis/plimsoll.dev/v1";

/// Clients that write at the same time.
const CLIENTS: usize = 8;

/// Runs the scenes whose name contains a word.
pub(crate) fn run(word: &str) {
    let scenes: [(&str, fn()); 5] =
        [("apply", apply), ("watchers", watchers), ("kill", kill), ("idle", idle_watches), ("scale", scale)];
    for (name, scene) in scenes {
        if name.contains(word) {
            scene();
        }
    }
}

/// A server in a process of its own.
struct Plane {
    directory: TempDir,
    server: Child,
    address: SocketAddr,
    token: String,
}

impl Plane {
    fn new() -> Self {
        // A real disk: what lies in memory is synced for nothing.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        // The first start makes the identity that the drivers of the next one are told.
        let (mut server, ..) = start(&directory.path().join("data"));
        server.kill().unwrap();
        server.wait().unwrap();
        let (server, address, token) = start(&directory.path().join("data"));
        Self { directory, server, address, token }
    }

    fn connect(&self) -> Connection {
        Connection::to(self.address, &self.token).unwrap()
    }

    fn kill_and_start(&mut self) -> Duration {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        let began = Instant::now();
        let (server, address, token) = start(&self.directory.path().join("data"));
        (self.server, self.address, self.token) = (server, address, token);
        began.elapsed()
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How many Apps are settled.
    fn settled(connection: &mut Connection) -> usize {
        let (_, text) = connection.ask("GET", "/metrics", "").unwrap();
        let line = text.lines().find(|it| it.starts_with("plimsoll_apps{") && it.contains("\"settled\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map_or(0, |it| it as usize)
    }

    /// Applies Apps one by one by several clients, and waits until all are settled.
    fn fill(&self, from: usize, to: usize) -> Duration {
        let began = Instant::now();
        let next = AtomicUsize::new(from);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut connection = self.connect();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= to {
                            return;
                        }
                        let (status, text) = connection.ask("PUT", &path_of(number), APP).unwrap();
                        assert_eq!(status, 201, "{text}");
                    }
                });
            }
        });
        let applied = began.elapsed();
        let mut connection = self.connect();
        while Self::settled(&mut connection) < to {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        println!("  {} applied in {applied:.1?}, settled in {:.1?}", to - from, began.elapsed());
        began.elapsed()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// One component, two copies, no soak.
const APP: &str =
    r#"{"spec":{"components":{"main":{"command":["true"],"replicas":2,"update":{"soak":"0s"}}}}}"#;

fn path_of(number: usize) -> String {
    format!("{BASE}/projects/default/apps/app-{number:06}")
}

/// Starts a server and waits until it is ready.
#[expect(clippy::zombie_processes, reason = "whoever starts it ends it")]
fn start(data: &Path) -> (Child, SocketAddr, String) {
    let file = data.join("api.json");
    std::fs::remove_file(&file).ok();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let server = command.arg("serve").arg(data).stderr(Stdio::inherit()).spawn().unwrap();
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let address = text.split('"').nth(3).and_then(|address| address.parse::<SocketAddr>().ok());
        if let Some(address) = address
            && let Ok(mut connection) = Connection::to(address, "")
            && connection.ask("GET", "/readyz", "").is_ok_and(|(status, _)| status == 200)
        {
            let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
            return (server, address, token.trim().to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// So many commits of one small row each, one after the other, on the same disk.
fn bare_commits(count: usize) -> Duration {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("bare.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut database = options.connect().await.unwrap();
        sqlx::query("create table t (id integer primary key, text text)")
            .execute(&mut database)
            .await
            .unwrap();
        let began = Instant::now();
        for _ in 0..count {
            sqlx::query("insert into t (text) values ($1)").bind(APP).execute(&mut database).await.unwrap();
        }
        began.elapsed()
    })
}

/// The value below which so many of a hundred lie.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn apply() {
    let count = 10_000;
    let mut plane = Plane::new();
    let before = bare_commits(count);
    let time = plane.fill(0, count);
    let bare = (before + bare_commits(count)) / 2;
    let ratio = time.as_secs_f64() / bare.as_secs_f64();
    println!(
        "{count} Apps applied by {CLIENTS} clients until settled: {time:.1?}; bare commits {bare:.1?}: {ratio:.2} x (bar 1.6)"
    );
    println!("memory after it: {} MB (bar 300)", plane.memory() >> 20);
    let restart = plane.kill_and_start();
    println!("kill -9 and restart with {count} Apps until /readyz: {restart:.0?} (bar 2 s)");
}

fn scale() {
    let plane = Plane::new();
    let mut from = 0;
    for count in [1_000, 10_000, 100_000] {
        plane.fill(from, count);
        from = count;
        let mut connection = plane.connect();
        // What one costs is the median: the scan of all Apps runs beside it, and takes its turns on the same cores.
        let mut time = |what: &str, rounds: usize, ask: &mut dyn FnMut(&mut Connection, usize)| {
            let one = |round| {
                let began = Instant::now();
                ask(&mut connection, round);
                began.elapsed()
            };
            let mut times: Vec<Duration> = (0..rounds).map(one).collect();
            let (median, late) = (percentile(&mut times, 50), percentile(&mut times, 99));
            println!("  {what} at {count} Apps: median {median:.0?}, p99 {late:.0?}");
        };
        time("one get", 2000, &mut |connection, round| {
            assert_eq!(connection.ask("GET", &path_of(round * 7919 % count), "").unwrap().0, 200);
        });
        time("one page of 100", 200, &mut |connection, _| {
            let path = format!("{BASE}/projects/default/apps?limit=100");
            assert_eq!(connection.ask("GET", &path, "").unwrap().0, 200);
        });
        let (count_before, sum_before) = reconciles(&mut plane.connect());
        // The scan looks at every App again and again, and finds nothing to do.
        std::thread::park_timeout(Duration::from_secs(31));
        let (count_after, sum_after) = reconciles(&mut plane.connect());
        let each = (sum_after - sum_before) / (count_after - count_before).max(1.0);
        println!("  one settled reconcile at {count} Apps: {:.0} us", each * 1e6);
    }
    mixed(&plane, 100_000);
    println!("memory at 100,000 Apps: {} MB", plane.memory() >> 20);
}

/// Settled reconciles so far, and their time in seconds.
fn reconciles(connection: &mut Connection) -> (f64, f64) {
    let (_, text) = connection.ask("GET", "/metrics", "").unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|it| it.starts_with(name) && it.contains("\"settled\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    (value("plimsoll_reconcile_duration_seconds_count"), value("plimsoll_reconcile_duration_seconds_sum"))
}

/// 200 requests a second: gets, pages of 100, and creations.
fn mixed(plane: &Plane, count: usize) {
    let (rate, seconds) = (200, 30);
    let times: Mutex<BTreeMap<&str, Vec<Duration>>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = plane.connect();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rate * seconds {
                        return;
                    }
                    let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
                    std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                    let asked = Instant::now();
                    let what = match number % 10 {
                        0 => {
                            let path = format!("{BASE}/projects/default/apps?limit=100");
                            assert_eq!(connection.ask("GET", &path, "").unwrap().0, 200);
                            "page of 100 (bar 50 ms)"
                        }
                        1 | 2 => {
                            let path = path_of(count + number);
                            assert_eq!(connection.ask("PUT", &path, APP).unwrap().0, 201);
                            "create (bar 25 ms)"
                        }
                        _ => {
                            assert_eq!(
                                connection.ask("GET", &path_of(number * 7919 % count), "").unwrap().0,
                                200
                            );
                            "get (bar 10 ms)"
                        }
                    };
                    times.lock().unwrap().entry(what).or_default().push(asked.elapsed());
                }
            });
        }
    });
    for (what, mut times) in times.into_inner().unwrap() {
        println!("{rate} requests/s at {count} Apps, p99 of {what}: {:.1?}", percentile(&mut times, 99));
    }
}

fn watchers() {
    let (watchers, writes, rate) = (1000, 400, 20);
    let plane = Plane::new();
    let project = |words: &str| format!(r#"{{"spec":{{"description":"{words}"}}}}"#);
    plane.connect().ask("PUT", &format!("{BASE}/projects/seen"), &project("begin")).unwrap();
    // When each write was committed, and when the last watcher had seen it.
    let seen: Arc<Vec<Mutex<Option<Instant>>>> = Arc::new((0..writes).map(|_| Mutex::new(None)).collect());
    let count: Arc<Vec<AtomicUsize>> = Arc::new((0..writes).map(|_| AtomicUsize::new(0)).collect());
    let ready = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for _ in 0..watchers {
        let (address, token) = (plane.address, plane.token.clone());
        let (seen, count, ready) = (seen.clone(), count.clone(), ready.clone());
        runtime.spawn(async move {
            use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let head = format!(
                "GET {BASE}/projects?watch=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("BOOKMARK") {
                    ready.fetch_add(1, Ordering::Relaxed);
                }
                let Some((_, rest)) = line.split_once("\"write-") else { continue };
                let number: usize = rest.split('"').next().unwrap().parse().unwrap();
                *seen[number].lock().unwrap() = Some(Instant::now());
                count[number].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while ready.load(Ordering::Relaxed) < watchers {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let mut connection = plane.connect();
    let mut committed = Vec::new();
    let began = Instant::now();
    for number in 0..writes {
        let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let body = project(&format!("write-{number}"));
        assert_eq!(connection.ask("PUT", &format!("{BASE}/projects/seen"), &body).unwrap().0, 200);
        committed.push(Instant::now());
    }
    let give_up = Instant::now() + Duration::from_secs(20);
    while count.iter().any(|it| it.load(Ordering::Relaxed) < watchers) && Instant::now() < give_up {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let missed: usize = count.iter().map(|it| watchers.saturating_sub(it.load(Ordering::Relaxed))).sum();
    let late = |(at, seen): (&Instant, &Mutex<Option<Instant>>)| {
        seen.lock().unwrap().map_or(Duration::MAX, |seen| seen.saturating_duration_since(*at))
    };
    let mut times: Vec<Duration> = committed.iter().zip(seen.iter()).map(late).collect();
    println!(
        "{rate} writes/s, {watchers} watchers: commit to last watcher p50 {:.0?}, p99 {:.0?} (bar 100 ms); {missed} of {} not seen (bar 0)",
        percentile(&mut times, 50),
        percentile(&mut times, 99),
        writes * watchers
    );
}

fn idle_watches() {
    let plane = Plane::new();
    let watches = 1500;
    let open = |count: usize| {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut connection = plane.connect();
            connection.send("GET", &format!("{BASE}/projects?watch=true"), "").unwrap();
            while !connection.line().unwrap().contains("BOOKMARK") {}
            all.push(connection);
        }
        all
    };
    let warm = open(100);
    let before = plane.memory();
    let kept = open(watches);
    let each = plane.memory().saturating_sub(before) / u64::try_from(watches).unwrap();
    println!("memory of an idle watch: {:.1} KiB (bar 32)", each as f64 / 1024.0);
    drop((warm, kept));
}

fn kill() {
    let rounds: usize = std::env::var("KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(200);
    let mut plane = Plane::new();
    // What each writer knows to be written: the number that its last acknowledged write said.
    let known: Vec<Mutex<usize>> = (0..CLIENTS).map(|_| Mutex::new(0)).collect();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (client, known) in known.iter().enumerate() {
                let (plane, is_over) = (&plane, &is_over);
                scope.spawn(move || {
                    let mut connection = plane.connect();
                    while !is_over.load(Ordering::Relaxed) {
                        let next = *known.lock().unwrap() + 1;
                        let body = format!(r#"{{"metadata":{{"labels":{{"n":"{next}"}}}},{}"#, &APP[1..]);
                        match connection.ask("PUT", &path_of(client), &body) {
                            Ok((200 | 201, _)) => *known.lock().unwrap() = next,
                            _ => return,
                        }
                        if next % 3 == 0 {
                            connection.ask("PUT", &path_of(1000 + client * 100_000 + next), APP).ok();
                        }
                        connection.ask("GET", &format!("{BASE}/apps?limit=20"), "").ok();
                    }
                });
            }
            std::thread::park_timeout(Duration::from_millis(20 + (round as u64 * 37) % 180));
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(i32::try_from(plane.server.id()).unwrap()).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
            is_over.store(true, Ordering::Relaxed);
        });
        longest = longest.max(plane.kill_and_start());
        let mut connection = plane.connect();
        for (client, known) in known.iter().enumerate() {
            let mut known = known.lock().unwrap();
            let (status, text) = connection.ask("GET", &path_of(client), "").unwrap();
            let found = if status == 404 {
                0
            } else {
                let app: Value = serde_json::from_str(&text).unwrap();
                assert!(app["spec"]["components"]["main"]["command"].is_array(), "a partial object: {text}");
                app["metadata"]["labels"]["n"].as_str().unwrap().parse::<usize>().unwrap()
            };
            assert!(found >= *known, "an acknowledged write was lost: {found} instead of {known}");
            // One that was under way may have been committed without an answer.
            *known = found;
        }
    }
    plane.server.kill().unwrap();
    plane.server.wait().unwrap();
    let check = Command::new("sqlite3")
        .arg(plane.directory.path().join("data/plimsoll.db"))
        .arg("pragma integrity_check")
        .output();
    let check = check.map_or_else(
        |_| "sqlite3 is not installed".to_owned(),
        |it| String::from_utf8_lossy(&it.stdout).trim().to_owned(),
    );
    let records = audited(&plane.directory.path().join("data/plimsoll.db"));
    println!(
        "{rounds} kill -9 in a mixed load: no acknowledged write lost, no partial object; store check: {check}; {records} audit records in a chain; longest restart {longest:.0?}"
    );
}

/// Records of the audit log, which must be a chain.
fn audited(file: &Path) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = plimsoll_store::Store::new(plimsoll_store_sql::Sql::sqlite(file).await.unwrap());
        let (mut after, mut last) = (0, None);
        loop {
            let records = store.audit(&plimsoll_store::Scope::All, after, 1000).await.unwrap();
            if records.is_empty() {
                return after;
            }
            for record in records {
                assert!(record.follows(last.as_ref()), "record {} does not follow", record.number);
                after = record.number;
                last = Some(record);
            }
        }
    })
}
