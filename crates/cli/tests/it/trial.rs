//! New copies beside all old ones: canaries and blue-green, with real programs, a real router and a real Prometheus.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_testkit::Prometheus;
use serde_json::{Value, json};

use super::plane::Plane;
use super::up::until;

/// A program that says its version, and fails if it is told to.
const WEB: &str = "import http.server,os,time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version='HTTP/1.1'
    def do_GET(self):
        time.sleep(float(os.environ.get('SLOW','0')))
        body=os.environ['VERSION'].encode()
        self.send_response(500 if 'FAILS' in os.environ and self.path!='/health' else 200)
        self.send_header('Content-Length',str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self,*a): pass
class S(http.server.ThreadingHTTPServer):
    request_queue_size=128
S(('127.0.0.1',int(os.environ['PORT'])),H).serve_forever()
";

fn declare(plane: &Plane, env: &Value, update: &Value) {
    let main = json!({
        "program": {"inline": WEB, "runtime": "python"},
        "replicas": 2,
        "ports": {"http": 8000},
        "env": env,
        "health": {"http": {"port": "http", "path": "/health"}, "every": "200ms", "timeout": "2s"},
        "routes": [{"host": "main.localhost", "port": "http"}],
        "update": update,
    });
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}));
}

fn status(plane: &Plane) -> Value {
    plane.must("GET", "/projects/default/apps/main", &Value::Null)
}

fn settled(plane: &Plane) -> Value {
    until("settled", || status(plane), |it| it["status"]["outcome"]["state"] == "settled")
}

/// Waits until the App waits for something of this kind, and returns its sentence.
fn waiting(plane: &Plane, reason: &str) -> Value {
    let found = |it: &Value| {
        let waits = it["status"]["outcome"]["waits"].as_array().cloned().unwrap_or_default();
        waits.into_iter().map(|it| it["wait"]["reason"].clone()).find(|it| it["reason"] == reason)
    };
    found(&until(reason, || status(plane), |it| found(it).is_some())).unwrap()
}

/// People who ask for the page all the time, one request after the other.
struct Visitors {
    ends: Arc<AtomicBool>,
    /// Answers by status and what they say, in order.
    seen: Arc<Mutex<Vec<(u16, String)>>>,
    asking: Option<JoinHandle<()>>,
}

impl Visitors {
    fn of(plane: &Plane) -> Self {
        let (ends, seen): (Arc<AtomicBool>, Arc<Mutex<Vec<_>>>) = Default::default();
        let listen = std::fs::read_to_string(plane.data().join("router/listen.json")).unwrap();
        let url = format!("http://{}/", listen.trim_matches('"'));
        let (end, told) = (ends.clone(), seen.clone());
        let asking = std::thread::spawn(move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).build();
            let agent = ureq::Agent::from(config);
            while !end.load(Ordering::Relaxed) {
                let answer = agent.get(&url).header("Host", "main.localhost").call();
                let answer = answer
                    .map(|mut it| (it.status().as_u16(), it.body_mut().read_to_string().unwrap_or_default()));
                told.lock().unwrap().push(answer.unwrap_or_default());
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        Self { ends, seen, asking: Some(asking) }
    }

    /// How often each answer came since the last time somebody asked.
    fn tally(&self) -> BTreeMap<(u16, String), usize> {
        let mut tally = BTreeMap::new();
        for answer in self.seen.lock().unwrap().drain(..) {
            *tally.entry(answer).or_default() += 1;
        }
        tally
    }

    /// Counts the answers since the last count; of those there is at least one.
    fn some(&self) -> BTreeMap<(u16, String), usize> {
        until("an answer", || self.seen.lock().unwrap().len(), |seen| *seen >= 1);
        self.tally()
    }

    /// Waits for so many more answers, and counts them.
    fn next(&self, answers: usize) -> BTreeMap<(u16, String), usize> {
        self.tally();
        until("answers", || self.seen.lock().unwrap().len(), |seen| *seen >= answers);
        self.tally()
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.asking.take().unwrap().join().unwrap();
    }
}

fn share(tally: &BTreeMap<(u16, String), usize>, version: &str) -> f64 {
    let of = |it: &BTreeMap<(u16, String), usize>, version: Option<&str>| -> f64 {
        let counted = it.iter().filter(|((_, said), _)| version.is_none_or(|version| said == version));
        counted.map(|(_, times)| f64::from(u32::try_from(*times).unwrap())).sum()
    };
    of(tally, Some(version)) / of(tally, None)
}

#[test]
fn a_canary_that_fails_its_requests_is_taken_back_before_it_is_everywhere() {
    let plane = Plane::new();
    let update = json!({
        "strategy": "canary", "soak": "1s", "steps": [{"weight": 20, "soak": "1h"}, {"weight": 60}],
        "gate": {"errors": "5%", "requests": 30},
    });
    declare(&plane, &json!({"VERSION": "a"}), &update);
    settled(&plane);
    declare(&plane, &json!({"VERSION": "b", "FAILS": "yes"}), &update);
    let why = waiting(&plane, "gateUndecided");
    assert_eq!(why["why"], "new copies have had fewer than 30 requests in the last minute");
    let told = plane.carry_out(&["why", "app/main"]);
    assert!(told.contains("step 1 of 2: new copies get 20 % of the traffic and are watched"), "{told}");
    let visitors = Visitors::of(&plane);
    until("rejected", || status(&plane), |it| it["status"]["rejected"] != json!({}));
    waiting(&plane, "rejected");
    let tally = visitors.tally();
    assert!((0.15..0.25).contains(&share(&tally, "b")), "{tally:?}");
    let tally = visitors.next(200);
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&(200, "a".to_owned())]);
    let rejections = plane.must("GET", "/projects/default/rejections", &Value::Null);
    let verdict = rejections["items"][0]["spec"]["evidence"]["verdict"].as_str().unwrap().to_owned();
    assert!(verdict.ends_with("requests failed, more than 5%"), "{verdict}");
    // It is not brought back by declaring the same again.
    declare(&plane, &json!({"VERSION": "b", "FAILS": "yes"}), &update);
    let tally = visitors.next(200);
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&(200, "a".to_owned())]);
}

