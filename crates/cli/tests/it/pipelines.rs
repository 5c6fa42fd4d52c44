//! What pipelines and registries say of images, with a real engine, a real registry and a real `git`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use base64ct::{Base64, Encoding as _};
use plimsoll_testkit::{Engine, Make, Registry};
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::{Value, json};

use super::images::{fetch, settled, status, web};
use super::plane::{Answer, BASE, Plane};
use super::up::until;

/// An App whose only component shows a word that its image holds, and follows nothing.
fn declare(plane: &Plane, image: &str, update: &Value) {
    let mut main = web(image, "cat /word");
    main["routes"] = json!([{"host": "main.localhost", "port": "http"}]);
    main["update"] = update.clone();
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}));
    settled(plane, "main");
}

fn until_it_says(plane: &Plane, word: &str) {
    until(word, || fetch(plane, "main.localhost"), |it| it == word);
}

/// How a command ended, and what it said.
fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn deploy(plane: &Plane, arguments: &[&str]) -> (Option<i32>, String) {
    ended(&plane.run(&[&["ci", "deploy"], arguments].concat()))
}

#[test]
fn a_pipeline_deploys_what_it_built_and_learns_how_it_went() {
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let repository = format!("{}/team/app", registry.host());
    let push = |word: &str| engine.push(&registry, "team/app:main", &[("/word", word)]);
    let (first, second) = (push("first"), push("second"));
    let image = |digest: &str| format!("{repository}@{digest}");
    let deploy = |digest: &str, commit: &str, at: &str, more: &[&str]| {
        let image = image(digest);
        let given = ["--image", &image, "--commit", commit, "--committed", at, "--wait"];
        deploy(&plane, &[&given[..], more].concat())
    };
    // The tag is not followed, so what it leads to plays no part from here on.
    declare(&plane, &format!("{repository}:main"), &json!({"soak": "1ms", "deadline": "6s"}));
    until_it_says(&plane, "second");

    let (code, said) = deploy(&first, "c1", "2026-01-01T10:00:00Z", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("main/main        deployed: sha256:") && said.contains("from sha256:"), "{said}");
    assert_eq!(fetch(&plane, "main.localhost"), "first");
    let (code, said) = deploy(&first, "c1", "2026-01-01T10:00:00Z", &[]);
    assert!(code == Some(0) && said.contains("deployed already"), "{said}");

    let (code, said) = deploy(&second, "c2", "2026-01-01T12:00:00+01:00", &[]);
    assert_eq!((code, fetch(&plane, "main.localhost")), (Some(0), "second".into()), "{said}");
    // The older pipeline was slower.
    let (code, said) = deploy(&first, "c1", "2026-01-01T10:00:00Z", &[]);
    assert!(code == Some(1) && said.contains("has commit c2 of 2026-01-01T11:00:00.000Z already"), "{said}");
    assert_eq!(fetch(&plane, "main.localhost"), "second");
    let (code, said) = deploy(&first, "c1", "2026-01-01T10:00:00Z", &["--rollback"]);
    assert_eq!((code, fetch(&plane, "main.localhost")), (Some(0), "first".into()), "{said}");

    // One that does not become ready is rolled back, and stays so when it is deployed again.
    let bad = engine.push(&registry, "team/app:main", &[("/other", "x")]);
    for _ in 0..2 {
        let (code, said) = deploy(&bad, "c3", "2026-01-01T13:00:00Z", &[]);
        assert!(code == Some(1) && said.contains("was rejected; back to sha256:"), "{said}");
        assert_eq!(fetch(&plane, "main.localhost"), "first");
    }
    let third = push("third");
    let (code, said) = deploy(&third, "c4", "2026-01-01T14:00:00Z", &[]);
    assert_eq!((code, fetch(&plane, "main.localhost")), (Some(0), "third".into()), "{said}");
    let ledger = plane.carry_out(&["images", "main"]);
    for (commit, state) in [("c2", "replaced"), ("c3", "rejected"), ("c4", "1 copy runs it")] {
        let is_one = |line: &str| line.contains(&format!("commit {commit}")) && line.ends_with(state);
        assert!(ledger.lines().any(is_one), "{commit}: {ledger}");
    }

    // A person's way back holds until somebody deploys again.
    plane.carry_out(&["rollout", "undo", "main", "--to", "2"]);
    until_it_says(&plane, "first");
    settled(&plane, "main");
    let (code, said) = deploy(&second, "c5", "2026-01-01T15:00:00Z", &[]);
    assert_eq!((code, fetch(&plane, "main.localhost")), (Some(0), "second".into()), "{said}");
    // Another declaration ends it for good, also when the first one comes back; only the order of commits is kept.
    plane.carry_out(&["rollout", "undo", "main", "--to", "2"]);
    until_it_says(&plane, "first");
    declare(&plane, &format!("{repository}:main"), &json!({"soak": "1ms", "deadline": "6s"}));
    let deploys = status(&plane, "main")["operations"]["deploys"]["main"].clone();
    assert!(deploys["of"].is_null() && deploys["commit"]["id"] == "c5", "{deploys}");
    let (code, said) = deploy(&first, "c1", "2026-01-01T10:00:00Z", &[]);
    assert!(code == Some(1) && said.contains("has commit c5"), "{said}");
    let (code, said) = deploy(&first, "c9", "2999-01-01T10:00:00Z", &[]);
    assert!(code == Some(1) && said.contains("still to come"), "{said}");
}

