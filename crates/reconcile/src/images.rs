//! What the tags of images lead to.
//!
//! An image is asked for while an App waits to know it, or follows it; each only once for all Apps that name it, and
//! followed ones at the shortest interval that one of them declares. What is found is an [`Image`] object in each of their
//! projects. It stays for as long as somebody follows the image, and a little longer than anybody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use plimsoll_engine::{Clock, Fut, Hints};
use plimsoll_model::id::{Digest, ObjectName, ProjectName};
use plimsoll_model::image::{ImageRef, Sought};
use plimsoll_model::kind::{EarlierImage, Image, ImageSpec};
use plimsoll_model::update::Follow;
use plimsoll_model::wait::Reason;
use plimsoll_model::{App, Attached, Object, ObjectKey};
use plimsoll_store::{
    Batch, Change, ChangeKind, New, Query, ResumeToken, Row, Scope, Store, StoreError, decode,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hints::every_app;
use crate::record;

/// Pause before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Pauses between two questions that had no answer: the first, which doubles, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_LONGEST: Duration = Duration::from_mins(5);

/// How long an answer is good for those who come later, while nobody follows the image.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// Time between two questions that somebody asks for.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Looks that wait.
const LOOKS: usize = 1024;

/// Questions under way at the same time.
const TOGETHER: usize = 32;

/// Earlier digests that are kept.
const KEPT: usize = 20;

/// Who knows what tags lead to.
pub trait ImageSource: Send + Sync + 'static {
    /// What a tag leads to now, or the newest version, or why nobody says so, as a sentence that does not change while
    /// nothing else does.
    fn find<'a>(&'a self, sought: &'a Sought) -> Fut<'a, Result<Found, String>>;

    /// Whether there is such an image, by its digest if it has one.
    fn has<'a>(&'a self, image: &'a ImageRef) -> Fut<'a, Result<bool, Unsaid>>;
}

/// Why nobody says whether there is an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    /// Whoever knows does not answer now.
    #[error("{0}")]
    Away(String),
    /// Whoever knows does not tell us.
    #[error("{0}")]
    Never(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The tag, where it was chosen among versions.
    pub tag: Option<String>,
    /// The digest that it leads to.
    pub digest: Digest,
}

/// Finds out what images are.
pub struct Images {
    store: Store,
    source: Arc<dyn ImageSource>,
    clock: Arc<dyn Clock>,
    hints: Hints,
    /// What each App wants, to find it again when it wants something else.
    wanted: BTreeMap<ObjectKey, BTreeSet<Sought>>,
    asked: BTreeMap<Sought, Asked>,
    /// Images that somebody says have moved.
    looks: mpsc::Receiver<Look>,
}

/// Somebody says that an image has moved: whoever wants it in these projects is to know now. It is a hint, nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The registry; any without one, for what a registry is called depends on who asks it.
    pub registry: Option<String>,
    /// The path of its repository there.
    pub path: String,
    /// The projects that may hear of it; all of them without a set.
    pub projects: Option<BTreeSet<ProjectName>>,
}

/// Asks for looks at images. Clones ask the same watcher.
#[derive(Debug, Clone)]
pub struct Looks(mpsc::Sender<Look>);

impl Looks {
    /// The asking end, and what [`Images`] takes.
    pub fn new() -> (Self, mpsc::Receiver<Look>) {
        let (sender, receiver) = mpsc::channel(LOOKS);
        (Self(sender), receiver)
    }

    /// Asks for one. `false` if so many wait already that this one is dropped: the usual round finds it.
    pub fn ask(&self, look: Look) -> bool {
        self.0.try_send(look).is_ok()
    }
}

/// What an App wants of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// To know it at all.
    Once,
    /// To know it again after this time.
    Every(Duration),
}

/// What is known of an image here.
struct Asked {
    /// When it is asked for again, if anybody still wants it.
    due: Instant,
    is_under_way: bool,
    /// When it was asked for last, if it was.
    last: Option<Instant>,
    /// It moved after what is under way was asked.
    is_late: bool,
    /// Questions in a row that had no answer.
    failures: u32,
    /// The Apps that want it, and how.
    wanters: BTreeMap<ObjectKey, Want>,
    /// Projects with an object for it.
    known_in: BTreeSet<ProjectName>,
    /// Until when those are good though nobody wants them.
    until: Instant,
}

