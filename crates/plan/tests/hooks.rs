//! Hooks: one task for each revision, before its first copy and after its soak time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use plimsoll_model::AppSpec;
use plimsoll_model::hook::HookPoint;
use plimsoll_model::id::{InstanceId, TargetName};
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::object::{Generation, ObjectKey};
use plimsoll_model::quantity::Span;
use plimsoll_model::status::PlanRef;
use plimsoll_model::step::{Action, Plan};
use plimsoll_model::wait::Reason;
use plimsoll_model::world::{Exit, NodeView, Phase, Presence};
use plimsoll_plan::path::{carry_out, pass};
use plimsoll_plan::{Context, Course, Decision, Input, decide, destination, path};
use serde_json::{Value, json};

fn web(version: &str, hooks: &Value) -> AppSpec {
    let web = json!({
        "command": ["web", version], "args": ["serve"], "replicas": 2, "hooks": hooks, "update": {"soak": "5s"},
    });
    serde_json::from_value(json!({"components": {"web": web}})).unwrap()
}

fn both() -> Value {
    json!({"before": {"command": ["migrate"], "deadline": "1m"}, "after": {"args": ["check"]}})
}

fn first(spec: AppSpec) -> Input {
    let target: TargetName = "local".parse().unwrap();
    let key = ObjectKey::in_project("demo".parse().unwrap(), "app".parse().unwrap());
    Input::first(key, "uid".parse().unwrap(), spec, Context::bare(target, TargetSpec::local()))
}

