//! Programs by token: loaded, fetched by each copy, watched and unloaded, with real processes and containers.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_testkit::{BUSYBOX, Engine, Make};
use serde_json::{Value, json};

use super::plane::{Answer, BASE, Plane};
use super::up::until;

/// A server that says who it is, ends or hangs when it is told to, and keeps the health contract. One request after the other, as
/// a program that hangs answers nothing at all.
const SERVER: &str = r"
import http.server, os, select, sys, urllib.request
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body, status = 'This is from server ' + os.environ['PLIMSOLL_SLOT'], 200
        if self.server.server_port == health:
            body = HEALTH
        elif self.path == '/crash':
            while True: pass
        elif self.path == '/exit':
            os._exit(3)
        elif self.path == '/token':
            body = os.environ['TOKEN']
        elif self.path.startswith('/fetch/'):
            ask = urllib.request.Request(os.environ['PLIMSOLL_PROGRAM_URL'], headers={'Authorization': 'Bearer ' + self.path[7:]})
            try: body = urllib.request.urlopen(ask).read().decode()
            except urllib.error.HTTPError as error: body = str(error.code)
        self.send_response(status); self.end_headers(); self.wfile.write(body.encode())
    def log_message(self, *_): pass
HEALTH = 'true'
port, health = int(os.environ.get('PORT_P8080', 8080)), int(os.environ.get('PORT_HEALTH', 4001))
servers = [http.server.HTTPServer(('127.0.0.1', port), Page), http.server.HTTPServer(('127.0.0.1', health), Page)]
for server in servers: server.timeout = 0
while True:
    for server in select.select(servers, [], [])[0]: server.handle_request()
";

/// What a program says at an address; nothing if it does not answer.
fn page(at: &str, path: &str) -> Option<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build();
    let answer = ureq::Agent::from(config).get(format!("http://{at}:8080{path}")).call();
    answer.ok()?.body_mut().read_to_string().ok()
}

/// A program in the default project.
struct Loaded {
    id: String,
    token: String,
}

impl Loaded {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 201, "{}", answer.text);
        let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        Self { id: text("id"), token: text("token") }
    }

    fn path(&self) -> String {
        format!("{BASE}/projects/default/programs/{}", self.id)
    }

    fn status(&self, plane: &Plane) -> Value {
        let answer = plane.ask(&self.token, "GET", &self.path(), None);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    fn until(&self, plane: &Plane, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(what, || self.status(plane), is_so)
    }
}

fn load(plane: &Plane, program: &Value) -> Answer {
    plane.ask(&plane.admin, "POST", &format!("{BASE}/projects/default/programs"), Some(program))
}

fn server(replicas: u32) -> Value {
    json!({"program": SERVER, "runtime": "python", "ports": [8080], "replicas": replicas, "memory": "64Mi",
        "cpu": "500m", "reserve": {"cpu": "10m"}})
}

/// Copies of a program have fetched it so often by now, and no more.
fn fetched(plane: &Plane, id: &str, times: usize) {
    let look = || plane.carry_out(&["logs", id]).matches("it gets its program").count();
    assert_eq!(until("fetched", look, |seen| *seen >= times), times);
}