#[test]
fn what_cannot_be_deployed_is_refused_before_anything_is_written() {
    let (engine, mut registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let repository = format!("{}/team/app", registry.host());
    let digest = engine.push(&registry, "team/app:main", &[("/word", "first")]);
    declare(&plane, &format!("{repository}:main"), &json!({"soak": "1ms"}));
    let before = status(&plane, "main")["operations"].clone();
    let image = format!("{repository}@{digest}");
    let refused = |arguments: &[&str], words: &str| {
        let (code, said) =
            deploy(&plane, &[&["--commit", "c1", "--committed", "2026-01-01T10:00:00Z"], arguments].concat());
        assert!(code == Some(1) && said.contains(words), "{arguments:?}: {said}");
    };
    refused(&["--image", &format!("{repository}:main")], "as 127.0.0.1");
    let unknown = format!("{repository}@sha256:{}", "ab".repeat(32));
    refused(&["--image", &unknown], "there is no image");
    let other = format!("{}/team/other@{digest}", registry.host());
    refused(&["--image", &other], &format!("declared there: {repository}"));
    refused(&["--image", &image, "--app", "nothing"], "there is no app default/nothing");
    refused(&["--image", &image, "--component", "nothing"], "called nothing");
    let (code, said) = deploy(&plane, &["--image", &image, "--commit", "ffff"]);
    assert!(code == Some(1) && said.contains("say where it is checked out"), "{said}");
    registry.stop();
    refused(&["--image", &image], "does not answer");
    registry.resume();
    assert_eq!(status(&plane, "main")["operations"], before);

    // A pipeline's token is good for this and nothing else.
    let made =
        json!({"name": "ci", "user": "ci", "only": {"projects": ["default"], "verbs": ["read", "deploy"]}});
    plane.must("PATCH", "/projects/default", &json!({"spec": {"members": {"ci": "deployer"}}}));
    let token = plane.must("POST", "/tokens", &made)["token"].as_str().unwrap().to_owned();
    let wish = json!({"image": image, "commit": {"id": "c1", "at": "2026-01-01T10:00:00Z"}});
    let app = json!({"spec": {"components": {}}});
    let ask = |method: &str, path: &str, body: &Value| {
        plane.ask(&token, method, &format!("{BASE}/projects/default{path}"), Some(body)).status
    };
    assert_eq!(ask("POST", "/deploy?dryRun=All", &wish), 200);
    assert_eq!(status(&plane, "main")["operations"], before);
    assert_eq!(ask("POST", "/deploy", &wish), 200);
    assert_eq!(ask("PUT", "/apps/main", &app), 403);
    assert_eq!(ask("POST", "/apps/main/operations", &json!({"power": "off"})), 403);
    let viewer =
        json!({"name": "viewer", "user": "ci", "only": {"projects": ["default"], "verbs": ["read"]}});
    let viewer = plane.must("POST", "/tokens", &viewer)["token"].as_str().unwrap().to_owned();
    let path = format!("{BASE}/projects/default/deploy");
    assert_eq!(plane.ask(&viewer, "POST", &path, Some(&wish)).status, 403);
    let log = plane.carry_out(&["audit"]);
    assert!(log.contains("there is no image") && log.contains("may not deploy"), "{log}");
}

/// The newest version of a range is followed; others and what is no version are passed over.
#[test]
fn versions_are_followed_within_their_range() {
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let repository = format!("{}/team/app", registry.host());
    let push = |tag: &str| engine.push(&registry, &format!("team/app:{tag}"), &[("/word", tag)]);
    for tag in ["1.2.0", "1.10.0", "2.0.0", "latest", "1.11.0-rc.1"] {
        push(tag);
    }
    let update = json!({"soak": "1ms", "image": {"follow": {"semver": "^1.2"}, "every": "10s"}});
    declare(&plane, &repository, &update);
    until_it_says(&plane, "1.10.0");
    push("v1.11.0");
    until_it_says(&plane, "v1.11.0");
    settled(&plane, "main");
    let ledger = plane.carry_out(&["images", "main"]);
    assert!(ledger.contains("version 1.10.0") && ledger.contains("version v1.11.0"), "{ledger}");
    let wrong = |image: &str, range: &str| {
        let mut main = web(image, "cat /word");
        main["update"] = json!({"image": {"follow": {"semver": range}}});
        let body = json!({"spec": {"components": {"main": main}}});
        plane.ask(&plane.admin, "PUT", &format!("{BASE}/projects/default/apps/wrong"), Some(&body))
    };
    let answer = wrong(&format!("{repository}:1.2.0"), "^1");
    assert!(answer.status == 422 && answer.text.contains("leave the tag"), "{}", answer.text);
    let answer = wrong(&repository, "newest");
    assert!(answer.status == 422 && answer.text.contains("write a range of versions"), "{}", answer.text);
    let none = wrong(&repository, "^7");
    assert_eq!(none.status, 201, "{}", none.text);
    until("a reason", || plane.carry_out(&["why", "wrong"]), |it| it.contains("has no version ^7"));
}

/// A secret of a hook, and signatures made with it.
pub(crate) const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn sign(id: &str, at: u64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
    let tag = ring::hmac::sign(&key, format!("{id}.{at}.{body}").as_bytes());
    format!("v1,{}", Base64::encode_string(tag.as_ref()))
}

#[expect(clippy::disallowed_methods, reason = "whoever signs has a clock of their own")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn deliver(plane: &Plane, hook: &str, id: &str, at: u64, body: &Value) -> Answer {
    let signature = sign(id, at, &body.to_string());
    let at = at.to_string();
    let headers = [("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
    plane.ask_as("", "POST", &format!("/hooks/default/{hook}"), &headers, Some(body))
}

#[test]
fn signed_deliveries_are_carried_out_once() {
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let repository = format!("{}/team/app", registry.host());
    let push = |word: &str| engine.push(&registry, "team/app:main", &[("/word", word)]);
    let (first, second) = (push("first"), push("second"));
    declare(&plane, &format!("{repository}:main"), &json!({"soak": "1ms"}));
    until_it_says(&plane, "second");
    plane.must(
        "PUT",
        "/projects/default/secrets/hooks",
        &json!({"spec": {"data": {"ci": SECRET, "short": "x"}}}),
    );
    let hooks = json!({
        "ci": {"secret": "hooks/ci"},
        "elsewhere": {"secret": "hooks/ci", "apps": ["other"]},
        "short": {"secret": "hooks/short"},
        "missing": {"secret": "hooks/none"},
    });
    plane.must("PATCH", "/projects/default", &json!({"spec": {"hooks": hooks}}));
    let wish = |digest: &str, id: &str, at: &str| {
        let commit = json!({"id": id, "at": at});
        json!({"type": "deploy", "data": {"image": format!("{repository}@{digest}"), "commit": commit}})
    };
    let body = wish(&first, "c1", "2026-01-01T10:00:00Z");
    let now = now();
    let done = deliver(&plane, "ci", "a", now, &body);
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(done.json()["deployed"], json!([{"app": "main", "component": "main", "changed": true}]));
    until_it_says(&plane, "first");
    settled(&plane, "main");

    // What comes again does nothing, whoever sends it.
    let replayed = deliver(&plane, "ci", "a", now, &body);
    assert!(replayed.status == 409 && replayed.text.contains("came before"), "{}", replayed.text);
    let again = deliver(&plane, "ci", "a", now + 1, &body);
    assert_eq!((again.status, again.text), (200, done.text));
    let other = deliver(&plane, "ci", "a", now, &wish(&second, "c2", "2026-01-01T11:00:00Z"));
    assert_eq!(other.status, 409, "{}", other.text);

    // Whoever does not know the secret, or the hook, learns nothing.
    let signature = sign("b", now, "another body");
    let stamp = now.to_string();
    let headers = [("webhook-id", "b"), ("webhook-timestamp", &*stamp), ("webhook-signature", &*signature)];
    let unknown = |hook: &str, headers: &[(&str, &str)]| {
        plane.ask_as("", "POST", &format!("/hooks/{hook}"), headers, Some(&body))
    };
    let wrong = unknown("default/ci", &headers);
    let nowhere = unknown("default/none", &headers);
    assert_eq!((wrong.status, &wrong.text), (401, &nowhere.text));
    assert_eq!(unknown("nowhere/ci", &headers).text, nowhere.text);
    assert_eq!(unknown("default/ci", &headers[1..]).status, 401);
    for hook in ["short", "missing"] {
        assert_eq!(deliver(&plane, hook, "c", now, &body).text, nowhere.text);
    }
    for at in [now - 400, now + 400] {
        let late = deliver(&plane, "ci", "d", at, &body);
        assert!(late.status == 401 && late.text.contains("look at the clock"), "{}", late.text);
    }

    // What is refused is refused as for a person.
    let status_of = |id: &str, hook: &str, body: &Value| deliver(&plane, hook, id, now, body).status;
    let missing = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(status_of("e", "ci", &wish(&missing, "c9", "2026-01-01T19:00:00Z")), 422);
    assert_eq!(status_of("f", "ci", &wish(&second, "c0", "2026-01-01T09:00:00Z")), 409);
    let mut unknown = wish(&second, "c2", "2026-01-01T11:00:00Z");
    unknown["data"]["app"] = json!("nothing");
    assert_eq!(status_of("g", "ci", &unknown), 404);
    unknown["data"]["app"] = json!("main");
    assert_eq!(status_of("h", "elsewhere", &unknown), 403);
    assert_eq!(status_of("i", "ci", &json!({"type": "nothing", "data": {}})), 422);
    assert_eq!(fetch(&plane, "main.localhost"), "first");
    let log = plane.carry_out(&["audit"]);
    for words in ["hook.ci@default", "the signature is wrong", "hooks/none is not there", "newer than c0"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("MDEyMzQ1"), "{log}");
}

/// Hints make nobody wait for the usual round, which is an hour away here.
#[test]
fn a_moved_tag_is_looked_at_when_its_registry_or_a_pipeline_says_so() {
    let (engine, mut registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let token = json!({"name": "registry", "user": "registry", "only": {"verbs": ["deploy"]}});
    let token = plane.must("POST", "/tokens", &token)["token"].as_str().unwrap().to_owned();
    let nothing = json!({"events": []});
    assert_eq!(plane.ask(&token, "POST", "/hooks/registry", Some(&nothing)).status, 403);
    plane.must("PATCH", "/projects/default", &json!({"spec": {"members": {"registry": "deployer"}}}));
    registry.notify(&format!("{}/hooks/registry", plane.url), &token);
    let image = format!("{}/team/app:main", registry.host());
    engine.push(&registry, "team/app:main", &[("/word", "first")]);
    let update = json!({"soak": "1ms", "image": {"follow": "digest", "every": "1h"}});
    declare(&plane, &image, &update);
    until_it_says(&plane, "first");
    engine.push(&registry, "team/app:main", &[("/word", "second")]);
    until_it_says(&plane, "second");
    settled(&plane, "main");
    let before = registry.asked("HEAD");
    assert_eq!(plane.ask("", "POST", "/hooks/registry", Some(&nothing)).status, 401);

    registry.forget_notifications();
    engine.push(&registry, "team/app:main", &[("/word", "third")]);
    plane.must("PUT", "/projects/default/secrets/hooks", &json!({"spec": {"data": {"ci": SECRET}}}));
    let hooks = json!({"spec": {"hooks": {"ci": {"secret": "hooks/ci"}}}});
    plane.must("PATCH", "/projects/default", &hooks);
    let moved = json!({"type": "image.moved", "data": {"image": image}});
    assert_eq!(deliver(&plane, "ci", "a", now(), &moved).status, 200);
    until_it_says(&plane, "third");
    assert!(registry.asked("HEAD") <= before + 4, "one question for each thing that was said");
}

/// A checkout with two commits, and the names of both.
fn checkout(at: &Path) -> [String; 2] {
    std::fs::create_dir_all(at).unwrap();
    let git = |arguments: &[&str], time: &str| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=ci", "-c", "user.email=ci@example.org"]).args(arguments);
        command.env("GIT_AUTHOR_DATE", time).env("GIT_COMMITTER_DATE", time).current_dir(at);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"], "");
    ["2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"].map(|time| {
        git(&["commit", "--quiet", "--allow-empty", "--message", "x"], time);
        git(&["rev-parse", "HEAD"], "")
    })
}

/// An example, as the system that runs it reads it.
struct Example(Yaml<'static>);

impl Example {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ci").join(name);
        let text: &'static str = std::fs::read_to_string(path).unwrap().leak();
        Self(Yaml::load_from_str(text).unwrap().remove(0))
    }
}

/// A shell with a pipeline's variables, where an example's scripts run as its system runs them.
struct Runner<'a> {
    plane: &'a Plane,
    engine: &'a Engine,
    directory: PathBuf,
    env: BTreeMap<String, String>,
}

impl Runner<'_> {
    fn run(&self, shell: &[&str], script: &str) -> (Option<i32>, String) {
        let bin = self.plane.directory.path().join("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plimsoll"), bin.join("plimsoll")).unwrap();
        }
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).env_clear().envs(&self.env).env("CI", "true");
        command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
        command.env("DOCKER_HOST", self.engine.address()).env("HOME", self.plane.directory.path());
        ended(&command.current_dir(&self.directory).stdin(Stdio::null()).output().unwrap())
    }

    fn with(&self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut env = self.env.clone();
        env.extend(more);
        Self { env, directory: self.directory.clone(), ..*self }
    }
}

