//! Programs by token, in the document of the API.

use serde_json::{Value, json};

use super::{Operation, answer, asked, in_path, in_query, request_name, write_parameters};
use crate::problem::Sort;
use crate::wire::API_VERSION;

/// Paths of programs by token.
pub(super) fn paths() -> Vec<(String, Value)> {
    let [dry_run, ..] = write_parameters();
    let (project, name) = (in_path("project"), in_path("name"));
    let all = format!("/apis/{API_VERSION}/projects/{{project}}/programs");
    let program = json!({
        "type": "object",
        "required": ["id", "project", "runtime", "created", "state", "ports", "desired", "ready", "copies", "failures", "waits"],
    });
    let items = json!({
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array", "items": program}},
    });
    let loaded = json!({
        "type": "object",
        "required": ["id", "project", "checked"],
        "properties": {
            "id": {"type": "string", "description": "Its public id."},
            "project": {"type": "string"},
            "token": {"type": "string", "description": "What owns it; shown this once, and not with dryRun."},
            "checked": {"type": "boolean", "description": "Whether its syntax was checked."},
        },
    });
    let load = Operation::new("loadProgram", "Run a program from its text, under a token that owns it")
        .with(&[project.clone(), dry_run.clone(), request_name()])
        .body(&["application/json"], &new_program())
        .refuses(&[Sort::Conflict])
        .answers(200, answer(&loaded))
        .answers(201, answer(&loaded));
    let list =
        Operation::new("listPrograms", "Programs that were loaded").with(std::slice::from_ref(&project));
    let one =
        Operation::new("getProgram", "What has become of a program").with(&[project.clone(), name.clone()]);
    let grace = in_query("grace", &json!({"type": "string"}), "How long copies may take to end, such as 5s.");
    let unload = Operation::new("unloadProgram", "End a program")
        .with(&[project, name, dry_run, grace])
        .refuses(&[Sort::Conflict])
        .answers(200, answer(&json!({"type": "object", "required": ["unloaded"]})));
    let mut collection = asked(list, &items);
    collection["post"] = load.build();
    let mut item = asked(one, &program);
    item["delete"] = unload.build();
    vec![(all.clone(), collection), (format!("{all}/{{name}}"), item)]
}

/// A program to be loaded.
fn new_program() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let reserve = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {"cpu": {"type": "string"}, "memory": {"type": "string"}},
    });
    json!({
        "type": "object",
        "required": ["program", "runtime"],
        "additionalProperties": false,
        "properties": {
            "program": {"type": "string", "maxLength": 1_048_576, "description": "Its text."},
            "runtime": text("Which of the target's runtimes runs it."),
            "file": text("The name of its file, for people."),
            "ports": {"type": "array", "maxItems": 32, "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1},
            "health": {"type": "boolean", "description": "GET /health on its port 4001 is answered `true` while it is well."},
            "cpu": text("The limit of CPU time of each copy; 100m if nothing is said."),
            "memory": text("The limit of memory of each copy; 128Mi if nothing is said."),
            "reserve": reserve,
            "host": text("A host of the router that leads to the first port."),
            "target": text("Where it runs."),
        },
    })
}