#[test]
fn a_program_is_loaded_with_a_public_id_and_unloaded_with_its_token() {
    let plane = Plane::new();
    let file = plane.directory.path().join("server.py");
    std::fs::write(&file, SERVER).unwrap();
    let said = plane.carry_out(&[
        "load",
        &file.display().to_string(),
        "--port",
        "8080",
        "--replicas",
        "3",
        "--memory",
        "64Mi",
        "--wait",
    ]);
    let word = |name: &str| said.lines().find_map(|it| it.strip_prefix(name)).unwrap().trim().to_owned();
    let program = Loaded { id: word("program"), token: word("token") };
    let at = word("address").replace(":8080", "");
    assert!(program.token.len() == 36 && !program.id.contains(&program.token[..8]), "{said}");
    // All copies answer, and each fetched the program once.
    let who = || (0..30).filter_map(|_| page(&at, "/print")).collect::<BTreeSet<_>>();
    let all = until("all three", who, |who| who.len() == 3);
    assert!(all.iter().all(|it| it.starts_with("This is from server")), "{all:?}");
    fetched(&plane, &program.id, 3);
    // One that ends fetches it again.
    page(&at, "/exit");
    program.until(&plane, "started again", |it| {
        it["copies"].as_array().unwrap().iter().any(|it| it["restarts"] == 1)
    });
    program.until(&plane, "running again", |it| it["state"] == "running");
    fetched(&plane, &program.id, 4);
    assert!(plane.carry_out(&["programs"]).contains(&program.id));
    // The id is no credential, and the token is good for this program alone.
    let other = Loaded::of(&load(&plane, &server(1)));
    assert_eq!(plane.ask(&program.id, "GET", &program.path(), None).status, 401);
    assert_eq!(plane.ask("", "DELETE", &program.path(), None).status, 401);
    for (method, path) in [("GET", other.path()), ("DELETE", other.path())] {
        assert_eq!(plane.ask(&program.token, method, &path, None).status, 403, "{method} {path}");
    }
    let document = plane.ask(&plane.admin, "GET", "/openapi.json", None).json();
    for (path, item) in document["paths"].as_object().unwrap() {
        // Who logs in or delivers, and who asks whether the process answers, shows no token.
        if item.as_object().unwrap().values().any(|it| it["security"] == json!([])) {
            continue;
        }
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let path = path.replace("{project}", "default").replace("{name}", &other.id);
            assert_eq!(plane.ask(&program.token, &method, &path, None).status, 403, "{method} {path}");
        }
    }
    for path in
        ["apps", "programs", "secrets", &format!("apps/{}", program.id), &format!("apps/{}/logs", program.id)]
    {
        let path = format!("{BASE}/projects/default/{path}");
        assert_eq!(plane.ask(&program.token, "GET", &path, None).status, 403, "{path}");
    }
    let new = json!({"name": "mine"});
    assert_eq!(plane.ask(&program.token, "POST", &format!("{BASE}/tokens"), Some(&new)).status, 403);
    let stored = plane.must("GET", "/tokens", &Value::Null).to_string();
    assert!(
        !stored.contains(&program.token) && stored.contains(&format!("default/{}", program.id)),
        "{stored}"
    );
    // Its owner ends it, by a token in a file, and is told when it is gone.
    let token = plane.directory.path().join("token");
    std::fs::write(&token, &program.token).unwrap();
    let token = token.display().to_string();
    let of = [&program.id, "--token-file", &token];
    assert!(plane.carry_out(&[&["status"], &of[..]].concat()).contains("running, 3 of 3 copies ready"));
    plane.carry_out(&[&["unload"], &of[..], &["--grace", "5s"]].concat());
    assert_eq!(page(&at, "/print"), None);
    let again = plane.refused(&[&["unload"], &of[..]].concat());
    assert!(again.contains("there is no program"), "{again}");
    assert_eq!(plane.ask(&other.token, "GET", &other.path(), None).status, 200);
}

#[test]
fn a_program_outlives_the_server_that_loaded_it() {
    let mut plane = Plane::new();
    let program = Loaded::of(&load(&plane, &server(1)));
    let seen = program.until(&plane, "running", |it| it["state"] == "running");
    let at = seen["address"].as_str().unwrap().to_owned();
    until("it answers", || page(&at, "/print"), Option::is_some);
    plane.stop();
    assert!(page(&at, "/print").is_some());
    plane.start();
    page(&at, "/exit");
    program.until(&plane, "started again", |it| it["copies"][0]["restarts"] == 1);
    until("it answers", || page(&at, "/print"), Option::is_some);
    fetched(&plane, &program.id, 2);
}

#[test]
fn a_credential_is_good_for_one_copy() {
    let plane = Plane::new();
    let (one, other) = (Loaded::of(&load(&plane, &server(1))), Loaded::of(&load(&plane, &server(1))));
    let at = |program: &Loaded| {
        let seen = program.until(&plane, "running", |it| it["state"] == "running");
        seen["address"].as_str().unwrap().to_owned()
    };
    let (one_at, other_at) = (at(&one), at(&other));
    let credential = |at: &str| until("its credential", || page(at, "/token"), Option::is_some).unwrap();
    let (own, theirs) = (credential(&one_at), credential(&other_at));
    assert!(own.len() == 36 && own != theirs && own != one.token);
    let fetch = |token: &str| page(&one_at, &format!("/fetch/{token}")).unwrap();
    assert_eq!(fetch(&own), SERVER);
    // Another copy's is no use here, since it comes from the wrong address; and no other token is one.
    for token in [&theirs, &one.token, &one.id, &plane.admin, "00000000-0000-4000-8000-000000000000"] {
        assert_eq!(fetch(token), "401", "{token}");
    }
    // Nor is it a token of the API.
    assert_eq!(plane.ask(&own, "GET", &one.path(), None).status, 401);
    plane.carry_out(&["unload", &one.id]);
    assert_eq!(page(&other_at, &format!("/fetch/{own}")).unwrap(), "401");
}

