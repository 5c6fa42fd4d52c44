//! How many copies are wanted, by what is measured.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use plimsoll_model::AppSpec;
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::operations::Power;
use plimsoll_model::quantity::Span;
use plimsoll_model::status::{ComponentStatus, PlanRef};
use plimsoll_model::step::Plan;
use plimsoll_model::wait::Reason;
use plimsoll_model::world::{NodeTime, NodeView, Phase, Presence, Recent, RouterView};
use plimsoll_plan::path::{carry_out, pass};
use plimsoll_plan::{Context, Course, Decision, Input, UsedView, decide, destination};
use serde_json::{Value, json};

fn scaled(on: &Value) -> Input {
    let web = json!({
        "command": ["web"], "ports": {"http": 80}, "routes": [{"host": "web.localhost", "port": "http"}],
        "resources": {"cpu": "500m", "memory": "100Mi"}, "replicas": 2,
        "scale": {"min": 1, "max": 5, "on": on, "up": {"window": "10s", "cooldown": "10s"},
                  "down": {"window": "1m", "cooldown": "30s"}},
    });
    let spec: AppSpec = serde_json::from_value(json!({"components": {"web": web}})).unwrap();
    let target: TargetName = "local".parse().unwrap();
    let key = ObjectKey::in_project("demo".parse().unwrap(), "app".parse().unwrap());
    let context = Context::bare(target, TargetSpec::local());
    destination(&Input::first(key, "uid".parse().unwrap(), spec, context))
}

/// With no copy at all after 30 seconds in which nobody asks for one.
fn sleeping(mut input: Input) -> Input {
    let zero = serde_json::from_value(json!({"after": "30s"})).unwrap();
    input.spec.components.values_mut().next().unwrap().scale.as_mut().unwrap().to_zero = Some(zero);
    input
}

/// A world that obeys, in which something is measured.
struct Driven(Input);

impl Driven {
    fn router(&mut self) -> &mut RouterView {
        let Presence::Present(router) = &mut self.0.world.targets.values_mut().next().unwrap().router else {
            panic!("the router answers")
        };
        router
    }

    fn node(&mut self) -> &mut NodeView {
        let Presence::Present(node) = &mut self.0.world.targets.values_mut().next().unwrap().node else {
            panic!("the node answers")
        };
        node
    }

    /// Nobody has asked for any copy for so many seconds; `None` while somebody does.
    fn idle(&mut self, idle: Option<u64>) {
        self.router().members.values_mut().for_each(|it| it.idle = idle.map(Span::seconds));
    }

    /// All together have so much under way, and had so many requests in the last minute.
    fn load(&mut self, in_flight: u32, requests: u64) {
        let mut members = self.router().members.values_mut();
        let first = members.next().unwrap();
        (first.in_flight, first.recent) = (in_flight, Recent { requests, ..Recent::default() });
        for other in members {
            (other.in_flight, other.recent) = (0, Recent::default());
        }
    }

    fn decide(&mut self) -> Decision {
        let decision = decide(&self.0);
        let input = &mut self.0;
        input.status.memory.clone_from(&decision.memory);
        input.status.components.clone_from(&decision.components);
        if let Course::Adopt(plan) = &decision.course {
            input.status.plan = Some(PlanRef { no: plan.no, hash: plan.hash() });
            plan.steps.iter().for_each(|step| carry_out(&mut input.world, step));
            input.parent = Some(Plan::clone(plan));
        }
        decision
    }

    /// The number wanted after so many seconds of the same load.
    fn wanted(&mut self, seconds: u64, load: (u32, u64)) -> u32 {
        for _ in 0..seconds {
            self.load(load.0, load.1);
            self.decide();
            pass(&mut self.0.world, Span::seconds(1));
        }
        self.load(load.0, load.1);
        self.decide();
        self.status().desired
    }

    fn status(&self) -> &ComponentStatus {
        self.0.status.components.values().next().unwrap()
    }
}

