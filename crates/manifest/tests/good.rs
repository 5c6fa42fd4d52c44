//! Good files, and what they become.

use plimsoll_manifest::{Document, DocumentKind, parse};
use plimsoll_model::app::EnvValue;
use plimsoll_model::operations::Power;
use plimsoll_model::quantity::{Bytes, Cpu, Span};

const SHOP: &str = r#"# The shop, its database and its secret.
apiVersion: plimsoll.dev/v1
kind: App
metadata:
  name: shop
  project: demo
  labels: {team: web}
  annotations: {example.com/owner: "tools read this"}
spec:
  target: local
  components:
    db:
      program: {directory: db, entry: run.sh, runtime: bash}
      ports: {pg: 5432}
      env: {POSTGRES_PASSWORD: {secret: db/password}}
      volumes: {data: {path: data, size: 5Gi}}
      provides:
        sql: {interface: postgresql, data: {url: "postgres://postgres:${secret:db/password}@${host}:${port:pg}/postgres"}}
    web:
      program: {file: web.py, runtime: python}
      replicas: 3
      ports: {http: 8080}
      env: {LOG: info, WORKERS: 4, DEBUG: no, TRACE: false, DB: "${db.url}"}
      files:
        conf/app.ini: {content: "[app]\n"}
      resources: {cpu: 250m, memory: 64Mi}
      health:
        http: {port: http, path: /health, body: "true"}
        every: 2s
        timeout: 1s
        failures: 3
        start: 30s
      consumes:
        db: {interface: postgresql, from: db/sql}
      routes:
        - {host: shop.localhost, path: /, port: http, tls: off}
      update:
        strategy: rolling
        surge: 1
        unavailable: 0
        soak: 10s
        deadline: 2m
        onFailure: rollback
---
---
# only a comment
---
apiVersion: plimsoll.dev/v1
kind: Secret
metadata: {name: db, namespace: demo}
data:
  password: hunter2
  cert: |
    line one
    line two
---
{"apiVersion": "plimsoll.dev/v1", "kind": "Project", "metadata": {"name": "demo"}}
---
apiVersion: plimsoll.dev/v1
kind: Target
metadata: {name: local}
spec:
  runtimes:
    python: {command: [python3, "{file}"]}
"#;

#[test]
fn a_complete_file_becomes_typed_documents() {
    let documents = parse("shop.yaml", SHOP.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let places: Vec<_> = documents.iter().map(|it| (it.kind(), it.line())).collect();
    assert_eq!(
        places,
        [
            (DocumentKind::App, 2),
            (DocumentKind::Secret, 48),
            (DocumentKind::Project, 57),
            (DocumentKind::Target, 59)
        ]
    );
    let Document::App(app) = &documents[0] else { panic!("not an App") };
    assert_eq!(app.metadata.name.as_str(), "shop");
    assert_eq!(app.metadata.project.as_ref().unwrap().as_str(), "demo");
    assert_eq!(app.metadata.labels[&"team".parse().unwrap()], "web");
    assert_eq!(app.metadata.annotations[&"example.com/owner".parse().unwrap()], "tools read this");
    assert_eq!(app.operations, None);
    let web = &app.spec.components[&"web".parse().unwrap()];
    assert_eq!(web.replicas, Some(3));
    assert_eq!(web.ports[&"http".parse().unwrap()], 8080);
    assert_eq!(web.resources.cpu, Some(Cpu { millicores: 250 }));
    assert_eq!(web.resources.memory, Some(Bytes { bytes: 64 << 20 }));
    assert_eq!(web.health.as_ref().unwrap().start, Span::seconds(30));
    assert_eq!(web.files["conf/app.ini"].content.as_deref(), Some("[app]\n"));
    for (key, text) in [("LOG", "info"), ("WORKERS", "4"), ("DEBUG", "no"), ("TRACE", "false")] {
        assert_eq!(web.env[&key.parse().unwrap()], EnvValue::Text(text.to_owned()));
    }
    let Document::Target(target) = &documents[3] else { panic!("not a Target") };
    assert_eq!(target.spec.runtimes[&"python".parse().unwrap()].command, ["python3", "{file}"]);
}

#[test]
fn secrets_are_wrapped_and_do_not_print() {
    let documents = parse("shop.yaml", SHOP.as_bytes()).unwrap();
    let Document::Secret(secret) = &documents[1] else { panic!("not a Secret") };
    assert_eq!(secret.metadata.project.as_ref().unwrap().as_str(), "demo");
    assert_eq!(secret.data[&"password".parse().unwrap()].expose(), "hunter2");
    assert_eq!(secret.data[&"cert".parse().unwrap()].expose(), "line one\nline two\n");
    let printed = format!("{documents:?}");
    assert!(printed.contains("(secret)"));
    assert!(!printed.contains("hunter2") && !printed.contains("line one"), "{printed}");
}

#[test]
fn the_data_of_a_secret_may_stand_in_its_spec() {
    let text =
        "apiVersion: plimsoll.dev/v1\nkind: Secret\nmetadata: {name: db}\nspec: {data: {key: value}}\n";
    let documents = parse("secret.yaml", text.as_bytes()).unwrap();
    let Document::Secret(secret) = &documents[0] else { panic!("not a Secret") };
    assert_eq!(secret.data[&"key".parse().unwrap()].expose(), "value");
}

#[test]
fn operations_are_kept_apart_from_the_spec() {
    let text = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a}\nspec: {}\noperations: {power: off, replicas: {web: 2}}\n";
    let documents = parse("app.yaml", text.as_bytes()).unwrap();
    let Document::App(app) = &documents[0] else { panic!("not an App") };
    let operations = app.operations.as_ref().unwrap();
    assert_eq!(operations.power, Power::Off);
    assert_eq!(operations.replicas[&"web".parse().unwrap()], 2);
}

#[test]
fn json_is_read_with_tabs_in_rows_and_with_halved_characters() {
    let text = "{\n\t\"apiVersion\": \"plimsoll.dev/v1\",\n\t\"kind\": \"Project\",\n\t\"metadata\": {\"name\": \"one\"},\n\t\"spec\": {\"description\": \"\\ud83d\\ude00 a\\/b\"}\n}\n{\"apiVersion\": \"plimsoll.dev/v1\", \"kind\": \"Project\", \"metadata\": {\"name\": \"two\"}}\n";
    let documents = parse("projects.json", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<_> = documents.iter().map(|it| (it.metadata().name.as_str(), it.line())).collect();
    assert_eq!(names, [("one", 1), ("two", 7)]);
    let Document::Project(project) = &documents[0] else { panic!("not a Project") };
    assert_eq!(project.spec.description.as_deref(), Some("😀 a/b"));
}

#[test]
fn aliases_stand_for_what_they_name() {
    let text = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a}\nspec:\n  components:\n    one: &it {command: [sleep, inf]}\n    two: *it\n";
    let documents = parse("app.yaml", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let Document::App(app) = &documents[0] else { panic!("not an App") };
    assert_eq!(app.spec.components[&"one".parse().unwrap()], app.spec.components[&"two".parse().unwrap()]);
}
