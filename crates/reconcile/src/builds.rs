//! What sources are built to.
//!
//! A source is looked at while an App names it: when it is new here, when somebody says that it has moved, and for as long as it
//! is followed at the shortest interval that is declared. Whatever it leads to then is built once, for all Apps of the project that
//! name it, and what became of that is a [`Build`] object. What was built before goes on being used until something newer is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use plimsoll_engine::{Clock, Fut, Hints};
use plimsoll_model::id::{CommitId, Digest, ObjectName, ProjectName};
use plimsoll_model::kind::{
    Build, BuildFailure, BuildFault, BuildSpec, BuildState, BuiltImage, EngineAddress, Target, TargetSpec,
};
use plimsoll_model::source::Source;
use plimsoll_model::update::Follow;
use plimsoll_model::{App, Attached, Object, ObjectKey};
use plimsoll_plan::{BuildView, Lag};
use plimsoll_store::{Batch, Change, ChangeKind, New, Query, Row, Scope, Store, StoreError, decode};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::Hold;
use crate::hints::every_app;
use crate::record;
use crate::surroundings::target_of;

/// Pause before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is asked whether what was built is still there.
const LOOK: Duration = Duration::from_mins(10);

/// Pauses between two attempts that failed for a reason outside of the source: the first, which doubles, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_LONGEST: Duration = Duration::from_mins(5);

/// As how many failures it counts that a process ended while it was building: half a minute.
const INTERRUPTED: u32 = 5;

/// The same for what is the source's own fault: a command that fails may have failed for want of a network.
const REBUILD_FIRST: Duration = Duration::from_mins(10);
const REBUILD_LONGEST: Duration = Duration::from_hours(6);

/// Time between two looks that somebody asks for.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Looks that wait.
const LOOKS: usize = 1024;

/// Builds under way at the same time: each has the machine's processors for itself.
const TOGETHER: usize = 2;

/// A source, and where it is built for whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// The project whose Apps name it.
    pub project: ProjectName,
    /// The source.
    pub source: Source,
    /// The engine that is to have the image; the usual one without.
    pub engine: Option<EngineAddress>,
    /// Whether it is looked for newer commits. Without, the first one that was found stays.
    pub follow: bool,
}

impl Order {
    /// The name of what is known of it: readable, and never that of another one.
    ///
    /// # Panics
    /// Never: words and a digest form a name.
    pub fn name(&self) -> ObjectName {
        let text = self.source.to_string().to_lowercase();
        let words = text.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
        let mut name = words.collect::<Vec<_>>().join("-");
        name.truncate(40);
        let name = name.trim_end_matches('-');
        let name = if name.is_empty() { "source" } else { name };
        let digest = Digest::of_json(&(&self.source, &self.engine, self.follow)).short();
        format!("{name}.{}", &digest[..6]).parse().expect("words and a digest form a name")
    }
}

/// Why a source was not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbuilt {
    /// In words that do not change while nothing else does.
    pub why: String,
    /// Whose fault it is.
    pub fault: BuildFault,
    /// The last lines of what was said.
    pub log: Vec<String>,
}

/// Who fetches and builds sources.
pub trait Builder: Send + Sync + 'static {
    /// The commit that the source of an order leads to now; none for what is no repository.
    fn find<'a>(&'a self, order: &'a Order) -> Fut<'a, Result<Option<CommitId>, Unbuilt>>;

    /// Whether the engine still has an image.
    fn has<'a>(&'a self, order: &'a Order, image: Digest) -> Fut<'a, Result<bool, Unbuilt>>;

    /// Builds an order as of a commit, unless that was done before, and says which image it is.
    fn build<'a>(
        &'a self,
        order: &'a Order,
        commit: Option<&'a CommitId>,
    ) -> Fut<'a, Result<Digest, Unbuilt>>;

    /// Removes what was written down of an order that nobody has any more.
    fn forget<'a>(&'a self, order: &'a Order) -> Fut<'a, ()>;
}

/// Somebody says that a repository has moved, or that a build is to be tried again. It is a hint, nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// Whoever follows this repository, in these projects; all of them without a set.
    Repository {
        /// Its address, as [`repository_of`] has it.
        repository: String,
        /// The projects that may hear of it.
        projects: Option<BTreeSet<ProjectName>>,
    },
    /// This build.
    Build(ObjectKey),
}