#[test]
fn what_is_under_way_adds_copies_after_a_window_and_takes_them_away_after_a_longer_one() {
    let mut world = Driven(scaled(&json!({"inFlight": 4})));
    assert_eq!(world.wanted(100, (8, 0)), 2, "as it should be");
    assert_eq!(world.wanted(9, (16, 0)), 2, "not for long enough");
    assert_eq!(world.wanted(1, (8, 0)), 2, "it was a moment");
    assert_eq!(world.wanted(9, (16, 0)), 2, "the time begins anew");
    assert_eq!(world.wanted(2, (13, 0)), 4, "of what was asked for, what changes least");
    assert_eq!(world.wanted(9, (40, 0)), 4);
    assert_eq!(world.wanted(2, (40, 0)), 5, "as many as there may be");
    assert!(world.status().limited);
    assert_eq!(world.wanted(59, (0, 0)), 5);
    assert_eq!(world.wanted(1, (11, 0)), 3, "the most that was asked for in that time");
    assert!(!world.status().limited);
    assert_eq!(world.wanted(200, (0, 0)), 1, "as few as there may be");
    assert_eq!(world.router().members.len(), 1, "what is not wanted is drained and gone");
}

#[test]
fn what_goes_on_as_it_is_is_not_written_down() {
    let mut world = Driven(scaled(&json!({"inFlight": 4, "requests": 2})));
    world.wanted(20, (8, 100));
    let (memory, components) = (world.0.status.memory.clone(), world.0.status.components.clone());
    for requests in [200, 240, 260] {
        world.wanted(5, (7, requests));
        assert_eq!((&memory, &components), (&world.0.status.memory, &world.0.status.components));
    }
    let decision = world.decide();
    assert_eq!((decision.next_look, decision.waits.len()), (Some(Span::seconds(5)), 0));
}

#[test]
fn requests_and_usage_say_how_many_too() {
    assert_eq!(Driven(scaled(&json!({"requests": 2}))).wanted(12, (0, 420)), 4);
    let used = |millicores: u64, memory: u64| {
        let mut world = Driven(scaled(&json!({"cpu": 50, "memory": 80, "inFlight": 10})));
        let copies: Vec<_> = world.router().members.keys().cloned().collect();
        world.0.context.used =
            copies.into_iter().map(|id| (id, UsedView { millicores, memory: memory << 20 })).collect();
        world.wanted(11, (20, 0))
    };
    assert_eq!(used(250, 80), 2);
    assert_eq!(used(400, 10), 4);
    assert_eq!(used(10, 96), 3);
}

#[test]
fn what_is_not_known_changes_nothing_and_says_so() {
    let mut world = Driven(scaled(&json!({"cpu": 50, "inFlight": 2})));
    assert_eq!(world.wanted(100, (40, 0)), 2);
    let waits = |decision: Decision| decision.waits.iter().map(|it| it.reason().clone()).collect::<Vec<_>>();
    let said = waits(world.decide());
    assert_eq!(said, [Reason::ScaleUndecided { why: "what its copies use is not known".into() }]);
    let mut world = Driven(scaled(&json!({"inFlight": 2})));
    world.wanted(5, (40, 0));
    world.0.world.targets.values_mut().next().unwrap().router = Presence::Unknown;
    for _ in 0..30 {
        let decision = world.decide();
        assert!(waits(decision).iter().any(|it| matches!(it, Reason::ScaleUndecided { .. })));
        pass(&mut world.0.world, Span::seconds(1));
    }
    assert_eq!(world.status().desired, 2);
}

#[test]
fn a_person_says_how_many_until_the_declaration_is_followed_again() {
    let mut world = Driven(scaled(&json!({"inFlight": 4})));
    world.0.operations.replicas.insert("web".parse().unwrap(), 3);
    assert_eq!(world.wanted(100, (100, 0)), 3);
    world.0.operations.replicas.clear();
    assert_eq!(world.wanted(9, (100, 0)), 3, "it goes on from there");
    assert_eq!(world.wanted(2, (100, 0)), 5);
}

