//! New copies beside all old ones: what comes and goes, who gets the traffic, and the way back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use plimsoll_model::AppSpec;
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::operations::Promotion;
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Plan};
use plimsoll_model::world::{MemberState, Presence, Recent, RouterView};
use plimsoll_plan::path::{carry_out, pass};
use plimsoll_plan::{Context, Course, Decision, Input, decide, destination, path};
use serde_json::{Value, json};

fn web(version: &str, update: &Value) -> AppSpec {
    let web = json!({
        "command": ["web", version], "replicas": 4, "ports": {"http": 80}, "update": update,
        "routes": [{"host": "web.localhost", "port": "http"}],
    });
    serde_json::from_value(json!({"components": {"web": web}})).unwrap()
}

/// Version `a` is there and good, and `b` is declared.
fn declared(update: &Value) -> Input {
    let target: TargetName = "local".parse().unwrap();
    let key = ObjectKey::in_project("demo".parse().unwrap(), "app".parse().unwrap());
    let context = Context::bare(target, TargetSpec::local());
    let input = Input::first(key, "uid".parse().unwrap(), web("a", update), context);
    Input { spec: web("b", update), generation: Generation(2), ..destination(&input) }
}

/// Every step but those that only clean up, plan by plan; a table by the share of the traffic that it divides off.
fn told(plan: &Plan) -> Vec<String> {
    let told = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Publish { table } => {
            let split = table.services.values().find_map(|service| service.split);
            Some(split.map_or_else(|| "no split".into(), |split| format!("{} %", split.others)))
        }
        Action::Remove { .. } | Action::Expel { .. } | Action::Stop { .. } => None,
        action => Some(format!("{} {}", action.verb(), step.slot.unwrap().0)),
    });
    told.collect()
}

fn walked(input: &Input) -> Vec<Vec<String>> {
    path(input).plans.iter().map(told).filter(|told| !told.is_empty()).collect()
}

#[test]
fn a_canary_gets_its_share_in_steps_and_the_old_copies_go_at_the_end() {
    let input = declared(&json!({"strategy": "canary", "steps": [{"weight": 20}, {"weight": 50}]}));
    let path = walked(&input);
    assert_eq!(
        path,
        [
            vec!["0 %", "create 0"],
            vec!["admit 0"],
            vec!["20 %"],
            vec!["25 %", "create 1"],
            vec!["admit 1"],
            vec!["50 %"],
            vec!["drain 0", "drain 1", "create 2", "create 3"],
            vec!["admit 2", "admit 3"],
            vec!["100 %", "drain 2", "drain 3"],
            vec!["no split"],
        ]
    );
}

#[test]
fn blue_and_green_are_both_complete_until_the_traffic_has_moved() {
    let path = walked(&declared(&json!({"strategy": "blue-green"})));
    assert_eq!(
        path,
        [
            vec!["0 %", "create 0", "create 1", "create 2", "create 3"],
            vec!["admit 0", "admit 1", "admit 2", "admit 3"],
            vec!["100 %"],
            vec!["drain 0", "drain 1", "drain 2", "drain 3"],
            vec!["no split"],
        ]
    );
}

/// A world that obeys, driven by the planner one decision at a time, in which nobody is hopeful.
struct Driven(Input);

impl Driven {
    fn decide(&mut self) -> Decision {
        let decision = decide(&self.0);
        let input = &mut self.0;
        input.status.memory.clone_from(&decision.memory);
        input.status.rejected.clone_from(&decision.rejected);
        input.status.components.clone_from(&decision.components);
        input.status.revision = decision.revision;
        if let Some(new) = decision.new_revision.clone() {
            input.context.revisions.insert(new.number, new);
        }
        if let Course::Adopt(plan) = &decision.course {
            input.status.plan = Some(plimsoll_model::status::PlanRef { no: plan.no, hash: plan.hash() });
            plan.steps.iter().for_each(|step| carry_out(&mut input.world, step));
            input.parent = Some(Plan::clone(plan));
        }
        decision
    }

    /// Until nothing is done any more within this time.
    fn run(&mut self, time: Span) -> Decision {
        let mut left = time;
        for _ in 0..1000 {
            let decision = self.decide();
            if !decision.course.steps().is_empty() || !decision.rejections.is_empty() {
                continue;
            }
            let look = decision.next_look.unwrap_or(left).min(left);
            if left == Span::ZERO {
                return decision;
            }
            pass(&mut self.0.world, look);
            left = left.minus(look);
        }
        panic!("it does not come to rest");
    }

    fn router(&mut self) -> &mut RouterView {
        let view = self.0.world.targets.values_mut().next().unwrap();
        let Presence::Present(router) = &mut view.router else { panic!("the router is there") };
        router
    }

