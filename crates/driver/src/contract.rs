//! What every node driver must do, as a suite that each implementation runs.
//!
//! The functions panic with a sentence when the contract is broken; they are meant to be called from tests.

use plimsoll_model::ObjectKey;
use plimsoll_model::id::{
    BindingsHash, ComponentHash, Digest, Effects, Epoch, InstanceId, PlanHash, PlanNo, Slot, Uid,
};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Action, Cause, Fence, Launch, Scope, Step};
use plimsoll_model::world::{Instance, NodeView, Phase};

use crate::{Driver, DriverError, Refusal, SecretValues, Sighting};

/// Looks at a node until something is seen at most.
const MOST_LOOKS: u32 = 2_000;

/// A driver under test.
pub trait Subject {
    /// The driver.
    fn driver(&self) -> &dyn Driver;
    /// Lets a little time pass.
    fn pass_time(&self) -> impl Future<Output = ()>;
    /// A program that does nothing until it is asked to end.
    fn launch(&self) -> Launch {
        Launch::of(vec!["sleep".into(), "1000".into()])
    }
}

/// Runs every check, each on a node of its own that serves installation `here`.
pub async fn every<S: Subject>(make: impl AsyncFn() -> S) {
    what_was_never_heard_of_is_empty(&make().await).await;
    creating_twice_is_creating_once(&make().await).await;
    only_the_newest_plan_is_followed(&make().await).await;
    a_copy_ends_and_may_be_started_again(&make().await).await;
    a_running_copy_is_not_removed(&make().await).await;
    a_closed_app_stays_closed(&make().await).await;
    another_installation_is_refused(&make().await).await;
}

fn app() -> Uid {
    "contract-app".parse().expect("a valid uid")
}

fn id(name: &str) -> InstanceId {
    name.parse().expect("a valid instance id")
}

fn fence(plan: u64, seen: u64) -> Fence {
    Fence {
        installation: "here".parse().expect("a valid installation id"),
        epoch: Epoch(1),
        app: app(),
        key: ObjectKey::in_project("demo".parse().expect("a name"), "contract".parse().expect("a name")),
        plan: PlanNo(plan),
        hash: PlanHash(Digest::of_json(&plan)),
        seen: Effects(seen),
    }
}

fn step(driver: &dyn Driver, action: Action) -> Step {
    let Scope::Node(target) = driver.scope() else { panic!("this suite is for node drivers") };
    Step {
        target,
        component: Some("main".parse().expect("a valid name")),
        slot: Some(Slot(0)),
        action,
        after: Vec::new(),
        cause: Cause::Heal,
    }
}

fn create(subject: &impl Subject, name: &str) -> Action {
    Action::Create {
        instance: id(name),
        revision: ComponentHash(Digest::of_bytes(b"revision")),
        bindings: BindingsHash(Digest::of_bytes(b"bindings")),
        launch: Box::new(subject.launch()),
    }
}

fn stop(name: &str) -> Action {
    Action::Stop { instance: id(name), grace: Span::seconds(5) }
}

async fn execute(driver: &dyn Driver, action: Action, fence: &Fence) -> Result<(), DriverError> {
    driver.execute(&step(driver, action), fence, &SecretValues::new()).await
}

async fn view(driver: &dyn Driver) -> NodeView {
    match driver.observe(&app()).await {
        Ok(Sighting::Node(view)) => view,
        other => panic!("a node that answers is expected, not {other:?}"),
    }
}

async fn until(subject: &impl Subject, what: &str, is_so: impl Fn(&NodeView) -> bool) -> NodeView {
    for _ in 0..MOST_LOOKS {
        let now = view(subject.driver()).await;
        if is_so(&now) {
            return now;
        }
        subject.pass_time().await;
    }
    panic!("{what} was never seen; last seen was {:?}", view(subject.driver()).await);
}

fn copy<'a>(view: &'a NodeView, name: &str) -> Option<&'a Instance> {
    view.instances.get(&id(name))
}

async fn what_was_never_heard_of_is_empty(subject: &impl Subject) {
    let seen = view(subject.driver()).await;
    assert_eq!((seen.following, seen.effects, seen.closed), (PlanNo(0), Effects(0), false));
    assert!(seen.instances.is_empty(), "an App that was never heard of has no instances");
}

async fn creating_twice_is_creating_once(subject: &impl Subject) {
    let driver = subject.driver();
    let fence = fence(1, 0);
    execute(driver, create(subject, "a"), &fence).await.expect("a create");
    let first = until(subject, "a ready copy", |it| copy(it, "a").is_some_and(Instance::is_ready)).await;
    assert_eq!((first.following, first.effects), (PlanNo(1), Effects(1)));
    execute(driver, create(subject, "a"), &fence).await.expect("the same create again");
    let again = view(driver).await;
    assert_eq!((again.instances.len(), again.effects), (1, Effects(1)), "doing it twice is doing it once");
    assert_eq!(copy(&again, "a").map(|it| it.restarts), Some(0));
    let marked = driver.inventory().await.expect("an inventory");
    assert_eq!(marked.len(), 1, "every instance is in the inventory");
    assert_eq!((&marked[0].app, &marked[0].instance), (&app(), &id("a")), "with its owner");
}

