//! Several people and programs declare parts of one object, and several files are one declaration.

use serde_json::{Value, json};

use super::plane::{Answer, BASE, Plane, sleeper};

const APP: &str = "/projects/default/apps/web";

/// Applies a part of the App for somebody.
fn apply(plane: &Plane, who: &str, part: &Value) -> Answer {
    let path = format!("{BASE}{APP}?fieldManager={who}");
    let media = [("Content-Type", "application/apply-patch+yaml")];
    plane.ask_as(&plane.admin, "PATCH", &path, &media, Some(part))
}

fn main_of(app: &Value) -> &Value {
    &app["spec"]["components"]["main"]
}

#[test]
fn each_owns_what_they_have_set() {
    let plane = Plane::new();
    let declared =
        json!({"metadata": {"annotations": {"example.org/team": "web"}}, "spec": sleeper(1)["spec"]});
    let made = apply(&plane, "dev", &declared);
    assert_eq!(made.status, 201, "{}", made.text);
    let unnamed = plane.ask_as(
        &plane.admin,
        "PATCH",
        &format!("{BASE}{APP}"),
        &[("Content-Type", "application/apply-patch+yaml")],
        Some(&declared),
    );
    assert!(unnamed.status == 400 && unnamed.text.contains("fieldManager"), "{}", unnamed.text);

    let env = json!({"spec": {"components": {"main": {"env": {"LEVEL": "debug"}}}}});
    assert_eq!(apply(&plane, "ops", &env).status, 200);
    let three = json!({"spec": {"components": {"main": {"replicas": 3}}}});
    let refused = apply(&plane, "ops", &three);
    let errors = refused.json()["errors"].clone();
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert_eq!(errors[0]["pointer"], "/spec/components/main/replicas");
    assert_eq!(errors[0]["manager"], "dev");
    let dry = plane.ask_as(
        &plane.admin,
        "PATCH",
        &format!("{BASE}{APP}?fieldManager=ops&force=true&dryRun=All"),
        &[("Content-Type", "application/apply-patch+yaml")],
        Some(&three),
    );
    assert_eq!(main_of(&dry.json())["replicas"], 3, "{}", dry.text);

    // The same again is no write; what is left out goes, and what is another's stays.
    let version = |plane: &Plane| plane.must("GET", APP, &Value::Null)["metadata"]["generation"].clone();
    let before = version(&plane);
    assert_eq!(apply(&plane, "ops", &env).status, 200);
    assert_eq!(version(&plane), before);
    assert_eq!(apply(&plane, "ops", &json!({"metadata": {"labels": {"tier": "front"}}})).status, 200);
    let app = plane.must("GET", APP, &Value::Null);
    assert!(main_of(&app)["env"]["LEVEL"].is_null(), "{app}");
    assert_eq!(app["metadata"]["annotations"], json!({"example.org/team": "web"}));
    assert_eq!(app["metadata"]["labels"], json!({"tier": "front"}));

    // Whoever writes otherwise owns what they change.
    let merge = [("Content-Type", "application/merge-patch+json")];
    let scaled = plane.ask_as(
        &plane.admin,
        "PATCH",
        &format!("{BASE}{APP}?fieldManager=scaler"),
        &merge,
        Some(&json!({"spec": {"components": {"main": {"replicas": 2}}}})),
    );
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    let refused = apply(&plane, "dev", &declared);
    assert_eq!((refused.status, refused.json()["errors"][0]["manager"].clone()), (409, json!("scaler")));
    let get = plane.carry_out(&["get", "app/web", "-o", "yaml"]);
    assert!(!get.contains("managedFields"), "{get}");
    let get = plane.carry_out(&["get", "app/web", "-o", "yaml", "--show-managed-fields"]);
    assert!(get.contains("manager: scaler"), "{get}");
}

#[test]
fn a_secret_has_fields_and_tells_none() {
    let plane = Plane::new();
    let media = [("Content-Type", "application/apply-patch+yaml")];
    let apply = |who: &str, data: &Value| {
        let path = format!("{BASE}/projects/default/secrets/keys?fieldManager={who}");
        plane.ask_as(&plane.admin, "PATCH", &path, &media, Some(&json!({"spec": {"data": data}})))
    };
    assert_eq!(apply("a", &json!({"one": "canary-1"})).status, 201);
    assert_eq!(apply("b", &json!({"two": "canary-2"})).status, 200);
    let refused = apply("b", &json!({"one": "other", "two": "canary-2"}));
    assert!(refused.status == 409 && !refused.text.contains("canary"), "{}", refused.text);
    let same = apply("b", &json!({"one": "canary-1", "two": "canary-2"}));
    assert!(same.status == 200 && !same.text.contains("canary"), "{}", same.text);
}

