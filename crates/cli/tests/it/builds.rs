//! Images built from sources: a control plane with a real engine, and real repositories.

use std::path::Path;

use plimsoll_testkit::{BUSYBOX, Engine, Git, Make, Registry, Ssh};
use serde_json::{Value, json};

use super::images::{fetch, settled, status};
use super::pipelines::{SECRET, deliver, now};
use super::plane::Plane;
use super::up::until;

/// An App of one source, as a file beside it.
fn write_app(directory: &Path, source: &Value, more: &Value) -> String {
    let mut component = json!({
        "source": source,
        "ports": {"http": 8080},
        "health": {"http": {"port": "http", "path": "/"}, "every": "500ms"},
        "routes": [{"host": "site.localhost", "port": "http"}],
        "grace": "1s",
        "update": {"soak": "1ms"},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        component[key] = value.clone();
    }
    let app = json!({
        "apiVersion": "plimsoll.dev/v1", "kind": "App", "metadata": {"name": "site"},
        "spec": {"components": {"web": component}},
    });
    let file = directory.join("site.yaml");
    std::fs::write(&file, app.to_string()).unwrap();
    file.display().to_string()
}

fn put(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The builds of the project, as the API has them.
fn builds(plane: &Plane) -> Vec<Value> {
    let list = plane.must("GET", "/projects/default/builds", &Value::Null);
    list["items"].as_array().unwrap().clone()
}

fn served(plane: &Plane, text: &str) {
    until("the page", || fetch(plane, "site.localhost"), |it| it.contains(text));
}

/// The reasons for which an App waits.
fn waits(app: &Value) -> Vec<Value> {
    let waits = app["status"]["outcome"]["waits"].as_array().cloned().unwrap_or_default();
    waits.into_iter().map(|it| it["wait"]["reason"].clone()).collect()
}

const DOCKERFILE: &str = "FROM localhost/busybox:1
COPY . /www
RUN ls -a /www > /listing && id -u >> /listing && env | sort > /environment
CMD [\"busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]
";

fn a_directory_is_built_and_served(engine: &Engine) {
    let plane = Plane::on(engine);
    let work = super::agent::scratch();
    let site = work.path().join("site");
    put(&site, "Dockerfile", DOCKERFILE);
    put(&site, "index.html", "first page");
    put(&site, ".gitignore", "*.log\n");
    put(&site, ".dockerignore", "private\n");
    for left in ["a.log", "private/key", ".git/config", "sub/private/stays"] {
        put(&site, left, "x");
    }
    let file = write_app(work.path(), &json!({"path": "site"}), &json!({}));
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    served(&plane, "first page");
    let listing = plane.carry_out(&["exec", "site", "--", "cat", "/listing"]);
    for left in ["a.log", "private", ".git"] {
        assert!(!listing.lines().any(|line| line == left), "{left} came along: {listing}");
    }
    assert!(listing.lines().any(|line| line == "sub"), "{listing}");
    // A build knows nothing of those who asked for it.
    let environment = plane.carry_out(&["exec", "site", "--", "cat", "/environment"]);
    assert!(!environment.contains("PLIMSOLL") && !environment.contains("DOCKER_HOST"), "{environment}");

    // The same again is no build.
    let before = builds(&plane);
    assert_eq!(before.len(), 1, "{before:?}");
    let image = before[0]["spec"]["built"]["image"].clone();
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    assert_eq!(builds(&plane)[0]["spec"]["built"], before[0]["spec"]["built"]);

    // What is changed is built and rolled out; what was before can be had without a build.
    put(&site, "index.html", "second page");
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    served(&plane, "second page");
    put(&site, "index.html", "first page");
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    served(&plane, "first page");
    let after = builds(&plane);
    assert_eq!((after.len(), &after[0]["spec"]["built"]["image"]), (1, &image), "it was there already");
    let name = after[0]["metadata"]["name"].as_str().unwrap();
    assert!(plane.carry_out(&["builds", "log", name]).contains("built it before"));
    let ledger = plane.carry_out(&["images", "site"]);
    assert!(ledger.lines().filter(|line| line.contains("built")).count() >= 3, "{ledger}");

    a_build_that_fails_changes_nothing(&plane, &site, &file);
    plane.carry_out(&["delete", "app/site"]);
    until("forgotten", || builds(&plane), Vec::is_empty);
}

fn a_build_that_fails_changes_nothing(plane: &Plane, site: &Path, file: &str) {
    put(site, "Dockerfile", "FROM localhost/busybox:1\nRUN echo some words && false\n");
    plane.carry_out(&["apply", "-f", file]);
    let stalled =
        until("stalled", || status(plane, "site"), |it| it["status"]["outcome"]["state"] == "stalled");
    let reason = &waits(&stalled)[0];
    assert_eq!((&reason["reason"], &reason["fault"]), (&json!("unbuilt"), &json!("source")), "{reason}");
    let failed = &builds(plane)[0];
    let log = failed["spec"]["state"]["failed"]["log"].to_string();
    assert!(log.contains("some words"), "{failed}");
    let why = String::from_utf8(plane.run(&["why", "site"]).stdout).unwrap();
    assert!(why.contains("returned a non-zero code: 1") || why.contains("exit status 1"), "{why}");
    assert!(why.contains("plimsoll builds log"), "{why}");
    let shown = plane.carry_out(&["builds"]);
    assert!(shown.contains("failed: "), "{shown}");
    assert_eq!(fetch(plane, "site.localhost"), "first page", "what was before goes on");
    // Somebody may want it tried again.
    let name = failed["metadata"]["name"].as_str().unwrap();
    plane.carry_out(&["builds", "retry", name]);
    let failures = |it: &Vec<Value>| it[0]["spec"]["state"]["failed"]["failures"] == 2;
    until("tried again", || builds(plane), failures);
    // What is mended goes on.
    put(site, "Dockerfile", DOCKERFILE);
    put(site, "index.html", "mended page");
    plane.carry_out(&["apply", "-f", file, "--wait"]);
    served(plane, "mended page");
}

#[test]
fn a_directory_is_built_by_docker() {
    a_directory_is_built_and_served(&Engine::start(Make::Docker));
}

#[test]
fn a_directory_is_built_by_podman() {
    a_directory_is_built_and_served(&Engine::start(Make::Podman));
}

#[test]
fn what_has_no_dockerfile_is_built_by_a_recipe() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let work = super::agent::scratch();
    put(&work.path().join("site"), "index.html", "plain page");
    let source = json!({"path": "site", "base": BUSYBOX});
    let file = write_app(work.path(), &source, &json!({}));
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    served(&plane, "plain page");
    let name = builds(&plane)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let log = plane.carry_out(&["builds", "log", &name, "--follow"]);
    let site = work.path().join("site").display().to_string();
    let shown = plane.carry_out(&["build", "--show", &site, "--base", BUSYBOX]);
    assert!(log.contains(shown.trim()), "what is shown is what is done: {shown}\n{log}");
    // What nobody can tell the language of is said at once.
    std::fs::remove_file(work.path().join("site/index.html")).unwrap();
    put(&work.path().join("site"), "notes.txt", "x");
    plane.carry_out(&["apply", "-f", &file]);
    until(
        "said",
        || status(&plane, "site"),
        |it| {
            waits(it)
                .iter()
                .any(|reason| reason["why"].as_str().is_some_and(|why| why.contains("no Dockerfile")))
        },
    );
    settled_again(&plane, &work.path().join("site"), &file);
}

fn settled_again(plane: &Plane, site: &Path, file: &str) {
    put(site, "index.html", "another page");
    plane.carry_out(&["apply", "-f", file, "--wait"]);
    settled(plane, "site");
    served(plane, "another page");
}

/// What `built` of the only build is.
fn commit(plane: &Plane) -> Value {
    builds(plane).first().map(|it| it["spec"]["built"]["commit"].clone()).unwrap_or_default()
}

#[test]
fn a_repository_is_built_once_for_each_commit() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let work = super::agent::scratch();
    // Z2l0OnRva2Vu is git:token.
    let git = Git::start(Some("Z2l0OnRva2Vu"));
    let first = git.push("main", &[("site/Dockerfile", DOCKERFILE), ("site/index.html", "commit one")]);
    git.tag("v1");
    let source = json!({"git": git.address(), "ref": "main", "directory": "site", "secret": "forge"});
    let follow = json!({"update": {"soak": "1ms", "image": {"follow": "digest", "every": "1h"}}});
    let file = write_app(work.path(), &source, &follow);

    // Without the Secret, and with a wrong one, it is said what is missing.
    plane.carry_out(&["apply", "-f", &file]);
    let why = |part: &str| {
        let has =
            |it: &Value| waits(it).iter().any(|it| it["why"].as_str().is_some_and(|why| why.contains(part)));
        until(part, || status(&plane, "site"), has)
    };
    why("there is no Secret forge");
    let set = |password: &str| {
        let secret = json!({"spec": {"data": {"password": password}}});
        plane.must("PUT", "/projects/default/secrets/forge", &secret);
        let name = builds(&plane)[0]["metadata"]["name"].as_str().unwrap().to_owned();
        plane.carry_out(&["builds", "retry", &name]);
    };
    set("wrong");
    why("Authentication failed");
    set("token");
    settled(&plane, "site");
    served(&plane, "commit one");
    assert_eq!(commit(&plane), json!(first));

    // Whoever pushes says so. Nothing that was not pushed is built, and each commit once.
    let hooks = json!({"forge": {"secret": "hooks/ci"}});
    let secret = json!({"spec": {"data": {"ci": SECRET}}});
    plane.must("PUT", "/projects/default/secrets/hooks", &secret);
    plane.must("PATCH", "/projects/default", &json!({"spec": {"hooks": hooks}}));
    let second = git.push("main", &[("site/index.html", "commit two")]);
    tell_of_push(&plane, &git, "p1");
    until("built", || commit(&plane), |it| *it == json!(second));
    served(&plane, "commit two");
    let image = builds(&plane)[0]["spec"]["built"].clone();
    let asked = git.asked();
    tell_of_push(&plane, &git, "p2");
    until("asked", || git.asked(), |it| *it > asked);
    settled(&plane, "site");
    assert_eq!(builds(&plane)[0]["spec"]["built"], image, "the same commit is not built again");
    let ledger = plane.carry_out(&["images", "site"]);
    for commit in [&first, &second] {
        assert!(ledger.contains(&format!("built from {}", &commit[..12])), "{ledger}");
    }

    broken_commits_and_tags(&plane, &git, work.path(), [&first, &second]);

    // Nothing that opens it is left anywhere, nor shown.
    let all = plane.must("GET", "/projects/default/builds", &Value::Null).to_string();
    assert!(!all.contains("token\""), "{all}");
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|it| it.file_name().to_string_lossy().starts_with("plimsoll-git-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Tells of a push to a repository, which is named by another way than it is fetched.
fn tell_of_push(plane: &Plane, git: &Git, id: &str) {
    let way = git.address().replace("http://", "ssh://git@");
    let body = json!({"type": "source.pushed", "data": {"repository": way}});
    let answer = deliver(plane, "forge", id, now(), &body);
    assert_eq!(answer.status, 200, "{}", answer.text);
}

fn broken_commits_and_tags(plane: &Plane, git: &Git, work: &Path, commits: [&str; 2]) {
    // A commit that cannot be built leaves the one before in its place.
    git.push("main", &[("site/Dockerfile", "FROM localhost/busybox:1\nRUN nonsense\n")]);
    tell_of_push(plane, git, "p3");
    until("stalled", || status(plane, "site"), |it| it["status"]["outcome"]["state"] == "stalled");
    assert_eq!((commit(plane), fetch(plane, "site.localhost")), (json!(commits[1]), "commit two".to_owned()));
    let third = git.push("main", &[("site/Dockerfile", DOCKERFILE), ("site/index.html", "commit three")]);
    tell_of_push(plane, git, "p4");
    until("built", || commit(plane), |it| *it == json!(third));
    served(plane, "commit three");

    // A tag of its own leads to its commit, and undoing leads back to that.
    let source = json!({"git": git.address(), "ref": "v1", "directory": "site", "secret": "forge"});
    let file = write_app(work, &source, &json!({}));
    plane.carry_out(&["apply", "-f", &file, "--wait"]);
    assert_eq!(commit(plane), json!(commits[0]));
    served(plane, "commit one");
    plane.carry_out(&["rollout", "undo", "site"]);
    served(plane, "commit three");
    let source = json!({"git": git.address(), "ref": "nowhere", "secret": "forge"});
    plane.carry_out(&["apply", "-f", &write_app(work, &source, &json!({}))]);
    let why = "the repository has no nowhere";
    let has = |it: &Value| waits(it).iter().any(|it| it["why"].as_str().is_some_and(|it| it.contains(why)));
    until("said", || status(plane, "site"), has);
}

#[test]
fn repositories_are_fetched_over_ssh_and_from_this_machine() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let work = super::agent::scratch();
    let (git, ssh, other) = (Git::start(None), Ssh::start(), Ssh::start());
    git.push("main", &[("Dockerfile", DOCKERFILE), ("index.html", "over ssh")]);
    let set = |key: &str, known_hosts: &str| {
        let secret = json!({"spec": {"data": {"ssh-privatekey": key, "known_hosts": known_hosts}}});
        plane.must("PUT", "/projects/default/secrets/forge", &secret);
    };
    // Another host than the one that is known is not talked to.
    set(&ssh.key, &other.known_hosts.replace(&other.address(Path::new("")), ""));
    let source = json!({"git": ssh.address(&git.path()), "secret": "forge"});
    let file = write_app(work.path(), &source, &json!({}));
    plane.carry_out(&["apply", "-f", &file]);
    let refused = |it: &Value| {
        waits(it).iter().any(|it| it["why"].as_str().is_some_and(|why| why.contains("not opened")))
    };
    until("refused", || status(&plane, "site"), refused);
    set(&ssh.key, &ssh.known_hosts);
    let name = builds(&plane)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    plane.carry_out(&["builds", "retry", &name]);
    settled(&plane, "site");
    served(&plane, "over ssh");

    // The default branch, from a directory; followed without anybody saying anything.
    git.push("main", &[("index.html", "of a file")]);
    let source = json!({"git": format!("file://{}", git.path().display())});
    let follow = json!({"update": {"soak": "1ms", "image": {"follow": "digest", "every": "10s"}}});
    plane.carry_out(&["apply", "-f", &write_app(work.path(), &source, &follow), "--wait"]);
    served(&plane, "of a file");
    git.push("main", &[("index.html", "found by itself")]);
    served(&plane, "found by itself");

    // What only root may read, builds do not read either.
    let secret = work.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let hidden = secret.join("app.git");
    let copied = std::process::Command::new("cp").arg("-r").arg(git.path()).arg(&hidden).status();
    assert!(copied.unwrap().success());
    let source = json!({"git": format!("file://{}", hidden.display())});
    plane.carry_out(&["apply", "-f", &write_app(work.path(), &source, &json!({}))]);
    until("refused", || status(&plane, "site"), refused);
}

#[test]
fn an_archive_is_built() {
    let engine = Engine::start(Make::Docker);
    let plane = Plane::on(&engine);
    let work = super::agent::scratch();
    put(&work.path().join("app-1.0"), "index.html", "from an archive");
    let packed = std::process::Command::new("tar")
        .args(["-czf", "app.tgz", "app-1.0"])
        .current_dir(work.path())
        .status();
    assert!(packed.unwrap().success());
    let source = json!({"archive": "app.tgz", "directory": "app-1.0", "base": BUSYBOX});
    plane.carry_out(&["apply", "-f", &write_app(work.path(), &source, &json!({})), "--wait"]);
    served(&plane, "from an archive");
    std::os::unix::fs::symlink("/etc", work.path().join("app-1.0/etc")).unwrap();
    let packed = std::process::Command::new("tar")
        .args(["-czf", "app.tgz", "app-1.0"])
        .current_dir(work.path())
        .status();
    assert!(packed.unwrap().success());
    plane.carry_out(&["apply", "-f", &write_app(work.path(), &source, &json!({}))]);
    let refused = |it: &Value| {
        waits(it).iter().any(|it| it["why"].as_str().is_some_and(|why| why.contains("leads out")))
    };
    until("refused", || status(&plane, "site"), refused);
    assert_eq!(fetch(&plane, "site.localhost"), "from an archive");
}

/// A program of each language that says its name.
const PROGRAMS: [(&str, &[(&str, &str)]); 7] = [
    (
        "go",
        &[
            ("go.mod", "module example.org/hello\n\ngo 1.19\n"),
            ("main.go", include_str!("languages/main.go")),
        ],
    ),
    ("java", &[("Main.java", include_str!("languages/Main.java"))]),
    ("node", &[("server.js", include_str!("languages/server.js"))]),
    ("php", &[("index.php", "<?php echo 'php says hello';\n")]),
    ("python", &[("app.py", include_str!("languages/app.py"))]),
    ("ruby", &[("app.rb", include_str!("languages/app.rb"))]),
    (
        "rust",
        &[
            ("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("src/main.rs", include_str!("languages/main.rs")),
        ],
    ),
];

/// Each language is built and served: on one root of Debian with all of them, which `./test` makes, and files as they are on an
/// image that is in a registry only.
#[test]
fn every_language_is_built_and_served() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/languages.tar");
    assert!(Path::new(root).exists(), "there is no {root}: ./test makes it");
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    engine.run(&["import", root, "localhost/languages:1"]);
    engine.push(&registry, "busybox:1", &[]);
    let busybox = format!("{}/busybox:1", registry.host());
    engine.run(&["rmi", &busybox]);
    let plane = Plane::on(&engine);
    let work = super::agent::scratch();
    let mut components = serde_json::Map::new();
    for (language, files) in PROGRAMS.iter().chain([&("static", &[("index.html", "static says hello")][..])])
    {
        for (name, text) in *files {
            put(&work.path().join(language), name, text);
        }
        let base = if *language == "static" { &*busybox } else { "localhost/languages:1" };
        components.insert(
            (*language).to_owned(),
            json!({
                // Nothing says the language but the files.
                "source": {"path": language, "base": base},
                "ports": {"http": 8080},
                "health": {"http": {"port": "http", "path": "/"}, "every": "500ms"},
                "routes": [{"host": format!("{language}.localhost"), "port": "http"}],
                "grace": "1s",
                "update": {"soak": "1ms"},
            }),
        );
    }
    let app = json!({
        "apiVersion": "plimsoll.dev/v1", "kind": "App", "metadata": {"name": "all"},
        "spec": {"components": components},
    });
    let file = work.path().join("all.yaml");
    std::fs::write(&file, app.to_string()).unwrap();
    plane.carry_out(&["apply", "-f", &file.display().to_string(), "--wait", "--timeout", "9m"]);
    for (language, _) in PROGRAMS.iter().chain([&("static", &[][..])]) {
        let host = format!("{language}.localhost");
        let said = until("an answer", || fetch(&plane, &host), |it| it.contains("says hello"));
        assert_eq!(said, format!("{language} says hello"));
        let user = plane.run(&["exec", "all", "--component", language, "--", "id", "-u"]);
        // What is compiled to one file has nothing beside it.
        assert!(*language == "go" || user.stdout == b"65534\n", "{language} {user:?}");
    }
}