type Answer = (Sought, Result<Found, String>);

impl Images {
    /// Over a store and whoever knows.
    pub fn new(
        store: Store,
        source: Arc<dyn ImageSource>,
        clock: Arc<dyn Clock>,
        hints: Hints,
        looks: mpsc::Receiver<Look>,
    ) -> Self {
        Self { store, source, clock, hints, wanted: BTreeMap::new(), asked: BTreeMap::new(), looks }
    }

    /// Does so for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            // Whatever broke it: the next round begins with a list.
            self.round().await.ok();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        self.wanted.clear();
        self.asked.clear();
        let begin = self.read().await?;
        let mut changes = self.store.watch::<App>(&Scope::All, begin)?;
        let mut questions = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            for sought in self.due(now, TOGETHER.saturating_sub(questions.len())) {
                let source = self.source.clone();
                questions.push(async move {
                    let answer = source.find(&sought).await;
                    (sought, answer)
                });
            }
            let is_full = questions.len() >= TOGETHER;
            let next = self.next(now, is_full);
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => self.learn(change?)?,
                    None => return Ok(()),
                },
                Some(answer) = questions.next() => match self.record(answer).await {
                    // Another server wrote it just now; the next answer is compared with that.
                    Err(StoreError::Conflict { .. }) => {}
                    recorded => recorded?,
                },
                Some(look) = self.looks.recv() => self.look(&look),
                () = tokio::time::sleep_until(next) => self.forget(Instant::now()).await?,
            }
        }
    }

    /// Reads every App and every Image; returns from where on changes are to be followed.
    async fn read(&mut self) -> Result<Option<ResumeToken>, StoreError> {
        let store = self.store.clone();
        let begin = every_app(&store, |app| self.want(app)).await?;
        for image in self.store.list::<Image>(&Scope::All, &Query::default()).await? {
            let sought = Sought { image: image.spec.image, range: image.spec.range };
            let asked = self.asked.entry(sought).or_insert_with(Asked::new);
            asked.known_in.extend(image.meta.key.project);
        }
        Ok(begin)
    }

    fn learn(&mut self, change: Change) -> Result<(), StoreError> {
        match change.kind {
            // Most Apps have no images, and most changes are of their status: those need not be read.
            ChangeKind::Created(row) | ChangeKind::Changed(row) if names_images(&row) => {
                self.want(&decode::<App>(*row)?);
            }
            _ => self.unwant(&change.key),
        }
        Ok(())
    }

    /// Notes what an App wants to know now.
    fn want(&mut self, app: &Object<App>) {
        let mut wants = BTreeMap::new();
        if app.meta.deleting.is_none() {
            for component in app.spec.components.values() {
                let follows = component.update.image.follow != Follow::None;
                if let Some(image) = component.image.as_ref().filter(|it| follows && it.digest().is_none()) {
                    let sought = Sought::by(&component.update.image, image);
                    let every = Duration::from_millis(component.update.image.every().millis);
                    let shortest = match wants.get(&sought) {
                        Some(Want::Every(other)) => every.min(*other),
                        _ => every,
                    };
                    wants.insert(sought, Want::Every(shortest));
                }
            }
            let outcome = app.status.as_ref().and_then(|status| status.value.outcome.as_ref());
            for waited in outcome.into_iter().flat_map(|outcome| &outcome.waits) {
                if let Reason::ImageUnresolved { image, .. } = waited.wait.reason() {
                    // Versions are followed anyway.
                    if !wants.keys().any(|sought| sought.image == **image) {
                        wants.insert(Sought { image: ImageRef::clone(image), range: None }, Want::Once);
                    }
                }
            }
        }
        let key = &app.meta.key;
        self.unwant(key);
        for (image, want) in &wants {
            let asked = self.asked.entry(image.clone()).or_insert_with(Asked::new);
            let is_known = key.project.as_ref().is_some_and(|it| asked.known_in.contains(it));
            asked.wanters.insert(key.clone(), *want);
            if !is_known && asked.failures == 0 {
                asked.due = Instant::now();
            }
        }
        if !wants.is_empty() {
            self.wanted.insert(key.clone(), wants.into_keys().collect());
        }
    }

    /// Asks for an image as soon as may be, because somebody says that it has moved.
    fn look(&mut self, look: &Look) {
        let now = Instant::now();
        for (sought, asked) in &mut self.asked {
            let hears = |app: &ObjectKey| {
                let project = app.project.as_ref();
                look.projects.as_ref().is_none_or(|all| project.is_some_and(|it| all.contains(it)))
            };
            let repository = sought.image.repository();
            let is_meant = repository.path() == look.path
                && look.registry.as_ref().is_none_or(|it| it == repository.registry());
            if is_meant && asked.wanters.keys().any(hears) {
                asked.is_late = asked.is_under_way;
                // Whoever announces without end does not make the registry be asked without end.
                asked.due = asked.due.min(asked.last.map_or(now, |last| (last + LOOK_PAUSE).max(now)));
            }
        }
    }

    fn unwant(&mut self, app: &ObjectKey) {
        for image in self.wanted.remove(app).into_iter().flatten() {
            if let Some(asked) = self.asked.get_mut(&image) {
                asked.wanters.remove(app);
            }
        }
    }

    /// Images to ask for now, which count as asked from here on.
    fn due(&mut self, now: Instant, most: usize) -> Vec<Sought> {
        let is_due = |asked: &Asked| !asked.is_under_way && asked.due <= now && !asked.wanters.is_empty();
        let mut found = Vec::new();
        for (image, asked) in self.asked.iter_mut().filter(|(_, asked)| is_due(asked)).take(most) {
            asked.is_under_way = true;
            asked.last = Some(now);
            found.push(image.clone());
        }
        found
    }

    /// When something is due again.
    fn next(&self, now: Instant, is_full: bool) -> Instant {
        let times = self.asked.values().filter(|asked| !asked.is_under_way);
        // While no more can be asked, an answer comes before anything else.
        let times = times.filter(|asked| !is_full || asked.wanters.is_empty());
        let times = times.map(|asked| if asked.wanters.is_empty() { asked.until } else { asked.due });
        times.min().unwrap_or(now + GOOD_FOR).max(now + Duration::from_millis(1))
    }

    /// Writes an answer down in each project that wants it.
    async fn record(&mut self, (sought, answer): Answer) -> Result<(), StoreError> {
        let Some(asked) = self.asked.get_mut(&sought) else { return Ok(()) };
        let wanters = asked.wanters.clone();
        let projects: BTreeSet<ProjectName> = wanters.keys().filter_map(|app| app.project.clone()).collect();
        let now = Instant::now();
        asked.is_under_way = false;
        asked.until = now + GOOD_FOR;
        let shortest = wanters.values().filter_map(|want| match want {
            Want::Every(every) => Some(*every),
            Want::Once => None,
        });
        asked.failures = if answer.is_ok() { 0 } else { asked.failures.saturating_add(1) };
        asked.due = now
            + match &answer {
                Ok(_) => shortest.min().unwrap_or(GOOD_FOR),
                Err(_) => (RETRY_FIRST * 2_u32.pow(asked.failures.min(16) - 1)).min(RETRY_LONGEST),
            };
        if std::mem::take(&mut asked.is_late) {
            asked.due = asked.due.min(now + LOOK_PAUSE);
        }
        asked.known_in.extend(projects.iter().cloned());
        for project in &projects {
            if self.write(project, &sought, &answer).await? {
                let apps = wanters.keys().filter(|app| app.project.as_ref() == Some(project));
                apps.for_each(|app| self.hints.mark(app));
            }
        }
        Ok(())
    }

    /// Whether what is known of an image in a project has changed by an answer.
    async fn write(
        &self,
        project: &ProjectName,
        sought: &Sought,
        answer: &Result<Found, String>,
    ) -> Result<bool, StoreError> {
        let key = ObjectKey::in_project(project.clone(), image_name(sought));
        let old = self.store.get::<Image>(&Scope::All, &key).await?;
        let at = self.clock.now();
        let blank = ImageSpec {
            image: sought.image.clone(),
            range: sought.range.clone(),
            tag: None,
            digest: None,
            since: None,
            problem: None,
            before: Vec::new(),
        };
        let mut spec = old.as_ref().map_or(blank, |old| old.spec.clone());
        match answer {
            Ok(Found { tag, digest }) => {
                spec.problem = None;
                spec.tag.clone_from(tag);
                if spec.digest != Some(*digest) {
                    if let (Some(digest), Some(since)) = (spec.digest, spec.since) {
                        spec.before.insert(0, EarlierImage { digest, since });
                        spec.before.truncate(KEPT);
                    }
                    (spec.digest, spec.since) = (Some(*digest), Some(at));
                }
            }
            // What was known still holds.
            Err(problem) => spec.problem = Some(problem.clone()),
        }
        let batch = match &old {
            Some(old) if old.spec == spec => return Ok(false),
            Some(old) => Batch::new().reword(old, spec),
            None => Batch::new().create(New::<Image> {
                uid: record::child_uid(
                    &format!("project-{project}").parse().expect("a word and a name form a uid"),
                    &sought.to_string(),
                ),
                key,
                owner: None,
                at,
                attached: Attached::default(),
                spec,
                operations: (),
            }),
        };
        self.store.commit(&Scope::All, batch).await?;
        Ok(true)
    }

    /// Removes what is known of images that nobody wants any more.
    async fn forget(&mut self, now: Instant) -> Result<(), StoreError> {
        let over: Vec<Sought> = self
            .asked
            .iter()
            .filter(|(_, asked)| !asked.is_under_way && asked.until <= now && asked.wanters.is_empty())
            .map(|(sought, _)| sought.clone())
            .collect();
        for sought in over {
            let Some(asked) = self.asked.remove(&sought) else { continue };
            for project in asked.known_in {
                let key = ObjectKey::in_project(project, image_name(&sought));
                if let Some(old) = self.store.get::<Image>(&Scope::All, &key).await? {
                    self.store.commit(&Scope::All, Batch::new().delete(&old)).await?;
                }
            }
        }
        Ok(())
    }
}