fn pair(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

/// The examples for GitHub, GitLab and Concourse, each with the variables that its system sets and no others.
#[test]
fn the_examples_deploy_what_they_build() {
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    let plane = Plane::on(&engine);
    let repository = format!("{}/team/app", registry.host());
    let first = engine.push(&registry, "team/app:main", &[("/word", "first")]);
    declare(&plane, &format!("{repository}:main"), &json!({"soak": "1ms"}));
    let source = plane.directory.path().join("source");
    let [older, newer] = checkout(&source);
    std::fs::write(
        source.join("Dockerfile"),
        format!("FROM {repository}@{first}\nARG FOR\nCOPY word /word\n"),
    )
    .unwrap();
    let say = |word: &str| std::fs::write(source.join("word"), word).unwrap();
    let server = [
        pair("PLIMSOLL_SERVER", &*plane.url),
        pair("PLIMSOLL_PROJECT", "default"),
        pair("PLIMSOLL_TOKEN", &*plane.admin),
    ];
    let runner = Runner { plane: &plane, engine: &engine, directory: source.clone(), env: BTreeMap::new() };

    say("from github");
    let ran = github(&runner, &server, &repository, &newer);
    assert_eq!(ran.0, Some(0), "{}", ran.1);
    assert_eq!(fetch(&plane, "main.localhost"), "from github");
    // The pipeline of the commit before ends later.
    say("too late");
    let ran = github(&runner, &server, &repository, &older);
    assert!(ran.0 == Some(1) && ran.1.contains(&newer), "{}", ran.1);
    assert_eq!(fetch(&plane, "main.localhost"), "from github");

    say("from gitlab");
    let ran = gitlab(&runner.with(server.clone()), &repository, &newer, "2026-01-01T11:00:00+00:00");
    assert_eq!(ran.0, Some(0), "{}", ran.1);
    assert_eq!(fetch(&plane, "main.localhost"), "from gitlab");

    let built = engine.push(&registry, "team/app:main", &[("/word", "from concourse")]);
    let work = plane.directory.path().join("work");
    let [_, head] = checkout(&work.join("repository"));
    std::fs::write(work.join("repository/.git/ref"), format!("{head}\n")).unwrap();
    std::fs::create_dir(work.join("image")).unwrap();
    std::fs::write(work.join("image/repository"), &repository).unwrap();
    std::fs::write(work.join("image/digest"), &built).unwrap();
    let ran = concourse(&Runner { directory: work, ..runner.with([]) }, &server);
    assert_eq!(ran.0, Some(0), "{}", ran.1);
    assert_eq!(fetch(&plane, "main.localhost"), "from concourse");
}

/// Steps of the workflow, with the expressions that they use.
fn github(
    runner: &Runner<'_>,
    server: &[(String, String)],
    repository: &str,
    commit: &str,
) -> (Option<i32>, String) {
    let Example(workflow) = Example::read("github.yml");
    let mut known: BTreeMap<String, String> = BTreeMap::from([pair("vars.IMAGE", repository)]);
    for (name, value) in server {
        let place = if name == "PLIMSOLL_TOKEN" { "secrets" } else { "vars" };
        known.insert(format!("{place}.{name}"), value.clone());
    }
    let output = runner.plane.directory.path().join("output");
    let usual = [
        pair("GITHUB_ACTIONS", "true"),
        pair("GITHUB_SHA", commit),
        pair("GITHUB_REF", "refs/heads/main"),
        pair("GITHUB_OUTPUT", output.display().to_string()),
    ];
    let mut ended = (None, String::new());
    for step in workflow["jobs"]["deploy"]["steps"].as_vec().unwrap() {
        let Some(script) = step.as_mapping_get("run").and_then(Yaml::as_str) else { continue };
        let given = step["env"].as_mapping().unwrap().iter().map(|(name, value)| {
            let expression = value.as_str().unwrap();
            let inner = expression.strip_prefix("${{ ").and_then(|it| it.strip_suffix(" }}")).unwrap();
            (name.as_str().unwrap().to_owned(), known[inner].clone())
        });
        std::fs::write(&output, "").unwrap();
        ended = runner
            .with(usual.clone().into_iter().chain(given))
            .run(&["bash", "-eo", "pipefail", "-c"], script);
        if ended.0 != Some(0) {
            return ended;
        }
        if let Some(id) = step.as_mapping_get("id").and_then(Yaml::as_str) {
            for (name, value) in
                std::fs::read_to_string(&output).unwrap().lines().filter_map(|it| it.split_once('='))
            {
                known.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
            }
        }
    }
    ended
}

/// Jobs of the pipeline, the second with the variables that the first has left.
fn gitlab(runner: &Runner<'_>, repository: &str, commit: &str, at: &str) -> (Option<i32>, String) {
    let Example(pipeline) = Example::read("gitlab.yml");
    let script = |job: &str| {
        let lines = pipeline[job]["script"].as_vec().unwrap().iter();
        lines.map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    };
    let usual = [
        pair("GITLAB_CI", "true"),
        pair("CI_COMMIT_SHA", commit),
        pair("CI_COMMIT_TIMESTAMP", at),
        pair("CI_REGISTRY_IMAGE", repository),
    ];
    let shell = ["bash", "-eo", "pipefail", "-c"];
    let built = runner.with(usual.clone()).run(&shell, &script("build"));
    if built.0 != Some(0) {
        return built;
    }
    let left = pipeline["build"]["artifacts"]["reports"]["dotenv"].as_str().unwrap();
    let left = std::fs::read_to_string(runner.directory.join(left)).unwrap();
    let left = left.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| pair(name, value));
    runner.with(usual.into_iter().chain(left)).run(&shell, &script("deploy"))
}

/// The last task of the pipeline, which is given files and its parameters alone.
fn concourse(runner: &Runner<'_>, server: &[(String, String)]) -> (Option<i32>, String) {
    let Example(pipeline) = Example::read("concourse.yml");
    let deploy = pipeline["jobs"].as_vec().unwrap().last().unwrap();
    let task = &deploy["plan"].as_vec().unwrap().last().unwrap()["config"];
    let known: BTreeMap<&str, &str> =
        server.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let params = task["params"].as_mapping().unwrap().iter().map(|(name, value)| {
        let name = name.as_str().unwrap();
        let expected = format!("(({}))", name.to_lowercase().replacen('_', ".", 1));
        assert_eq!(value.as_str(), Some(&*expected));
        pair(name, known[name])
    });
    let run = &task["run"];
    let arguments: Vec<&str> = run["args"].as_vec().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let (script, options) = arguments.split_last().unwrap();
    let shell = [&[run["path"].as_str().unwrap()], options].concat();
    runner.with(params).run(&shell, script)
}