async fn only_the_newest_plan_is_followed(subject: &impl Subject) {
    let driver = subject.driver();
    execute(driver, create(subject, "a"), &fence(2, 0)).await.expect("a create");
    let older = execute(driver, create(subject, "b"), &fence(1, 1)).await;
    assert!(matches!(older, Err(DriverError::Refused(Refusal::Older { .. }))), "{older:?}");
    let other = Fence { hash: PlanHash(Digest::of_bytes(b"other")), ..fence(2, 1) };
    let forked = execute(driver, create(subject, "b"), &other).await;
    assert!(matches!(forked, Err(DriverError::Refused(Refusal::Forked { .. }))), "{forked:?}");
    let blind = execute(driver, create(subject, "b"), &fence(3, 0)).await;
    assert!(matches!(blind, Err(DriverError::Refused(Refusal::Overtaken { .. }))), "{blind:?}");
    let seen = view(driver).await;
    assert_eq!((seen.instances.len(), seen.following), (1, PlanNo(2)), "what is refused has no effect");
    execute(driver, create(subject, "b"), &fence(3, 1)).await.expect("a plan that saw everything");
    assert_eq!(view(driver).await.instances.len(), 2);
}

async fn a_copy_ends_and_may_be_started_again(subject: &impl Subject) {
    let driver = subject.driver();
    execute(driver, create(subject, "a"), &fence(1, 0)).await.expect("a create");
    until(subject, "a ready copy", |it| copy(it, "a").is_some_and(Instance::is_ready)).await;
    execute(driver, stop("a"), &fence(2, 1)).await.expect("a stop");
    let ended = |it: &NodeView| copy(it, "a").is_some_and(|it| it.phase == Phase::Stopped);
    let stopped = until(subject, "a stopped copy", ended).await;
    assert!(copy(&stopped, "a").is_some_and(|it| it.last_exit.is_some()), "how it ended is known");
    execute(driver, stop("a"), &fence(2, 1)).await.expect("the same stop again");
    execute(driver, create(subject, "a"), &fence(3, 2)).await.expect("a create of a stopped copy");
    until(subject, "a ready copy", |it| copy(it, "a").is_some_and(Instance::is_ready)).await;
    assert_eq!(view(driver).await.instances.len(), 1, "it is the same copy");
}

async fn a_running_copy_is_not_removed(subject: &impl Subject) {
    let driver = subject.driver();
    execute(driver, create(subject, "a"), &fence(1, 0)).await.expect("a create");
    let remove = || Action::Remove { instance: id("a") };
    let early = execute(driver, remove(), &fence(2, 1)).await;
    assert!(matches!(early, Err(DriverError::Transient(_))), "{early:?}");
    assert!(copy(&view(driver).await, "a").is_some_and(Instance::is_live), "it still runs");
    let effects = view(driver).await.effects.0;
    execute(driver, stop("a"), &fence(3, effects)).await.expect("a stop");
    until(subject, "a stopped copy", |it| copy(it, "a").is_some_and(|it| it.phase == Phase::Stopped)).await;
    let fence = fence(4, view(driver).await.effects.0);
    execute(driver, remove(), &fence).await.expect("a removal");
    execute(driver, remove(), &fence).await.expect("the same removal again");
    assert!(view(driver).await.instances.is_empty());
}

async fn a_closed_app_stays_closed(subject: &impl Subject) {
    let driver = subject.driver();
    execute(driver, Action::Close, &fence(1, 0)).await.expect("a close of what never was");
    execute(driver, Action::Close, &fence(1, 0)).await.expect("the same close again");
    let seen = view(driver).await;
    assert!(seen.closed);
    let late = execute(driver, create(subject, "a"), &fence(2, seen.effects.0)).await;
    assert!(matches!(late, Err(DriverError::Refused(Refusal::Closed))), "{late:?}");
    assert!(view(driver).await.instances.is_empty());
}

async fn another_installation_is_refused(subject: &impl Subject) {
    let driver = subject.driver();
    let foreign = Fence { installation: "elsewhere".parse().expect("a valid id"), ..fence(1, 0) };
    let refused = execute(driver, create(subject, "a"), &foreign).await;
    assert!(matches!(refused, Err(DriverError::Terminal(_))), "{refused:?}");
    assert_eq!(view(driver).await.following, PlanNo(0), "it leaves no trace");
}