/// What is created and removed, plan by plan.
fn told(plan: &Plan) -> Vec<String> {
    let told = plan.steps.iter().filter_map(|step| match &step.action {
        action @ (Action::Create { .. } | Action::Stop { .. } | Action::Remove { .. }) => {
            let slot = step.slot.map(|slot| format!(" {slot}")).unwrap_or_default();
            Some(format!("{}{slot}", action.verb()))
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn the_path_has_each_task_in_its_place_and_once() {
    let input = first(web("a", &both()));
    let plans: Vec<_> = path(&input).plans.iter().map(told).collect();
    assert_eq!(plans, [vec!["before"], vec!["create 0", "create 1"], vec!["after"]]);
    let again = Input { generation: Generation(2), ..destination(&input) };
    assert!(path(&again).plans.is_empty(), "what has succeeded is not run again");
    let next = Input { spec: web("b", &both()), ..again };
    let plans: Vec<_> = path(&next).plans.iter().map(told).filter(|told| !told.is_empty()).collect();
    assert_eq!(plans[0], ["remove", "remove", "before"], "what is shown of the last revision goes");
    assert_eq!(plans.last().unwrap(), &["after"]);
    let back = Input { spec: web("a", &both()), generation: Generation(3), ..destination(&next) };
    let plans = path(&back).plans.concat();
    assert!(
        plans.iter().all(|step| !["before", "after"].contains(&step.as_str())),
        "once for each: {plans:?}"
    );
}

trait Concat {
    fn concat(&self) -> Vec<String>;
}

impl Concat for Vec<Plan> {
    fn concat(&self) -> Vec<String> {
        self.iter().flat_map(told).collect()
    }
}

/// A world that obeys, but for the tasks of hooks, which run until something is said about them.
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
            input.status.plan = Some(PlanRef { no: plan.no, hash: plan.hash() });
            for step in &plan.steps {
                carry_out(&mut self.0.world, step);
                if let Action::Create { instance, launch, .. } = &step.action
                    && launch.hook.is_some()
                {
                    self.task_is(&instance.clone(), Phase::Unready { since: Span::ZERO });
                }
            }
            self.0.parent = Some(Plan::clone(plan));
        }
        decision
    }

    fn node(&mut self) -> &mut NodeView {
        let Presence::Present(node) = &mut self.0.world.targets.values_mut().next().unwrap().node else {
            panic!("the node answers")
        };
        node
    }

    fn task_is(&mut self, id: &InstanceId, phase: Phase) {
        let task = self.node().instances.get_mut(id).unwrap();
        task.phase = phase;
        if let Phase::Done { exit } = phase {
            task.last_exit = Some(exit);
        }
    }

    fn tasks(&mut self) -> Vec<InstanceId> {
        self.node().instances.iter().filter(|(_, it)| it.hook.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Lets tasks run for a time; what is not one does as the world does that obeys.
    fn wait(&mut self, time: Span) {
        let tasks: Vec<_> =
            self.tasks().iter().map(|id| (id.clone(), self.node().instances[id].clone())).collect();
        pass(&mut self.0.world, time);
        self.node().instances.extend(tasks);
    }

    /// Until a decision has no steps, each of which has to do with copies only; what was created.
    fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..50 {
            match self.decide().course {
                Course::Adopt(plan) => all.extend(told(&plan)),
                Course::Continue(_) => panic!("in a world that obeys nothing is left"),
                Course::Rest => return all,
            }
            self.wait(Span::seconds(1));
        }
        panic!("it does not come to rest: {all:?}")
    }
}

fn reasons(decision: &Decision) -> Vec<Reason> {
    decision.waits.iter().map(|wait| wait.reason().clone()).collect()
}

/// Version `a` is there and good, and `b` is declared, with a task before it.
fn declared(hooks: &Value) -> Driven {
    let input = first(web("a", &json!({})));
    Driven(Input { spec: web("b", hooks), generation: Generation(2), ..destination(&input) })
}

#[test]
fn what_is_lost_meanwhile_is_made_again_as_it_was() {
    let mut world = declared(&both());
    assert_eq!(world.rest(), ["before"]);
    let good = world.0.status.memory.values().next().unwrap().good.unwrap().component;
    let lost = world.node().instances.iter().find(|(_, it)| it.hook.is_none()).unwrap().0.clone();
    world.node().instances.remove(&lost);
    assert_eq!(world.rest().len(), 1);
    assert!(world.node().instances.values().filter(|it| it.hook.is_none()).all(|it| it.revision == good));
    let decision = world.decide();
    assert!(
        matches!(&reasons(&decision)[..], [Reason::HookRunning { hook: HookPoint::Before, .. }]),
        "{decision:?}"
    );
}

#[test]
fn a_task_that_fails_is_rejected_and_a_retry_runs_another_one() {
    let mut world = declared(&both());
    world.rest();
    let [task] = &world.tasks()[..] else { panic!("there is one") };
    world.task_is(task, Phase::Done { exit: Exit::Code(3) });
    let decision = world.decide();
    let (id, rejection) = decision.rejections.first_key_value().unwrap();
    assert_eq!(rejection.evidence.verdict, "hook `before` failed: exit code 3");
    assert_eq!(
        (rejection.evidence.exit, rejection.evidence.instance.as_ref()),
        (Some(Exit::Code(3)), Some(task))
    );
    assert_eq!(world.rest(), ["remove"], "no copy was replaced");
    world.0.operations.retry.insert("web".parse().unwrap(), id.clone());
    assert_eq!(world.rest(), ["before"]);
    assert_ne!(&world.tasks()[0], task);
}

#[test]
fn a_task_that_takes_too_long_is_ended_and_fails() {
    let mut world = declared(&both());
    world.rest();
    world.decide();
    world.wait(Span::seconds(60));
    let rejections = world.decide().rejections;
    assert_eq!(rejections.values().next().unwrap().evidence.verdict, "hook `before` did not end within 1m");
    assert_eq!(world.rest(), ["stop", "remove"]);
}

#[test]
fn without_a_way_back_it_stays_for_a_person_to_look_at_and_a_restart_runs_it_again() {
    let mut world = Driven(first(web("a", &both())));
    world.rest();
    let [task] = &world.tasks()[..] else { panic!("there is one") };
    world.task_is(task, Phase::Done { exit: Exit::Code(1) });
    assert!(world.rest().is_empty());
    let decision = world.decide();
    assert!(decision.rejections.is_empty());
    assert!(matches!(&reasons(&decision)[..], [Reason::HookFailed { instance, .. }] if instance == task));
    world.0.operations.restarts.insert("web".parse().unwrap(), 1);
    assert_eq!(world.rest(), ["remove", "before"]);
}

#[test]
fn what_runs_is_let_run_when_something_else_is_declared_and_nothing_runs_beside_it() {
    let mut world = declared(&both());
    world.rest();
    let [task] = &world.tasks()[..] else { panic!("there is one") };
    world.0.spec = web("c", &both());
    world.0.generation = Generation(3);
    assert!(world.rest().is_empty());
    world.task_is(task, Phase::Done { exit: Exit::Code(0) });
    assert_eq!(world.rest(), ["remove", "before"]);
    // It has been done for `b` once and for all.
    let memory = world.0.status.memory.values().next().unwrap();
    assert_eq!(memory.done.len(), 1);
    let [next] = &world.tasks()[..] else { panic!("there is one") };
    world.task_is(next, Phase::Done { exit: Exit::Lost });
    assert_eq!(world.rest(), ["remove", "before"], "what nobody saw end is run again");
    // Nobody wants any of it.
    world.0.operations.power = plimsoll_model::operations::Power::Off;
    assert!(world.rest().starts_with(&["stop".to_owned()]));
}

#[test]
fn good_is_only_what_has_its_last_task_behind_it() {
    let mut world = declared(&json!({"after": {"command": ["check"]}}));
    let mut told = Vec::new();
    for _ in 0..20 {
        told.extend(world.rest());
        world.wait(Span::seconds(1));
    }
    assert_eq!(told.last().unwrap(), "after");
    let good = |world: &Driven| world.0.status.memory.values().next().unwrap().good.unwrap().component;
    let before = good(&world);
    let [task] = &world.tasks()[..] else { panic!("there is one") };
    world.task_is(task, Phase::Done { exit: Exit::Signal(9) });
    let rejections = world.decide().rejections;
    assert_eq!(rejections.values().next().unwrap().evidence.verdict, "hook `after` failed: signal 9");
    world.rest();
    assert_eq!(good(&world), before);
    assert!(world.node().instances.values().all(|it| it.revision == before && it.hook.is_none()));
}

#[test]
fn what_is_lost_is_run_again_in_the_time_that_is_left() {
    let mut world = declared(&both());
    world.rest();
    let lose = |world: &mut Driven, after: u64| {
        let [task] = &world.tasks()[..] else { panic!("there is one") };
        world.decide();
        world.wait(Span::seconds(after));
        world.task_is(task, Phase::Done { exit: Exit::Lost });
    };
    // A node that goes down is no fault of the task's, however often.
    for _ in 0..5 {
        lose(&mut world, 1);
        assert_eq!(world.rest(), ["remove", "before"]);
    }

    let mut world = declared(&both());
    world.rest();
    lose(&mut world, 50);
    assert_eq!(world.rest(), ["remove", "before"]);
    world.wait(Span::seconds(20));
    let rejections = world.decide().rejections;
    assert_eq!(rejections.values().next().unwrap().evidence.verdict, "hook `before` did not end within 1m");
}

#[test]
fn a_failure_that_something_outside_is_to_blame_for_is_none() {
    let mut world = declared(&both());
    world.rest();
    let [task] = &world.tasks()[..] else { panic!("there is one") };
    world.task_is(task, Phase::Done { exit: Exit::Code(3) });
    world.0.operations.paused = true;
    let decision = world.decide();
    assert!(decision.rejections.is_empty());
    assert!(world.rest().is_empty() && world.tasks().is_empty(), "it waits");
    world.0.operations.paused = false;
    assert_eq!(world.rest(), ["before"]);
    assert_ne!(&world.tasks()[0], task);
}
