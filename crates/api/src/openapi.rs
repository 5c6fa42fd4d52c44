//! The document of the API (`OpenAPI` 3.1), made from the table of kinds and from the schemas that validate.

mod programs;

use std::sync::LazyLock;

use plimsoll_manifest::DocumentKind;
use plimsoll_model::object::KindScope;
use plimsoll_model::{App, Kind as _};
use serde_json::{Map, Value, json};

use crate::kinds::{Origin, Resource};
use crate::problem::Sort;
use crate::wire::API_VERSION;

/// The document, as `/openapi.json` serves it; made once.
pub fn openapi() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

fn make() -> Value {
    let mut schemas = common_schemas();
    let mut paths = fixed_paths();
    for resource in Resource::ALL {
        for (name, schema) in object_schemas(&resource) {
            schemas.insert(name, schema);
        }
        add_paths(&resource, &mut paths);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plimsoll",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Plans, deploys, heals, rolls back and explains.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Schemas that belong to no kind.
fn common_schemas() -> Map<String, Value> {
    let label = json!({"type": "string"});
    let metadata = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": label, "uid": label, "owner": label,
            "project": {"type": ["string", "null"]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
            "managedFields": {"type": "array", "items": reference("Manager")},
            "creationTimestamp": {"type": "string", "format": "date-time"},
            "deletionTimestamp": {"type": "string", "format": "date-time"},
            "generation": {"type": "integer"},
            "resourceVersion": {"type": "string", "description": "Opaque: compare it for equality, or send it back."},
        },
    });
    let manager = json!({
        "type": "object",
        "description": "Who has set which fields.",
        "required": ["manager", "operation", "time", "fields"],
        "properties": {
            "manager": {"type": "string"},
            "operation": {"type": "string", "enum": ["Apply", "Update"]},
            "time": {"type": "string", "format": "date-time"},
            "fields": {"type": "array", "items": {"type": "string", "description": "RFC 6901"}},
        },
    });
    let problem = json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": Sort::ALL.map(Sort::uri)},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": {"type": "string"},
                    "pointer": {"type": "string", "description": "RFC 6901"},
                    "manager": {"type": "string", "description": "Whose the field is."},
                },
            }},
        },
    });
    let mut schemas = Map::new();
    schemas.insert("Metadata".into(), metadata);
    schemas.insert("Manager".into(), manager);
    schemas.insert("Problem".into(), problem);
    schemas
}

/// What people write of a kind, and what is sent of it.
fn object_schemas(resource: &Resource) -> Vec<(String, Value)> {
    let mut schemas = Vec::new();
    let spec = if let Origin::Declared(kind) = resource.origin {
        let mut written = plimsoll_manifest::schema(kind);
        if let Some(definitions) = written.as_object_mut().and_then(|schema| schema.remove("$defs")) {
            let definitions = definitions.as_object().cloned().unwrap_or_default();
            schemas.extend(definitions.into_iter().map(|(name, schema)| (name, relocated(schema))));
        }
        written.as_object_mut().and_then(|schema| schema.remove("$schema"));
        // The path says it already.
        written["required"] = json!(if kind == DocumentKind::App { vec!["spec"] } else { vec![] });
        written["properties"]["metadata"]["required"] = json!([]);
        let written = relocated(written);
        let spec = match kind {
            // Values are never sent.
            DocumentKind::Secret => json!({"type": "object"}),
            _ => written["properties"]["spec"].clone(),
        };
        schemas.push((format!("{}Declaration", resource.kind), written));
        spec
    } else {
        json!({"type": "object"})
    };
    let object = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": resource.kind},
            "metadata": reference("Metadata"),
            "spec": spec,
            "operations": {"type": ["object", "null"]},
            "status": {"type": ["object", "null"]},
        },
    });
    let list = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "items"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": format!("{}List", resource.kind)},
            "metadata": {
                "type": "object",
                "required": ["resourceVersion"],
                "properties": {"resourceVersion": {"type": "string"}, "continue": {"type": ["string", "null"]}},
            },
            "items": {"type": "array", "items": reference(resource.kind)},
        },
    });
    schemas.push((resource.kind.to_owned(), object));
    schemas.push((format!("{}List", resource.kind), list));
    schemas
}

