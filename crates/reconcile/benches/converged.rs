//! How often a converged App can be looked at, and that looking writes nothing.
//!
//! `cargo bench -p plimsoll-reconcile --bench converged`; one thread, memory store, drivers that have nothing to do.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on ends here")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use plimsoll_driver::fake::{FakeNode, FakeRouter, Script};
use plimsoll_engine::{Clock, Reconciler as _};
use plimsoll_model::id::{Epoch, InstallationId, TargetName};
use plimsoll_model::kind::{Sealed, Target, TargetSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::quantity::Span;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::status::Outcome;
use plimsoll_model::{App, Attached, ObjectKey};
use plimsoll_reconcile::{AppReconciler, Drivers, Hold, Identity, NoGauges, Opener, Settings};
use plimsoll_store::{Batch, Memory, New, Scope, Store};

/// How long is measured.
const TIME: Duration = Duration::from_secs(3);

struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

struct NoSecrets;

impl Opener for NoSecrets {
    fn open(&self, _: &Sealed) -> Option<Sensitive<String>> {
        None
    }
}

fn main() {
    let (here, local): (InstallationId, TargetName) = ("here".parse().unwrap(), "local".parse().unwrap());
    let (memory, script) = (Memory::new(), Script::default());
    let node = FakeNode::new(local.clone(), here.clone(), script);
    let router = FakeRouter::new(local, here.clone());
    let store = Store::new(memory.clone());
    let reconciler = AppReconciler::new(
        store.clone(),
        Drivers::new().with(node.clone()).with(router),
        Identity { installation: here, epoch: Epoch(1), hold: Hold::default() },
        Arc::new(NoClock),
        Arc::new(NoSecrets),
        Arc::new(NoGauges),
        Settings::default(),
    );
    let key = ObjectKey::in_project("demo".parse().unwrap(), "web".parse().unwrap());
    let spec = serde_json::from_value(serde_json::json!({"components": {"web": {
        "command": ["web"], "replicas": 3, "ports": {"http": 80}, "update": {"soak": "0s"},
        "routes": [{"host": "web.localhost", "port": "http"}],
    }}}));
    let target = New::<Target> {
        uid: "target".parse().unwrap(),
        key: ObjectKey::of_installation("local".parse().unwrap()),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: TargetSpec::local(),
        operations: (),
    };
    let app = New::<App> {
        uid: "app".parse().unwrap(),
        key: key.clone(),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: spec.unwrap(),
        operations: Operations::default(),
    };
    block_on(store.commit(&Scope::All, Batch::new().create(target).create(app))).unwrap();
    while block_on(reconciler.reconcile(&key)).outcome != Outcome::Settled {
        node.advance(Span::seconds(1));
    }
    let (before, began, mut looks) = (memory.commits(), Instant::now(), 0_u32);
    while began.elapsed() < TIME {
        assert_eq!(block_on(reconciler.reconcile(&key)).outcome, Outcome::Settled);
        looks += 1;
    }
    let rate = f64::from(looks) / began.elapsed().as_secs_f64();
    let writes = memory.commits() - before;
    println!(
        "reconcile of a converged App          {rate:>8.0} /s   {writes} writes   bar >= 20000 /s, 0 writes"
    );
}
