//! Copies that come and go with what they have to do: real requests, real CPU time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::plane::Plane;
use super::up::until;

/// A page that takes a second.
const SLOW: &str = "import http.server,os,time
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0 if self.path=='/health' else 1)
        self.send_response(200); self.end_headers(); self.wfile.write(b'slow')
    def log_message(self,*a): pass
class S(http.server.ThreadingHTTPServer):
    request_queue_size=128
S(('127.0.0.1',int(os.environ['PORT'])),H).serve_forever()
";

fn declare(plane: &Plane, main: &Value) {
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}));
}

fn status(plane: &Plane) -> Value {
    plane.must("GET", "/projects/default/apps/main", &Value::Null)["status"].clone()
}

/// Waits until so many copies are wanted, are ready, and there is nothing else.
fn has_copies(plane: &Plane, copies: usize) -> Value {
    let is_so = |it: &Value| {
        let main = &it["components"]["main"];
        let here = main["instances"].as_array().is_some_and(|it| it.len() == copies);
        main["desired"] == copies && main["ready"] == copies && here
    };
    until(&format!("{copies} copies"), || status(plane), is_so)
}

/// People who always have a request under way, each one.
struct Visitors {
    ends: Arc<AtomicBool>,
    failed: Arc<AtomicU32>,
    asking: Vec<JoinHandle<()>>,
}

impl Visitors {
    fn of(plane: &Plane, count: u32) -> Self {
        let listen = std::fs::read_to_string(plane.data().join("router/listen.json")).unwrap();
        let url = format!("http://{}/", listen.trim_matches('"'));
        let (ends, failed): (Arc<AtomicBool>, Arc<AtomicU32>) = Default::default();
        let asking = (0..count).map(|_| {
            let (ends, failed, url) = (ends.clone(), failed.clone(), url.clone());
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    if ureq::get(&url).header("Host", "main.localhost").call().is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Self { asking: asking.collect(), ends, failed }
    }

    /// How many requests have failed.
    fn end(self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.asking.into_iter().for_each(|asking| asking.join().unwrap());
        self.failed.load(Ordering::Relaxed)
    }
}

#[test]
fn copies_come_with_requests_and_go_after_them() {
    let plane = Plane::new();
    declare(
        &plane,
        &json!({
            "program": {"inline": SLOW, "runtime": "python"},
            "ports": {"http": 8000},
            "health": {"http": {"port": "http", "path": "/health"}, "every": "200ms"},
            "routes": [{"host": "main.localhost", "port": "http"}],
            "scale": {
                "max": 3, "on": {"inFlight": 2},
                "up": {"window": "1s", "cooldown": "1s"}, "down": {"window": "3s", "cooldown": "1s"},
            },
            "update": {"soak": "1ms"},
        }),
    );
    has_copies(&plane, 1);
    let visitors = Visitors::of(&plane, 8);
    let status = has_copies(&plane, 3);
    assert_eq!(status["components"]["main"]["limited"], true);
    assert!(plane.carry_out(&["describe", "main"]).contains("more than 3 copies are asked for"));
    // Fewer requests, and none fails while their copies go.
    let few = Visitors::of(&plane, 2);
    assert_eq!(visitors.end(), 0);
    has_copies(&plane, 1);
    assert_eq!(few.end(), 0);
    // A person says how many, until nobody does any more.
    plane.carry_out(&["scale", "main", "main=2"]);
    has_copies(&plane, 2);
    plane.carry_out(&["scale", "main", "main=declared"]);
    has_copies(&plane, 1);
}

#[test]
fn copies_come_with_cpu_time_and_go_with_it() {
    let plane = Plane::new();
    let main = |command: &str| {
        json!({
            "command": ["sh", "-c", command],
            "resources": {"cpu": "100m"},
            "scale": {
                "max": 2, "on": {"cpu": 50},
                "up": {"window": "1s", "cooldown": "1s"}, "down": {"window": "1s", "cooldown": "1s"},
            },
            "update": {"soak": "1ms"},
        })
    };
    declare(&plane, &main("while :; do :; done"));
    has_copies(&plane, 2);
    declare(&plane, &main("exec sleep 1000"));
    has_copies(&plane, 1);
}

/// What a route answers: its status, what it says, and after how long a client may come back.
fn ask(plane: &Plane) -> (u16, String, Option<String>) {
    let listen = std::fs::read_to_string(plane.data().join("router/listen.json")).unwrap();
    let url = format!("http://{}/health", listen.trim_matches('"'));
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let mut answer = ureq::Agent::from(config).get(&url).header("Host", "main.localhost").call().unwrap();
    let retry = answer.headers().get("retry-after").map(|it| it.to_str().unwrap().to_owned());
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap(), retry)
}

#[test]
fn the_last_copy_goes_when_nobody_asks_and_a_request_brings_one() {
    let mut plane = Plane::new();
    let main = |program: &str| {
        json!({
            "program": {"inline": program, "runtime": "python"},
            "ports": {"http": 8000},
            "health": {"http": {"port": "http", "path": "/health"}, "every": "100ms"},
            "routes": [{"host": "main.localhost", "port": "http"}],
            "scale": {"max": 2, "toZero": {"after": "1s", "hold": "3s"}},
            "update": {"soak": "1ms"},
        })
    };
    declare(&plane, &main(SLOW));
    has_copies(&plane, 0);
    assert_eq!(status(&plane)["outcome"]["state"], "settled");
    // Some at once: all wait for the same copy.
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&plane))).collect();
        for asked in asking {
            assert_eq!(asked.join().unwrap(), (200, "slow".to_owned(), None));
        }
    });
    has_copies(&plane, 0);
    // A server that was started anew wakes it too.
    plane.stop();
    plane.start();
    assert_eq!(ask(&plane).0, 200);
    has_copies(&plane, 0);
    // One that does not come: the request waits for so long and no longer.
    declare(&plane, &main("import time; time.sleep(1000)"));
    until("known", || status(&plane), |it| it["observedGeneration"] == 2);
    let began = std::time::Instant::now();
    let (code, said, retry) = ask(&plane);
    assert_eq!((code, retry.as_deref()), (503, Some("5")), "{said}");
    let took = began.elapsed().as_secs_f64();
    assert!((3.0..8.0).contains(&took), "{took}");
}
