//! Clients of the Jolie cloud deployer, served unchanged: what they send is sent here byte for byte. There is no Jolie interpreter
//! on this machine, so their programs are Python here, started by a wrapper that gets them as the original one does.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::plane::{BASE, Plane};
use super::up::until;

/// What the hosting image did at its start: the program, by `TOKEN` and in XML, from where the deployer is; then it is run.
const WRAPPER: &str = r"
import json, os, urllib.request
at = os.environ['PLIMSOLL_PROGRAM_URL'].replace('/program', '/getProgram')
body = '<getProgram>' + os.environ['TOKEN'][:36] + '</getProgram>'
ask = urllib.request.Request(at, data=body.encode(), headers={'Content-Type': 'text/xml'})
text = json.load(urllib.request.urlopen(ask))['$']
open('user_prog.ol', 'w').write(text)
exec(text)
";

/// A program of theirs: one operation, and a health check in raw format on a port of its own.
const SERVER: &str = r"
import http.server, os, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        port = self.server.server_port
        if self.path == '/exit': os._exit(4)
        body = 'true' if port == 4001 else 'This is from server, ' + self.path + ' on ' + str(port)
        self.send_response(200); self.end_headers(); self.wfile.write(body.encode())
    do_POST = do_GET
    def log_message(self, *_): pass
for port in [4000, 4001]:
    threading.Thread(target=http.server.HTTPServer(('127.0.0.1', port), Page).serve_forever).start()
http.server.HTTPServer(('127.0.0.1', 8080), Page).serve_forever()
";

struct Deployer {
    plane: Plane,
    port: u16,
}

/// An answer as it came.
struct Raw {
    status: u16,
    head: String,
    body: String,
}

impl Raw {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Deployer {
    fn new() -> Self {
        let mut plane = Plane::new();
        let mut target = plane.must("GET", "/targets/local", &Value::Null);
        target["spec"]["runtimes"]["jolie"] = json!({"command": ["python3", "-u", "-c", WRAPPER]});
        target["spec"]["capacity"] = json!({"cpu": "360m", "memory": "682Mi"});
        plane.must("PUT", "/targets/local", &json!({"spec": target["spec"]}));
        let port = free_port();
        plane.stop();
        plane.options =
            ["--compat", "jolie", "--compat-listen", &format!("127.0.0.1:{port}")].map(str::to_owned).into();
        plane.start();
        Self { plane, port }
    }

