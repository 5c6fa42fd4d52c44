//! Whole paths: from an empty machine to the settled end, and from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use plimsoll_model::AppSpec;
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::operations::Operations;
use plimsoll_model::status::AppStatus;
use plimsoll_plan::{Context, Input, decide, empty_world, path};
use proptest::prelude::*;
use serde_json::{Value, json};

fn input(components: &Value) -> Input {
    let target: TargetName = "local".parse().unwrap();
    let spec: AppSpec = serde_json::from_value(json!({"components": components})).unwrap();
    Input {
        key: ObjectKey::in_project("demo".parse().unwrap(), "app".parse().unwrap()),
        uid: "uid".parse().unwrap(),
        generation: Generation(1),
        deleting: false,
        spec,
        operations: Operations::default(),
        status: AppStatus::default(),
        parent: None,
        world: empty_world(&target),
        context: Context::bare(target, TargetSpec::local()),
    }
}

/// Every step as `VERB COMPONENT/SLOT`, plan by plan.
fn steps(input: &Input) -> Vec<Vec<String>> {
    let name = |step: &plimsoll_model::step::Step| match (&step.component, step.slot) {
        (Some(component), Some(slot)) => format!("{} {component}/{}", step.action.verb(), slot.0),
        _ => step.action.verb().to_owned(),
    };
    path(input).plans.iter().map(|plan| plan.steps.iter().map(name).collect()).collect()
}

fn waits(input: &Input) -> Vec<String> {
    path(input).waits.iter().map(|wait| wait.reason().to_string()).collect()
}

#[test]
fn a_consumer_starts_after_its_provider_serves() {
    let input = input(&json!({
        "db": {"command": ["db"], "ports": {"sql": 5432}, "provides": {"sql": {"interface": "sql"}}},
        "web": {"command": ["web"], "replicas": 2,
                "consumes": {"db": {"interface": "sql", "from": "db/sql"}}},
    }));
    assert_eq!(
        steps(&input),
        [vec!["publish", "create db/0"], vec!["admit db/0"], vec!["create web/0", "create web/1"]]
    );
    assert_eq!(waits(&input), Vec::<String>::new());
}

#[test]
fn a_value_that_a_relation_does_not_have_is_a_wait_and_not_an_empty_text() {
    let input = input(&json!({
        "db": {"command": ["db"], "ports": {"sql": 5432}, "provides": {"sql": {"interface": "sql"}}},
        "web": {"command": ["web"], "env": {"URL": "${db.uri}"},
                "consumes": {"db": {"interface": "sql", "from": "db/sql"}}},
    }));
    assert_eq!(waits(&input), ["relation db has no value uri"]);
    assert!(!steps(&input).concat().iter().any(|step| step.contains("web")), "it is not started");
}

#[test]
fn what_nothing_provides_is_a_wait() {
    let input = input(&json!({
        "web": {"command": ["web"], "consumes": {"db": {"interface": "sql", "from": "other/db/sql"}}},
    }));
    assert_eq!(waits(&input), ["nothing provides other/db/sql"]);
}

#[test]
fn the_same_declaration_has_the_same_path_and_another_one_another() {
    let web = |command: &str| json!({"web": {"command": [command], "replicas": 2}});
    assert_eq!(path(&input(&web("a"))).hash, path(&input(&web("a"))).hash);
    assert_ne!(path(&input(&web("a"))).hash, path(&input(&web("b"))).hash);
}

proptest! {
    /// The same input gives the same decision, and every path from an empty machine settles with exactly the
    /// declared copies.
    #[test]
    fn every_path_settles(replicas in 0_u32..6, surge in 0_u32..3, unavailable in 0_u32..3, routed: bool, recreate: bool) {
        let ports = if routed { json!({"http": 80}) } else { json!({}) };
        let provides = if routed { json!({"web": {"interface": "http"}}) } else { json!({}) };
        let strategy = if recreate { "recreate" } else { "rolling" };
        let input = input(&json!({"web": {
            "command": ["web"], "replicas": replicas, "ports": ports, "provides": provides,
            "update": {"surge": surge, "unavailable": unavailable, "strategy": strategy},
        }}));
        prop_assert_eq!(format!("{:?}", decide(&input)), format!("{:?}", decide(&input)));
        prop_assert_eq!(waits(&input), Vec::<String>::new());
        let all = steps(&input).concat();
        let count = |verb: &str| all.iter().filter(|step| step.starts_with(verb)).count();
        prop_assert_eq!(count("create"), replicas as usize);
        prop_assert_eq!(count("admit"), if routed { replicas as usize } else { 0 });
        prop_assert_eq!(count("stop"), 0);
    }
}