/// Tells of pushes. Clones tell the same reconciler.
#[derive(Debug, Clone)]
pub struct Pushes(mpsc::Sender<Push>);

impl Pushes {
    /// The telling end, and what [`Builds`] takes.
    pub fn new() -> (Self, mpsc::Receiver<Push>) {
        let (sender, receiver) = mpsc::channel(LOOKS);
        (Self(sender), receiver)
    }

    /// Tells of one. `false` if so many wait already that this one is dropped.
    pub fn tell(&self, push: Push) -> bool {
        self.0.try_send(push).is_ok()
    }
}

/// What two addresses of one repository have in common: host and path, without the way, the user and `.git`.
pub fn repository_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) if address.contains("://") => (authority, path),
        _ => rest.split_once(':').unwrap_or((rest, "")),
    };
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = path.trim_matches('/');
    format!("{}/{}", host.to_lowercase(), path.strip_suffix(".git").unwrap_or(path))
}

/// Has sources built.
pub struct Builds {
    store: Store,
    builder: Arc<dyn Builder>,
    clock: Arc<dyn Clock>,
    hints: Hints,
    /// While it is on, nothing is done.
    hold: Hold,
    /// What each App names, to find it again when it names something else.
    wanted: BTreeMap<ObjectKey, BTreeSet<Order>>,
    orders: BTreeMap<Order, Known>,
    /// Those that this process has looked at: what another one has begun, it has not finished.
    looked: BTreeSet<Order>,
    pushes: mpsc::Receiver<Push>,
}

/// What is known of an order here.
struct Known {
    /// When it is looked at again.
    due: Instant,
    is_under_way: bool,
    /// Somebody said that it has moved after what is under way began.
    is_late: bool,
    /// Somebody wants it tried again, though nothing has changed.
    is_forced: bool,
    /// When it was looked at last.
    last: Option<Instant>,
    /// The Apps that name it, and how often they want it looked at.
    wanters: BTreeMap<ObjectKey, Option<Duration>>,
}

impl Known {
    fn new() -> Self {
        Self {
            due: Instant::now(),
            is_under_way: false,
            is_late: false,
            is_forced: false,
            last: None,
            wanters: BTreeMap::new(),
        }
    }
}