    /// Sends the bytes of a request, and reads until the other side ends.
    fn send(&self, request: &str) -> Raw {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Raw { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// A message as Jolie's `http` port sends it.
    fn post(&self, path: &str, media: &str, body: &str) -> Raw {
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: Jolie\r\nContent-Type: {media};charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    }

    fn json(&self, operation: &str, body: &str) -> Raw {
        self.post(&format!("/{operation}"), "application/json", body)
    }

    fn get(&self, path: &str) -> Raw {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// The bytes of `load`, some fields of which are others.
    fn load(&self, change: &Value) -> Raw {
        let mut message = json!({
            "user": "Kurt", "name": "hello", "healthcheck": false, "program": SERVER, "replicas": 1, "ports": [8080],
            "cpu_min": 50, "cpu_max": 100, "mem_min": 32, "mem_max": 64,
        });
        message.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        message.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.json("load", &message.to_string())
    }

    fn loaded(&self, change: &Value) -> String {
        let answer = self.load(change);
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!(0)), "{}", answer.body);
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    fn unload(&self, token: &str) -> Raw {
        self.json("unload", &json!({"user": "joel", "token": token, "gracePeriod": 5, "ip": ""}).to_string())
    }

    fn programs(&self) -> Vec<Value> {
        self.plane.must("GET", "/projects/default/programs", &Value::Null)["items"]
            .as_array()
            .unwrap()
            .clone()
    }

    fn page(&self, token: &str, path: &str) -> Raw {
        self.get(&format!("/script/{token}/{path}"))
    }

    fn until_it_answers(&self, token: &str) -> Raw {
        until("it answers", || self.page(token, "print").status, |status| *status == 200);
        self.page(token, "print")
    }
}

fn fault(message: &str, data: &str) -> Value {
    json!({"error": {"message": message, "code": -32000, "data": data}})
}

/// J01, J02, J03, J29, J32, J33.
#[test]
fn an_old_client_loads_a_program_calls_it_and_unloads_it() {
    let deployer = Deployer::new();
    let body = format!(
        "{{\"user\":\"Kurt\",\"name\":\"x\",\"healthcheck\":true,\"program\":{},\"replicas\":1,\"ports\":[8080],\
         \"cpu_min\":50,\"cpu_max\":100,\"mem_min\":32,\"mem_max\":64}}",
        json!(SERVER)
    );
    let answer = deployer.json("load", &body);
    assert!(
        answer.status == 200 && answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(answer.json(), json!({"status": 0, "token": token}));
    assert!(token.len() == 36 && token == token.to_lowercase() && token.matches('-').count() == 4, "{token}");
    let page = deployer.until_it_answers(&token);
    assert_eq!(page.body, "This is from server, /print on 8080");
    // What was made can be seen and governed as everything else.
    let [program] = &deployer.programs()[..] else { panic!() };
    let id = program["id"].as_str().unwrap();
    assert_eq!(deployer.page(id, "print?a=b").body, "This is from server, /print?a=b on 8080");
    let app = deployer.plane.must("GET", &format!("/projects/default/apps/{id}"), &Value::Null);
    let component = &app["spec"]["components"]["program"];
    assert_eq!(component["resources"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(component["reserve"], json!({"cpu": "50m", "memory": "32Mi"}));
    assert!(component["health"]["http"]["body"] == "true" && component["ports"]["health"] == 4001);
    assert!(!app.to_string().contains(&token));
    let answer = deployer.unload(&token);
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(deployer.page(&token, "print").status, 404);
    until("nothing is left", || deployer.programs().len(), |left| *left == 0);
    assert_eq!(deployer.unload(&token).body, "{}");
    // The same through the gateway.
    let answer = deployer.post("/api/jolie-deployer/load", "application/json", &body).json();
    assert!(answer["status"] == "success" && answer["internal_http_code"] == 200, "{answer}");
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    deployer.until_it_answers(&token);
    let answer = deployer.post("/api/jolie-deployer/load", "application/json", "{}").json();
    assert!(answer["status"] == "success" && answer["http_code"] == 200, "{answer}");
    assert!(
        answer["internal_http_code"] == 500 && answer["data"]["error"]["message"] == "TypeMismatch",
        "{answer}"
    );
    let answer = deployer.get("/api/other/health");
    assert!(answer.status == 404 && answer.json()["status"] == "fail", "{}", answer.body);
    // Their log was a service of its own; here it is the audit log.
    let log = deployer.plane.carry_out(&["audit"]);
    assert!(
        log.contains("compat") && log.contains("create") && log.contains(id) && !log.contains(&token),
        "{log}"
    );
}

/// J15, and the facts of the wire.
#[test]
fn faults_are_those_that_old_clients_know() {
    let deployer = Deployer::new();
    let mismatch = |change: Value, data: &str| {
        let answer = deployer.load(&change);
        assert_eq!((answer.status, answer.json()), (500, fault("TypeMismatch", data)), "{change}");
    };
    mismatch(json!({"healthcheck": null}), "Undefined required child node: #Message.healthcheck");
    mismatch(json!({"ports": null}), "Undefined required child node: #Message.ports");
    mismatch(json!({"ports": []}), "Undefined required child node: #Message.ports");
    mismatch(json!({"x": 1}), "Unexpected child node: #Message.x");
    mismatch(json!({"replicas": "many"}), "Invalid native type for node #Message.replicas: expected INT");
    let answer = deployer.json("nope", "{}");
    assert_eq!((answer.status, answer.json()), (500, fault("IOException", "Invalid operation: nope")));
    let answer = deployer.json("load", "{\"user\":");
    assert!(answer.status == 500 && answer.head.contains("content-type: text/plain"), "{}", answer.head);
    let alive = json!({"$": "Service alive and reachable"});
    assert_eq!(deployer.get("/health").json(), alive);
    assert_eq!(deployer.json("health", "").json(), alive);
    // A scalar for a list, and texts for numbers and truths.
    deployer.loaded(&json!({"ports": 8080, "replicas": "1", "healthcheck": "false", "cpu_min": {"$": "10"}, "user": {"$": "Kurt"}}));
    // Slashes are written as Jolie writes them.
    let text = || deployer.json("statusUserPrograms", "{\"$\":\"Kurt\"}").body;
    until("its copy is told of", text, |text| text.contains("Ready: ") && text.contains("\\/1, Status: "));
}

/// J10, J11, J12.
#[test]
fn what_there_is_no_room_for_has_status_minus_one() {
    let deployer = Deployer::new();
    let refused = |change: Value| {
        let answer = deployer.load(&change);
        assert_eq!((answer.status, answer.json()), (200, json!({"status": -1})), "{change}");
    };
    refused(json!({"cpu_min": 361, "cpu_max": 400}));
    refused(json!({"mem_min": 683, "mem_max": 700}));
    refused(json!({"cpu_min": 121, "cpu_max": 121, "replicas": 3}));
    assert_eq!(deployer.programs(), Vec::<Value>::new());
    deployer.loaded(&json!({"cpu_min": 360, "cpu_max": 500, "mem_min": 682, "mem_max": 700}));
    refused(json!({"cpu_min": 1}));
}

/// J16, J17, J21.
#[test]
fn values_that_made_invalid_objects_are_refused() {
    let deployer = Deployer::new();
    for change in [
        json!({"replicas": 0}),
        json!({"replicas": -1}),
        json!({"replicas": 1001}),
        json!({"cpu_min": 100, "cpu_max": 50}),
        json!({"mem_min": 100, "mem_max": 50}),
        json!({"cpu_min": -1}),
        json!({"ports": [0]}),
        json!({"ports": [70000]}),
        json!({"ports": [8000]}),
        json!({"ports": [4001]}),
        json!({"ports": [8080, 8080]}),
        json!({"program": ""}),
        json!({"user": "x".repeat(300)}),
    ] {
        let answer = deployer.load(&change);
        assert_eq!(
            (answer.status, &answer.json()["error"]["message"]),
            (500, &json!("TypeMismatch")),
            "{change}"
        );
    }
    assert_eq!(deployer.programs(), Vec::<Value>::new());
    for user in ["x\n  evil: 1", "K: x", &"u".repeat(200)] {
        deployer.loaded(&json!({"user": user, "cpu_min": 10}));
        let text = deployer.json("statusUserPrograms", &json!({"$": user}).to_string());
        assert_eq!(text.body.matches("Deployment: ").count(), 1, "{user}: {}", text.body);
    }
    assert_eq!(deployer.programs().len(), 3);
}

/// J18, J19, J20.
#[test]
fn nobody_without_the_right_secret_reads_or_ends_anything() {
    let deployer = Deployer::new();
    let (token, other) = (deployer.loaded(&json!({"cpu_min": 10})), deployer.loaded(&json!({"cpu_min": 10})));
    deployer.until_it_answers(&token);
    let id = deployer.programs()[0]["id"].as_str().unwrap().to_owned();
    let guessed = "00000000-0000-4000-8000-000000000000";
    for wrong in ["a --all -n kube-system", "../x", "", &id, guessed, &deployer.plane.admin] {
        assert_eq!(deployer.unload(wrong).body, "{}", "{wrong}");
    }
    assert_eq!(deployer.programs().len(), 2);
    // The owner's token is not the copies': theirs is good from where they are, and for their program.
    for wrong in [&*token, &other, &id, guessed] {
        let read = [
            deployer.json("getProgram", &json!({"$": wrong}).to_string()),
            deployer.post("/getProgram", "text/xml", &format!("<getProgram>{wrong}</getProgram>")),
        ];
        for answer in read {
            assert_eq!(
                (answer.status, &answer.json()["error"]["message"]),
                (500, &json!("TypeMismatch")),
                "{wrong}"
            );
            assert!(!answer.body.contains("This is from server"));
        }
    }
    // A page of another site, in a browser of somebody on this machine.
    let page = "POST /load HTTP/1.1\r\nHost: localhost:8000\r\nOrigin: http://evil.example\r\nContent-Type: text/plain\r\n\
                Content-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert_eq!(deployer.send(page).status, 403);
    // The owner does as natively.
    let path = format!("{BASE}/projects/default/programs/{id}");
    let either = [&token, &other].map(|token| deployer.plane.ask(token, "GET", &path, None).status);
    assert!(either == [200, 403] || either == [403, 200], "{either:?}");
}

/// J22, J25, J27, J30.
#[test]
fn the_status_is_a_text_for_each_user_and_only_one_port_is_public() {
    let deployer = Deployer::new();
    let text = |user: &str| {
        let answer = deployer.json("statusUserPrograms", &json!({"$": user}).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["$"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("Kurt"), "");
    deployer.loaded(&json!({"cpu_min": 10}));
    deployer.loaded(&json!({"cpu_min": 10, "replicas": 2}));
    let other = deployer.loaded(&json!({"cpu_min": 10, "user": "Joel", "ports": [4000]}));
    let is_whole = |text: &String| text.matches("\tPod: Ready: 1/1, Status: Running\n").count() == 3;
    let seen = until("all run", || text("Kurt"), is_whole);
    assert_eq!(seen.matches("Deployment: ").count(), 2, "{seen}");
    assert_eq!(seen.matches("\tAvailable processors: ").count(), 3, "{seen}");
    assert_eq!(seen.matches(&format!("{}\n", "-".repeat(38))).count(), 2, "{seen}");
    let answer = deployer.page(&other, "print");
    assert!(answer.status == 502 && answer.body.contains("no port 8080"), "{}", answer.body);
    let answer = deployer.page("no-such-script", "print");
    assert!(answer.status == 404 && answer.body.contains("no such script"), "{}", answer.body);
    let ends = json!({"cpu_min": 10, "user": "Ada", "program": "import os; os._exit(3)"});
    deployer.loaded(&ends);
    let seen = until("it ended", || text("Ada"), |text| text.contains("exit code 3"));
    assert!(!seen.contains("Ready: 1/1"), "{seen}");
}

#[test]
fn nobody_else_comes_in_unless_that_is_said() {
    let plane = Plane::new();
    plane.project("guests", &json!({}));
    let port = free_port();
    let start = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        let directory = plane.directory.path().join("other");
        command.args(["server", "--http-port", "0"]).args(options).env("PLIMSOLL_DATA_DIR", directory);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let open = format!("0.0.0.0:{port}");
    let compat = ["--compat", "jolie", "--compat-listen", &open];
    assert!(start(&compat).contains("--compat-allow"));
    let allowed = [&compat[..], &["--compat-allow", "10.0.0.0/8"]].concat();
    assert!(start(&allowed).contains("--compat-project"));
    let named = [&allowed[..], &["--compat-project", "default"]].concat();
    assert!(start(&named).contains("must be there and have a quota"));
    assert!(start(&["--compat", "jolie", "--compat-allow", "10.0.0.1/8"]).contains("is no network"));
    assert!(start(&["--compat-listen", &open]).contains("--compat"));
}

/// Off loopback: a project with a quota of its own, and the networks that are named.
#[test]
fn others_come_in_by_their_address_and_within_the_quota() {
    let mut deployer = Deployer::new();
    let plane = &mut deployer.plane;
    plane.project("guests", &json!({}));
    plane.carry_out(&["project", "quota", "guests", "--instances", "2"]);
    plane.stop();
    let open = format!("0.0.0.0:{}", deployer.port);
    let named = ["--compat-project", "guests", "--compat-allow", "198.51.100.0/24"];
    plane.options = [&["--compat", "jolie", "--compat-listen", &open][..], &named]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    plane.start();
    deployer.loaded(&json!({"cpu_min": 10, "replicas": 2}));
    let answer = deployer.load(&json!({"cpu_min": 10}));
    assert_eq!((answer.status, answer.json()), (200, json!({"status": -1})));
    let there = deployer.plane.must("GET", "/projects/guests/programs", &Value::Null);
    assert_eq!(there["items"].as_array().unwrap().len(), 1);
    // Another address of this machine is not loopback, and not among the networks; without one there is nobody to refuse.
    let other = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    if let Some(ip) = other.ok().map(|it| it.ip()).filter(|ip| !ip.is_loopback()) {
        let mut stream = TcpStream::connect((ip, deployer.port)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 403") && text.contains("may not come in"), "{text}");
    }
}
