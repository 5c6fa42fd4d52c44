//! Encrypted routes: own certificates, those of Secrets, and those of a real authority.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use plimsoll_testkit::{Acme, Validity};
use serde_json::{Value, json};

use super::plane::{BASE, Plane};
use super::up::until;

/// A program that says what it is told of the request.
const ECHO: &str = "import http.server,os
class H(http.server.BaseHTTPRequestHandler):
    protocol_version='HTTP/1.1'
    def do_GET(self):
        body=(self.headers.get('X-Forwarded-Proto','-')+' '+(self.headers.get('Cookie') or self.path)+'\\n').encode()
        self.send_response(200); self.send_header('Content-Length',str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        body=self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200); self.send_header('Content-Length',str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self,*a): pass
http.server.ThreadingHTTPServer(('127.0.0.1',int(os.environ['PORT'])),H).serve_forever()
";

fn declare(plane: &Plane, routes: &Value) -> Value {
    let main = json!({
        "program": {"inline": ECHO, "runtime": "python"},
        "ports": {"http": 8000},
        "health": {"tcp": {"port": "http"}, "every": "500ms"},
        "routes": routes,
        "update": {"soak": "1ms"},
    });
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}))
}

fn status(plane: &Plane) -> Value {
    plane.must("GET", "/projects/default/apps/main", &Value::Null)
}

fn settled(plane: &Plane) {
    until("settled", || status(plane), |it| it["status"]["outcome"]["state"] == "settled");
}

fn port(plane: &Plane, file: &str) -> String {
    let text = std::fs::read_to_string(plane.data().join("router").join(file)).unwrap();
    text.trim_matches('"').rsplit(':').next().unwrap().to_owned()
}