#[test]
fn what_nobody_asks_for_sleeps_until_somebody_does() {
    let mut world = Driven(sleeping(scaled(&json!({"inFlight": 4}))));
    let idle = Driven::idle;
    idle(&mut world, Some(100));
    assert_eq!(world.wanted(10, (8, 0)), 2, "a router of an earlier version wakes nobody");
    world.router().wakes = true;
    idle(&mut world, None);
    assert_eq!(world.wanted(10, (8, 0)), 2, "somebody is there");
    idle(&mut world, Some(29));
    assert_eq!(world.decide().next_look, Some(Span::seconds(1)));
    idle(&mut world, Some(30));
    for _ in 0..5 {
        world.decide();
        pass(&mut world.0.world, Span::seconds(1));
    }
    assert_eq!((world.status().desired, world.router().members.len()), (0, 0));
    let decision = world.decide();
    assert_eq!((decision.waits.len(), decision.next_look), (0, Some(Span::seconds(60))));
    world.router().waiting.insert("web".parse().unwrap(), 3);
    world.decide();
    assert_eq!(world.status().desired, 1, "at once");
}

#[test]
fn a_reboot_and_another_node_do_not_stop_the_clock_for_good() {
    let mut world = Driven(scaled(&json!({"inFlight": 4})));
    assert_eq!(world.wanted(11, (16, 0)), 4);
    world.node().now = NodeTime { boot: "another".parse().unwrap(), elapsed: Span::seconds(7) };
    assert_eq!(world.wanted(9, (40, 0)), 4, "the last change counts as of the reboot");
    assert_eq!(world.wanted(3, (40, 0)), 5);
}

#[test]
fn copies_that_are_missing_are_no_reason_for_fewer() {
    let mut world = Driven(scaled(&json!({"inFlight": 4})));
    assert_eq!(world.wanted(11, (16, 0)), 4);
    for _ in 0..100 {
        for it in world.node().instances.values_mut().skip(1) {
            it.phase = Phase::Unready { since: Span::ZERO };
        }
        world.load(1, 0);
        world.decide();
        pass(&mut world.0.world, Span::seconds(1));
    }
    assert_eq!(world.status().desired, 4);
    assert_eq!(world.wanted(80, (1, 0)), 1, "they are there, and have nothing to do");
}

#[test]
fn what_is_being_rolled_out_is_not_put_to_sleep() {
    let mut world = Driven(sleeping(scaled(&json!({"inFlight": 4}))));
    world.router().wakes = true;
    let web = world.0.spec.components.values_mut().next().unwrap();
    web.update = serde_json::from_value(json!({"soak": "2m"})).unwrap();
    web.env.insert("A".parse().unwrap(), serde_json::from_value(json!("b")).unwrap());
    world.0.generation = Generation(2);
    world.idle(None);
    world.decide();
    let mut seconds = 0;
    loop {
        world.idle(Some(100));
        world.decide();
        if world.0.status.memory.values().next().unwrap().rollout.is_none() {
            break;
        }
        assert_ne!(world.status().desired, 0, "after {seconds}s");
        pass(&mut world.0.world, Span::seconds(1));
        seconds += 1;
        assert!(seconds < 300);
    }
    assert!(seconds >= 120);
    world.idle(Some(100));
    world.decide();
    assert_eq!(world.status().desired, 0, "once it is good");
}

#[test]
fn a_request_waits_only_for_what_it_would_bring() {
    let mut world = Driven(sleeping(scaled(&json!({"inFlight": 4}))));
    let hold = |world: &mut Driven| {
        world.decide();
        world.router().table.services.values().next().unwrap().hold
    };
    assert_eq!(hold(&mut world), Some(Span::seconds(30)));
    world.0.operations.replicas.insert("web".parse().unwrap(), 0);
    assert_eq!(hold(&mut world), None, "a person wants none");
    world.0.operations.replicas.clear();
    assert_eq!(hold(&mut world), Some(Span::seconds(30)));
    world.0.operations.power = Power::Off;
    assert_eq!(hold(&mut world), None);
}
