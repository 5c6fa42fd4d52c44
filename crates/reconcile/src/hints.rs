//! From what changed in the store to the Apps that may be concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use plimsoll_engine::{Census, Fut, Hints};
use plimsoll_model::{App, AppSpec, Kind, ObjectKey, Project, Secret, Target};
use plimsoll_store::{Change, ChangeKind, Query, Scope, Store, StoreError, decode};

/// Pause before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Every App, for the engine's full scan.
pub struct Apps(pub Store);

impl Census for Apps {
    fn all(&self) -> Fut<'_, Vec<ObjectKey>> {
        Box::pin(async {
            // Without an answer there is nothing to mark; the next scan asks again.
            let apps = self.0.list::<App>(&Scope::All, &Query::default()).await.unwrap_or_default();
            apps.into_iter().map(|app| app.meta.key).collect()
        })
    }
}

/// Watches the store and marks the Apps that a change may concern, for as long as it is polled.
pub async fn follow(store: Store, hints: Hints) {
    let everything = Apps(store.clone());
    let secrets = follow_kind::<Secret>(&store, &hints, &everything);
    let targets = follow_kind::<Target>(&store, &hints, &everything);
    let projects = follow_kind::<Project>(&store, &hints, &everything);
    futures::join!(follow_apps(&store, &hints), secrets, targets, projects);
}

/// A change of such an object may concern every App.
async fn follow_kind<K: Kind>(store: &Store, hints: &Hints, everything: &Apps) {
    loop {
        if let Ok(mut changes) = store.watch::<K>(&Scope::All, None) {
            while let Some(Ok(_)) = changes.next().await {
                mark_all(hints, everything).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
        mark_all(hints, everything).await;
    }
}

async fn mark_all(hints: &Hints, everything: &Apps) {
    everything.all().await.iter().for_each(|key| hints.mark(key));
}

async fn follow_apps(store: &Store, hints: &Hints) {
    loop {
        // Whatever broke the watch: the next one begins with a list.
        watch_apps(store, hints).await.ok();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch_apps(store: &Store, hints: &Hints) -> Result<(), StoreError> {
    let (apps, _, token) = store.page::<App>(&Scope::All, &Query::default()).await?;
    let mut consumers = Consumers::default();
    for app in &apps {
        consumers.learn(app.meta.key.clone(), &app.spec);
        hints.mark(&app.meta.key);
    }
    let mut changes = store.watch::<App>(&Scope::All, Some(token))?;
    while let Some(change) = changes.next().await {
        let Change { key, kind, .. } = change?;
        match kind {
            ChangeKind::Created(row) | ChangeKind::Changed(row) => {
                consumers.learn(key.clone(), &decode::<App>(*row)?.spec);
            }
            ChangeKind::Deleted(_) => consumers.forget(&key),
        }
        hints.mark(&key);
        consumers.of(&key).for_each(|consumer| hints.mark(consumer));
    }
    Ok(())
}

/// Which Apps consume which, so that a provider's news reaches them.
#[derive(Default)]
struct Consumers {
    provided_to: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    providers_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Consumers {
    fn learn(&mut self, key: ObjectKey, spec: &AppSpec) {
        self.forget(&key);
        let consumed = spec.components.values().flat_map(|component| component.consumes.values());
        let providers: BTreeSet<ObjectKey> =
            consumed.filter_map(|consume| Some(key.sibling(consume.from.app.clone()?))).collect();
        for provider in &providers {
            self.provided_to.entry(provider.clone()).or_default().insert(key.clone());
        }
        self.providers_of.insert(key, providers);
    }

    fn forget(&mut self, key: &ObjectKey) {
        for provider in self.providers_of.remove(key).unwrap_or_default() {
            if let Some(consumers) = self.provided_to.get_mut(&provider) {
                consumers.remove(key);
            }
        }
    }

    fn of(&self, provider: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.provided_to.get(provider).into_iter().flatten()
    }
}
