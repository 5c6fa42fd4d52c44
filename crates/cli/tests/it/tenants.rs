//! The API as many people use it at once: who sees what, who may do what, how much, and what is recorded of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::plane::{BASE, Plane, sleeper};
use super::up::until;

/// What nobody outside of project `b` may ever read.
const CANARY: &str = "canary-7b1f";

/// Two projects: in `a` three people have three roles, and `b` is none of their business.
fn two_projects(plane: &Plane) -> BTreeMap<&'static str, String> {
    plane.project("a", &json!({"viewer": "viewer", "deployer": "deployer", "chief": "admin"}));
    plane.project("b", &json!({"stranger": "admin"}));
    let mut app = sleeper(1);
    app["metadata"] = json!({"labels": {"what": CANARY}});
    plane.must("PUT", "/projects/b/apps/hidden", &app);
    plane.must("PUT", "/projects/b/secrets/hidden", &json!({"spec": {"data": {"key": CANARY}}}));
    plane.must("PUT", "/projects/a/apps/hidden", &sleeper(1));
    plane.token("hidden", "stranger");
    let settled = || plane.must("GET", "/projects/b/apps/hidden", &Value::Null);
    until("settled", settled, |app| app["status"]["outcome"]["state"] == "settled");
    ["viewer", "deployer", "chief"].map(|user| (user, plane.token(&format!("of-{user}"), user))).into()
}

