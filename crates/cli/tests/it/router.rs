//! The router as a process of its own, with members that are sockets of this test.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use plimsoll_driver::{Driver as _, SecretValues, Sighting};
use plimsoll_model::ObjectKey;
use plimsoll_model::app::TlsMode;
use plimsoll_model::id::{Digest, Effects, Epoch, PlanHash, PlanNo, Slot, Uid};
use plimsoll_model::step::{Action, Cause, Fence, Service, Step, Table, TableRoute};
use plimsoll_router::RouterDriver;
use tempfile::TempDir;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A copy that answers by path, and counts what reached it.
struct Member {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Member {
    fn new(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counter = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = counter.clone();
                std::thread::spawn(move || while answer(&stream, name, &counter) {});
            }
        });
        Self { at, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Answers one request; false when the connection is to be closed.
fn answer(mut stream: &TcpStream, name: &str, asked: &AtomicUsize) -> bool {
    let Some(head) = read_head(stream) else { return false };
    asked.fetch_add(1, Ordering::SeqCst);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    if stream.read_exact(&mut body).is_err() {
        return false;
    }
    let mut say = |text: &str| stream.write_all(text.as_bytes()).is_ok();
    match head.split(' ').nth(1).unwrap() {
        "/break" => false,
        "/once" => {
            say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce");
            false
        }
        "/stream" => {
            say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            // The rest comes only after the client has the beginning, and says so over another request.
            let give_up = Instant::now() + PATIENCE;
            let before = asked.load(Ordering::SeqCst);
            while asked.load(Ordering::SeqCst) == before && Instant::now() < give_up {
                std::thread::yield_now();
            }
            say("3\r\ntwo\r\n0\r\n\r\n")
        }
        "/socket" => {
            say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let mut heard = [0; 4];
            if stream.read_exact(&mut heard).is_ok() {
                stream.write_all(&heard).ok();
            }
            false
        }
        _ => {
            let text = format!("{name} got {} bytes", body.len());
            say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
        }
    }
}

fn read_head(mut stream: &TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap().to_lowercase())
}

/// A router of its own with one App, whose one component has the given members.
struct Routed {
    driver: RouterDriver,
    address: SocketAddr,
    service: SocketAddr,
    directory: TempDir,
}

impl Routed {
    async fn to(members: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display().to_string();
        let command = [env!("CARGO_BIN_EXE_plimsoll"), "router", &place, "here", "0"].map(Into::into);
        let driver = RouterDriver::new("local".parse().unwrap(), directory.path().into(), command.into());
        let address = driver.address().await.unwrap();
        // An address that belongs to this run: tests may run side by side.
        let [high, low] = address.port().to_be_bytes();
        let service = SocketAddr::from(([127, 99, high, low], 7000));
        let routed = Self { driver, address, service, directory };
        let std::net::IpAddr::V4(ip) = service.ip() else { unreachable!("it was made from four bytes") };
        let table = Table {
            services: BTreeMap::from([(
                "web".parse().unwrap(),
                Service {
                    ip,
                    ports: BTreeMap::from([("http".parse().unwrap(), 7000)]),
                    split: None,
                    hold: None,
                },
            )]),
            routes: vec![TableRoute {
                host: "a.localhost".into(),
                path: "/".into(),
                tls: TlsMode::Off,
                hsts: None,
                component: "web".parse().unwrap(),
                port: "http".parse().unwrap(),
            }],
        };
        routed.execute(Action::Publish { table }).await;
        for (slot, member) in members.iter().enumerate() {
            let endpoints = BTreeMap::from([("http".parse().unwrap(), *member)]);
            let instance = format!("web-{slot}-x").parse().unwrap();
            routed.execute(Action::Admit { instance, endpoints, revision: None }).await;
        }
        routed
    }

    async fn execute(&self, action: Action) {
        let app: Uid = "app".parse().unwrap();
        let Sighting::Router(seen) = self.driver.observe(&app).await.unwrap() else {
            panic!("a router sees as a router")
        };
        let component = action.instance().map(|_| "web".parse().unwrap());
        let step = Step {
            target: "local".parse().unwrap(),
            component,
            slot: Some(Slot(0)),
            action,
            after: Vec::new(),
            cause: Cause::Routing,
        };
        let fence = Fence {
            installation: "here".parse().unwrap(),
            epoch: Epoch(1),
            app,
            key: ObjectKey::in_project("demo".parse().unwrap(), "a".parse().unwrap()),
            plan: PlanNo(seen.effects.0 + 1),
            hash: PlanHash(Digest::of_json(&seen.effects)),
            seen: Effects(seen.effects.0),
        };
        self.driver.execute(&step, &fence, &SecretValues::new()).await.unwrap();
    }

