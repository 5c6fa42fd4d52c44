//! What is seen of an engine's containers that are ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt as _;
use plimsoll_model::world::Exit;
use serde::Deserialize;

use crate::engine::{Engine, INSTALLATION, Inner};
use crate::error::EngineError;

/// Time between two lists, which make up for events that were lost.
const RELIST: Duration = Duration::from_secs(20);

/// Pause before an engine that did not answer is asked again.
const AWAY: Duration = Duration::from_millis(500);

/// Containers that are looked at together.
const TOGETHER: usize = 8;

/// What is seen of an engine's containers.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Whether the engine answers; if not, nothing else here is certain.
    pub is_answering: bool,
    /// Our containers, by name.
    pub containers: BTreeMap<String, Seen>,
    /// The marks of each, as they were last listed.
    pub marks: BTreeMap<String, BTreeMap<String, String>>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub(crate) order: u64,
    /// Whether anything of it runs.
    pub is_running: bool,
    /// Its first process, as this machine counts them.
    pub pid: Option<i32>,
    /// When its latest run began, in milliseconds since 1970 UTC; absent before the first.
    pub began: Option<u64>,
    /// When the latest run ended, in milliseconds since 1970 UTC; absent while it runs.
    pub ended: Option<u64>,
    /// How the latest run ended.
    pub exit: Option<Exit>,
}

impl Seen {
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        Self { order: other.order, ..self.clone() } == *other
    }
}

/// Follows an engine for as long as somebody has it.
pub(crate) async fn follow(inner: Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        let engine = Engine { inner };
        // It ends with an error: that of the engine, or that it ended its answer.
        follow_on(&engine).await.ok();
        engine.inner.view.send_if_modified(|view| {
            let was = view.is_answering;
            Arc::make_mut(view).is_answering = false;
            was
        });
        drop(engine);
        tokio::time::sleep(AWAY).await;
    }
}

/// Follows an engine until it stops answering.
async fn follow_on(engine: &Engine) -> Result<(), EngineError> {
    let installation = format!("{INSTALLATION}={}", engine.inner.installation);
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("label", vec![installation]),
        // Podman knows some of them by other names.
        ("event", ["die", "died", "destroy", "remove"].map(str::to_owned).to_vec()),
    ]);
    // Before the first list, so that nothing falls between the two.
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let mut events = std::pin::pin!(engine.inner.docker.events(Some(options)));
    let mut lists = tokio::time::interval(RELIST);
    loop {
        tokio::select! {
            _ = lists.tick() => relist(engine).await?,
            event = events.next() => {
                let event = event.ok_or_else(|| EngineError::Away("its events ended".to_owned()))??;
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                if let Some(name) = attributes.get("name") {
                    unless_away(engine.look(name).await)?;
                }
            }
        }
        // Whoever has it besides us may have gone.
        if Arc::strong_count(&engine.inner) == 1 {
            return Ok(());
        }
    }
}

/// One container that cannot be looked at says nothing of the others.
fn unless_away(looked: Result<Option<Seen>, EngineError>) -> Result<(), EngineError> {
    match looked {
        Err(error @ EngineError::Away(_)) => Err(error),
        _ => Ok(()),
    }
}

/// What an engine lists of a container, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    names: Vec<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// Looks at every container that is ours.
async fn relist(engine: &Engine) -> Result<(), EngineError> {
    let installation = format!("{INSTALLATION}={}", engine.inner.installation);
    let filters = serde_json::json!({"label": [installation]}).to_string();
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("all", "true"), ("filters", &filters)])
        .finish();
    let listed: Vec<Listed> = engine.ask(&format!("/containers/json?{query}")).await?;
    let mut marks = BTreeMap::new();
    for Listed { names, labels } in listed {
        if let Some(name) = names.first() {
            marks.insert(name.trim_start_matches('/').to_owned(), labels.unwrap_or_default());
        }
    }
    let known: Vec<String> = engine.inner.view.borrow().containers.keys().cloned().collect();
    // What was known and is not listed is looked at too: it may have come in between.
    let gone = known.into_iter().filter(|name| !marks.contains_key(name));
    let names: Vec<String> = marks.keys().cloned().chain(gone).collect();
    let looks = names.into_iter().map(|name| async move { engine.look(&name).await });
    let mut looks = futures::stream::iter(looks).buffer_unordered(TOGETHER);
    while let Some(looked) = looks.next().await {
        unless_away(looked)?;
    }
    engine.inner.view.send_if_modified(|view| {
        let changed = !view.is_answering || view.marks != marks;
        if changed {
            let view = Arc::make_mut(view);
            view.is_answering = true;
            view.marks = marks;
        }
        changed
    });
    Ok(())
}
