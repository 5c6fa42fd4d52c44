//! An App is given up while its target does not answer, and what was left of it goes when the target is back.

use serde_json::{Value, json};

use super::agent::{processes_in, signal};
use super::plane::{BASE, Plane};
use super::up::until;

/// An App with an address, a route and a volume.
fn site() -> Value {
    json!({"spec": {"components": {"main": {
        "command": ["python3", "-m", "http.server", "7000"],
        "ports": {"http": 7000},
        "volumes": {"data": {"path": "data"}},
        "provides": {"site": {"interface": "http"}},
        "routes": [{"host": "site.localhost", "path": "/", "port": "http"}],
        "update": {"soak": "1ms"},
    }}}})
}

#[test]
fn what_is_left_of_an_app_that_was_given_up_goes_when_its_target_answers_again() {
    let plane = Plane::new();
    let place = "/projects/default/apps/site";
    plane.must("PUT", place, &site());
    let app = || plane.must("GET", place, &Value::Null);
    until("settled", app, |app| app["status"]["outcome"]["state"] == "settled");
    let instances = plane.data().join("node/instances");
    let is_empty = || instances.read_dir().unwrap().next().is_none();
    let volumes = plane.data().join("node/volumes");
    assert!(volumes.read_dir().unwrap().next().is_some());
    let claims = || plane.carry_out(&["get", "claims", "-o", "name"]);
    assert_eq!(claims().lines().count(), 2, "its address and its route");
    let answering = plane.refused(&["delete", "site", "--abandon"]);
    assert!(answering.contains("every target of app default/site answers"), "{answering}");

    // The router ends, and its place is taken by something with which none can start.
    let (router, aside) = (plane.data().join("router"), plane.directory.path().join("aside"));
    let running = processes_in(&router);
    std::fs::rename(&router, &aside).unwrap();
    std::fs::write(&router, "in the way").unwrap();
    running.iter().chain(&processes_in(&aside)).for_each(|pid| signal(*pid, rustix::process::Signal::KILL));
    plane.carry_out(&["delete", "site", "--no-wait"]);
    let why = || plane.carry_out(&["why", "site"]);
    until("the reason", why, |why| why.contains("does not answer") && why.contains("--abandon"));

    let dry = plane.carry_out(&["delete", "site", "--abandon", "--dry-run"]);
    assert_eq!(plane.ask(&plane.admin, "GET", &format!("{BASE}{place}"), None).status, 200);
    let left = plane.carry_out(&["delete", "site", "--abandon"]);
    assert_eq!(dry, left);
    assert!(left.contains("volumes on local") && left.contains("claim ip.local."), "{left}");
    assert_eq!(plane.ask(&plane.admin, "GET", &format!("{BASE}{place}"), None).status, 404);
    assert!(plane.carry_out(&["audit"]).contains("abandon"));
    // Nobody else gets what may still be in use, and the name is free.
    assert_eq!(claims().lines().count(), 2);
    let tombstones = || plane.carry_out(&["get", "tombstones", "-o", "name"]);
    assert_eq!(tombstones().lines().count(), 1);
    // What answers is told at once: the copies end though the router is away.
    until("no copy", is_empty, |is_empty| *is_empty);
    plane.must("PUT", place, &site());
    until("waiting", app, |app| app["status"]["outcome"]["waits"][0].is_object());
    until("the reason", why, |why| why.contains("tombstone site."));

    std::fs::remove_file(&router).unwrap();
    std::fs::rename(&aside, &router).unwrap();
    until("its end", tombstones, String::is_empty);
    until("settled", app, |app| app["status"]["outcome"]["state"] == "settled");
    assert_eq!(claims().lines().count(), 2, "those of the new one");
    plane.carry_out(&["delete", "site"]);
    assert!(is_empty() && claims().is_empty());
    assert!(volumes.read_dir().unwrap().next().is_none(), "the volumes of both");
}

#[test]
fn an_administrator_may_forget_what_will_never_answer() {
    let plane = Plane::new();
    let place = "/projects/default/apps/site";
    plane.must("PUT", place, &site());
    let app = || plane.must("GET", place, &Value::Null);
    until("settled", app, |app| app["status"]["outcome"]["state"] == "settled");
    let router = plane.data().join("router");
    let running = processes_in(&router);
    std::fs::remove_dir_all(&router).unwrap();
    std::fs::write(&router, "in the way").unwrap();
    for pid in running {
        signal(pid, rustix::process::Signal::KILL);
    }
    until("silence", || plane.run(&["delete", "site", "--abandon"]).status.success(), |is_done| *is_done);
    let stone = plane.carry_out(&["get", "tombstones", "-o", "name"]);
    plane.project("default", &json!({"ada": "deployer"}));
    let token = plane.token("ada", "ada");
    let path = format!("{BASE}/projects/default/{}", stone.trim());
    assert_eq!(plane.ask(&token, "GET", &path, None).status, 200);
    assert_eq!(plane.ask(&token, "DELETE", &path, None).status, 403);
    plane.carry_out(&["delete", stone.trim()]);
    assert!(plane.carry_out(&["get", "claims", "-o", "name"]).is_empty());
    let copies = || plane.carry_out(&["get", "instances"]);
    until("an orphan", copies, |copies| copies.contains("orphan") || copies.lines().count() == 1);
}