/// The paths of the API's own document, with their methods and a body that is right for each.
fn routes(plane: &Plane) -> Vec<(String, String, Option<Value>)> {
    let document = plane.ask(&plane.admin, "GET", "/openapi.json", None).json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let body = match (path.rsplit('/').next().unwrap(), method.as_str()) {
                (_, "get" | "delete") => None,
                ("operations", _) => Some(json!({"paused": true})),
                ("tokens", _) => Some(json!({"name": "mine", "user": "stranger"})),
                ("deploy", _) => Some(json!({"image": format!("r.example/app@sha256:{}", "0".repeat(64))})),
                ("programs", _) => Some(json!({"program": "pass", "runtime": "python"})),
                ("registry", _) => Some(json!({"events": []})),
                ("apply" | "plan", _) => Some(json!({
                    "apiVersion": "plimsoll.dev/v1", "kind": "Secret", "metadata": {"name": "hidden"},
                    "spec": {"data": {"key": "other"}},
                })),
                _ if path.contains("/apps/") && method == "put" => Some(sleeper(2)),
                (_, "put") => Some(json!({"spec": {}})),
                _ => Some(json!({"metadata": {"labels": {"x": "y"}}})),
            };
            found.push((method.to_uppercase(), path.clone(), body));
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// The content type that a method's body has here.
fn media(method: &str) -> [(&'static str, &'static str); 1] {
    [("Content-Type", if method == "PATCH" { "application/merge-patch+json" } else { "application/json" })]
}

#[test]
fn no_route_tells_anything_of_another_project() {
    let plane = Plane::new();
    let people = two_projects(&plane);
    let before = plane.must("GET", "/projects/b/apps/hidden", &Value::Null);
    let digest = "0".repeat(64);
    for (method, path, body) in routes(&plane) {
        let fill = |project: &str| path.replace("{project}", project).replace("{digest}", &digest);
        for (user, token) in &people {
            let ask = |path: &str| plane.ask_as(token, &method, path, &media(&method), body.as_ref());
            let of_project = path.contains("{project}");
            if of_project {
                let (theirs, none) = (
                    ask(&fill("b").replace("{name}", "hidden")),
                    ask(&fill("c").replace("{name}", "hidden")),
                );
                let same = none.text.replace("project c", "project b");
                // Who delivers to a hook is known by a signature alone.
                let refused = if path.starts_with("/hooks/") { 401 } else { 404 };
                assert_eq!(
                    (theirs.status, &theirs.text),
                    (refused, &same),
                    "{user} {method} {path}: a project of others is as none at all"
                );
                continue;
            }
            for name in ["b", "hidden", "local"] {
                let answer = ask(&path.replace("{name}", name));
                assert!(!answer.text.contains(CANARY), "{user} {method} {path}: {}", answer.text);
                if path.ends_with("/projects/{name}") && name == "b" {
                    assert_eq!(answer.status, 404, "{user} {method} {path}");
                }
                if path.ends_with("/tokens/{name}") && name == "hidden" {
                    assert_eq!(answer.status, 404, "{user} {method} {path}");
                }
                // Whoever may deploy somewhere may say what has moved there.
                if method != "GET" && !(path == "/hooks/registry" && answer.status == 202) {
                    assert!(matches!(answer.status, 403..=405), "{user} {method} {path} {}", answer.status);
                }
            }
        }
        let nobody = plane.ask_as("", &method, &fill("b").replace("{name}", "hidden"), &media(&method), None);
        let wanted = match &*path {
            "/livez" | "/readyz" => 200,
            // Who logs in has no token yet; here nobody can.
            path if path.ends_with("/login") => 404,
            _ => 401,
        };
        assert_eq!(nobody.status, wanted, "{method} {path} without a token");
    }
    // Nothing was changed, and no count shows what is hidden.
    assert_eq!(plane.must("GET", "/projects/b/apps/hidden", &Value::Null)["spec"], before["spec"]);
    for collection in ["apps", "secrets", "instances", "events", "revisions", "plans", "projects", "tokens"] {
        for (user, token) in &people {
            let answer = plane.ask(token, "GET", &format!("{BASE}/{collection}?limit=1"), None).json();
            for item in answer["items"].as_array().unwrap() {
                let project = item["metadata"]["project"].as_str().unwrap_or("a");
                let name = item["metadata"]["name"].as_str().unwrap();
                assert!(project == "a" && name != "b", "{user} {collection}: {item}");
            }
        }
    }
    let audit = plane.ask(&people["chief"], "GET", &format!("{BASE}/audit"), None).text;
    assert!(audit.contains("\"a\\\\\\\"") || audit.contains("\\\"project\\\":\\\"a\\\""), "{audit}");
    assert!(!audit.contains("\\\"project\\\":\\\"b\\\""), "{audit}");
}

#[test]
fn roles_allow_what_they_say() {
    let plane = Plane::new();
    let people = two_projects(&plane);
    for (method, path, body) in routes(&plane) {
        if !path.contains("{project}") || path.contains("content") || path.starts_with("/hooks/") {
            continue;
        }
        let dry = if method == "GET" || path.ends_with("plan") { "" } else { "?dryRun=All" };
        let path = path.replace("{project}", "a").replace("{name}", "hidden") + dry;
        let statuses = ["viewer", "deployer", "chief"]
            .map(|user| plane.ask_as(&people[user], &method, &path, &media(&method), body.as_ref()).status);
        let is_allowed = |status: u16| status != 403;
        // A command beside a program is begun by a GET, as WebSockets are.
        let reads = (method == "GET" && !path.ends_with("/exec")) || path.ends_with("plan");
        let is_written = !reads && statuses[2] != 405;
        // What may still run somewhere is forgotten by the platform's administrators only.
        let may = !(method == "DELETE" && path.contains("/tombstones/"));
        assert_eq!(statuses.map(is_allowed), [!is_written, may, may], "{method} {path}: {statuses:?}");
        assert!(
            !statuses.contains(&401) && statuses.iter().all(|it| *it < 500),
            "{method} {path}: {statuses:?}"
        );
    }
    // Members are the admin's, quotas the platform's.
    let member = json!({"spec": {"members": {"new": "viewer"}}});
    let quota = json!({"spec": {"quota": {"instances": 1000}}});
    for (user, wanted) in [("viewer", [403, 403]), ("deployer", [403, 403]), ("chief", [200, 403])] {
        let asked = [&member, &quota].map(|patch| {
            plane
                .ask_as(&people[user], "PATCH", &format!("{BASE}/projects/a"), &media("PATCH"), Some(patch))
                .status
        });
        assert_eq!(asked, wanted, "{user}");
    }
    let token =
        |user: &str, new: &Value| plane.ask(&people[user], "POST", &format!("{BASE}/tokens"), Some(new));
    let only_a = json!({"projects": ["a"]});
    assert_eq!(token("viewer", &json!({"name": "t1"})).status, 201, "one for oneself");
    assert_eq!(token("viewer", &json!({"name": "t2", "user": "chief", "only": only_a})).status, 403);
    assert_eq!(token("chief", &json!({"name": "t3", "user": "ci", "only": only_a})).status, 201);
    assert_eq!(
        token("chief", &json!({"name": "t4", "user": "ci"})).status,
        403,
        "one for other projects too"
    );
    assert_eq!(token("chief", &json!({"name": "t5", "admin": true})).status, 403);
    assert_eq!(token("chief", &json!({"name": "t3"})).status, 409);
    // What is restricted does no more than that, and what is revoked nothing at all.
    let restricted = token("chief", &json!({"name": "t6", "only": {"verbs": ["read"]}})).json();
    let restricted = restricted["token"].as_str().unwrap();
    let app = format!("{BASE}/projects/a/apps/hidden");
    assert_eq!(plane.ask(restricted, "GET", &app, None).status, 200);
    assert_eq!(plane.ask(restricted, "PUT", &app, Some(&sleeper(1))).status, 403);
    assert_eq!(
        plane.ask(restricted, "POST", &format!("{BASE}/tokens"), Some(&json!({"name": "t7"}))).status,
        403
    );
    assert_eq!(plane.ask(&people["chief"], "DELETE", &format!("{BASE}/tokens/t6"), None).status, 200);
    assert_eq!(plane.ask(restricted, "GET", &app, None).status, 401);
    // Nobody gives out more than they have, nor sees or ends what may do more.
    let chiefs =
        token("chief", &json!({"name": "short", "only": only_a, "expires": "2099-01-01T00:00:00Z"})).json();
    let chiefs = chiefs["token"].as_str().unwrap().to_owned();
    let give = |new: &Value| plane.ask(&chiefs, "POST", &format!("{BASE}/tokens"), Some(new)).status;
    assert_eq!(give(&json!({"name": "g1", "only": only_a})), 403, "one that lives longer");
    assert_eq!(give(&json!({"name": "g2", "expires": "2098-01-01T00:00:00Z"})), 403, "one for more projects");
    let of_admin = json!({"name": "g3", "user": "admin", "only": only_a, "expires": "2098-01-01T00:00:00Z"});
    assert_eq!(give(&of_admin), 201, "an admin of the project decides who speaks there");
    assert_eq!(plane.ask(&chiefs, "DELETE", &format!("{BASE}/tokens/of-chief"), None).status, 404);
    assert_eq!(plane.ask(&chiefs, "DELETE", &format!("{BASE}/tokens/g3?dryRun=All"), None).status, 200);
    assert_eq!(plane.ask(&chiefs, "DELETE", &format!("{BASE}/tokens/g3"), None).status, 200);
    let past = json!({"name": "t8", "expires": "2020-01-01T00:00:00Z"});
    assert_eq!(token("chief", &past).status, 422);
    let soon = plane.run(&["token", "create", "t9", "--expires", "1s"]);
    let soon = String::from_utf8(soon.stdout).unwrap();
    until("it has ended", || plane.ask(soon.trim(), "GET", &app, None).status, |status| *status == 401);
}

#[test]
fn a_quota_holds_whoever_comes_at_once() {
    let plane = Plane::new();
    plane.project("q", &json!({}));
    plane.must("PUT", "/projects/q/apps/first", &sleeper(1));
    let quota = plane.run(&["project", "quota", "q", "--instances", "3"]);
    assert!(quota.status.success(), "{quota:?}");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..10)
            .map(|number| {
                let plane = &plane;
                let path = format!("{BASE}/projects/q/apps/app-{number}");
                scope.spawn(move || {
                    let answer = plane.ask(&plane.admin, "PUT", &path, Some(&sleeper(1)));
                    assert!(
                        answer.status == 201 || answer.text.contains("more than the quota"),
                        "{}",
                        answer.text
                    );
                    answer.status
                })
            })
            .collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|it| **it == 201).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|it| **it == 403).count(), 8, "{statuses:?}");
    // Verbs are held to it, what shrinks is not, and what is gone makes room.
    let scale = |copies: u32| {
        let body = json!({"scale": {"component": "main", "replicas": copies}});
        plane
            .ask(&plane.admin, "POST", &format!("{BASE}/projects/q/apps/first/operations"), Some(&body))
            .status
    };
    assert_eq!((scale(2), scale(0), scale(1), scale(2)), (403, 200, 200, 403));
    plane.must("DELETE", "/projects/q/apps/first", &Value::Null);
    let new =
        || plane.ask(&plane.admin, "PUT", &format!("{BASE}/projects/q/apps/new"), Some(&sleeper(1))).status;
    until("room for a new one", new, |status| *status == 201 || *status == 200);
    let one_more = plane.ask(&plane.admin, "PUT", &format!("{BASE}/projects/q/apps/more"), Some(&sleeper(1)));
    assert_eq!(one_more.status, 403, "{}", one_more.text);
    let busy = plane.ask(&plane.admin, "DELETE", &format!("{BASE}/projects/q"), None);
    assert!(busy.status == 409 && busy.text.contains("delete what is in it first"), "{}", busy.text);
}

