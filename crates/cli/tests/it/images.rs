//! Apps of images: a control plane with a real engine, and a real registry.

use std::io::Write as _;
use std::process::{Command, Stdio};

use plimsoll_testkit::{BUSYBOX, Engine, Make, Registry};
use serde_json::{Value, json};

use super::plane::Plane;
use super::up::until;

/// A web server of busybox that says a word, or what a file of its image says.
pub(crate) fn web(image: &str, said: &str) -> Value {
    json!({
        "image": image,
        "command": ["sh", "-c", format!("set -e; mkdir -p /tmp/w; {{ {said}; }} > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w")],
        "ports": {"http": 8080},
        "health": {"http": {"port": "http", "path": "/index.html"}, "every": "500ms"},
        "grace": "1s",
        "update": {"soak": "1ms"},
    })
}

pub(crate) fn status(plane: &Plane, app: &str) -> Value {
    plane.must("GET", &format!("/projects/default/apps/{app}"), &Value::Null)
}

pub(crate) fn settled(plane: &Plane, app: &str) -> Value {
    until("settled", || status(plane, app), |it| it["status"]["outcome"]["state"] == "settled")
}

/// What an App's route answers.
pub(crate) fn fetch(plane: &Plane, host: &str) -> String {
    let router: Value =
        serde_json::from_str(&std::fs::read_to_string(plane.data().join("router/listen.json")).unwrap())
            .unwrap();
    let url = format!("http://{}/", router.as_str().unwrap());
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let answer = ureq::Agent::from(config).get(&url).header("Host", host).call();
    answer.and_then(|mut answer| answer.body_mut().read_to_string()).unwrap_or_default().trim().to_owned()
}

fn everything_works_in(engine: &Engine) {
    let plane = Plane::on(engine);
    let mut front = web(BUSYBOX, "echo $BACK_URL; wget -qO- http://$BACK_HOST:$BACK_PORT/index.html");
    front["consumes"] = json!({"back": {"interface": "http", "from": "back/web"}});
    front["routes"] = json!([{"host": "front.localhost", "port": "http"}]);
    front["replicas"] = json!(2);
    front["files"] = json!({"/etc/greeting": {"content": "hello ${back.host}"}});
    front["volumes"] = json!({"data": {"path": "/data"}});
    front["update"] = json!({"soak": "1ms"});
    let mut back = web(BUSYBOX, "echo from the back");
    back["provides"] = json!({"web": {"interface": "http", "data": {"url": "http://${host}:${port:http}/"}}});
    plane.must(
        "PUT",
        "/projects/default/apps/shop",
        &json!({"spec": {"components": {"front": front, "back": back}}}),
    );
    settled(&plane, "shop");
    let answer = until("an answer", || fetch(&plane, "front.localhost"), |it| it.contains("from the back"));
    // Its own loopback network is in the way of the usual addresses.
    assert!(answer.starts_with("http://240."), "{answer}");

    // What people ask of copies is answered from containers too.
    let instance = ["--component", "front"];
    let output = plane.run(
        &[&["exec", "shop"], &instance[..], &["--", "sh", "-c", "cat /etc/greeting; echo err >&2; exit 7"]]
            .concat(),
    );
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("hello 240."), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    let mut input = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    input.args(["exec", "-i", "shop", "--component", "front", "--", "cat"]);
    input.env("PLIMSOLL_DATA_DIR", plane.data()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut input = input.spawn().unwrap();
    input.stdin.take().unwrap().write_all(b"heard to its end").unwrap();
    assert_eq!(input.wait_with_output().unwrap().stdout, b"heard to its end");
    plane.carry_out(&["exec", "shop", "--component", "front", "--", "sh", "-c", "echo said > /proc/1/fd/1"]);
    until("its words", || plane.carry_out(&["logs", "shop"]), |it| it.contains("said"));
    let used = until("what it uses", || plane.carry_out(&["top"]), |it| it.lines().count() == 4);
    assert!(used.contains("front") && used.contains("back"), "{used}");

    // A server that was restarted finds everything as it was.
    let before = engine.run(&["ps", "--quiet", "--no-trunc"]);
    let mut plane = plane;
    plane.stop();
    plane.start();
    settled(&plane, "shop");
    assert_eq!(engine.run(&["ps", "--quiet", "--no-trunc"]), before);

    projects_do_not_meet(&plane, engine, before.lines().next().unwrap());

    // What is deleted is gone: containers, volumes and networks.
    plane.carry_out(&["delete", "app/shop"]);
    plane.carry_out(&["delete", "app/spy", "--project", "other"]);
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]), "");
    assert_eq!(engine.run(&["volume", "ls", "--quiet"]), "");
    assert!(!engine.run(&["network", "ls", "--format", "{{.Name}}"]).contains("plimsoll-"));
}

