//! Bad files: for each the line, the path, and what a person is told.

use plimsoll_manifest::parse;

const HEAD: &str = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: shop}\nspec:\n  components:\n    web:\n      command: [run]\n";

/// All errors of a text, printed.
fn errors(text: &str) -> Vec<String> {
    match parse("f", text.as_bytes()) {
        Ok(documents) => panic!("accepted: {documents:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// The one error of a component that has these lines beside its command, from line 8.
fn of_component(lines: &str) -> String {
    let body: String = lines.lines().flat_map(|line| ["      ", line, "\n"]).collect();
    let found = errors(&format!("{HEAD}{body}"));
    assert_eq!(found.len(), 1, "{lines}: {found:#?}");
    found.concat()
}

/// Lines in a component, and a part of the one error they are.
const SLIPS: &[(&str, &str)] = &[
    (
        "replica: 3",
        "8:7: spec.components.web.replica: unknown field `replica`\n  help: did you mean `replicas`?",
    ),
    (
        "replicas: three",
        "8:17: spec.components.web.replicas: expected a whole number, found the text `three`",
    ),
    ("replicas: \"3\"", "expected a whole number, found the text `3`\n  help: write it without quotes: 3"),
    ("replicas: 5000", "8:17: spec.components.web.replicas: the number `5000` is more than 1000"),
    ("replicas: -1", "the number `-1` is less than 0"),
    ("replicas: 1.5", "expected a whole number, found the number `1.5`\n  help: write a whole number"),
    ("replicas: 3.0", "8:17: spec.components.web.replicas: expected a whole number, found the number `3.0`"),
    ("replicas: 1e3", "8:17: spec.components.web.replicas: expected a whole number"),
    ("replicas: 99999999999999999999", "8:17: spec.components.web.replicas: the number is out of range"),
    ("replicas: 1e400", "8:17: spec.components.web.replicas: the number is out of range"),
    ("replicas: .nan", "8:17: spec.components.web.replicas: infinity and not-a-number"),
    (
        "resources: {cpu: 5x}",
        "8:24: spec.components.web.resources.cpu: the text `5x` is not valid here\n  help: write cores as `2`",
    ),
    ("resources: {cpu: 2}", "expected text, found the number `2`\n  help: put it in quotes: \"2\""),
    (
        "resources: {cpu: \"2000\"}",
        "spec.components.web.resources.cpu: \"2000\" is not a valid CPU quantity\n  help: write cores as",
    ),
    (
        "grace: 1m1h",
        "8:14: spec.components.web.grace: \"1m1h\" is not a valid duration\n  help: write a duration as",
    ),
    (
        "update: {strategy: rollin}",
        "8:26: spec.components.web.update.strategy: the text `rollin` is not one of: rolling, recreate, canary, blue-green\n  help: did you mean `rolling`?",
    ),
    (
        "update: {strategy: canary, steps: [{weight: 101}]}",
        "update.steps[0].weight: the number `101` is more than 100",
    ),
    (
        "update: {steps: [{weight: 10}]}",
        "update.steps: only `canary` and `blue-green` go in steps\n  help: strategy: canary",
    ),
    (
        "update: {strategy: canary, steps: [{weight: 20}, {weight: 10}]}",
        "update.steps[1].weight: it is less than in the step before",
    ),
    ("scale: {max: 3}", "scale.on: nothing is measured"),
    ("scale: {max: 3, on: {}}", "scale.on: nothing is measured\n  help: on: {inFlight: 10}"),
    (
        "resources: {cpu: \"1\"}\nscale: {min: 0, max: 3, on: {cpu: 70}}",
        "scale.min: the number `0` is less than 1",
    ),
    (
        "resources: {cpu: \"1\"}\nscale: {min: 4, max: 3, on: {cpu: 70}}",
        "scale.max: it is less than `min`, which is 4",
    ),
    (
        "scale: {max: 3, on: {cpu: 70}}",
        "scale.on.cpu: it is a part of `resources.cpu`, which is not declared",
    ),
    ("scale: {max: 3, on: {requests: 70}}", "scale.on.requests: the router counts the requests of `routes`"),
    ("scale: {max: 3, toZero: {}}", "scale.toZero: nobody could wake it: the component has no `routes`"),
    (
        "ports: {http: 80}\nroutes: [{host: a, port: http}]\nscale: {max: 3, toZero: {hold: 1h}}",
        "scale.toZero.hold: a request waits for 1s at least and 10m at most",
    ),
    (
        "ports: {http: 80}\nroutes: [{host: a, port: http}]\nscale: {max: 3, on: {requests: 7}, down: {window: 59s, cooldown: 1m}}",
        "scale.down.window: a router started anew has not counted `requests` for a minute\n  help: window: 1m",
    ),
    ("scale: {max: 3, on: {inFlight: 7}}", "scale.on.inFlight: the router has none"),
    ("hooks: {befor: {command: [x]}}", "unknown field `befor`\n  help: did you mean `before`?"),
    (
        "hooks: {before: {deadline: 1m}}",
        "hooks.before: nothing says what to run\n  help: command: [./migrate]",
    ),
    ("hooks: {after: {command: [x], deadline: 0s}}", "hooks.after.deadline: a task needs some time"),
    (
        "hooks: {after: {command: [x, \"${db.url}\"], env: {A: \"${db.url}\"}}}",
        "hooks.after.env.A: `${db.…}`: the component consumes no `db`",
    ),
    (
        "hooks: {before: {command: [\"{file}\"]}}",
        "hooks.before.command: `{file}` stands for the program's file",
    ),
    ("update: {strategy: blue-green}", "update.strategy: there is no traffic that could move at once"),
    (
        "volumes: {d: {path: d}}\nupdate: {strategy: canary}",
        "update.strategy: new copies run beside the old ones, and a volume is never open in two copies of one slot\n  help: strategy: rolling",
    ),
    ("update: {gate: {errors: 1 %}}", "write a share as `1%` or `0.5%`, at most 100%"),
    (
        "update: {gate: {errors: 1%}}",
        "update.gate.errors: the router counts the requests of `routes`, and the component has none",
    ),
    (
        "update: {gate: {queries: [{prometheus: up}]}}",
        "update.gate.queries[0]: a number is judged by `most`, `least` or both",
    ),
    (
        "command: [other]",
        "8:7: spec.components.web.command: the key `command` is given twice; the first is on line 7",
    ),
    ("args: one two", "expected a list, found the text `one two`\n  help: write a list: [\"one two\"]"),
    ("env:", "8:10: spec.components.web.env: expected a mapping, found nothing\n  help: remove the key"),
    (
        "env: {A: 1.5}",
        "8:16: spec.components.web.env.A: expected text, a whole number, true/false or {secret: name/key}, found the number `1.5`\n  help: put the number in quotes",
    ),
    ("env: {A: 3.0}", "spec.components.web.env.A: expected a whole number, found the number `3.0`"),
    ("env: {A: [1]}", "expected text, a whole number, true/false or {secret: name/key}, found a list"),
    ("env: {A: {secert: db/x}}", "unknown field `secert`\n  help: did you mean `secret`?"),
    (
        "env: {A: {secret: db}}",
        "8:25: spec.components.web.env.A.secret: the text `db` is not valid here\n  help: write `name/key`",
    ),
    (
        "env: {1A: x}",
        "8:13: spec.components.web.env.1A: `1A` is not a valid name\n  help: use 1 to 128 letters",
    ),
    ("env: {PIN: 0123}", "8:18: spec.components.web.env.PIN: a number with a leading zero"),
    (
        "ports: {HTTP: 80}",
        "8:15: spec.components.web.ports.HTTP: `HTTP` is not a valid name\n  help: use 1 to 63 lower-case letters, digits or '-', beginning and ending with a letter or digit, for example `http`",
    ),
    ("ports: {http: 70000}", "8:21: spec.components.web.ports.http: the number `70000` is more than 65535"),
    ("ports: {http: 0}", "the number `0` is less than 1"),
    (
        "routes: [{host: a.b}]",
        "8:16: spec.components.web.routes[0]: `port` is missing\n  help: `port`: Name of the port",
    ),
    (
        "ports: {http: 80}\nroutes:\n  - {host: a, port: htp}",
        "10:27: spec.components.web.routes[0].port: the component has no port `htp` (known: http)",
    ),
    (
        "health: {htp: {port: http}}",
        "8:16: spec.components.web.health.htp: unknown field `htp`\n  help: did you mean `http`?",
    ),
    ("health: {every: 2s}", "spec.components.web.health: give exactly one of `http`, `tcp` and `exec`"),
    (
        "files: {../x: {content: a}}",
        "spec.components.web.files[\"../x\"]: the path leads out of its directory",
    ),
    ("workdir: !!binary x", "8:16: spec.components.web.workdir: a tag (`!…`)"),
    ("workdir: !!int x", "8:16: spec.components.web.workdir: the value does not have the type"),
    ("<<: {replicas: 1}", "8:7: spec.components.web[\"<<\"]: merge keys (`<<`) are not understood"),
    ("? [a]\n: b", "8:9: spec.components.web: a key must be text, not a list or a mapping"),
    ("env: {A: {{ value }}}", "spec.components.web.env.A: a key must be text"),
    ("env: &e [*e]", "an alias inside of what it names"),
];

#[test]
fn slips_in_a_component_are_explained() {
    for (lines, expected) in SLIPS {
        let found = of_component(lines);
        assert!(found.contains(expected), "for {lines}\nexpected {expected}\nfound    {found}");
    }
}

#[test]
fn what_is_not_built_yet_is_unknown_and_the_known_is_listed() {
    let found = of_component("vm: {image: x}");
    assert!(found.contains("8:7: spec.components.web.vm: unknown field `vm`"), "{found}");
    assert!(found.contains("help: known fields: args, command, consumes, env"), "{found}");
}

#[test]
fn heads_of_documents_are_checked() {
    let table = [
        ("", "1:1: the file holds no document\n  help: begin with `apiVersion: plimsoll.dev/v1`"),
        ("# nothing\n---\n---\n", "1:1: the file holds no document"),
        ("- a\n", "1:1: the document is not a mapping"),
        (
            "metadata: {name: a}\n",
            "1:1: `kind` is missing\n  help: write one of: App, Project, Target, Secret",
        ),
        ("kind: app\n", "1:7: kind: unknown kind `app`\n  help: did you mean `App`?"),
        (
            "kind: Deployment\n",
            "unknown kind `Deployment`\n  help: known kinds: App, Project, Target, Secret",
        ),
        ("kind: [App]\n", "1:7: kind: the kind is not a text"),
        (
            "apiVersion: apps/v1\nkind: Project\nmetadata: {name: a}\n",
            "1:13: apiVersion: expected `plimsoll.dev/v1`, found the text `apps/v1`",
        ),
        (
            "kind: Project\nmetadata: {name: a}\n",
            "1:1: `apiVersion` is missing\n  help: `apiVersion`: write `apiVersion: plimsoll.dev/v1`",
        ),
        (
            "apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {name: My_Shop}\n",
            "3:18: metadata.name: the text `My_Shop` is not valid here\n  help: use 1 to 63 lower-case letters, digits or '-', beginning and ending with a letter or digit, for example `my-shop`",
        ),
        ("apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {name: a.b}\n", "3:18: metadata.name"),
        (
            "apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {name: a, project: b}\n",
            "metadata.project: unknown field `project`",
        ),
        ("apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {}\n", "3:1: metadata: `name` is missing"),
        (
            "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a, project: b, namespace: b}\nspec: {}\n",
            "3:33: metadata.namespace: `namespace` is another name of `project`",
        ),
        ("apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a}\n", "1:1: `spec` is missing"),
        (
            "apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {name: a}\noperations: {}\n",
            "4:1: operations: unknown field `operations`",
        ),
        ("apiVersion: plimsoll.dev/v1\nkind: Secret\nmetadata: {name: a}\n", "1:1: `data` is missing"),
        ("a: [\n", "not valid YAML"),
        ("a: 1\n\tb: 2\n", "not valid YAML"),
        ("a: *nope\n", "1:4: a: this is not valid YAML: while parsing node, found unknown anchor"),
    ];
    for (text, expected) in table {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].contains(expected), "for {text}\nexpected {expected}\nfound    {}", found[0]);
    }
}

#[test]
fn bytes_that_are_no_text_have_a_place() {
    let found = parse("f", b"a: 1\nb: \xc3\xa4\xff\n").unwrap_err().to_string();
    assert_eq!(found, "f:2:5: byte 0xff is not UTF-8\n  help: save the file as UTF-8");
    let found = parse("f", &vec![b' '; (1 << 20) + 1]).unwrap_err().to_string();
    assert!(found.starts_with("f:1:1: the file has 1048577 bytes; 1048576 are allowed"), "{found}");
}

#[test]
fn errors_of_all_stages_and_documents_come_together() {
    let text = "apiVersion: plimsoll.dev/v1
kind: App
metadata: {name: shop}
spec:
  components:
    web:
      command: [run]
      replica: 2
      replicas: 3.0
      ports: {http: 80, admin: 80}
      env: {N: 1e999, URL: '${port:nope}'}
    Web2:
      command: [run]
    db:
      command: [run]
      grace: 1x
      args: [a, 5]
---
kind: [
---
apiVersion: plimsoll.dev/v1
kind: Target
metadata: {name: local}
spec: {runtimes: {python: {command: []}}}
";
    let found: Vec<String> =
        errors(text).iter().map(|error| error.split('\n').next().unwrap().to_owned()).collect();
    assert_eq!(
        found,
        [
            "8:7: spec.components.web.replica: unknown field `replica`",
            "9:17: spec.components.web.replicas: expected a whole number, found the number `3.0`",
            "10:21: spec.components.web.ports.http: 80 is already the port `admin`",
            "11:16: spec.components.web.env.N: the number is out of range: it does not fit into 64 bits",
            "11:28: spec.components.web.env.URL: `${port:nope}`: the component has no such port (known: admin, http)",
            "12:5: spec.components.Web2: `Web2` is not a valid name",
            "16:14: spec.components.db.grace: the text `1x` is not valid here",
            "17:17: spec.components.db.args[1]: expected text, found the number `5`",
            "20:1: kind[0]: this is not valid YAML: while parsing a node, did not find expected node content",
            "24:37: spec.runtimes.python.command: the list is empty",
        ]
    );
}

#[test]
fn one_slip_is_one_error() {
    let text = "apiVersion: plimsoll.dev/v1
kind: App
metadata: {name: shop}
spec:
  components:
    db:
      comand: [run]
      ports: {pg: '5432'}
      provides: {sql: {interface: postgresql, prt: pg}}
    web:
      command: [run]
      prots: {http: 80}
      health: {tcp: {port: http}}
      routes: [{host: a.b, port: http}]
      consumes: {db: {interface: postgresql, from: db/sql}}
";
    let found = errors(text);
    let unknown: Vec<&str> = found.iter().map(|error| error.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        unknown,
        [
            "spec.components.db.comand",
            "spec.components.db.ports.pg",
            "spec.components.db.provides.sql.prt",
            "spec.components.web.prots"
        ],
        "{found:#?}"
    );
}

#[test]
fn tools_get_pointers_and_no_file_has_endless_errors() {
    let many = (0..150).map(|n| format!("      wrong{n}: 1\n")).collect::<Vec<_>>().concat();
    let errors = parse("f", format!("{HEAD}{many}").as_bytes()).unwrap_err();
    assert_eq!((errors.iter().count(), errors.omitted), (100, 50));
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json["errors"][0]["pointer"], "/spec/components/web/wrong0");
    assert_eq!(json["errors"][0]["line"], 8);
}

#[test]
fn values_of_secrets_are_never_told() {
    let head = "apiVersion: plimsoll.dev/v1\nkind: Secret\nmetadata: {name: db}\n";
    let table = [
        ("data: {KEY: [hunter2]}", "4:13: data.KEY: expected text, found a list"),
        ("data: {KEY: 4711}", "data.KEY: expected text, found a number\n  help: put it in quotes: \"…\""),
        ("data: {KEY: true}", "data.KEY: expected text, found true or false"),
        ("data: hunter2", "4:7: data: expected a mapping, found text"),
        ("data: {KEY: 47110000000000000000}", "data.KEY: the number is out of range"),
        ("data: {KEY: 04711}", "data.KEY: a number with a leading zero"),
        ("data: {KEY: !hunter2 x}", "data.KEY: a tag (`!…`)"),
        ("data: {KEY: *hunter2}", "unknown anchor"),
        ("data: {KEY: @hunter2}", "not valid YAML"),
        ("data: {KEY: \"hunter2}", "not valid YAML"),
        ("spec: hunter2", "spec: expected a mapping, found text"),
        ("stringData: {KEY: hunter2}", "unknown field `stringData`"),
        ("data: {KEY: hunter2}\nspec: {data: {KEY: hunter2}}", "`data` is given twice"),
        ("data: {KEY: hunter2, KEY: hunter2}", "the key `KEY` is given twice"),
    ];
    for (lines, expected) in table {
        let errors = parse("f", format!("{head}{lines}\n").as_bytes()).unwrap_err();
        let told = format!("{errors}\n{errors:?}\n{}", serde_json::to_string(&errors).unwrap());
        assert!(told.contains(expected), "for {lines}\nexpected {expected}\nfound    {errors}");
        assert!(!told.contains("hunter2") && !told.contains("4711"), "{told}");
    }
}
