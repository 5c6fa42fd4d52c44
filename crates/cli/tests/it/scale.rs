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