#[test]
fn a_canary_that_is_slow_is_taken_back_and_one_that_is_not_goes_everywhere() {
    let plane = Plane::new();
    let update = json!({
        "strategy": "canary", "soak": "1s", "steps": [{"weight": 50}],
        "gate": {"latency": {"percentile": 90, "within": "150ms"}, "requests": 10},
    });
    declare(&plane, &json!({"VERSION": "a"}), &update);
    settled(&plane);
    let visitors = Visitors::of(&plane);
    declare(&plane, &json!({"VERSION": "b", "SLOW": "0.4"}), &update);
    until("rejected", || status(&plane), |it| it["status"]["rejected"] != json!({}));
    let rejections = plane.must("GET", "/projects/default/rejections", &Value::Null);
    let verdict = rejections["items"][0]["spec"]["evidence"]["verdict"].as_str().unwrap().to_owned();
    assert!(
        verdict.starts_with("the slowest 10 % of requests took") && verdict.ends_with("not 150ms"),
        "{verdict}"
    );
    declare(&plane, &json!({"VERSION": "c"}), &update);
    settled(&plane);
    visitors.tally();
    let tally = visitors.next(100);
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&(200, "c".to_owned())]);
}

#[test]
fn blue_and_green_change_at_once_when_a_person_says_so_and_no_request_fails() {
    let plane = Plane::new();
    let update = json!({
        "strategy": "blue-green", "soak": "500ms",
        "steps": [{"weight": 0, "hold": true}, {"weight": 100, "soak": "2s"}],
    });
    declare(&plane, &json!({"VERSION": "a"}), &update);
    settled(&plane);
    let visitors = Visitors::of(&plane);
    declare(&plane, &json!({"VERSION": "b"}), &update);
    assert_eq!(waiting(&plane, "trying")["hold"], true);
    until("all new copies", || status(&plane), |it| it["status"]["components"]["main"]["ready"] == 2);
    assert_eq!(
        status(&plane)["status"]["components"]["main"]["stage"],
        json!({"step": 1, "of": 2, "weight": 0, "hold": true})
    );
    assert_eq!(visitors.next(100).keys().collect::<Vec<_>>(), [&(200, "a".to_owned())]);
    plane.carry_out(&["rollout", "promote", "main"]);
    settled(&plane);
    visitors.next(50);
    drop(visitors);

    // Taken back from the preview, nobody ever sees it.
    let visitors = Visitors::of(&plane);
    declare(&plane, &json!({"VERSION": "c"}), &update);
    until(
        "all new copies",
        || status(&plane),
        |it| {
            it["status"]["components"]["main"]["ready"] == 2
                && it["status"]["components"]["main"]["available"] == 4
        },
    );
    let refused = plane.refused(&["rollout", "promote", "main", "--component", "other"]);
    assert!(refused.contains("has no component other"), "{refused}");
    visitors.tally();
    plane.carry_out(&["rollout", "abort", "main"]);
    waiting(&plane, "rejected");
    until("two copies", || status(&plane), |it| it["status"]["components"]["main"]["available"] == 2);
    assert_eq!(visitors.some().keys().collect::<Vec<_>>(), [&(200, "b".to_owned())]);
    let history = plane.carry_out(&["rollout", "history", "main"]);
    assert!(history.lines().last().unwrap().contains("(rejected)"), "{history}");
    let refused = plane.refused(&["rollout", "abort", "main"]);
    assert!(refused.contains("there is nothing to abort"), "{refused}");

    // A person who changes their mind gets it after all, whole.
    plane.carry_out(&["retry", "main"]);
    assert_eq!(waiting(&plane, "trying")["step"], 1);
    until("all new copies", || status(&plane), |it| it["status"]["components"]["main"]["ready"] == 2);
    plane.carry_out(&["rollout", "promote", "main", "--all"]);
    settled(&plane);
    let mut order: Vec<(u16, String)> = visitors.seen.lock().unwrap().clone();
    order.dedup();
    assert_eq!(order, [(200, "b".to_owned()), (200, "c".to_owned())], "it changed once, and nothing failed");
}

