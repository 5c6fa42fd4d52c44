//! The watcher of images on a clock of its own: how often it asks, and whom it tells.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_engine::{Clock, Fut, Hints};
use plimsoll_model::id::Digest;
use plimsoll_model::image::{ImageRef, Sought};
use plimsoll_model::kind::Image;
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::{App, Attached, ObjectKey};
use plimsoll_reconcile::{Found, ImageSource, Images, Look, Looks, Unsaid};
use plimsoll_store::{Batch, Memory, New, Query, Scope, Store};
use serde_json::json;

struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

/// Counts questions, and answers with a digest that anybody may change.
#[derive(Default)]
struct Counted {
    asked: AtomicUsize,
    version: Mutex<u8>,
}

impl ImageSource for Counted {
    fn find<'a>(&'a self, _: &'a Sought) -> Fut<'a, Result<Found, String>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(Found { tag: None, digest: Digest::of_bytes(&[*self.version.lock().unwrap()]) })
        })
    }

    fn has<'a>(&'a self, _: &'a ImageRef) -> Fut<'a, Result<bool, Unsaid>> {
        Box::pin(async { Ok(true) })
    }
}

/// Apps that follow images by turns, a minute between two looks.
async fn store_of(apps: usize, images: usize) -> Store {
    let store = Store::new(Memory::new());
    let made = (0..apps).map(|number| New::<App> {
        uid: format!("app-{number}").parse().unwrap(),
        key: ObjectKey::in_project("demo".parse().unwrap(), format!("app-{number}").parse().unwrap()),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: serde_json::from_value(json!({"components": {"main": {
            "image": format!("registry.example/team/app-{}:main", number % images),
            "update": {"image": {"follow": "digest", "every": "1m"}},
        }}}))
        .unwrap(),
        operations: Operations::default(),
    });
    let batch = made.fold(Batch::new(), Batch::create);
    store.commit(&Scope::All, batch).await.unwrap();
    store
}

/// One question for each image and minute, however many Apps follow it; a look asks once more, and not more often than once a
/// second.
#[tokio::test(start_paused = true)]
async fn ten_thousand_apps_on_a_hundred_images_ask_a_hundred_times_a_minute() {
    let (store, source) = (store_of(10_000, 100).await, Arc::new(Counted::default()));
    let (looks, asked) = Looks::new();
    let watcher = Images::new(store.clone(), source.clone(), Arc::new(NoClock), Hints::new(1), asked);
    let watcher = tokio::spawn(watcher.run());
    let questions = || source.asked.swap(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(questions(), 100, "each once at first");
    for minute in 0..10 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(questions() <= 100, "minute {minute}");
    }
    let known = store.list::<Image>(&Scope::All, &Query::default()).await.unwrap();
    assert_eq!(known.len(), 100);

    *source.version.lock().unwrap() = 1;
    let look = |registry: Option<&str>, project: &str| Look {
        registry: registry.map(str::to_owned),
        path: "team/app-7".to_owned(),
        projects: Some(BTreeSet::from([project.parse().unwrap()])),
    };
    // Just after a round nothing is due by itself.
    tokio::time::sleep(Duration::from_secs(20)).await;
    questions();
    assert!(looks.ask(look(None, "other")) && looks.ask(look(Some("elsewhere"), "demo")));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(questions(), 0, "nobody who may hear of it wants it");
    for _ in 0..50 {
        assert!(looks.ask(look(None, "demo")));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let often = questions();
    assert!((1..=6).contains(&often), "{often} questions in five seconds");
    let known = store.list::<Image>(&Scope::All, &Query::default()).await.unwrap();
    let moved = known.iter().filter(|image| !image.spec.before.is_empty()).count();
    assert_eq!(moved, 1, "the others are looked at in their turn");
    watcher.abort();
}