    /// Sends bytes as they are, and returns what comes back until the connection is closed.
    fn raw(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).ok();
        String::from_utf8_lossy(&said).into_owned()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        super::agent::end_all_in(self.directory.path());
    }
}

/// A port that nobody listens on.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_a_member_that_is_there() {
    let member = Member::new("one");
    let routed = Routed::to(&[nobody(), member.at]).await;
    for _ in 0..10 {
        let said = routed.ask("GET", "/");
        assert!(said.contains("200 OK") && said.contains("one got 0 bytes"), "{said}");
    }
    let post =
        "POST / HTTP/1.1\r\nHost: a.localhost:8080\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for _ in 0..10 {
        let said = routed.raw(post);
        assert!(said.contains("one got 5 bytes"), "what no member saw may be sent to another one: {said}");
    }
    let said = routed.raw("GET / HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n");
    assert!(said.contains("404") && said.contains("no route leads from other.localhost/"), "{said}");
    assert!(said.contains("x-request-id: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_a_member_may_have_seen_is_not_sent_again() {
    let (one, two) = (Member::new("one"), Member::new("two"));
    let routed = Routed::to(&[one.at, two.at]).await;
    let said = routed.ask("POST", "/break");
    assert!(said.contains("502 Bad Gateway") && said.contains("request "), "{said}");
    assert_eq!(one.asked() + two.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_its_member_closes_costs_no_get() {
    let member = Member::new("one");
    let routed = Routed::to(&[member.at]).await;
    for round in 0..50 {
        // The member closes after each answer, without having said so.
        let said = routed.ask("GET", "/once");
        assert!(said.contains("200 OK"), "round {round}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_after_a_while() {
    let routed = Routed::to(&[]).await;
    let said = routed.ask("GET", "/");
    assert!(said.contains("503 Service Unavailable") && said.contains("no copy is ready"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sockets_pass_as_they_come() {
    let member = Member::new("one");
    let routed = Routed::to(&[member.at]).await;
    let mut stream = routed.connect();
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").unwrap();
    let (mut said, mut some) = (String::new(), [0; 1024]);
    while !said.contains("one") {
        let length = stream.read(&mut some).unwrap();
        assert!(length > 0, "the beginning of a stream comes before its end: {said}");
        said.push_str(&String::from_utf8_lossy(&some[..length]));
    }
    routed.ask("GET", "/");
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("two"), "{said}");

    let mut socket = routed.connect();
    let upgrade =
        "GET /socket HTTP/1.1\r\nHost: a.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).unwrap();
    let head = read_head(&socket).unwrap();
    assert!(head.contains("101") && head.contains("upgrade: websocket"), "{head}");
    socket.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    socket.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_speak_http_2() {
    let member = Member::new("one");
    let routed = Routed::to(&[member.at]).await;
    let stream = tokio::net::TcpStream::connect(routed.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let requests = (0..20).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request = hyper::Request::get("http://a.localhost/").body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
        }
    });
    let requests: Vec<_> = requests.map(tokio::spawn).collect();
    for request in requests {
        let (status, body) = request.await.unwrap();
        assert_eq!((status.as_u16(), &body[..]), (200, &b"one got 0 bytes"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let member = Member::new("one");
    let routed = Routed::to(&[member.at]).await;
    let said = routed.raw("POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 2000000000\r\n\r\n");
    assert!(said.contains("413 Payload Too Large") && said.contains("larger than"), "{said}");
    let long = "x".repeat(100_000);
    let said = routed.raw(&format!("GET / HTTP/1.1\r\nHost: a.localhost\r\nX-Long: {long}\r\n\r\n"));
    assert!(said.contains("431"), "{said}");
    assert_eq!(member.asked(), 0);
    let said = routed.ask("GET", "/");
    assert!(said.contains("200 OK"), "others are served: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_serves_the_same_after_its_start() {
    let member = Member::new("one");
    let routed = Routed::to(&[member.at]).await;
    for pid in super::agent::processes_in(routed.directory.path()) {
        super::agent::signal(pid, rustix::process::Signal::KILL);
    }
    assert_eq!(routed.driver.address().await.unwrap(), routed.address, "it is started again where it was");
    assert!(routed.ask("GET", "/").contains("one got 0 bytes"));
    let mut service = TcpStream::connect(routed.service).unwrap();
    service.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_head(&service).unwrap().contains("200 ok"), "its stable address too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_cannot_listen_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (place, port) =
        (directory.path().display().to_string(), taken.local_addr().unwrap().port().to_string());
    let command = [env!("CARGO_BIN_EXE_plimsoll"), "router", &place, "here", &port].map(Into::into);
    let driver = RouterDriver::new("local".parse().unwrap(), directory.path().into(), command.into());
    let said = driver.address().await.unwrap_err().to_string();
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
}