#[test]
fn health_is_one_word_and_never_a_command() {
    let plane = Plane::new();
    let mark = plane.directory.path().join("mark");
    let with = |word: &str| {
        let mut program = server(1);
        program["program"] = SERVER.replace("HEALTH = 'true'", &format!("HEALTH = '{word}'")).into();
        program["health"] = true.into();
        program
    };
    let wrong: Vec<Loaded> = ["false", "", "TRUE", "\"true\"", ":", &format!("touch {}", mark.display())]
        .map(|word| Loaded::of(&load(&plane, &with(word))))
        .into();
    let well = Loaded::of(&load(&plane, &with("true\\n")));
    let seen = well.until(&plane, "well", |it| it["state"] == "running");
    for program in &wrong {
        let seen = program.until(&plane, "probed", |it| it["copies"][0]["probe"].is_string());
        assert!(seen["ready"] == 0 && seen["state"] == "starting", "{seen}");
    }
    assert!(!mark.exists());
    // One that hangs is started again, and answers again.
    let at = seen["address"].as_str().unwrap();
    page(at, "/crash");
    well.until(&plane, "started again", |it| it["copies"][0]["restarts"].as_u64() >= Some(1));
    until("it answers", || page(at, "/print"), Option::is_some);
}

#[test]
fn room_is_kept_for_every_copy_however_many_come_at_once() {
    let plane = Plane::new();
    let mut target = plane.must("GET", "/targets/local", &Value::Null);
    target["spec"]["capacity"] = json!({"cpu": "1", "memory": "1000Mi"});
    plane.must("PUT", "/targets/local", &json!({"spec": target["spec"]}));
    let program = |replicas: u32, cpu: &str, memory: &str| json!({"program": "sleep 1000", "runtime": "bash", "replicas": replicas, "cpu": cpu, "memory": memory});
    // What somebody declared counts too: 640m and 318Mi.
    let app = json!({"spec": {"components": {"main": {
        "command": ["sleep", "1000"], "replicas": 2, "resources": {"cpu": "320m", "memory": "159Mi"}}}}});
    plane.must("PUT", "/projects/default/apps/there", &app);
    let refused = |program: &Value| {
        let answer = load(&plane, program);
        assert_eq!(answer.status, 409, "{}", answer.text);
        answer.text
    };
    assert!(refused(&program(1, "361m", "1Mi")).contains("361m wanted, 360m of 1000m free"));
    assert!(refused(&program(1, "1m", "683Mi")).contains("683Mi wanted, 682Mi of 1000Mi free"));
    assert!(refused(&program(2, "181m", "1Mi")).contains("362m wanted"), "all copies count");
    assert_eq!(plane.must("GET", "/projects/default/programs", &Value::Null)["items"], json!([]));
    let whole = Loaded::of(&load(&plane, &program(1, "360m", "682Mi")));
    refused(&program(1, "1m", "1Mi"));
    plane.carry_out(&["unload", &whole.id, "--grace", "1ms"]);
    // Of many at once, as many as there is room for.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || load(&plane, &program(1, "30m", "16Mi"));
        let asked: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|it| it.join().unwrap().status).collect()
    });
    assert_eq!(statuses.iter().filter(|it| **it == 201).count(), 12, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|it| **it == 409).count(), 38, "{statuses:?}");
    let loaded = plane.must("GET", "/projects/default/programs", &Value::Null);
    let ids: BTreeSet<&str> =
        loaded["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 12);
}

#[test]
fn what_is_wrong_with_a_program_is_said_before_it_runs() {
    let plane = Plane::new();
    let refused = |change: Value, pointer: &str, words: &str| {
        let mut program = json!({"program": "x = 1\n", "runtime": "python", "file": "a.py"});
        program.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = load(&plane, &program);
        assert_eq!(answer.status, 422, "{change}: {}", answer.text);
        let error = &answer.json()["errors"][0];
        assert!(error["pointer"] == pointer && answer.text.contains(words), "{change}: {}", answer.text);
    };
    refused(json!({"program": "x = 1\ndef f(:\n"}), "/program", "line 2");
    refused(json!({"program": "if true; then", "runtime": "bash"}), "/program", "syntax error");
    refused(json!({"program": "let = (", "runtime": "node", "file": "a.js"}), "/program", "SyntaxError");
    refused(json!({"program": " "}), "/program", "bytes of text");
    refused(json!({"runtime": "cobol"}), "/runtime", "it has bash, node, php, python, ruby");
    for replicas in [0, 1001] {
        refused(json!({"replicas": replicas}), "/replicas", "1 to 1000");
    }
    refused(json!({"replicas": -1}), "", "invalid value");
    refused(json!({"ports": [0]}), "/ports/0", "1 to 65535");
    refused(json!({"ports": [70000]}), "", "invalid value");
    refused(json!({"ports": [4001]}), "/ports/0", "health contract");
    refused(json!({"ports": [1, 2, 1]}), "/ports/2", "twice");
    refused(json!({"reserve": {"cpu": "2"}, "cpu": "1"}), "/reserve/cpu", "more is reserved");
    refused(json!({"file": "../x"}), "/file", "name of a file alone");
    refused(json!({"extra": 1}), "", "unknown field");
    assert_eq!(plane.must("GET", "/projects/default/apps", &Value::Null)["items"], json!([]));
    let file = plane.directory.path().join("wrong.py");
    std::fs::write(&file, "print(\n").unwrap();
    let said = plane.refused(&["load", &file.display().to_string()]);
    assert!(said.contains("wrong.py") && said.contains("line 1"), "{said}");
}