/// What `curl` answers about a host of the plane, by a trusted certificate.
fn curl(plane: &Plane, trust: &str, host: &str, arguments: &[&str]) -> (bool, String) {
    let (http, https) = (port(plane, "listen.json"), port(plane, "listen-tls.json"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "10", "--cacert", trust]);
    command.args([
        "--resolve",
        &format!("{host}:{http}:127.0.0.1"),
        "--resolve",
        &format!("{host}:{https}:127.0.0.1"),
    ]);
    let filled = arguments.iter().map(|it| it.replace("HTTPS", &https).replace("HTTP", &http));
    let output = command.args(filled).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a host's own page says, or nothing while it cannot be had.
fn page(plane: &Plane, trust: &str, host: &str) -> String {
    curl(plane, trust, host, &[&format!("https://{host}:HTTPS/x")]).1
}

fn certificate(plane: &Plane, host: &str) -> Value {
    let all = plane.must("GET", "/certificates", &Value::Null);
    let mut found = all["items"].as_array().unwrap().iter().map(|it| &it["spec"]);
    found.find(|it| it["host"] == host).cloned().unwrap_or_default()
}

#[test]
fn names_of_this_machine_are_served_by_its_own_authority() {
    let plane = Plane::new();
    let routes = json!([
        {"host": "main.localhost", "port": "http", "tls": "auto", "hsts": "365d"},
        {"host": "main.localhost", "path": "/plain", "port": "http"},
    ]);
    declare(&plane, &routes);
    settled(&plane);
    let trust = plane.data().join("authority.crt").display().to_string();
    let ask = |arguments: &[&str]| curl(&plane, &trust, "main.localhost", arguments);
    assert_eq!(ask(&["https://main.localhost:HTTPS/a?b=c"]), (true, "https /a?b=c\n".into()));
    let (_, headers) = ask(&["--http2", "--include", "https://main.localhost:HTTPS/"]);
    assert!(headers.starts_with("HTTP/2 200"), "{headers}");
    assert!(headers.contains("strict-transport-security: max-age=31536000"), "{headers}");
    // HTTP/2 has each cookie by itself, the program has them in one field.
    let cookies =
        ["--http2", "--header", "Cookie: a=1", "--header", "Cookie: b=2", "https://main.localhost:HTTPS/"];
    assert_eq!(ask(&cookies).1, "https a=1; b=2\n");
    // In the clear there is only the way to what is encrypted, with the same method and body.
    let (_, sent_on) = ask(&["--include", "http://main.localhost:HTTP/a?b=c"]);
    let wanted = format!("location: https://main.localhost:{}/a?b=c\r\n", port(&plane, "listen-tls.json"));
    assert!(sent_on.starts_with("HTTP/1.1 308") && sent_on.contains(&wanted), "{sent_on}");
    assert!(!sent_on.contains("strict-transport"), "{sent_on}");
    assert_eq!(ask(&["--location", "--data", "sent", "http://main.localhost:HTTP/"]), (true, "sent".into()));
    assert_eq!(ask(&["http://main.localhost:HTTP/plain"]), (true, "http /plain\n".into()));
    // Nobody else is served with it, and nobody trusts it by accident.
    assert!(!curl(&plane, &trust, "other.localhost", &["https://other.localhost:HTTPS/"]).0);
    assert!(
        !curl(
            &plane,
            "/etc/ssl/certs/ca-certificates.crt",
            "main.localhost",
            &["https://main.localhost:HTTPS/"]
        )
        .0
    );
    let known = certificate(&plane, "main.localhost");
    assert!(
        known["origin"] == "own" && known["problem"].is_null() && known["expires"].is_string(),
        "{known}"
    );

    // Without a control plane, and by another router, it is served the same.
    let mut plane = plane;
    plane.stop();
    let router = Command::new("pkill")
        .args(["-KILL", "-f", &format!("router {}", plane.data().join("router").display())])
        .status();
    assert!(router.unwrap().success());
    plane.start();
    until("the same page", || page(&plane, &trust, "main.localhost"), |it| it == "https /x\n");
    assert_eq!(certificate(&plane, "main.localhost")["fingerprint"], known["fingerprint"]);

    // What nobody wants is forgotten.
    declare(&plane, &json!([{"host": "main.localhost", "port": "http"}]));
    until("forgotten", || certificate(&plane, "main.localhost"), Value::is_null);
    until("no more", || page(&plane, &trust, "main.localhost"), String::is_empty);
    assert_eq!(curl(&plane, &trust, "main.localhost", &["http://main.localhost:HTTP/x"]).1, "http /x\n");
}

/// A certificate for a host that nobody here has made, and the file by which it is trusted.
fn elsewhere(file: &std::path::Path, host: &str) -> (String, Value) {
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new([host.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(file, own.pem()).unwrap();
    let data = json!({"spec": {"data": {"tls.crt": own.pem(), "tls.key": key.serialize_pem()}}});
    (file.display().to_string(), data)
}

#[test]
fn a_secret_is_served_and_changed_without_a_dropped_connection() {
    let plane = Plane::new();
    let host = "shop.example.test";
    let put = |data: &Value| plane.must("PUT", "/projects/default/secrets/web", data);
    declare(&plane, &json!([{"host": host, "port": "http", "tls": {"secret": "web"}}]));
    let why = || plane.carry_out(&["why", "main"]);
    until("a reason", why, |it| it.contains("there is no Secret web"));
    let (one, first) = elsewhere(&plane.directory.path().join("one.pem"), host);
    let (two, second) = elsewhere(&plane.directory.path().join("two.pem"), host);
    let (_, other) = elsewhere(&plane.directory.path().join("other.pem"), "other.example.test");
    put(&other);
    until("a reason", why, |it| it.contains("the certificate is for other.example.test, not for"));
    put(&json!({"spec": {"data": {"tls.crt": first["spec"]["data"]["tls.crt"]}}}));
    until("a reason", why, |it| it.contains("has not both"));
    put(&first);
    settled(&plane);
    assert_eq!(page(&plane, &one, host), "https /x\n");

    // One connection asks all the time, and goes on through every change.
    let (ending, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asker = std::thread::spawn({
        let (ending, asked) = (ending.clone(), asked.clone());
        let address = format!("127.0.0.1:{}", port(&plane, "listen-tls.json"));
        let trust = one.clone();
        move || {
            let mut connection = super::tls::Connection::open(&address, host, &trust);
            while !ending.load(Ordering::Relaxed) {
                assert_eq!(connection.get(host, "/x"), "https /x\n");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for (trust, data) in [(&two, &second), (&one, &first), (&two, &second)] {
        put(data);
        until("the other certificate", || page(&plane, trust, host), |it| it == "https /x\n");
    }
    // What is no certificate changes nothing that is served.
    put(&other);
    until(
        "a problem",
        || certificate(&plane, host),
        |it| it["problem"]["why"].as_str().is_some_and(|it| it.contains("not for")),
    );
    assert_eq!(page(&plane, &two, host), "https /x\n");
    let before = asked.load(Ordering::Relaxed);
    until("further answers", || asked.load(Ordering::Relaxed), |it| *it > before + 10);
    ending.store(true, Ordering::Relaxed);
    asker.join().unwrap();
    let log = std::fs::read_to_string(plane.data().join("router/access.log")).unwrap();
    let statuses: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap())
        .collect();
    assert!(statuses.len() > 10 && statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

/// What cannot be encrypted is refused, with a word on what can.
#[test]
fn wrong_routes_are_refused() {
    let plane = Plane::new();
    let refused = |route: Value, words: &str| {
        let main = json!({"command": ["true"], "ports": {"http": 80}, "routes": [route]});
        let body = json!({"spec": {"components": {"main": main}}});
        let answer =
            plane.ask(&plane.admin, "PUT", &format!("{BASE}/projects/default/apps/main"), Some(&body));
        assert!(answer.status == 422 && answer.text.contains(words), "{}", answer.text);
    };
    refused(json!({"host": "*.example.org", "port": "http", "tls": "auto"}), "tls: {secret: NAME}");
    refused(json!({"host": "a.${host}", "port": "http", "tls": "auto"}), "written out");
    refused(json!({"host": "a.localhost", "port": "http", "hsts": "1d"}), "set `tls`");
    refused(json!({"host": "10.0.0.1", "port": "http", "tls": "auto"}), "give a name");
    refused(json!({"host": "a.localhost", "port": "http", "tls": "on"}), "tls");
}

/// A plane whose routes an authority vouches for.
fn with_authority(acme: &Acme, plane: &mut Plane) {
    plane.stop();
    plane.options = ["--acme-directory", &acme.url(), "--acme-contact", "ada@example.org", "--acme-ca"]
        .into_iter()
        .map(str::to_owned)
        .chain([acme.trust().display().to_string()])
        .collect();
    plane.start();
}

fn root(plane: &Plane, acme: &Acme) -> String {
    let file = plane.directory.path().join("root.pem").display().to_string();
    let trust = acme.trust().display().to_string();
    let status =
        Command::new("curl").args(["--silent", "--cacert", &trust, "--output", &file, &acme.root()]).status();
    assert!(status.unwrap().success());
    file
}

#[test]
fn an_authority_gives_certificates_and_they_are_renewed() {
    let mut plane = Plane::new();
    let host = "web.example.test";
    declare(&plane, &json!([{"host": host, "port": "http"}]));
    settled(&plane);
    declare(&plane, &json!([{"host": host, "port": "http", "tls": "auto"}]));
    until("a reason", || plane.carry_out(&["why", "main"]), |it| it.contains("set up with no authority"));
    // What was served in the clear is served so until it can be encrypted.
    let plain = curl(&plane, "/dev/null", host, &[&format!("http://{host}:HTTP/x")]).1;
    assert_eq!(plain, "http /x\n");
    let ports = ["listen.json", "listen-tls.json"].map(|file| port(&plane, file).parse().unwrap());
    let acme = Acme::start(ports[0], ports[1], Validity::Seconds(30));
    with_authority(&acme, &mut plane);
    settled(&plane);
    let trust = root(&plane, &acme);
    assert_eq!(page(&plane, &trust, host), "https /x\n");
    let (_, sent_on) = curl(&plane, &trust, host, &["--include", &format!("http://{host}:HTTP/x")]);
    assert!(sent_on.starts_with("HTTP/1.1 308"), "{sent_on}");
    let first = certificate(&plane, host);
    assert_eq!(first["origin"], "authority");
    // After two thirds of its time there is another one, and nobody has noticed.
    let second =
        until("another one", || certificate(&plane, host), |it| it["fingerprint"] != first["fingerprint"]);
    assert!(second["expires"].as_str() > first["expires"].as_str(), "{second}");
    assert_eq!(page(&plane, &trust, host), "https /x\n");
    settled(&plane);
}

/// Where port 80 leads elsewhere, a connection of the authority's own protocol shows the same.
#[test]
fn an_authority_that_sees_only_the_encrypted_port_is_answered_there() {
    let mut plane = Plane::new();
    let host = "tls.example.test";
    declare(&plane, &json!([{"host": host, "port": "http", "tls": "auto"}]));
    let tls = until("a router", || plane.data().join("router/listen-tls.json").exists(), |it| *it)
        .then(|| port(&plane, "listen-tls.json"));
    let acme = Acme::start(1, tls.unwrap().parse().unwrap(), Validity::Years);
    with_authority(&acme, &mut plane);
    settled(&plane);
    assert_eq!(page(&plane, &root(&plane, &acme), host), "https /x\n");
    // An authority that is away does not matter to what is there.
    drop(acme);
    let other = json!([{"host": host, "port": "http", "tls": "auto"}, {"host": "b.example.test", "port": "http", "tls": "auto"}]);
    declare(&plane, &other);
    let said = until(
        "a reason",
        || plane.carry_out(&["why", "main"]),
        |it| it.contains("no certificate for b.example.test"),
    );
    assert!(said.contains("the certificate authority"), "{said}");
}
