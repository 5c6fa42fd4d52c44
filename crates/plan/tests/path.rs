//! Whole paths: from an empty machine to the settled end, and from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use plimsoll_model::AppSpec;
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Phase, Presence};
use plimsoll_plan::{Context, Course, Input, decide, destination, path};
use proptest::prelude::*;
use serde_json::{Value, json};

fn input(components: &Value) -> Input {
    let target: TargetName = "local".parse().unwrap();
    let spec: AppSpec = serde_json::from_value(json!({"components": components})).unwrap();
    let key = ObjectKey::in_project("demo".parse().unwrap(), "app".parse().unwrap());
    Input::first(key, "uid".parse().unwrap(), spec, Context::bare(target, TargetSpec::local()))
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
fn traffic_goes_on_to_a_copy_of_which_nothing_is_known_yet() {
    let web = json!({"command": ["web"], "replicas": 2, "ports": {"http": 80},
                     "routes": [{"host": "web.localhost", "port": "http"}]});
    let settled = destination(&input(&json!({"web": web})));
    let as_seen = |phase: Phase| {
        let mut seen = settled.clone();
        for view in seen.world.targets.values_mut() {
            let Presence::Present(node) = &mut view.node else { panic!("the node is there") };
            node.instances.values_mut().for_each(|instance| instance.phase = phase);
        }
        match decide(&seen).course {
            Course::Adopt(plan) => plan.steps.iter().map(|step| step.action.verb()).collect(),
            Course::Rest | Course::Continue(_) => Vec::new(),
        }
    };
    assert_eq!(as_seen(Phase::Unknown), Vec::<&str>::new(), "an agent that has just begun knows no better");
    assert_eq!(as_seen(Phase::Unready { since: Span::seconds(1) }), ["drain", "drain"]);
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

/// What a new declaration finds when the one before has settled and these copies have died since.
fn after_losses(before: &Value, now: &Value, lost: &[u32]) -> Input {
    let mut input = destination(&input(before));
    for view in input.world.targets.values_mut() {
        if let Presence::Present(node) = &mut view.node {
            node.instances.retain(|_, copy| !lost.contains(&copy.slot.0));
        }
    }
    input.spec = serde_json::from_value(json!({"components": now})).unwrap();
    input.generation = Generation(2);
    input
}

#[test]
fn a_copy_that_died_between_review_and_apply_makes_no_other_change_of_it() {
    let web = |command: &str| json!({"web": {"command": [command], "replicas": 3, "ports": {"http": 80}, "provides": {"web": {"interface": "http"}}}});
    let reviewed = path(&after_losses(&web("a"), &web("b"), &[]));
    assert!(!reviewed.plans.is_empty());
    for lost in [&[0][..], &[1, 2], &[0, 1, 2]] {
        let now = path(&after_losses(&web("a"), &web("b"), lost));
        assert_eq!(reviewed.outline.differences(&now.outline), [], "lost: {lost:?}");
        assert_eq!(now.hash, reviewed.hash, "lost: {lost:?}");
    }
    let other = path(&after_losses(&web("a"), &web("c"), &[]));
    assert_ne!(other.hash, reviewed.hash);
    let said: Vec<String> =
        reviewed.outline.differences(&other.outline).iter().map(ToString::to_string).collect();
    assert_eq!(said, ["~ new copies of web run or are given something else"]);
}

#[test]
fn a_plan_that_heals_says_so_and_one_that_follows_the_path_says_nothing() {
    let web = json!({"web": {"command": ["a"], "replicas": 2}});
    assert!(path(&input(&web)).plans.iter().all(|plan| plan.deviation.is_none()));
    let healing = path(&after_losses(&web, &web, &[1]));
    let said = healing.plans[0].deviation.as_ref().unwrap().to_string();
    assert_eq!(said, "web/1 was gone or ending and is started again");
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