    /// Every copy of a version has had so many requests, of which so many failed.
    fn count(&mut self, version: &str, requests: u64, failures: u64) {
        let resolved = plimsoll_plan::resolve::resolve(
            &web(version, &json!({})),
            &"local".parse().unwrap(),
            self.0.context.target_spec.as_ref(),
            plimsoll_plan::resolve::Tags::default(),
        );
        let revision = resolved.unwrap().components.into_values().next().unwrap().hash();
        let view = self.0.world.targets.values().next().unwrap();
        let node = view.node.present().unwrap();
        let copies: Vec<_> = node
            .instances
            .iter()
            .filter(|(_, it)| it.revision == revision)
            .map(|(id, _)| id.clone())
            .collect();
        let recent = Recent { requests, failures, answered: [(Span::millis(10), requests)].into() };
        for (id, member) in &mut self.router().members {
            if copies.contains(id) {
                member.recent = recent.clone();
            }
        }
    }

    fn split(&mut self) -> Option<u8> {
        Some(self.router().table.services.values().next()?.split?.others)
    }

    fn active(&mut self) -> usize {
        self.router().members.values().filter(|it| it.state == MemberState::Active).count()
    }
}

fn waits(decision: &Decision) -> Vec<String> {
    decision.waits.iter().map(|wait| wait.reason().to_string()).collect()
}

const STEPS: &str = r#"{"strategy": "canary", "soak": "10s", "deadline": "60s", "steps": [{"weight": 25}, {"weight": 50, "hold": true}],
    "gate": {"errors": "5%", "latency": {"within": "100ms"}}}"#;

#[test]
fn a_canary_waits_for_enough_requests_and_is_rejected_by_what_they_say() {
    let mut driven = Driven(declared(&serde_json::from_str(STEPS).unwrap()));
    let decision = driven.run(Span::seconds(30));
    assert_eq!((driven.split(), driven.active()), (Some(25), 5));
    assert_eq!(
        waits(&decision),
        [
            "step 1 of 2: new copies get 25 % of the traffic and are watched",
            "the gate cannot decide: new copies have had fewer than 10 requests in the last minute",
        ]
    );
    driven.count("a", 100, 0);
    driven.count("b", 40, 3);
    let decision = driven.decide();
    let rejection = decision.rejections.into_values().next().unwrap();
    assert_eq!(rejection.evidence.verdict, "3 of 40 requests failed, more than 5%");
    let decision = driven.run(Span::seconds(60));
    assert_eq!((driven.split(), driven.active()), (None, 4), "the old copies have it all");
    assert_eq!(decision.waits.len(), 1);
    assert!(waits(&decision)[0].contains("was rejected"), "{:?}", decision.waits);
}

#[test]
fn new_copies_are_not_blamed_for_what_old_ones_do_too() {
    let mut driven = Driven(declared(&serde_json::from_str(STEPS).unwrap()));
    driven.run(Span::seconds(5));
    driven.count("a", 100, 50);
    driven.count("b", 40, 30);
    let decision = driven.run(Span::seconds(60));
    assert!(decision.rejections.is_empty());
    assert!(waits(&decision)[1].ends_with("old copies do as badly as new ones"), "{:?}", waits(&decision));
    driven.count("a", 100, 0);
    driven.count("b", 40, 0);
    let decision = driven.run(Span::seconds(60));
    assert_eq!(
        waits(&decision),
        ["step 2 of 2: new copies get 50 % of the traffic until a person goes on"],
        "and it goes on once both are well"
    );
    assert_eq!((driven.split(), driven.active()), (Some(50), 6));
}

#[test]
fn a_person_promotes_what_holds_or_aborts_it_for_good() {
    let update: Value = json!({"strategy": "canary", "soak": "1s", "steps": [{"weight": 50, "hold": true}]});
    for promoted in [true, false] {
        let mut driven = Driven(declared(&update));
        driven.run(Span::seconds(600));
        assert_eq!((driven.split(), driven.active()), (Some(50), 6));
        let web = "web".parse().unwrap();
        let rollout = driven.0.status.memory.get(&web).unwrap().rollout.as_ref().unwrap().reference();
        if promoted {
            driven.0.operations.promotions.insert(web, Promotion { rollout, steps: 1 });
        } else {
            driven.0.operations.aborts.insert(web, rollout);
        }
        let decision = driven.run(Span::seconds(60));
        assert_eq!((driven.split(), driven.active()), (None, 4));
        assert_eq!(decision.waits.is_empty(), promoted, "{:?}", waits(&decision));
        assert_eq!(driven.0.status.rejected.len(), usize::from(!promoted));
    }
}