/// Something with one metric.
fn metrics(value: &Arc<AtomicU32>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let value = value.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream): Result<TcpStream, _> = stream else { return };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let number = value.load(Ordering::Relaxed);
            let is_plain = head[..read].starts_with(b"GET /number");
            let body = if is_plain { format!("{number}\n") } else { format!("bad_orders {number}\n") };
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").ok();
        }
    });
    address
}

#[test]
fn prometheus_and_whoever_has_a_number_decide_about_a_canary() {
    let plane = Plane::new();
    let bad = Arc::new(AtomicU32::new(0));
    let address = metrics(&bad);
    let prometheus = Prometheus::start(&address);
    let query = json!({"prometheus": "sum(bad_orders)", "most": 3});
    let update = json!({
        "strategy": "canary", "soak": "300ms", "steps": [{"weight": 50, "soak": "300ms"}, {"weight": 90, "hold": true}],
        "gate": {"queries": [query, {"http": format!("http://{address}/number"), "most": 3, "least": 0}]},
    });
    declare(&plane, &json!({"VERSION": "a"}), &update);
    settled(&plane);
    // Whom the server asks is for those to say who look after it.
    declare(&plane, &json!({"VERSION": "b"}), &update);
    let why = waiting(&plane, "gateUndecided");
    assert_eq!(
        why["why"],
        "prometheus \"sum(bad_orders)\": the target names no Prometheus (gates.prometheus)"
    );
    let mut local = plane.must("GET", "/targets/local", &Value::Null)["spec"].clone();
    local["gates"] = json!({"prometheus": prometheus.url()});
    plane.must("PUT", "/targets/local", &json!({"spec": local}));
    let allowed = format!("http://{address}/number: the target does not allow to ask there (gates.http)");
    until("asked", || waiting(&plane, "gateUndecided"), |it| it["why"] == allowed.as_str());
    local["gates"]["http"] = json!([format!("http://{address}/")]);
    plane.must("PUT", "/targets/local", &json!({"spec": local}));
    until(
        "the second step",
        || status(&plane),
        |it| it["status"]["components"]["main"]["stage"]["step"] == 2,
    );
    bad.store(7, Ordering::Relaxed);
    until("rejected", || status(&plane), |it| it["status"]["rejected"] != json!({}));
    let rejections = plane.must("GET", "/projects/default/rejections", &Value::Null);
    let verdict = rejections["items"][0]["spec"]["evidence"]["verdict"].as_str().unwrap().to_owned();
    assert!(verdict.ends_with("7 is more than 3"), "{verdict}");
    waiting(&plane, "rejected");

    // Whoever cannot be asked decides nothing.
    drop(prometheus);
    bad.store(0, Ordering::Relaxed);
    declare(&plane, &json!({"VERSION": "c"}), &update);
    until(
        "no answer",
        || waiting(&plane, "gateUndecided"),
        |it| it["why"] == "prometheus \"sum(bad_orders)\": there is no answer",
    );
    plane.carry_out(&["rollout", "promote", "main", "--all"]);
    let why = waiting(&plane, "gateUndecided");
    assert!(why["why"].as_str().unwrap().contains("there is no answer"), "its end is judged as well");
}
