//! From what changed in the store to the Apps that may be concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use plimsoll_engine::{Census, Fut, Hints};
use plimsoll_model::id::Uid;
use plimsoll_model::object::Generation;
use plimsoll_model::{App, AppSpec, Kind, Metadata, Object, ObjectKey, Project, Secret, Target};
use plimsoll_store::{Change, ChangeKind, KindName, Query, ResumeToken, Scope, Store, StoreError, decode};

/// Pause before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Apps that are read at once.
const PAGE: usize = 500;

/// Every App, for the engine's full scan.
pub struct Apps(pub Store);

impl Census for Apps {
    fn page(&self, after: Option<ObjectKey>, limit: usize) -> Fut<'_, Vec<ObjectKey>> {
        // Without an answer there is nothing to mark; the next scan asks again.
        Box::pin(async move { self.of(&Scope::All, after, limit).await.unwrap_or_default() })
    }
}

impl Apps {
    async fn of(
        &self,
        scope: &Scope,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<ObjectKey>, StoreError> {
        let query = Query { limit, after, ..Query::default() };
        let page = self.0.rows(scope, KindName(App::PLURAL), &query).await?;
        Ok(page.rows.into_iter().map(|row| row.meta.key).collect())
    }

    /// Marks every App of a part of the store. What cannot be read now is marked by the next scan.
    pub async fn mark(&self, scope: &Scope, hints: &Hints) {
        let mut after = None;
        loop {
            let page = self.of(scope, after, PAGE).await.unwrap_or_default();
            for key in &page {
                hints.mark(key);
            }
            after = page.into_iter().next_back();
            if after.is_none() {
                return;
            }
        }
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

/// A change of a Secret or a Project may concern every App of the project, that of a Target every App.
async fn follow_kind<K: Kind>(store: &Store, hints: &Hints, everything: &Apps) {
    loop {
        if let Ok(mut changes) = store.watch::<K>(&Scope::All, None) {
            while let Some(Ok(change)) = changes.next().await {
                let named = (K::PLURAL == Project::PLURAL).then(|| change.key.name.as_str().parse().ok());
                let project = change.key.project.or(named.flatten());
                everything.mark(&project.map_or(Scope::All, Scope::project), hints).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
        everything.mark(&Scope::All, hints).await;
    }
}

async fn follow_apps(store: &Store, hints: &Hints) {
    loop {
        // Whatever broke the watch: the next one begins with a list.
        watch_apps(store, hints).await.ok();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch_apps(store: &Store, hints: &Hints) -> Result<(), StoreError> {
    let mut consumers = Consumers::default();
    let begin = every_app(store, |app| {
        consumers.learn(&app.meta, &app.spec);
        hints.mark(&app.meta.key);
    })
    .await?;
    let mut changes = store.watch::<App>(&Scope::All, begin)?;
    while let Some(change) = changes.next().await {
        let Change { key, kind, .. } = change?;
        match kind {
            ChangeKind::Created(row) | ChangeKind::Changed(row) => {
                // A status is written by whoever looked at the App just now; it is news to its consumers only.
                if consumers.is_news(&row.meta) {
                    consumers.learn(&row.meta.clone(), &decode::<App>(*row)?.spec);
                    hints.mark(&key);
                }
            }
            ChangeKind::Deleted(_) => {
                consumers.forget(&key);
                hints.mark(&key);
            }
        }
        consumers.of(&key).for_each(|consumer| hints.mark(consumer));
    }
    Ok(())
}

/// Looks at every App, and says from where on changes are to be followed.
pub(crate) async fn every_app(
    store: &Store,
    mut look: impl FnMut(&Object<App>),
) -> Result<Option<ResumeToken>, StoreError> {
    let (mut begin, mut query) = (None, Query { limit: PAGE, ..Query::default() });
    loop {
        let (apps, is_more, token) = store.page::<App>(&Scope::All, &query).await?;
        // A watch from the first page's token misses nothing of the later ones.
        begin.get_or_insert(token);
        apps.iter().for_each(&mut look);
        query.after = apps.into_iter().next_back().map(|app| app.meta.key);
        if !is_more {
            return Ok(begin);
        }
    }
}

/// Which declaration it is: an App of the same name that was made anew has another identity.
type Declaration = (Uid, Generation);

fn declaration(meta: &Metadata) -> Declaration {
    (meta.uid.clone(), meta.generation)
}

/// Which Apps consume which, so that a provider's news reaches them.
#[derive(Default)]
struct Consumers {
    provided_to: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// By consumer, with the declaration that says so.
    providers_of: BTreeMap<ObjectKey, (Declaration, BTreeSet<ObjectKey>)>,
}

impl Consumers {
    /// Whether this declaration was not seen before.
    fn is_news(&self, meta: &Metadata) -> bool {
        self.providers_of.get(&meta.key).is_none_or(|(known, _)| *known != declaration(meta))
    }

    fn learn(&mut self, meta: &Metadata, spec: &AppSpec) {
        let key = meta.key.clone();
        self.forget(&key);
        let consumed = spec.components.values().flat_map(|component| component.consumes.values());
        let providers: BTreeSet<ObjectKey> =
            consumed.filter_map(|consume| Some(key.sibling(consume.from.app.clone()?))).collect();
        for provider in &providers {
            self.provided_to.entry(provider.clone()).or_default().insert(key.clone());
        }
        self.providers_of.insert(key, (declaration(meta), providers));
    }

    fn forget(&mut self, key: &ObjectKey) {
        for provider in self.providers_of.remove(key).map(|(_, providers)| providers).unwrap_or_default() {
            if let Some(consumers) = self.provided_to.get_mut(&provider) {
                consumers.remove(key);
            }
        }
    }

    fn of(&self, provider: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.provided_to.get(provider).into_iter().flatten()
    }
}