#[test]
fn a_program_that_ends_says_how_and_when() {
    let plane = Plane::new();
    for (runtime, text) in
        [("python", "import sys; sys.exit(7)"), ("bash", "exit 7"), ("node", "process.exit(7)")]
    {
        let program = Loaded::of(&load(&plane, &json!({"program": text, "runtime": runtime, "cpu": "1m"})));
        let seen = program.until(&plane, "ended", |it| it["copies"][0]["end"]["at"].is_string());
        assert_eq!(seen["copies"][0]["end"]["code"], 7, "{runtime}: {seen}");
        program.until(&plane, "not running", |it| it["state"] == "ended");
        assert!(plane.carry_out(&["status", &program.id]).contains("exit code 7 at 20"));
    }
}

/// A runtime that says nothing of fetching and checking, as those of older installations.
#[test]
fn the_node_puts_a_program_in_its_place_where_the_runtime_does_not_fetch_it() {
    let plane = Plane::new();
    let mut target = plane.must("GET", "/targets/local", &Value::Null);
    target["spec"]["runtimes"]["plain"] = json!({"command": ["bash", "{file}"]});
    plane.must("PUT", "/targets/local", &json!({"spec": target["spec"]}));
    let program =
        json!({"program": "echo \"as $0, ${TOKEN:-without}\"; exit 2", "runtime": "plain", "file": "a.sh"});
    let path = format!("{BASE}/projects/default/programs");
    let ask = |query: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "once")];
        plane.ask_as(&plane.admin, "POST", &format!("{path}{query}"), &headers, Some(&program))
    };
    let dry = ask("?dryRun=All");
    assert!(dry.status == 200 && dry.json().get("token").is_none(), "{}", dry.text);
    let made = ask("");
    assert_eq!(made.json()["checked"], false);
    let loaded = Loaded::of(&made);
    let again = ask("");
    assert!(again.status == 409 && again.text.contains("shown once"), "{}", again.text);
    loaded.until(&plane, "ended", |it| it["copies"][0]["end"]["code"] == 2);
    let log = plane.carry_out(&["logs", &loaded.id]);
    assert!(log.contains("/a.sh, without") && !log.contains("it gets its program"), "{log}");
}

#[test]
fn a_program_fetches_itself_in_a_container() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let fetch = "wget -q -O /tmp/program --header \"Authorization: Bearer $TOKEN\" $PLIMSOLL_PROGRAM_URL && exec sh /tmp/program";
    let target = json!({"spec": {"programs": "container", "runtimes": {"sh": {
        "command": ["sh", "{file}"], "image": BUSYBOX, "fetch": ["sh", "-c", fetch], "check": ["sh", "-n", "{file}"]}}}});
    plane.must("PUT", "/targets/local", &target);
    let text = "mkdir /tmp/www; cp /tmp/program /tmp/www/program; echo $TOKEN >/tmp/www/token; exec httpd -f -p 8080 -h /tmp/www";
    let body = json!({"program": text, "runtime": "sh", "ports": [8080], "replicas": 2, "memory": "32Mi"});
    let program = Loaded::of(&load(&plane, &body));
    let seen = program.until(&plane, "running", |it| it["state"] == "running");
    let at = seen["address"].as_str().unwrap();
    let tokens = || (0..10).filter_map(|_| page(at, "/token")).collect::<BTreeSet<_>>();
    until("both have credentials of their own", tokens, |tokens| tokens.len() == 2);
    assert_eq!(page(at, "/program").unwrap(), text);
    fetched(&plane, &program.id, 2);
    plane.carry_out(&["unload", &program.id, "--grace", "1s"]);
    let ends = json!({"program": "exit 5", "runtime": "sh", "memory": "32Mi"});
    let ends = Loaded::of(&load(&plane, &ends));
    let seen = ends.until(&plane, "ended", |it| it["copies"][0]["end"]["at"].is_string());
    assert_eq!(seen["copies"][0]["end"]["code"], 5, "{seen}");
    plane.carry_out(&["unload", &ends.id]);
}