/// A schema whose definitions have moved to the components.
fn relocated(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if let (true, Some(place)) = (key == "$ref", value.as_str()) {
                    *value = json!(place.replace("#/$defs/", "#/components/schemas/"));
                } else {
                    *value = relocated(value.take());
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = relocated(item.take())),
        _ => {}
    }
    schema
}

/// One operation.
struct Operation {
    id: String,
    summary: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(u16, Value)>,
    problems: Vec<Sort>,
}

fn answer(schema: &Value) -> Value {
    json!({"description": "Done.", "content": {"application/json": {"schema": schema}}})
}

fn text() -> Value {
    json!({"description": "Yes.", "content": {"text/plain": {"schema": {"type": "string"}}}})
}

impl Operation {
    fn new(id: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            summary: summary.into(),
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            // What any request may be answered with.
            problems: vec![
                Sort::BadRequest,
                Sort::Unauthorized,
                Sort::Forbidden,
                Sort::NotFound,
                Sort::TooMany,
                Sort::Unavailable,
            ],
        }
    }

    fn with(mut self, parameters: &[Value]) -> Self {
        self.parameters.extend_from_slice(parameters);
        self
    }

    fn body(mut self, media: &[&str], schema: &Value) -> Self {
        let content: Map<String, Value> =
            media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        self.body = Some(json!({"required": true, "content": content}));
        self.problems.extend([Sort::TooLarge, Sort::Invalid]);
        self
    }

    fn answers(mut self, status: u16, answer: Value) -> Self {
        self.answers.push((status, answer));
        self
    }

    fn refuses(mut self, problems: &[Sort]) -> Self {
        self.problems.extend_from_slice(problems);
        self
    }

    fn build(self) -> Value {
        let mut responses = Map::new();
        for problem in self.problems {
            let (status, _, title) = problem.parts();
            let content = json!({"application/problem+json": {"schema": reference("Problem")}});
            responses.insert(status.as_u16().to_string(), json!({"description": title, "content": content}));
        }
        for (status, answer) in self.answers {
            responses.insert(status.to_string(), answer);
        }
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "parameters": self.parameters,
            "responses": responses,
        });
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        operation
    }
}

fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
}

fn in_query(name: &str, schema: &Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "schema": schema, "description": description})
}

fn in_header(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "header", "schema": {"type": "string"}, "description": description})
}

/// The name of a request that may come again.
fn request_name() -> Value {
    in_header(
        "Idempotency-Key",
        "A name of your own: the same request of this name is carried out once, within a day.",
    )
}

fn list_parameters() -> [Value; 6] {
    let text = json!({"type": "string"});
    [
        in_query("limit", &json!({"type": "integer", "minimum": 0}), "Objects of a page, 500 at most."),
        in_query("continue", &text, "Where the page before ended: its metadata.continue."),
        in_query("labelSelector", &text, "a=b, a!=b, a in (b,c), a notin (b), a, !a, joined by commas."),
        in_query("fieldSelector", &text, "The same for paths such as metadata.name."),
        in_query(
            "watch",
            &json!({"type": "boolean"}),
            "Tell what changes, as JSON lines or server-sent events.",
        ),
        in_query("resourceVersion", &text, "Where a watch goes on; it begins with everything that is there."),
    ]
}

fn write_parameters() -> [Value; 3] {
    [
        in_query(
            "dryRun",
            &json!({"type": "string", "enum": ["All"]}),
            "Check everything, and write nothing.",
        ),
        in_header("If-Match", "Only if the object is at this version, its ETag."),
        in_query("fieldManager", &json!({"type": "string"}), "Who sets the fields."),
    ]
}