impl Builds {
    /// Over a store and whoever builds.
    pub fn new(
        store: Store,
        builder: Arc<dyn Builder>,
        clock: Arc<dyn Clock>,
        hints: Hints,
        hold: Hold,
        pushes: mpsc::Receiver<Push>,
    ) -> Self {
        Self {
            store,
            builder,
            clock,
            hints,
            hold,
            wanted: BTreeMap::new(),
            orders: BTreeMap::new(),
            looked: BTreeSet::new(),
            pushes,
        }
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
        self.orders.clear();
        let (store, mut named) = (self.store.clone(), Vec::new());
        let begin = every_app(&store, |app| named.extend(has_source(app).then(|| app.clone()))).await?;
        let mut apps = store.watch::<App>(&Scope::All, begin)?;
        let mut targets = store.watch::<Target>(&Scope::All, begin)?;
        for app in &named {
            self.want(app).await?;
        }
        self.forget_others().await?;
        let mut under_way = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let room = if self.hold.is_on() { 0 } else { TOGETHER.saturating_sub(under_way.len()) };
            for (order, is_forced) in self.due(now, room) {
                let is_first = self.looked.insert(order.clone());
                under_way.push(self.work().carry_out(order, is_forced, is_first));
            }
            let next = self.next(now, room == 0);
            tokio::select! {
                change = apps.next() => match change {
                    Some(change) => self.learn(change?).await?,
                    None => return Ok(()),
                },
                change = targets.next() => match change {
                    // An engine that is named elsewhere is another order: the next list says so.
                    Some(change) => { change?; return Ok(()) }
                    None => return Ok(()),
                },
                Some((order, due)) = under_way.next() => {
                    self.settle(&order, due);
                    self.forget_unwanted().await?;
                }
                Some(push) = self.pushes.recv() => self.hear(&push),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn work(&self) -> Work {
        Work {
            store: self.store.clone(),
            builder: self.builder.clone(),
            clock: self.clock.clone(),
            hints: self.hints.clone(),
        }
    }

    async fn learn(&mut self, change: Change) -> Result<(), StoreError> {
        match change.kind {
            // Most Apps have no sources, and most changes are of their status: those need not be read.
            ChangeKind::Created(row) | ChangeKind::Changed(row) if names_source(&row) => {
                self.want(&decode::<App>(*row)?).await?;
            }
            _ => self.unwant(&change.key),
        }
        self.forget_unwanted().await
    }

    /// Notes what an App names now.
    async fn want(&mut self, app: &Object<App>) -> Result<(), StoreError> {
        let mut wants: BTreeMap<Order, Option<Duration>> = BTreeMap::new();
        if let Some(project) = app.meta.key.project.clone().filter(|_| app.meta.deleting.is_none()) {
            let engine = engine_of(&self.store, app).await?;
            for component in app.spec.components.values() {
                let Some(source) = component.source.clone() else { continue };
                let follow = component.update.image.follow == Follow::Digest;
                let order = Order { project: project.clone(), source, engine: engine.clone(), follow };
                let every = follow.then(|| Duration::from_millis(component.update.image.every().millis));
                let known = wants.entry(order).or_insert(every);
                *known = [*known, every].into_iter().flatten().min();
            }
        }
        let key = &app.meta.key;
        if self.wanted.get(key).is_some_and(|before| before.iter().eq(wants.keys())) {
            // Its status changed, most likely.
            for (order, every) in wants {
                if let Some(known) = self.orders.get_mut(&order) {
                    known.wanters.insert(key.clone(), every);
                }
            }
            return Ok(());
        }
        self.unwant(key);
        for (order, every) in &wants {
            let known = self.orders.entry(order.clone()).or_insert_with(Known::new);
            known.wanters.insert(key.clone(), *every);
        }
        if !wants.is_empty() {
            self.wanted.insert(key.clone(), wants.into_keys().collect());
        }
        Ok(())
    }

    fn unwant(&mut self, app: &ObjectKey) {
        for order in self.wanted.remove(app).into_iter().flatten() {
            if let Some(known) = self.orders.get_mut(&order) {
                known.wanters.remove(app);
            }
        }
    }

    /// Orders to carry out now, which count as under way from here on.
    fn due(&mut self, now: Instant, most: usize) -> Vec<(Order, bool)> {
        let mut found = Vec::new();
        for order in chosen(&self.orders, now, most) {
            let Some(known) = self.orders.get_mut(&order) else { continue };
            known.is_under_way = true;
            known.last = Some(now);
            let is_forced = std::mem::take(&mut known.is_forced);
            found.push((order, is_forced));
        }
        found
    }

    /// When something is due again.
    fn next(&self, now: Instant, is_full: bool) -> Instant {
        let times =
            self.orders.values().filter(|known| !known.is_under_way && !is_full).map(|known| known.due);
        times.min().unwrap_or(now + PAUSE).max(now + Duration::from_millis(1))
    }

    /// Notes when an order that was carried out is due again.
    fn settle(&mut self, order: &Order, again: Duration) {
        let Some(known) = self.orders.get_mut(order) else { return };
        let now = Instant::now();
        known.is_under_way = false;
        let shortest = known.wanters.values().flatten().min().copied();
        known.due = now + shortest.map_or(again, |every| every.min(again));
        if std::mem::take(&mut known.is_late) {
            known.due = known.due.min(now + LOOK_PAUSE);
        }
    }

    /// Has orders looked at as soon as may be, because somebody says that they have moved.
    fn hear(&mut self, push: &Push) {
        let now = Instant::now();
        for (order, known) in &mut self.orders {
            let is_meant = match push {
                Push::Repository { repository, projects } => {
                    let own = order.source.git.as_deref().map(repository_of);
                    order.follow
                        && own.as_ref() == Some(repository)
                        && projects.as_ref().is_none_or(|all| all.contains(&order.project))
                }
                Push::Build(key) => key.project.as_ref() == Some(&order.project) && key.name == order.name(),
            };
            if is_meant {
                known.is_late = known.is_under_way;
                known.is_forced |= matches!(push, Push::Build(_));
                // Whoever announces without end does not make a repository be asked without end.
                known.due = known.due.min(known.last.map_or(now, |last| (last + LOOK_PAUSE).max(now)));
            }
        }
    }

    /// Removes what is known of orders that nobody has any more.
    async fn forget_unwanted(&mut self) -> Result<(), StoreError> {
        let over = self.orders.iter().filter(|(_, known)| known.wanters.is_empty() && !known.is_under_way);
        let over: Vec<Order> = over.map(|(order, _)| order.clone()).collect();
        for order in over {
            self.orders.remove(&order);
            self.looked.remove(&order);
            let key = ObjectKey::in_project(order.project.clone(), order.name());
            if let Some(old) = self.store.get::<Build>(&Scope::All, &key).await? {
                self.store.commit(&Scope::All, Batch::new().delete(&old)).await?;
            }
            self.builder.forget(&order).await;
        }
        Ok(())
    }

    /// The same for those of an earlier life.
    async fn forget_others(&mut self) -> Result<(), StoreError> {
        for old in self.store.list::<Build>(&Scope::All, &Query::default()).await? {
            let Some(project) = old.meta.key.project.clone() else { continue };
            let BuildSpec { source, engine, follow, .. } = old.spec.clone();
            let order = Order { project, source, engine, follow };
            if !self.orders.contains_key(&order) && !self.hold.is_on() {
                self.store.commit(&Scope::All, Batch::new().delete(&old)).await?;
                self.builder.forget(&order).await;
            }
        }
        Ok(())
    }
}

/// What carries out one order.
struct Work {
    store: Store,
    builder: Arc<dyn Builder>,
    clock: Arc<dyn Clock>,
    hints: Hints,
}

impl Work {
    /// Carries out an order, and says how soon it is to be looked at again at the latest.
    async fn carry_out(self, order: Order, is_forced: bool, is_first: bool) -> (Order, Duration) {
        // What cannot be written down now is found again.
        let again = self.try_to(&order, is_forced, is_first).await.unwrap_or(PAUSE);
        (order, again)
    }

    async fn try_to(&self, order: &Order, is_forced: bool, is_first: bool) -> Result<Duration, StoreError> {
        let key = ObjectKey::in_project(order.project.clone(), order.name());
        let old = self.store.get::<Build>(&Scope::All, &key).await?.map(|it| it.spec);
        let built = old.as_ref().and_then(|it| it.built.clone());
        if let Some(BuildState::Building { commit }) = old.as_ref().map(|it| &it.state)
            && is_first
            && !is_forced
        {
            return self.interrupted(order, built, commit.clone()).await;
        }
        let found = match &built {
            Some(built) if !order.follow && !is_forced => Ok(built.commit.clone()),
            _ => self.builder.find(order).await,
        };
        let commit = match found {
            Ok(commit) => commit,
            Err(unbuilt) => return self.fail(order, old.as_ref(), None, unbuilt).await,
        };
        if let Some(BuildState::Failed(failure)) = old.as_ref().map(|it| &it.state)
            && (failure.fault == BuildFault::Source || !is_first)
            && failure.commit == commit
            && !is_forced
        {
            let pause = pause(failure);
            let since = Duration::from_millis(self.clock.now().0.saturating_sub(failure.at.0));
            if since < pause {
                return Ok(pause.saturating_sub(since));
            }
        }
        if let Some(built) = built.as_ref().filter(|built| built.commit == commit && !is_forced) {
            match self.builder.has(order, built.image).await {
                Ok(true) => {
                    self.write(order, Some(built.clone()), BuildState::Built).await?;
                    return Ok(LOOK);
                }
                Ok(false) => {}
                Err(unbuilt) => return self.fail(order, old.as_ref(), commit, unbuilt).await,
            }
        }
        self.write(order, built, BuildState::Building { commit: commit.clone() }).await?;
        match self.builder.build(order, commit.as_ref()).await {
            Ok(image) => {
                let at = self.clock.now();
                self.write(order, Some(BuiltImage { image, commit, at }), BuildState::Built).await?;
                Ok(LOOK)
            }
            Err(unbuilt) => self.fail(order, old.as_ref(), commit, unbuilt).await,
        }
    }

    /// Writes down that the process ended which was building an order. That may have been the build's doing, so it is left alone for
    /// longer than after other failures.
    async fn interrupted(
        &self,
        order: &Order,
        built: Option<BuiltImage>,
        commit: Option<CommitId>,
    ) -> Result<Duration, StoreError> {
        let failure = BuildFailure {
            why: "the server ended while it was built".to_owned(),
            fault: BuildFault::Surroundings,
            commit,
            failures: INTERRUPTED,
            at: self.clock.now(),
            log: Vec::new(),
        };
        let again = pause(&failure);
        self.write(order, built, BuildState::Failed(failure)).await?;
        Ok(again)
    }

    /// Writes down that an order was not carried out.
    async fn fail(
        &self,
        order: &Order,
        old: Option<&BuildSpec>,
        commit: Option<CommitId>,
        Unbuilt { why, fault, log }: Unbuilt,
    ) -> Result<Duration, StoreError> {
        let before = match old.map(|it| &it.state) {
            Some(BuildState::Failed(before)) if before.fault == fault && before.commit == commit => {
                before.failures
            }
            _ => 0,
        };
        let at = self.clock.now();
        let failure = BuildFailure { why, fault, commit, failures: before.saturating_add(1), at, log };
        let again = pause(&failure);
        self.write(order, old.and_then(|it| it.built.clone()), BuildState::Failed(failure)).await?;
        // A repository that was not to be reached is asked again soon; one that is broken may move at any time.
        Ok(again)
    }

    /// Writes down what became of an order, and tells those who wait for it.
    async fn write(
        &self,
        order: &Order,
        built: Option<BuiltImage>,
        state: BuildState,
    ) -> Result<(), StoreError> {
        let key = ObjectKey::in_project(order.project.clone(), order.name());
        let Order { source, engine, follow, .. } = order.clone();
        let spec = BuildSpec { source, engine, follow, built, state };
        let old = self.store.get::<Build>(&Scope::All, &key).await?;
        let batch = match &old {
            Some(old) if old.spec == spec => return Ok(()),
            Some(old) => Batch::new().reword(old, spec),
            None => Batch::new().create(New::<Build> {
                uid: record::child_uid(
                    &format!("project-{}", order.project).parse().expect("a word and a name form a uid"),
                    &format!("build {}", key.name),
                ),
                key,
                owner: None,
                at: self.clock.now(),
                attached: Attached::default(),
                spec,
                operations: (),
            }),
        };
        self.store.commit(&Scope::All, batch).await?;
        for app in self.store.list::<App>(&Scope::All, &Query::default()).await? {
            let is_own = app.meta.key.project.as_ref() == Some(&order.project);
            if is_own && app.spec.components.values().any(|it| it.source.as_ref() == Some(&order.source)) {
                self.hints.mark(&app.meta.key);
            }
        }
        Ok(())
    }
}

/// Orders to carry out now: those that are due for longest, of each project only one while others wait.
fn chosen(orders: &BTreeMap<Order, Known>, now: Instant, most: usize) -> Vec<Order> {
    let mut busy: BTreeSet<&ProjectName> =
        orders.iter().filter(|(_, known)| known.is_under_way).map(|(order, _)| &order.project).collect();
    let is_due = |known: &Known| !known.is_under_way && known.due <= now && !known.wanters.is_empty();
    let mut due: Vec<(&Order, &Known)> = orders.iter().filter(|(_, known)| is_due(known)).collect();
    due.sort_by_key(|(_, known)| known.due);
    let (first, then): (Vec<_>, Vec<_>) = due.into_iter().partition(|(order, _)| busy.insert(&order.project));
    first.into_iter().chain(then).take(most).map(|(order, _)| order.clone()).collect()
}

/// How long an order that failed is left alone.
fn pause(failure: &BuildFailure) -> Duration {
    let (first, longest) = match failure.fault {
        BuildFault::Source => (REBUILD_FIRST, REBUILD_LONGEST),
        BuildFault::Surroundings => (RETRY_FIRST, RETRY_LONGEST),
    };
    (first * 2_u32.pow(failure.failures.clamp(1, 12) - 1)).min(longest)
}

/// The engine that an App's containers run in, if its Target names one.
async fn engine_of(store: &Store, app: &Object<App>) -> Result<Option<EngineAddress>, StoreError> {
    let target = target_of(store, app).await?;
    let key = ObjectKey::of_installation(target.as_str().parse().expect("a target name is an object name"));
    Ok(store.get::<Target>(&Scope::All, &key).await?.and_then(|it| it.spec.engine))
}

/// What is known of the sources of an App on a target, by component.
pub(crate) async fn known_builds(
    store: &Store,
    app: &Object<App>,
    target: Option<&TargetSpec>,
) -> Result<BTreeMap<plimsoll_model::id::ComponentName, BuildView>, StoreError> {
    let mut views = BTreeMap::new();
    for (name, component) in &app.spec.components {
        let (Some(source), Some(project)) = (&component.source, &app.meta.key.project) else { continue };
        let engine = target.and_then(|it| it.engine.clone());
        let follow = component.update.image.follow == Follow::Digest;
        let build = Order { project: project.clone(), source: source.clone(), engine, follow }.name();
        let known = store.get::<Build>(&Scope::All, &app.meta.key.sibling(build.clone())).await?;
        let (built, lag) = match known.map(|it| it.spec) {
            None => (None, Some(Lag::Building)),
            Some(BuildSpec { built, state, .. }) => (built.map(|it| (it.image, it.commit)), lag_of(state)),
        };
        views.insert(name.clone(), BuildView { build, built, lag });
    }
    Ok(views)
}

fn lag_of(state: BuildState) -> Option<Lag> {
    match state {
        BuildState::Built => None,
        BuildState::Building { .. } => Some(Lag::Building),
        BuildState::Failed(BuildFailure { why, fault, .. }) => Some(Lag::Failed { why, fault }),
    }
}

fn has_source(app: &Object<App>) -> bool {
    app.spec.components.values().any(|component| component.source.is_some())
}

/// Whether an App may name a source.
fn names_source(row: &Row) -> bool {
    row.spec.contains("\"source\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_repository_mean_the_same() {
        for address in [
            "https://example.org/team/app.git",
            "http://user@Example.org/team/app",
            "ssh://git@example.org/team/app.git",
            "git@example.org:team/app.git",
        ] {
            assert_eq!(repository_of(address), "example.org/team/app", "{address}");
        }
        assert_ne!(repository_of("https://example.org/a"), repository_of("https://example.org:8443/a"));
    }

    #[test]
    fn a_project_does_not_stop_the_others() {
        let now = Instant::now();
        let of = |project: &str, path: &str| Order {
            project: project.parse().unwrap(),
            source: Source { path: Some(path.to_owned()), ..Source::default() },
            engine: None,
            follow: false,
        };
        let known = |late: u64, is_under_way: bool| Known {
            due: now.checked_sub(Duration::from_secs(late)).unwrap(),
            is_under_way,
            wanters: BTreeMap::from([(
                ObjectKey::in_project("a".parse().unwrap(), "app".parse().unwrap()),
                None,
            )]),
            ..Known::new()
        };
        let mut orders = BTreeMap::from([
            (of("a", "1"), known(3, false)),
            (of("a", "2"), known(4, false)),
            (of("b", "1"), known(1, false)),
        ]);
        assert_eq!(chosen(&orders, now, 2), [of("a", "2"), of("b", "1")]);
        orders.insert(of("a", "0"), known(0, true));
        assert_eq!(chosen(&orders, now, 1), [of("b", "1")]);
        orders.remove(&of("b", "1"));
        assert_eq!(chosen(&orders, now, 1), [of("a", "2")], "nobody else waits");
    }

    #[test]
    fn orders_have_names_of_their_own() {
        let of = |reference: &str, engine: Option<&str>| Order {
            project: "p".parse().unwrap(),
            source: Source {
                git: Some("https://example.org/Team/app.git".to_owned()),
                reference: Some(reference.to_owned()),
                ..Source::default()
            },
            engine: engine.map(|it| EngineAddress(it.to_owned())),
            follow: false,
        };
        assert!(of("main", None).name().to_string().starts_with("https-example-org-team-app-git-main."));
        assert_ne!(of("main", None).name(), of("Main", None).name());
        assert_ne!(of("main", None).name(), of("main", Some("unix:///x")).name());
    }
}