/// Containers of one project reach each other, those of another one do not reach them.
fn projects_do_not_meet(plane: &Plane, engine: &Engine, container: &str) {
    plane.project("other", &json!({}));
    let address = engine.run(&[
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        container,
    ]);
    let mut spy = web(BUSYBOX, "echo spy");
    spy["health"] = json!({"tcp": {"port": "http"}});
    plane.must("PUT", "/projects/other/apps/spy", &json!({"spec": {"components": {"main": spy}}}));
    let ready = || plane.must("GET", "/projects/other/apps/spy", &Value::Null);
    until("settled", ready, |it| it["status"]["outcome"]["state"] == "settled");
    let own = plane.run(&[
        "exec",
        "shop",
        "--component",
        "front",
        "--",
        "timeout",
        "5",
        "wget",
        "-qO-",
        &format!("http://{address}:8080/index.html"),
    ]);
    assert!(own.status.success(), "the same project's do: {own:?}");
    let foreign = plane.run(&[
        "exec",
        "--project",
        "other",
        "spy",
        "--",
        "timeout",
        "5",
        "wget",
        "-qO-",
        &format!("http://{address}:8080/index.html"),
    ]);
    assert!(!foreign.status.success(), "{foreign:?}");
}

#[test]
fn an_app_of_images_works_in_docker() {
    everything_works_in(&Engine::start(Make::Docker));
}

#[test]
fn an_app_of_images_works_in_podman() {
    everything_works_in(&Engine::start(Make::Podman));
}

/// The same program, as a process and then in a container, by its target alone.
#[test]
fn a_program_moves_into_a_container_by_its_target() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let runtimes = json!({"sh": {"command": ["sh", "{file}"], "image": BUSYBOX}});
    let target = |programs: &str| json!({"spec": {"programs": programs, "runtimes": runtimes}});
    plane.must("PUT", "/targets/local", &target("process"));
    let script = "echo \"$(cat /etc/passwd | wc -l) $(cat greeting) $0\" > data/index.html; exec busybox httpd -f -p $PORT -h data";
    let main = json!({
        "program": {"inline": script, "runtime": "sh"},
        "ports": {"http": 8080},
        "files": {"greeting": {"content": "hello"}},
        "volumes": {"data": {"path": "data"}},
        "health": {"http": {"port": "http", "path": "/index.html"}, "every": "500ms"},
        "routes": [{"host": "main.localhost", "port": "http"}],
        "update": {"soak": "1ms"},
    });
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}));
    settled(&plane, "main");
    let before = until("an answer", || fetch(&plane, "main.localhost"), |it| it.contains("hello"));
    plane.must("PUT", "/targets/local", &target("container"));
    // Two users are in the image's own list.
    let after = until("the other answer", || fetch(&plane, "main.localhost"), |it| it.starts_with("2 hello"));
    assert_ne!(before, after);
    settled(&plane, "main");
    assert_eq!(engine.run(&["ps", "--quiet"]).lines().count(), 1);
    plane.must("PUT", "/targets/local", &target("process"));
    until("the first answer", || fetch(&plane, "main.localhost"), |it| *it != after && it.contains("hello"));
    settled(&plane, "main");
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]), "");
}