/// Paths of a kind.
fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let (plural, kind) = (resource.plural, resource.kind);
    let list = |id: String, place: &str| {
        let problems: &[Sort] = if resource.origin == Origin::Derived { &[] } else { &[Sort::Gone] };
        Operation::new(id, format!("List {plural}{place}"))
            .with(&list_parameters())
            .answers(
                200,
                json!({
                    "description": "A page, or what changes.",
                    "content": {
                        "application/json": {"schema": reference(&format!("{kind}List"))},
                        "application/x-ndjson": {"schema": {"type": "string"}},
                        "text/event-stream": {"schema": {"type": "string"}},
                    },
                }),
            )
            .refuses(problems)
    };
    let (collection, names) = match resource.scope {
        KindScope::Project => {
            let all = list(format!("listAll{kind}"), " of all projects").build();
            paths.insert(format!("/apis/{API_VERSION}/{plural}"), json!({"get": all}));
            (
                format!("/apis/{API_VERSION}/projects/{{project}}/{plural}"),
                vec![in_path("project"), in_path("name")],
            )
        }
        KindScope::Installation => (format!("/apis/{API_VERSION}/{plural}"), vec![in_path("name")]),
    };
    let place = &names[..names.len() - 1];
    let mut item = json!({"get": list(format!("list{kind}"), "").with(place).build()});
    if resource.origin == Origin::Made {
        let token =
            json!({"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}});
        let new = json!({"type": "object", "required": ["name"]});
        let create = Operation::new("createToken", "Make a token; its text is shown this once")
            .with(&[request_name()])
            .body(&["application/json"], &new)
            .answers(201, answer(&token))
            .refuses(&[Sort::Conflict]);
        item["post"] = create.build();
    }
    paths.insert(collection.clone(), item);
    paths.insert(format!("{collection}/{{name}}"), one_object(resource, &names));
}

/// What can be asked of one object.
fn one_object(resource: &Resource, names: &[Value]) -> Value {
    let (plural, kind) = (resource.plural, resource.kind);
    let got = json!({
        "description": "The object.",
        "headers": {"ETag": {"schema": {"type": "string"}}},
        "content": {"application/json": {"schema": reference(kind)}},
    });
    let get = Operation::new(format!("get{kind}"), format!("One of {plural}"))
        .with(names)
        .answers(200, got.clone())
        .answers(304, json!({"description": "It is the one that If-None-Match names."}));
    let mut item = json!({"get": get.build()});
    let write = |verb: &str| {
        Operation::new(format!("{verb}{kind}"), format!("{verb} one of {plural}"))
            .with(names)
            .with(&write_parameters())
            .refuses(&[Sort::Conflict, Sort::Stale])
    };
    let changed = |operation: Operation| operation.answers(200, got.clone()).answers(201, got.clone());
    if let Origin::Declared(_) = resource.origin {
        let declaration = reference(&format!("{kind}Declaration"));
        let put = write("put").body(&["application/json", "application/yaml"], &declaration);
        item["put"] = changed(put).refuses(&[Sort::MediaType]).build();
        let patch = write("patch").body(&["application/merge-patch+json"], &json!({"type": "object"}));
        let mut patch = changed(patch).refuses(&[Sort::MediaType]).build();
        patch["requestBody"]["content"]["application/json-patch+json"] = json!({"schema": {"type": "array"}});
        patch["requestBody"]["content"]["application/apply-patch+yaml"] =
            json!({"schema": {"type": "object"}});
        let force = json!({"type": "boolean"});
        let force = in_query("force", &force, "Take fields from others, when a part is applied.");
        if let Some(parameters) = patch["parameters"].as_array_mut() {
            parameters.push(force);
        }
        item["patch"] = patch;
    }
    if resource.origin.is_deletable() {
        let deleted = json!({"type": "object", "required": ["deleted"]});
        let mut parameters = write_parameters().to_vec();
        parameters.truncate(2);
        if resource.plural == App::PLURAL {
            parameters.push(flag(
                "abandon",
                "Do not wait for a target that does not answer; a tombstone tells what is left.",
            ));
        }
        let delete = Operation::new(format!("delete{kind}"), format!("delete one of {plural}"));
        let delete = delete.with(names).with(&parameters).refuses(&[Sort::Conflict, Sort::Stale]);
        item["delete"] = delete.answers(200, answer(&deleted)).build();
    }
    item
}

/// The way of a question, answered with JSON of a schema.
fn asked(operation: Operation, schema: &Value) -> Value {
    json!({"get": operation.answers(200, answer(schema)).build()})
}

/// Paths that belong to the server as a whole.
fn fixed_paths() -> Map<String, Value> {
    let base = format!("/apis/{API_VERSION}");
    let object = json!({"type": "object"});
    let items = json!({"type": "object", "required": ["items"], "properties": {"items": {"type": "array"}}});
    let health = |id: &str, summary: &str| {
        let mut operation = Operation::new(id, summary).answers(200, text()).build();
        operation["security"] = json!([]);
        json!({"get": operation})
    };
    let metrics = Operation::new("metrics", "What the control plane measures of itself").answers(200, text());
    let audit = Operation::new("audit", "Who changed what").with(&[number("after"), number("limit")]);
    let paths = [
        ("/metrics".to_owned(), json!({"get": metrics.build()})),
        ("/livez".to_owned(), health("livez", "Whether the process answers")),
        ("/readyz".to_owned(), health("readyz", "Whether the store answers")),
        ("/version".to_owned(), asked(Operation::new("version", "The version of the server"), &object)),
        ("/openapi.json".to_owned(), asked(Operation::new("openapi", "This document"), &object)),
        (
            format!("{base}/whoami"),
            asked(Operation::new("whoami", "Who the caller is, and where what"), &object),
        ),
        (format!("{base}/router"), asked(Operation::new("router", "Where routes are served"), &object)),
        (format!("{base}/audit"), asked(audit, &items)),
        (format!("{base}/backup"), backup()),
        (format!("{base}/hold"), hold()),
        (format!("{base}/migrate"), migrate()),
        (format!("{base}/rotate-key"), rotate()),
        (format!("{base}/login"), login()),
    ];
    paths
        .into_iter()
        .chain(verb_paths())
        .chain(build_paths())
        .chain(image_paths())
        .chain(copy_paths())
        .chain(programs::paths())
        .collect()
}

fn flag(name: &str, description: &str) -> Value {
    in_query(name, &json!({"type": "boolean"}), description)
}

/// Paths about running copies.
fn copy_paths() -> Vec<(String, Value)> {
    let base = format!("/apis/{API_VERSION}");
    let (project, name) = (in_path("project"), in_path("name"));
    let word = |name: &str, description: &str| in_query(name, &json!({"type": "string"}), description);
    let exec =
        Operation::new("exec", "Run a command beside a copy's program, over a WebSocket (v5.channel.k8s.io)")
            .with(&[project.clone(), name])
            .with(&[
                word("command", "The command line, as a JSON list of texts."),
                word("component", "A copy of this component."),
                word("instance", "This copy."),
                flag("stdin", "Standard input is passed on."),
                flag("tty", "It gets a terminal."),
            ])
            .answers(101, json!({"description": "Messages follow."}));
    let usage = Operation::new("usage", "What copies use now")
        .with(&[project.clone(), word("app", "Only copies of this App.")]);
    let items = json!({"type": "object", "required": ["items"]});
    let found = Operation::new("httpSd", "Every port of every copy, for Prometheus")
        .with(&[project])
        .answers(304, json!({"description": "It is the one that If-None-Match names."}));
    vec![
        (format!("{base}/projects/{{project}}/apps/{{name}}/exec"), json!({"get": exec.build()})),
        (format!("{base}/projects/{{project}}/usage"), asked(usage, &items)),
        (format!("{base}/projects/{{project}}/http_sd"), asked(found, &json!({"type": "array"}))),
    ]
}

fn backup() -> Value {
    let keys = json!({"type": "array", "minItems": 1, "items": {"type": "string"}});
    let new = json!({"type": "object", "required": ["recipients"], "properties": {"recipients": keys}});
    let file = json!({
        "description": "The backup, an age file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    });
    let backup = Operation::new("backup", "A backup of this moment, encrypted for its recipients");
    json!({"post": backup.body(&["application/json"], &new).answers(200, file).build()})
}

fn hold() -> Value {
    let get = Operation::new("getHold", "What the release of a restore would do; null if nothing is on hold");
    let delete = Operation::new("releaseHold", "Let everything be done after a restore");
    let released = json!({"type": "object", "required": ["released"]});
    json!({
        "get": get.answers(200, answer(&json!({"type": ["object", "null"]}))).build(),
        "delete": delete.answers(200, answer(&released)).build(),
    })
}

fn migrate() -> Value {
    let to = json!({"type": "string", "description": "The address of a PostgreSQL database."});
    let new = json!({"type": "object", "required": ["to"], "properties": {"to": to}});
    let migrate = Operation::new("migrate", "Move everything to a PostgreSQL database");
    let migrate = migrate.body(&["application/json"], &new).refuses(&[Sort::Conflict]);
    json!({"post": migrate.answers(200, answer(&json!({"type": "object"}))).build()})
}

/// The one path below the API's own that needs no token.
fn login() -> Value {
    let text = json!({"type": "string"});
    let all = |names: &[&str]| {
        let properties: Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
        json!({"type": "object", "required": names, "additionalProperties": false, "properties": properties})
    };
    let new = json!({"oneOf": [all(&["code", "codeVerifier", "redirectUri", "nonce"]), all(&["idToken", "nonce"])]});
    let done = json!({"type": "object", "required": ["token", "name", "user", "expires"]});
    let get = Operation::new("loginPlace", "Where people say who they are, if there is a place");
    let post =
        Operation::new("login", "A token for whoever proves who they are").body(&["application/json"], &new);
    let mut item = json!({
        "get": get.answers(200, answer(&json!({"type": "object", "required": ["issuer", "clientId"]}))).build(),
        "post": post.answers(201, answer(&done)).build(),
    });
    for operation in ["get", "post"] {
        item[operation]["security"] = json!([]);
    }
    item
}

/// Paths of what pipelines and registries say of images.
fn image_paths() -> Vec<(String, Value)> {
    let [dry_run, _, manager] = write_parameters();
    let deploy = Operation::new("deploy", "Say which bytes the images of a repository stand for")
        .with(&[in_path("project"), dry_run, manager, request_name()])
        .body(&["application/json"], &wish())
        .refuses(&[Sort::Conflict, Sort::Stale])
        .answers(200, answer(&json!({"type": "object", "required": ["deployed"]})));
    vec![
        (format!("/apis/{API_VERSION}/projects/{{project}}/deploy"), json!({"post": deploy.build()})),
        ("/hooks/registry".to_owned(), notice()),
        ("/hooks/{project}/{name}".to_owned(), delivery()),
    ]
}

/// What somebody wants deployed.
fn wish() -> Value {
    let text = json!({"type": "string"});
    let commit = json!({
        "type": "object",
        "required": ["id", "at"],
        "additionalProperties": false,
        "properties": {"id": text, "at": {"type": "string", "format": "date-time"}},
    });
    json!({
        "type": "object",
        "required": ["image"],
        "additionalProperties": false,
        "properties": {
            "image": {"type": "string", "description": "REPOSITORY@sha256:…"},
            "app": text, "component": text, "commit": commit,
            "rollback": {"type": "boolean", "description": "Deploy it though something newer was deployed before."},
        },
    })
}

/// What somebody else signs, beside the API's own paths and without a token.
fn delivery() -> Value {
    let moved = json!({
        "type": "object",
        "required": ["image"],
        "additionalProperties": false,
        "properties": {"image": {"type": "string"}},
    });
    let says = |kind: &str, data: &Value| {
        json!({
            "type": "object",
            "required": ["type", "data"],
            "properties": {"type": {"const": kind}, "data": data},
        })
    };
    let pushed = json!({
        "type": "object",
        "required": ["repository"],
        "additionalProperties": false,
        "properties": {"repository": {"type": "string", "description": "Its address, by whichever way."}},
    });
    let announcements =
        [says("deploy", &wish()), says("image.moved", &moved), says("source.pushed", &pushed)];
    let body = json!({"oneOf": announcements});
    let post = Operation::new("deliver", "Take a delivery that is signed as Standard Webhooks says")
        .with(&[
            in_path("project"),
            in_path("name"),
            in_header("webhook-id", "Its name: the same one when it is sent again."),
            in_header("webhook-timestamp", "When it was signed, in seconds since 1970 UTC."),
            in_header("webhook-signature", "`v1,` and HMAC-SHA-256 of ID.TIMESTAMP.BODY in base64."),
        ])
        .body(&["application/json"], &body)
        .refuses(&[Sort::Conflict]);
    let mut item = json!({"post": post.answers(200, answer(&json!({"type": "object"}))).build()});
    item["post"]["security"] = json!([]);
    item
}

/// What registries send.
fn notice() -> Value {
    let target = json!({"type": "object", "properties": {"repository": {"type": ["string", "null"]}}});
    let event = json!({
        "type": "object",
        "required": ["action", "target"],
        "properties": {"action": {"type": "string"}, "target": target},
    });
    let body = json!({
        "type": "object",
        "required": ["events"],
        "properties": {"events": {"type": "array", "items": event}},
    });
    let media = ["application/vnd.docker.distribution.events.v1+json", "application/json"];
    let post = Operation::new("notice", "Look at images of which a registry says that they have moved");
    json!({"post": post.body(&media, &body).answers(202, answer(&json!({"type": "object"}))).build()})
}

fn rotate() -> Value {
    let properties = json!({"key": {"type": "string"}, "secrets": {"type": "integer"}});
    let done = json!({"type": "object", "required": ["key", "secrets"], "properties": properties});
    let rotate = Operation::new("rotateKey", "Seal all secrets with a new key; nothing is rolled for that");
    json!({"post": rotate.refuses(&[Sort::Conflict]).answers(200, answer(&done)).build()})
}

fn number(name: &str) -> Value {
    in_query(name, &json!({"type": "integer", "minimum": 0}), "A number.")
}

/// What is asked of builds beside what is known of them.
fn build_paths() -> Vec<(String, Value)> {
    let base = format!("/apis/{API_VERSION}/projects/{{project}}/builds/{{name}}");
    let [dry_run, ..] = write_parameters();
    let place = [in_path("project"), in_path("name")];
    let follow = flag("follow", "Go on with what is said, until it is built or not.");
    let said = json!({"description": "The text.", "content": {"text/plain": {"schema": {"type": "string"}}}});
    let log = Operation::new("buildLog", "What the latest attempt to build a source has said");
    let retry = Operation::new("retryBuild", "Build a source again, though nothing of it has changed");
    let retry = retry.with(&place).with(&[dry_run]).answers(200, answer(&json!({"type": "object"})));
    vec![
        (format!("{base}/log"), json!({"get": log.with(&place).with(&[follow]).answers(200, said).build()})),
        (format!("{base}/retry"), json!({"post": retry.build()})),
    ]
}

/// Paths of what is asked of a project and its Apps.
fn verb_paths() -> Vec<(String, Value)> {
    let base = format!("/apis/{API_VERSION}");
    let object = json!({"type": "object"});
    let (project, name) = (in_path("project"), in_path("name"));
    let text_body = ["application/json", "application/yaml"];
    let documents = json!({});
    let hash = in_query("path", &json!({"type": "string"}), "Refuse any other plan than this one.");
    let word = |name: &str| in_query(name, &json!({"type": "string"}), "A name.");
    let post = |operation: Operation, schema: &Value| json!({"post": operation.answers(200, answer(schema)).build()});
    let [dry_run, if_match, manager] = write_parameters();
    vec![
        (
            format!("{base}/projects/{{project}}/apply"),
            post(
                Operation::new("apply", "Bring what documents declare into the store")
                    .with(&[project.clone(), hash, dry_run.clone(), manager.clone(), request_name()])
                    .body(&text_body, &documents)
                    .refuses(&[Sort::Conflict, Sort::PlanChanged]),
                &object,
            ),
        ),
        (
            format!("{base}/projects/{{project}}/plan"),
            post(
                Operation::new("plan", "What applying documents would do")
                    .with(std::slice::from_ref(&project))
                    .body(&text_body, &documents),
                &json!({"type": "array"}),
            ),
        ),
        (
            format!("{base}/projects/{{project}}/content/{{digest}}"),
            json!({"put": Operation::new("putContent", "The bytes of a program")
                .with(&[project.clone(), in_path("digest")])
                .body(&["application/octet-stream"], &json!({}))
                .answers(200, answer(&object))
                .build()}),
        ),
        (
            format!("{base}/projects/{{project}}/apps/{{name}}/operations"),
            post(
                Operation::new("operate", "What verbs say of an App")
                    .with(&[project.clone(), name.clone(), dry_run, if_match, manager, request_name()])
                    .body(&["application/json"], &json!({}))
                    .refuses(&[Sort::Conflict, Sort::Stale]),
                &object,
            ),
        ),
        (
            format!("{base}/projects/{{project}}/apps/{{name}}/logs"),
            json!({"get": Operation::new("logs", "What an App's copies said")
                .with(&[
                    project.clone(),
                    name.clone(),
                    word("component"),
                    word("instance"),
                    number("tail"),
                    number("after"),
                    flag("previous", "Only what was said before the present run."),
                    flag("follow", "Go on with what is said from now on, as JSON lines."),
                ])
                .answers(200, json!({
                    "description": "The lines.",
                    "content": {
                        "application/json": {"schema": {"type": "array"}},
                        "application/x-ndjson": {"schema": {"type": "string"}},
                    },
                }))
                .build()}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed document is the one that is served: a change of the API shows in review.
    #[test]
    fn the_committed_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let text = serde_json::to_string_pretty(openapi()).unwrap() + "\n";
        if std::env::var_os("PLIMSOLL_WRITE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text, "run the tests with PLIMSOLL_WRITE=1 and commit crates/api/openapi.json");
    }
}