#[test]
fn the_audit_log_shows_what_was_done_and_whether_it_was_altered() {
    let mut plane = Plane::new();
    let people = two_projects(&plane);
    let app = format!("{BASE}/projects/a/apps/hidden");
    assert_eq!(plane.ask(&people["viewer"], "PUT", &app, Some(&sleeper(3))).status, 403);
    assert_eq!(plane.ask(&people["deployer"], "PUT", &app, Some(&sleeper(3))).status, 200);
    let log = String::from_utf8(plane.run(&["audit"]).stdout).unwrap();
    for (who, what) in [("viewer", "refused"), ("deployer (of-deployer)", "done")] {
        let line = log.lines().find(|line| line.contains(who) && line.contains("apps/a/hidden"));
        assert!(line.is_some_and(|line| line.contains(what) && line.contains("127.0.0.1")), "{who}: {log}");
    }
    assert!(!log.contains(CANARY));
    let verified = plane.run(&["audit", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    let head = String::from_utf8(verified.stdout).unwrap();
    assert!(plane.run(&["audit", "verify", "--head", head.trim()]).status.success());
    plane.stop();
    let alter = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                 c.execute(\"update audit set entry = replace(entry, 'admin', 'nobody') where number = 3\"); \
                 c.execute(\"delete from audit where number = (select max(number) from audit)\"); c.commit()";
    let altered =
        Command::new("python3").args(["-c", alter]).arg(plane.data().join("plimsoll.db")).status().unwrap();
    assert!(altered.success());
    plane.start();
    let verified = plane.run(&["audit", "verify"]);
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(!verified.status.success() && said.contains("broken at number 3"), "{said}");
}

#[test]
fn objects_are_changed_as_they_were_read() {
    let plane = Plane::new();
    let ask = |method: &str, headers: &[(&str, &str)], query: &str, body: &Value| {
        let path = format!("{BASE}/projects/default/apps/one{query}");
        plane.ask_as(&plane.admin, method, &path, headers, Some(body))
    };
    let plain: &[(&str, &str)] = &[("Content-Type", "application/json")];
    assert_eq!(ask("PUT", plain, "?dryRun=All", &sleeper(1)).status, 201);
    assert_eq!(ask("GET", plain, "", &Value::Null).status, 404, "a dry run writes nothing");
    let made = ask("PUT", &[("If-None-Match", "*"), plain[0]], "", &sleeper(1));
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(ask("PUT", &[("If-None-Match", "*"), plain[0]], "", &sleeper(1)).status, 412);
    let tag = made.etag.unwrap();
    let power = json!({"operations": {"power": "off"}});
    let merged = ask("PATCH", &[("Content-Type", "application/merge-patch+json")], "", &power);
    assert_eq!(
        (merged.status, merged.json()["operations"]["power"].as_str()),
        (200, Some("off")),
        "{}",
        merged.text
    );
    assert_eq!(ask("PUT", &[("If-Match", &tag), plain[0]], "", &sleeper(2)).status, 412);
    let mut read = ask("GET", plain, "", &Value::Null).json();
    read["metadata"]["resourceVersion"] = json!(tag.trim_matches('"'));
    assert_eq!(ask("PUT", plain, "", &read).status, 412, "the version that was read is in the document too");
    let read = ask("GET", plain, "", &Value::Null);
    let tag = read.etag.clone().unwrap();
    let status = ask("PUT", plain, "", &read.json()).status;
    assert!(
        status == 200 || status == 412,
        "what was read may be written back, if its status did not change: {status}"
    );
    let known = ask("GET", &[("If-None-Match", &tag)], "", &Value::Null).status;
    assert!(known == 304 || known == 200, "{known}");
    let patch = json!([{"op": "replace", "path": "/spec/components/main/replicas", "value": 0}]);
    let patched = ask("PATCH", &[("Content-Type", "application/json-patch+json")], "", &patch);
    assert_eq!(patched.json()["spec"]["components"]["main"]["replicas"], 0, "{}", patched.text);
    let wrong = json!([{"op": "replace", "path": "/spec/none/x", "value": 0}]);
    assert_eq!(ask("PATCH", &[("Content-Type", "application/json-patch+json")], "", &wrong).status, 422);
    let wrong = json!({"spec": {"components": {"main": {"replicas": -1, "comand": []}}}});
    let refused = ask("PUT", plain, "", &wrong);
    let errors = refused.json()["errors"].as_array().unwrap().len();
    assert!(
        refused.status == 422 && errors == 2 && refused.text.contains("/spec/components/main"),
        "{}",
        refused.text
    );
    let other = json!({"kind": "Secret", "spec": {}});
    assert!(ask("PUT", plain, "", &other).text.contains("which the path names"));
    assert_eq!(ask("POST", plain, "", &Value::Null).status, 405);
    assert_eq!(ask("PUT", &[("Content-Type", "text/html")], "", &sleeper(1)).status, 415);
}

#[test]
fn a_patch_reveals_nothing_and_stays_small() {
    let plane = Plane::new();
    plane.must("PUT", "/projects/default/apps/one", &sleeper(0));
    let ask = |method: &str, headers: &[(&str, &str)], body: &Value| {
        plane.ask_as(&plane.admin, method, &format!("{BASE}/projects/default/apps/one"), headers, Some(body))
    };
    // A part of a Secret is changed, and nobody reads the rest.
    plane.must("PUT", "/projects/default/secrets/s", &json!({"spec": {"data": {"a": "1", "b": "2"}}}));
    let path = format!("{BASE}/projects/default/secrets/s");
    let patch = json!({"spec": {"data": {"b": CANARY}}});
    let patched = plane.ask_as(&plane.admin, "PATCH", &path, &media("PATCH"), Some(&patch));
    assert_eq!(patched.json()["spec"]["data"], json!({"a": null, "b": null}), "{}", patched.text);
    let dry =
        plane.ask_as(&plane.admin, "PATCH", &format!("{path}?dryRun=All"), &media("PATCH"), Some(&patch));
    assert!(dry.status == 200 && !dry.text.contains(CANARY), "{}", dry.text);
    let theft = json!([{"op": "copy", "from": "/spec/data/b", "path": "/metadata/name"}]);
    let json_patch = [("Content-Type", "application/json-patch+json")];
    let stolen = plane.ask_as(&plane.admin, "PATCH", &path, &json_patch, Some(&theft));
    assert!(stolen.status == 415 && !stolen.text.contains(CANARY), "{}", stolen.text);
    // What would grow without end, or be asked for without end, is refused.
    let double = json!({"op": "copy", "from": "/spec", "path": "/spec/components"});
    let bomb = Value::from(vec![double; 60]);
    assert_eq!(ask("PATCH", &json_patch, &bomb).status, 422);
    let never = [json_patch[0], ("If-None-Match", "*")];
    assert_eq!(ask("PATCH", &never, &json!([])).status, 400);
    let path = format!("{BASE}/projects/default/apps/one/operations");
    let many = json!({"scale": {"component": "main", "replicas": 4_294_967_295_u32}});
    assert_eq!(plane.ask(&plane.admin, "POST", &path, Some(&many)).status, 422);
    let nowhere = json!({"spec": {"target": "nowhere", "components": {}}});
    let refused = ask("PUT", &media("PUT"), &nowhere);
    assert!(refused.status == 404 && refused.text.contains("no Target nowhere"), "{}", refused.text);
}

#[test]
fn lists_have_pages_and_selectors() {
    let plane = Plane::new();
    plane.project("a", &json!({}));
    for number in 0..7 {
        let mut app = sleeper(0);
        app["metadata"] = json!({"labels": {"odd": (number % 2 == 1).to_string()}});
        plane.must("PUT", &format!("/projects/a/apps/app-{number}"), &app);
    }
    let names = |query: &str| -> (Vec<String>, Option<String>) {
        let page = plane.must("GET", &format!("/projects/a/apps?{query}"), &Value::Null);
        let items = page["items"].as_array().unwrap();
        let names = items.iter().map(|it| it["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        (names, page["metadata"]["continue"].as_str().map(str::to_owned))
    };
    let (first, next) = names("limit=3");
    assert_eq!(first, ["app-0", "app-1", "app-2"]);
    let (second, next) = names(&format!("limit=3&continue={}", next.unwrap()));
    assert_eq!(second, ["app-3", "app-4", "app-5"]);
    let (third, next) = names(&format!("limit=3&continue={}", next.unwrap()));
    assert_eq!((third, next), (vec!["app-6".to_owned()], None));
    let (odd, next) = names("limit=2&labelSelector=odd%3Dtrue");
    assert_eq!(odd, ["app-1", "app-3"]);
    let (odd, next) = names(&format!("limit=2&labelSelector=odd%3Dtrue&continue={}", next.unwrap()));
    assert_eq!((odd, next), (vec!["app-5".to_owned()], None));
    assert_eq!(names("fieldSelector=metadata.name%3Dapp-4").0, ["app-4"]);
    for wrong in ["limit=x", "continue=x", "labelSelector=%3Dx", "none=1"] {
        let answer = plane.ask(&plane.admin, "GET", &format!("{BASE}/projects/a/apps?{wrong}"), None);
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text);
    }
    let columns =
        plane.run(&["get", "apps", "-p", "a", "-l", "odd=true", "-o", "custom-columns=N:.metadata.name"]);
    assert_eq!(String::from_utf8(columns.stdout).unwrap(), "N\napp-1\napp-3\napp-5\n");
    let path = plane.run(&["get", "app/app-2", "-p", "a", "-o", "jsonpath={.metadata.labels.odd}"]);
    assert_eq!(String::from_utf8(path.stdout).unwrap(), "false\n");
}

/// Reads a watch line by line.
fn lines(plane: &Plane, token: &str, path: &str) -> impl Iterator<Item = Value> + use<> {
    use std::io::BufRead as _;
    let answer = ureq::get(format!("{}{BASE}{path}", plane.url))
        .header("Authorization", format!("Bearer {token}"))
        .call()
        .unwrap();
    let reader = std::io::BufReader::new(answer.into_body().into_reader());
    reader.lines().map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap())
}

/// The type, name and version of an event.
fn event(event: Option<Value>) -> (String, String, String) {
    let event = event.expect("the watch goes on");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &event["object"]["metadata"];
    (text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"]))
}

#[test]
fn a_watch_tells_everything_in_order_and_goes_on_where_it_ended() {
    let mut plane = Plane::new();
    plane.project("a", &json!({}));
    plane.must("PUT", "/projects/a/secrets/s", &json!({"spec": {"data": {"k": "1"}}}));
    let token = plane.admin.clone();
    let mut watch = lines(&plane, &token, "/projects/a/secrets?watch=true");
    assert_eq!(event(watch.next()).0, "ADDED");
    let (kind, _, start) = event(watch.next());
    assert_eq!(kind, "BOOKMARK", "everything that was there has been told");
    plane.must("PUT", "/projects/a/secrets/t", &json!({"spec": {"data": {"k": "1"}}}));
    plane.must("PUT", "/projects/default/secrets/u", &json!({"spec": {"data": {"k": "1"}}}));
    plane.must("PUT", "/projects/a/secrets/t", &json!({"spec": {"data": {"k": "2"}}}));
    plane.must("DELETE", "/projects/a/secrets/t", &Value::Null);
    let mut told = Vec::new();
    for wanted in ["ADDED", "MODIFIED", "DELETED"] {
        let (kind, name, version) = event(watch.next());
        assert_eq!((kind.as_str(), name.as_str()), (wanted, "t"));
        told.push(version);
    }
    let from = |version: &str| format!("/projects/a/secrets?watch=true&resourceVersion={version}");
    let mut selected = lines(&plane, &token, "/projects/a/secrets?watch=true&labelSelector=x");
    assert_eq!(event(selected.next()).0, "BOOKMARK");
    let label = |value: Value| {
        let patch = json!({"metadata": {"labels": {"x": value}}});
        let path = format!("{BASE}/projects/a/secrets/s");
        assert_eq!(plane.ask_as(&token, "PATCH", &path, &media("PATCH"), Some(&patch)).status, 200);
    };
    label(json!("1"));
    assert_eq!(event(selected.next()).0, "MODIFIED", "it is selected now");
    label(Value::Null);
    assert_eq!(event(selected.next()).0, "DELETED", "and now it is not");
    assert_eq!([event(watch.next()).0, event(watch.next()).0], ["MODIFIED", "MODIFIED"]);
    let mut again = lines(&plane, &token, &from(&told[0]));
    assert_eq!(event(again.next()).2, told[1]);
    plane.stop();
    assert!(watch.next().is_none(), "it ends with the server");
    plane.start();
    let mut after = lines(&plane, &token, &from(&start));
    assert_eq!(event(after.next()).0, "DELETED", "what was overtaken is left out after a restart");
    let future = plane.ask(&token, "GET", &format!("{BASE}{}", from("99999999")), None);
    assert_eq!(future.status, 410, "{}", future.text);
    // As server-sent events.
    let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", "99999999")];
    let path = format!("{BASE}/projects/a/secrets");
    assert_eq!(plane.ask_as(&token, "GET", &path, &headers, None).status, 410);
    let no_watch = plane.ask(&token, "GET", &format!("{BASE}/instances?watch=true"), None);
    assert_eq!(no_watch.status, 400);
}

/// Where a file would betray a secret.
fn betrays(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            found.extend(betrays(&path));
        } else if entry.file_type().is_ok_and(|it| it.is_file())
            && std::fs::read(&path)
                .is_ok_and(|it| it.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_secret_is_nowhere_in_the_clear() {
    let plane = Plane::new();
    plane.must("PUT", "/projects/default/secrets/s", &json!({"spec": {"data": {"k": CANARY}}}));
    plane.must("PUT", "/projects/default/apps/one", &sleeper(1));
    let settled = || plane.must("GET", "/projects/default/apps/one", &Value::Null);
    until("settled", settled, |app| app["status"]["outcome"]["state"] == "settled");
    for path in ["/secrets", "/plans", "/revisions", "/events", "/audit", "/projects/default/secrets/s"] {
        assert!(!plane.must("GET", path, &Value::Null).to_string().contains(CANARY), "{path}");
    }
    assert_eq!(betrays(&plane.data()), Vec::<PathBuf>::new());
}

#[test]
fn a_doctor_looks_and_a_bundle_tells_no_secret() {
    let plane = Plane::new();
    let mut app = sleeper(1);
    app["spec"]["components"]["main"]["env"] = json!({"KEY": CANARY});
    plane.must("PUT", "/projects/default/apps/web", &app);
    plane.must("PUT", "/projects/default/secrets/keys", &json!({"spec": {"data": {"k": CANARY}}}));
    let findings = plane.carry_out(&["doctor"]);
    assert!(findings.contains("control plane") && !findings.contains("BAD"), "{findings}");
    let file = plane.data().parent().unwrap().join("bundle.tar").display().to_string();
    plane.carry_out(&["support-bundle", &file]);
    let bundle = String::from_utf8(std::fs::read(&file).unwrap()).unwrap();
    for part in ["doctor.txt", "metrics.txt", "apps.json", "plimsoll_apps{", "\"KEY\": \"(redacted)\""] {
        assert!(bundle.contains(part), "{part}");
    }
    assert!(!bundle.contains(CANARY) && !bundle.contains(&plane.admin) && !bundle.contains("1000\""));
    // A file that others may read is found.
    let token = plane.data().join("admin.token");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = plane.run(&["doctor"]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && found.contains("chmod 600"), "{found}");
}

#[test]
fn metrics_are_as_prometheus_wants_them() {
    let plane = Plane::new();
    let people = two_projects(&plane);
    let metrics = plane.ask(&plane.admin, "GET", "/metrics", None).text;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: `apt-get install prometheus`, or run ./test");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let route =
        "method=\"PUT\",route=\"/apis/plimsoll.dev/v1/projects/{project}/{plural}/{name}\",status=\"201\"";
    for wanted in [
        format!("plimsoll_http_requests_total{{{route}}} 3"),
        "plimsoll_reconciles_total{outcome=\"settled\"}".to_owned(),
        "plimsoll_convergence_lag_seconds ".to_owned(),
        "plimsoll_queue_objects ".to_owned(),
        "plimsoll_store_revision ".to_owned(),
    ] {
        assert!(metrics.contains(&wanted), "{wanted} is missing in {metrics}");
    }
    assert!(!metrics.contains(CANARY) && !metrics.contains("hidden"), "{metrics}");
    assert_eq!(plane.ask(&people["chief"], "GET", "/metrics", None).status, 403);
}

#[test]
fn declarations_are_compared_edited_and_explained() {
    let plane = Plane::new();
    let file = plane.directory.path().join("app.yaml");
    let text = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: one}\n\
                spec: {components: {main: {command: [sleep, '1000'], replicas: 0}}}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let diff = |options: &[&str]| {
        let output = plane.run(&[&["diff", "-f", &file], options].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = diff(&["--exit-code"]);
    assert!(
        code == Some(2) && said.contains("--- /dev/null") && said.contains("+      replicas: 0"),
        "{said}"
    );
    plane.must("PUT", "/projects/default/apps/one", &sleeper(0));
    std::fs::write(&file, text.replace("replicas: 0", "replicas: 0, update: {soak: 1ms}")).unwrap();
    assert_eq!(diff(&["--exit-code"]), (Some(0), String::new()));
    std::fs::write(&file, text.replace("replicas: 0", "replicas: 2, update: {soak: 1ms}")).unwrap();
    let (code, said) = diff(&[]);
    assert!(code == Some(0) && said.contains("-      replicas: 0\n+      replicas: 2"), "{said}");

    let edit = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(["edit", "app/one"]).env("PLIMSOLL_DATA_DIR", plane.data()).env_remove("VISUAL");
        let output = command.env("EDITOR", script).env("TMPDIR", plane.directory.path()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(edit("true"), (true, "nothing was changed\n".to_owned()));
    let (is_done, said) = edit("sed -i 's/soak: 1ms/soak: 2ms/'");
    assert!(is_done && said.contains("app default/one changed"), "{said}");
    let app = plane.must("GET", "/projects/default/apps/one", &Value::Null);
    assert_eq!(app["spec"]["components"]["main"]["update"]["soak"], "2ms");
    let (is_done, said) = edit("sed -i 's/replicas: 0/replicas: many/'");
    assert!(!is_done && said.contains("your text is in /") && said.contains("replicas"), "{said}");
    assert!(!edit("false").0);

    let explained = plane.run(&["explain", "app.spec.components.replicas"]);
    assert!(String::from_utf8(explained.stdout).unwrap().contains("How many equal copies run."));
    let unknown = String::from_utf8(plane.run(&["explain", "app.spec.componets"]).stderr).unwrap();
    assert!(unknown.contains("there is no app.spec.componets; there are components, target"), "{unknown}");
}

#[test]
fn a_context_says_what_no_option_does() {
    let plane = Plane::new();
    plane.project("a", &json!({"ada": "deployer"}));
    let token = plane.token("of-ada", "ada");
    let home = plane.directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let file = home.join("token");
    std::fs::write(&file, &token).unwrap();
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env_clear().env("HOME", &home).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = run(&[], &["get"]);
    assert!(code == Some(1) && said.contains("start one with `plimsoll server`"), "{said}");
    let file = file.display().to_string();
    let set = ["config", "set-context", "there", "--server", &plane.url, "--token-file", &file];
    assert_eq!(run(&[], &[&set[..], &["--project", "a"]].concat()).0, Some(0));
    assert!(run(&[], &["auth", "whoami"]).1.contains("ada"));
    assert_eq!(run(&[], &["auth", "can-i", "write"]), (Some(0), "yes\n".to_owned()));
    assert_eq!(run(&[], &["auth", "can-i", "manage"]), (Some(1), "no\n".to_owned()));
    assert_eq!(run(&[("PLIMSOLL_PROJECT", "b")], &["auth", "can-i", "read"]).0, Some(1));
    let (_, origins) = run(&[("PLIMSOLL_PROJECT", "b")], &["config", "view", "--show-origin"]);
    for wanted in ["context", "PLIMSOLL_PROJECT", "default"] {
        assert!(origins.contains(wanted), "{wanted} is missing in {origins}");
    }
    assert!(run(&[], &["config", "view"]).1.contains("current-context = \"there\""));
    assert!(run(&[], &["config", "get-contexts"]).1.contains("*  there"));
    let (code, said) = run(&[], &["get", "--context", "nowhere"]);
    assert!(code == Some(1) && said.contains("no context nowhere; it has there"), "{said}");
    std::fs::write(home.join(".config/plimsoll/config.toml"), "curent-context = \"x\"").unwrap();
    let (code, said) = run(&[], &["get"]);
    assert!(code == Some(1) && said.contains("config.toml") && said.contains("curent-context"), "{said}");
}