/// A tag that moves is followed; a bad image is rolled back, rejected, and not tried again until the tag moves on.
#[test]
fn a_tag_is_followed_and_a_bad_image_is_rejected() {
    let engine = Engine::start(Make::Docker);
    let mut registry = Registry::start();
    let plane = Plane::on(&engine);
    let first = engine.push(&registry, "team/app:1", &[("/word", "first")]);
    let image = format!("{}/team/app:1", registry.host());
    let mut main = web(&image, "cat /word");
    main["routes"] = json!([{"host": "main.localhost", "port": "http"}]);
    main["update"] = json!({"soak": "1ms", "deadline": "6s", "image": {"follow": "digest", "every": "10s"}});
    let app = json!({"spec": {"components": {"main": main}}});
    plane.must("PUT", "/projects/default/apps/main", &app);
    settled(&plane, "main");
    assert_eq!(until("an answer", || fetch(&plane, "main.localhost"), |it| !it.is_empty()), "first");
    let running = engine.run(&["ps", "--format", "{{.Image}}", "--no-trunc"]);
    assert!(running.ends_with(&first), "{running} is pinned");

    let second = engine.push(&registry, "team/app:1", &[("/word", "second")]);
    until("the second image", || fetch(&plane, "main.localhost"), |it| it == "second");
    settled(&plane, "main");

    // The third does not become ready: no such file.
    let third = engine.push(&registry, "team/app:1", &[("/other", "x")]);
    let rolled_back = || status(&plane, "main");
    let after = until("rolled back", rolled_back, |it| {
        it["status"]["rejected"].as_object().is_some_and(|it| !it.is_empty())
    });
    assert_eq!(fetch(&plane, "main.localhost"), "second", "it serves all the time: {after}");
    let images = plane.must("GET", "/projects/default/images", &Value::Null);
    let known = &images["items"][0]["spec"];
    let digits = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    assert_eq!(known["digest"], digits(&third));
    let before: Vec<&str> =
        known["before"].as_array().unwrap().iter().filter_map(|it| it["digest"].as_str()).collect();
    assert_eq!(before, [digits(&second), digits(&first)]);

    // A registry that is away touches nothing.
    registry.stop();
    let known = || plane.must("GET", "/projects/default/images", &Value::Null);
    until("a problem", known, |it| {
        it["items"][0]["spec"]["problem"].as_str().is_some_and(|it| it.contains("does not answer"))
    });
    assert_eq!(fetch(&plane, "main.localhost"), "second");
    registry.resume();
    engine.push(&registry, "team/app:1", &[("/word", "fourth")]);
    until("the fourth image", || fetch(&plane, "main.localhost"), |it| it == "fourth");
    settled(&plane, "main");
    assert!(registry.asked("HEAD") > 3);

    let ledger = plane.carry_out(&["images", "main"]);
    let states: Vec<&str> =
        ledger.lines().skip(1).filter_map(|line| line.split("  ").last()).map(str::trim).collect();
    assert_eq!(states, ["replaced", "replaced", "rejected", "1 copy runs it"], "{ledger}");
    assert_eq!(ledger.matches("its tag moved").count(), 3, "{ledger}");

    // The way back is by the bytes of then, and stays.
    plane.carry_out(&["rollout", "undo", "main", "--to", "1"]);
    until("the first image", || fetch(&plane, "main.localhost"), |it| it == "first");
    settled(&plane, "main");
    let declared = status(&plane, "main")["spec"]["components"]["main"]["image"].clone();
    assert_eq!(declared, format!("{image}@{first}"));
}

/// What keeps an image from being there is told apart, and ends by itself.
#[test]
fn a_missing_image_is_a_wait_that_ends_when_it_comes() {
    let engine = Engine::start(Make::Docker);
    let registry = Registry::start();
    let plane = Plane::on(&engine);
    let image = format!("{}/team/late:1", registry.host());
    plane.must(
        "PUT",
        "/projects/default/apps/late",
        &json!({"spec": {"components": {"main": web(&image, "echo x")}}}),
    );
    let waits = || plane.carry_out(&["why", "late"]);
    let said = until("a reason", waits, |it| it.contains("has no such image"));
    assert!(said.contains(&format!("registry {}", registry.host())), "{said}");
    engine.push(&registry, "team/late:1", &[]);
    settled(&plane, "late");

    // One that is pinned, and that nobody has.
    let nobody = format!("{}/team/late@sha256:{}", registry.host(), "ab".repeat(32));
    plane.must(
        "PUT",
        "/projects/default/apps/nobody",
        &json!({"spec": {"components": {"main": web(&nobody, "echo x")}}}),
    );
    let said =
        until("a reason", || plane.carry_out(&["why", "nobody"]), |it| it.contains("there is no such image"));
    assert!(said.contains("push the image"), "{said}");
    let away = "127.0.0.1:1/team/app:1";
    plane.must(
        "PUT",
        "/projects/default/apps/away",
        &json!({"spec": {"components": {"main": web(away, "echo x")}}}),
    );
    until("a reason", || plane.carry_out(&["why", "away"]), |it| it.contains("does not answer"));
}