#[test]
fn a_lost_old_copy_is_made_again_as_it_was_and_a_third_version_takes_the_place_of_the_second() {
    let update: Value = json!({"strategy": "canary", "soak": "1s", "steps": [{"weight": 50, "hold": true}]});
    let mut driven = Driven(declared(&update));
    driven.run(Span::seconds(600));
    let revisions = |driven: &Driven| {
        let node = driven.0.world.targets.values().next().unwrap().node.present().unwrap();
        let mut all: Vec<_> = node.instances.values().map(|it| (it.revision, it.slot.0)).collect();
        all.sort_by_key(|(revision, slot)| (*slot, *revision));
        all
    };
    let before = revisions(&driven);
    let Presence::Present(node) = &mut driven.0.world.targets.values_mut().next().unwrap().node else {
        panic!()
    };
    let lost = node.instances.iter().find(|(_, it)| it.slot.0 == 3).unwrap().0.clone();
    node.instances.remove(&lost);
    driven.run(Span::seconds(60));
    assert_eq!(revisions(&driven), before);
    driven.0.spec = web("c", &update);
    driven.0.generation = Generation(3);
    driven.run(Span::seconds(60));
    let after = revisions(&driven);
    assert_eq!(after.len(), 6);
    let kept = after.iter().filter(|it| before.contains(it)).count();
    assert_eq!(kept, 4, "the old copies stay, and no copy of the second version does");
    assert_eq!((driven.split(), driven.active()), (Some(50), 6));
}

#[test]
fn a_router_that_cannot_divide_traffic_gets_no_trial() {
    let mut driven = Driven(declared(&json!({"strategy": "blue-green"})));
    driven.router().divides = false;
    let decision = driven.run(Span::seconds(600));
    assert_eq!((driven.split(), driven.active()), (None, 4));
    assert_eq!(waits(&decision)[0], "router/local is of an earlier version and cannot divide traffic");
    driven.router().divides = true;
    driven.run(Span::seconds(600));
    assert_eq!(driven.0.status.components.values().next().unwrap().ready, 4);
}

#[test]
fn what_is_rejected_or_taken_back_never_gets_traffic_on_its_way_out() {
    let update: Value =
        json!({"strategy": "blue-green", "soak": "1s", "steps": [{"weight": 0, "hold": true}]});
    for aborted in [true, false] {
        let mut driven = Driven(declared(&update));
        driven.run(Span::seconds(60));
        assert_eq!((driven.split(), driven.active()), (Some(0), 8));
        let web: plimsoll_model::id::ComponentName = "web".parse().unwrap();
        if aborted {
            let rollout = driven.0.status.memory[&web].rollout.as_ref().unwrap().reference();
            driven.0.operations.aborts.insert(web, rollout);
        } else {
            driven.0.spec = self::web("a", &update);
            driven.0.generation = Generation(3);
        }
        for _ in 0..20 {
            driven.decide();
            let only_old = driven.active() == 4;
            assert!(driven.split() == Some(0) || only_old, "{:?} of {}", driven.split(), driven.active());
        }
        assert_eq!((driven.split(), driven.active()), (None, 4));
    }
}

#[test]
fn an_abort_counts_where_a_rollout_was_halted_and_where_something_is_missing() {
    let update: Value = json!({
        "strategy": "canary", "soak": "10s", "onFailure": "halt", "steps": [{"weight": 50}], "gate": {"errors": "1%"},
    });
    let mut driven = Driven(declared(&update));
    driven.run(Span::seconds(5));
    driven.count("b", 100, 50);
    let decision = driven.run(Span::seconds(60));
    assert!(
        decision.rejections.is_empty() && waits(&decision)[0].contains("100 of 200 requests failed"),
        "{:?}",
        waits(&decision)
    );
    assert_eq!((driven.split(), driven.active()), (Some(50), 6), "everything stays as it is");
    let web = "web".parse().unwrap();
    let rollout = driven.0.status.memory[&web].rollout.as_ref().unwrap().reference();
    driven.0.operations.aborts.insert(web, rollout);
    driven.run(Span::seconds(60));
    assert_eq!((driven.split(), driven.active()), (None, 4));
    assert_eq!(driven.0.status.rejected.len(), 1);
}

#[test]
fn the_end_is_judged_too_unless_a_person_ends_it() {
    let update: Value = json!({
        "strategy": "canary", "soak": "1s", "steps": [{"weight": 50}], "gate": {"queries": [{"prometheus": "up", "least": 1}]},
    });
    let mut driven = Driven(declared(&update));
    driven.run(Span::seconds(60));
    let web: plimsoll_model::id::ComponentName = "web".parse().unwrap();
    let rollout = driven.0.status.memory[&web].rollout.as_ref().unwrap().reference();
    driven.0.operations.promotions.insert(web.clone(), Promotion { rollout, steps: 1 });
    let decision = driven.run(Span::seconds(60));
    assert_eq!(driven.active(), 4);
    assert!(waits(&decision).iter().any(|it| it.contains("is being asked")), "{:?}", waits(&decision));
    driven.0.operations.promotions.insert(web, Promotion { rollout, steps: 2 });
    assert_eq!(driven.run(Span::seconds(60)).waits, []);
}

#[test]
fn no_new_copy_gets_what_many_were_to_have() {
    let update =
        json!({"strategy": "canary", "soak": "1s", "surge": 1, "steps": [{"weight": 50, "hold": true}]});
    let mut driven = Driven(declared(&update));
    driven.run(Span::seconds(60));
    assert_eq!((driven.split(), driven.active()), (Some(25), 5), "one of the two that its share is worth");
}