#[test]
fn a_request_with_a_name_is_carried_out_once() {
    let mut plane = Plane::new();
    plane.must("PUT", APP, &sleeper(1));
    let named = |plane: &Plane, path: &str, name: &str, body: &Value| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", name)];
        plane.ask_as(&plane.admin, "POST", &format!("{BASE}{path}"), &headers, Some(body))
    };
    let operations = format!("{APP}/operations");
    let restart = json!({"restart": []});
    let restarts =
        |plane: &Plane| plane.must("GET", APP, &Value::Null)["operations"]["restarts"]["main"].clone();
    let first = named(&plane, &operations, "r-1", &restart);
    assert_eq!((first.status, restarts(&plane)), (200, json!(1)), "{}", first.text);
    // The answer may have been lost, with the server that gave it.
    plane.stop();
    plane.start();
    let again = named(&plane, &operations, "r-1", &restart);
    assert_eq!((again.status, again.json(), restarts(&plane)), (200, first.json(), json!(1)));
    assert_eq!(named(&plane, &operations, "r-1", &json!({"paused": true})).status, 409, "another request");
    assert_eq!(named(&plane, &operations, "r-2", &restart).status, 200);
    assert_eq!(restarts(&plane), 2);
    // Names of different users never meet.
    plane.project("default", &json!({"ada": "deployer"}));
    let ada = plane.token("ada", "ada");
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "r-1")];
    let path = format!("{BASE}{operations}");
    assert_eq!(plane.ask_as(&ada, "POST", &path, &headers, Some(&restart)).status, 200);
    assert_eq!(restarts(&plane), 3);

    let token = json!({"name": "bob", "user": "bob"});
    assert_eq!(named(&plane, "/tokens", "t", &token).status, 201);
    let shown = named(&plane, "/tokens", "t", &token);
    assert!(shown.status == 409 && shown.text.contains("shown once"), "{}", shown.text);
    assert_eq!(named(&plane, &operations, "", &restart).status, 400);
    let mut app = sleeper(2);
    app["apiVersion"] = json!("plimsoll.dev/v1");
    app["kind"] = json!("App");
    app["metadata"] = json!({"name": "web"});
    let applied = named(&plane, "/projects/default/apply", "a", &app);
    assert_eq!(applied.status, 200, "{}", applied.text);
    plane.must("PUT", APP, &sleeper(3));
    assert_eq!(named(&plane, "/projects/default/apply", "a", &app).json(), applied.json());
    let app = plane.must("GET", APP, &Value::Null);
    assert_eq!(main_of(&app)["replicas"], 3, "what came after it stays");
}

#[test]
fn files_directories_and_parts_are_applied_by_commands() {
    let plane = Plane::new();
    let directory = plane.directory.path().join("files");
    std::fs::create_dir_all(directory.join("below")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    let app = |name: &str| {
        format!(
            "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: {name}}}\n\
             spec: {{components: {{main: {{command: [sleep, '1000']}}}}}}\n"
        )
    };
    write("a.yaml", &format!("{}---\n{}", app("one"), app("two")));
    write("below/b.yml", &app("three"));
    write("notes.txt", "no declaration");
    let place = directory.display().to_string();
    let file = directory.join("a.yaml").display().to_string();
    let said = String::from_utf8(plane.run(&["apply", "-f", &place, "--dry-run"]).stderr).unwrap();
    assert_eq!(said, "app one created (dry run)\napp two created (dry run)\n");
    assert!(plane.refused(&["describe", "app/one"]).contains("there is no"));
    plane.carry_out(&["apply", "-R", "-f", &place]);
    assert_eq!(plane.carry_out(&["get", "-o", "name"]), "apps/one\napps/three\napps/two\n");
    let empty = plane.directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(plane.refused(&["apply", "-f", &empty.display().to_string()]).contains(".yaml"));

    plane.carry_out(&["patch", "two", "{metadata: {labels: {tier: front}}}"]);
    let remove = r#"[{"op": "remove", "path": "/metadata/labels/tier"}]"#;
    plane.carry_out(&["patch", "two", "--type", "json", remove, "--dry-run"]);
    assert_eq!(plane.carry_out(&["get", "-l", "tier=front", "-o", "name"]), "apps/two\n");
    plane.carry_out(&["patch", "two", "--type", "json", remove]);
    assert_eq!(plane.carry_out(&["get", "-l", "tier=front", "-o", "name"]), "");

    // What the file does not say belongs to others.
    let said = String::from_utf8(plane.run(&["apply", "-f", &file, "--server-side"]).stderr).unwrap();
    assert_eq!(said, "app one changed\napp two changed\n");
    plane.carry_out(&["patch", "two", "{spec: {components: {main: {replicas: 2}}}}"]);
    plane.carry_out(&["apply", "-f", &file, "--server-side"]);
    let replicas = || plane.carry_out(&["get", "app/two", "-o", "jsonpath=.spec.components.main.replicas"]);
    assert_eq!(replicas(), "2\n");
    write("a.yaml", &app("two").replace("main: {", "main: {replicas: 3, "));
    let apply = ["apply", "-f", &file, "--server-side", "--field-manager", "me"];
    let refused = plane.refused(&apply);
    assert!(refused.contains("/spec/components/main/replicas: plimsoll has set it"), "{refused}");
    plane.carry_out(&[&apply[..], &["--force-conflicts"]].concat());
    assert_eq!(replicas(), "3\n");
}