impl Asked {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            due: now,
            is_under_way: false,
            last: None,
            is_late: false,
            failures: 0,
            wanters: BTreeMap::new(),
            known_in: BTreeSet::new(),
            until: now + GOOD_FOR,
        }
    }
}

/// What is known of an image in the project of an App.
///
/// # Errors
/// When the store does not answer.
pub async fn known_image(
    store: &Store,
    app: &ObjectKey,
    sought: &Sought,
) -> Result<Option<ImageSpec>, StoreError> {
    let known = store.get::<Image>(&Scope::All, &app.sibling(image_name(sought))).await?;
    Ok(known.map(|known| known.spec))
}

/// Whether an App may want to know anything of images.
fn names_images(row: &Row) -> bool {
    row.spec.contains("\"image\"") || row.status.as_ref().is_some_and(|it| it.contains("imageUnresolved"))
}

/// The name of what is known of an image: readable, and never that of another image.
fn image_name(sought: &Sought) -> ObjectName {
    let text = sought.to_string().to_lowercase();
    let words: Vec<&str> =
        text.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty()).collect();
    let mut name = words.join("-");
    name.truncate(60);
    let name = name.trim_end_matches('-');
    let digest = Digest::of_bytes(sought.to_string().as_bytes()).short();
    format!("{name}.{}", &digest[..6]).parse().expect("words and a digest form a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_names_of_their_own() {
        let of = |text: &str, range| Sought { image: text.parse().unwrap(), range };
        let name = |text: &str| image_name(&of(text, None)).to_string();
        assert!(name("127.0.0.1:5000/team/app:V1").starts_with("127-0-0-1-5000-team-app-v1."));
        assert_ne!(name("a/b:v1"), name("a/b:V1"));
        assert_ne!(image_name(&of("a/b", "^1".parse().ok())), image_name(&of("a/b", "~1".parse().ok())));
        assert!(name(&format!("{}:x", "a/".repeat(100) + "b")).len() < 70);
    }
}
