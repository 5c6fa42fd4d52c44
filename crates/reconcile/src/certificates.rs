//! The certificates of hosts whose routes are encrypted.
//!
//! What is wanted follows from the Apps that hold a host's routes, what is there the router says, and whoever differs is brought
//! together: a Secret's certificate is handed on, an own one is made, an authority's is ordered, and again after two thirds of its
//! time. What is known is a [`Certificate`] object for each host; keys are with the router alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use plimsoll_engine::{Clock, Fut, Hints};
use plimsoll_model::app::TlsMode;
use plimsoll_model::kind::{
    Certificate, CertificateOrigin, CertificateProblem, CertificateSpec, Claim, HeldCertificate, Secret,
};
use plimsoll_model::object::Timestamp;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{App, Attached, Object, ObjectKey};
use plimsoll_store::{Batch, Change, ChangeKind, New, Query, Row, Scope, Store, StoreError, decode};
use tokio::time::Instant;

use crate::app::Hold;
use crate::execute::Opener;
use crate::hints::every_app;
use crate::record;
use crate::surroundings::{certificate_name, route_claim, target_of};

/// Pause before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// How soon after a change everything is looked at, and how often without one.
const SETTLE: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_mins(1);

/// Pauses between two orders that failed: the first, which doubles, and the longest. Authorities count failures.
const RETRY_FIRST: Duration = Duration::from_mins(5);
const RETRY_LONGEST: Duration = Duration::from_hours(6);

/// Orders under way at the same time.
const TOGETHER: usize = 4;

/// The keys of a Secret that holds a certificate, as Kubernetes names them.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why a host has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncertified {
    /// In words that do not change while nothing else does.
    pub why: String,
    /// Nothing but a person's act helps.
    pub needs_person: bool,
}

/// Who makes certificates, gets them, and hands them to the router.
pub trait Certifier: Send + Sync + 'static {
    /// What the router serves hosts with.
    fn held(&self) -> Fut<'_, Result<BTreeMap<String, HeldCertificate>, Uncertified>>;

    /// Where the certificate of a host comes from if no Secret holds it.
    fn origin(&self, host: &str) -> CertificateOrigin;

    /// Makes one or orders it, whichever it is, and has the host served with it. So many attempts in a row have failed
    /// before.
    fn obtain<'a>(&'a self, host: &'a str, failures: u32) -> Fut<'a, Result<HeldCertificate, Uncertified>>;

    /// Has a host served with one that somebody else has got, unless it is the one that is held.
    fn install<'a>(
        &'a self,
        host: &'a str,
        held: Option<&'a HeldCertificate>,
        chain: String,
        key: Sensitive<String>,
    ) -> Fut<'a, Result<HeldCertificate, Uncertified>>;

    /// Has a host served with none.
    fn forget<'a>(&'a self, host: &'a str) -> Fut<'a, Result<(), String>>;
}

/// Brings certificates to what is declared.
pub struct Certificates {
    store: Store,
    certifier: Arc<dyn Certifier>,
    opener: Arc<dyn Opener>,
    clock: Arc<dyn Clock>,
    hints: Hints,
    /// While it is on, nothing is done: another installation may serve these hosts.
    hold: Hold,
    /// The hosts that each App holds and wants encrypted, and since when it holds them.
    wanted: BTreeMap<ObjectKey, BTreeMap<String, (Timestamp, TlsMode)>>,
    /// Orders under way.
    under_way: BTreeSet<String>,
    /// When each host was tried last by this process, and how long it is left alone at least: what cannot be written down is
    /// not forgotten either.
    tried: BTreeMap<String, (Instant, Duration)>,
    /// Others wait for their turn.
    is_crowded: bool,
}

/// What a look has found.
struct Looked {
    /// Hosts whose certificates are to be made or ordered now, with how often that has failed.
    due: Vec<(String, u32)>,
    /// How soon there may be others.
    again: Duration,
}

/// What a host has, and when another certificate is due.
struct Appraisal<'a> {
    /// What is served and good.
    usable: Option<&'a HeldCertificate>,
    /// Why there is no other one.
    problem: Option<&'a CertificateProblem>,
    /// How long it is until another one is to be got.
    wait: Duration,
}

/// How a host is wanted: as whoever has held one of its routes for the longest time says.
struct Want {
    mode: TlsMode,
    /// Whose Secrets are meant.
    by: ObjectKey,
    apps: BTreeSet<ObjectKey>,
    since: Timestamp,
}

/// What has brought something to light.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A look at what is there.
    Look,
    /// Something that was tried.
    Attempt,
}

type Answer = (String, Result<HeldCertificate, Uncertified>);

impl Certificates {
    /// Over a store and whoever can make certificates.
    pub fn new(
        store: Store,
        certifier: Arc<dyn Certifier>,
        opener: Arc<dyn Opener>,
        clock: Arc<dyn Clock>,
        hints: Hints,
        hold: Hold,
    ) -> Self {
        Self {
            store,
            certifier,
            opener,
            clock,
            hints,
            hold,
            wanted: BTreeMap::new(),
            under_way: BTreeSet::new(),
            tried: BTreeMap::new(),
            is_crowded: false,
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
        self.under_way.clear();
        let (store, mut encrypted) = (self.store.clone(), Vec::new());
        let begin = every_app(&store, |app| encrypted.extend(is_encrypted(app).then(|| app.clone()))).await?;
        let mut apps = store.watch::<App>(&Scope::All, begin)?;
        let mut secrets = store.watch::<Secret>(&Scope::All, begin)?;
        for app in &encrypted {
            self.want(app).await?;
        }
        let mut orders = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                change = apps.next() => match change {
                    Some(change) => {
                        if self.learn(change?).await? {
                            next = next.min(Instant::now() + SETTLE);
                        }
                    }
                    None => return Ok(()),
                },
                change = secrets.next() => match change {
                    Some(change) => {
                        if self.names(&change?.key) {
                            next = next.min(Instant::now() + SETTLE);
                        }
                    }
                    None => return Ok(()),
                },
                Some((host, answer)) = orders.next() => {
                    // When the next one is due follows from what is there; what a person has to do comes with a change.
                    if self.is_crowded || !matches!(answer, Err(Uncertified { needs_person: true, .. })) {
                        next = next.min(Instant::now() + SETTLE);
                    }
                    // What cannot be written now, the next look finds again.
                    self.record_order(host, answer).await.ok();
                }
                () = tokio::time::sleep_until(next) => {
                    let looked = self.look().await;
                    let Looked { due, again } = looked.unwrap_or(Looked { due: Vec::new(), again: PAUSE });
                    next = Instant::now() + again;
                    for (host, failures) in due {
                        let certifier = self.certifier.clone();
                        orders.push(async move {
                            let answer = certifier.obtain(&host, failures).await;
                            let answer: Answer = (host, answer);
                            answer
                        });
                    }
                }
            }
        }
    }

    /// Whether a change of an App is one of what is wanted.
    async fn learn(&mut self, change: Change) -> Result<bool, StoreError> {
        let before = self.wanted.get(&change.key).cloned();
        match change.kind {
            // Most Apps have no encrypted routes, and most changes are of their status: those need not be read.
            ChangeKind::Created(row) | ChangeKind::Changed(row) if may_be_encrypted(&row) => {
                self.want(&decode::<App>(*row)?).await?;
            }
            _ => drop(self.wanted.remove(&change.key)),
        }
        Ok(self.wanted.get(&change.key) != before.as_ref())
    }

    /// Notes what an App wants now, of the hosts that are its own.
    async fn want(&mut self, app: &Object<App>) -> Result<(), StoreError> {
        let (key, mut hosts) = (&app.meta.key, BTreeMap::new());
        if app.meta.deleting.is_none() && is_encrypted(app) {
            let target = target_of(&self.store, app).await?;
            let claims = app.status.as_ref().map(|status| &status.value.claims);
            for route in app.spec.components.values().flat_map(|it| &it.routes).filter(|it| it.tls.is_on()) {
                let name = route_claim(&target, &route.host, &route.path);
                if !claims.is_some_and(|claims| claims.contains(&name)) {
                    continue;
                }
                let claim = self.store.get::<Claim>(&Scope::All, &ObjectKey::of_installation(name)).await?;
                if let Some(claim) = claim.filter(|claim| claim.spec.app == app.meta.uid) {
                    let own = (claim.meta.created, route.tls.clone());
                    let known = hosts.entry(route.host.clone()).or_insert_with(|| own.clone());
                    if own.0 < known.0 {
                        *known = own;
                    }
                }
            }
        }
        if hosts.is_empty() {
            self.wanted.remove(key);
        } else {
            self.wanted.insert(key.clone(), hosts);
        }
        Ok(())
    }

    /// Whether a Secret holds a certificate that is wanted.
    fn names(&self, secret: &ObjectKey) -> bool {
        self.wanted.iter().any(|(app, hosts)| {
            let mut modes = hosts.values().map(|(_, mode)| mode);
            let is_this = |mode: &TlsMode| matches!(mode, TlsMode::Secret(name) if *name == secret.name);
            app.project == secret.project && modes.any(is_this)
        })
    }

    /// What each host is wanted with.
    fn wants(&self) -> BTreeMap<String, Want> {
        let mut wants: BTreeMap<String, Want> = BTreeMap::new();
        for (app, hosts) in &self.wanted {
            for (host, (since, mode)) in hosts {
                let own =
                    || Want { mode: mode.clone(), by: app.clone(), apps: BTreeSet::new(), since: *since };
                let want = wants.entry(host.clone()).or_insert_with(own);
                if (*since, app) < (want.since, &want.by) {
                    (want.mode, want.by, want.since) = (mode.clone(), app.clone(), *since);
                }
                want.apps.insert(app.clone());
            }
        }
        wants
    }

    /// One look at everything.
    async fn look(&mut self) -> Result<Looked, StoreError> {
        let (wants, now) = (self.wants(), self.clock.now());
        let known = self.store.list::<Certificate>(&Scope::All, &Query::default()).await?;
        let known: BTreeMap<String, Object<Certificate>> =
            known.into_iter().map(|it| (it.spec.host.clone(), it)).collect();
        if self.hold.is_on() {
            return Ok(Looked { due: Vec::new(), again: LOOK });
        }
        let held = self.certifier.held().await;
        let (mut due, mut again) = (Vec::new(), LOOK);
        self.is_crowded = false;
        for (host, want) in &wants {
            if self.under_way.contains(host) {
                continue;
            }
            let before = known.get(host).map(|it| &it.spec);
            let held = match &held {
                Ok(held) => held.get(host),
                Err(problem) => {
                    // What was there is there still, as far as anybody knows.
                    if before.is_none_or(|it| it.fingerprint.is_none()) {
                        self.record(host, want, None, Some(problem.clone()), Step::Look).await?;
                    }
                    continue;
                }
            };
            match &want.mode {
                TlsMode::Secret(name) => {
                    let installed = self.of_secret(host, held, &want.by.sibling(name.clone())).await?;
                    let (held, problem) = match installed {
                        Ok(held) => (Some(held), None),
                        // What is served goes on being served, while it is good.
                        Err(problem) => (held.filter(|it| it.expires > now).cloned(), Some(problem)),
                    };
                    self.record(host, want, held, problem, Step::Look).await?;
                }
                TlsMode::Auto | TlsMode::Off => {
                    let Appraisal { usable, problem, wait } = self.appraise(host, held, before, now);
                    let costs = self.certifier.origin(host) == CertificateOrigin::Authority;
                    if !wait.is_zero() {
                        again = again.min(wait);
                    } else if costs && due.len() + self.under_way.len() >= TOGETHER {
                        self.is_crowded = true;
                    } else {
                        due.push((host.clone(), failures(problem)));
                    }
                    // Until the order ends, what was said of it before still holds.
                    let kept =
                        problem.map(|it| Uncertified { why: it.why.clone(), needs_person: it.needs_person });
                    self.record(host, want, usable.cloned(), kept, Step::Look).await?;
                }
            }
        }
        if let Ok(held) = &held {
            for (host, kept) in held.iter().filter(|(host, _)| !wants.contains_key(*host)) {
                // An order costs something: it is kept for whoever wants the host again.
                if kept.origin != CertificateOrigin::Authority || kept.expires <= now {
                    self.certifier.forget(host).await.ok();
                }
            }
        }
        for (host, object) in &known {
            if !wants.contains_key(host) && !self.under_way.contains(host) {
                self.store.commit(&Scope::All, Batch::new().delete(object)).await?;
            }
        }
        let now = Instant::now();
        for (host, _) in &due {
            self.under_way.insert(host.clone());
            self.tried.insert(host.clone(), (now, LOOK));
        }
        self.tried.retain(|host, _| wants.contains_key(host));
        Ok(Looked { due, again: again.max(SETTLE) })
    }

    /// What is to be thought of what a host without a Secret has.
    fn appraise<'a>(
        &self,
        host: &str,
        held: Option<&'a HeldCertificate>,
        before: Option<&'a CertificateSpec>,
        now: Timestamp,
    ) -> Appraisal<'a> {
        let origin = self.certifier.origin(host);
        let usable = held.filter(|it| it.origin == origin && it.expires > now);
        let fresh = usable.filter(|it| now < it.renew());
        let problem = before.and_then(|it| it.problem.as_ref()).filter(|_| fresh.is_none());
        let tried = self.tried.get(host);
        let wait = match (fresh, problem) {
            (Some(held), _) => between(now, held.renew()),
            (None, Some(problem)) => between(now, next_attempt(problem, tried.is_some())),
            (None, None) => Duration::ZERO,
        };
        let left_alone = tried.map_or(Duration::ZERO, |(at, pause)| pause.saturating_sub(at.elapsed()));
        Appraisal { usable, problem, wait: wait.max(left_alone) }
    }

    /// Hands a Secret's certificate on.
    async fn of_secret(
        &self,
        host: &str,
        held: Option<&HeldCertificate>,
        key: &ObjectKey,
    ) -> Result<Result<HeldCertificate, Uncertified>, StoreError> {
        let refused = |why: String| Ok(Err(Uncertified { why, needs_person: true }));
        let Some(secret) = self.store.get::<Secret>(&Scope::All, key).await? else {
            return refused(format!("there is no Secret {}", key.name));
        };
        let part = |name: &str| {
            let sealed = secret.spec.data.iter().find(|(key, _)| key.as_str() == name);
            sealed.and_then(|(_, sealed)| self.opener.open(sealed))
        };
        let (Some(chain), Some(private)) = (part(CHAIN), part(KEY)) else {
            return refused(format!("Secret {} has not both, {CHAIN} and {KEY}", key.name));
        };
        Ok(self.certifier.install(host, held, chain.expose().clone(), private).await)
    }

    /// Writes down how an order ended.
    async fn record_order(
        &mut self,
        host: String,
        answer: Result<HeldCertificate, Uncertified>,
    ) -> Result<(), StoreError> {
        self.under_way.remove(&host);
        let pause = match &answer {
            // Whatever the clocks say: not again within a tenth of its life.
            Ok(held) => between(held.begins, held.expires) / 10,
            Err(Uncertified { needs_person: true, .. }) => LOOK,
            Err(_) => RETRY_FIRST,
        };
        self.tried.insert(host.clone(), (Instant::now(), pause));
        let wants = self.wants();
        // Nobody may want it any more; the next look sees to that.
        let Some(want) = wants.get(&host) else { return Ok(()) };
        match answer {
            Ok(held) => self.record(&host, want, Some(held), None, Step::Attempt).await,
            Err(problem) => {
                let now = self.clock.now();
                let origin = self.certifier.origin(&host);
                let held = self.certifier.held().await.ok().and_then(|mut held| held.remove(&host));
                let held = held.filter(|it| it.origin == origin && it.expires > now);
                self.record(&host, want, held, Some(problem), Step::Attempt).await
            }
        }
    }

    /// Writes down what is known of a host, and tells the Apps that want it.
    async fn record(
        &self,
        host: &str,
        want: &Want,
        held: Option<HeldCertificate>,
        problem: Option<Uncertified>,
        step: Step,
    ) -> Result<(), StoreError> {
        let key = ObjectKey::of_installation(certificate_name(host));
        let old = self.store.get::<Certificate>(&Scope::All, &key).await?;
        let at = self.clock.now();
        let failures = failures(old.as_ref().and_then(|it| it.spec.problem.as_ref()));
        let origin = match &want.mode {
            TlsMode::Secret(_) => CertificateOrigin::Secret,
            TlsMode::Auto | TlsMode::Off => self.certifier.origin(host),
        };
        let problem = problem.map(|it| CertificateProblem {
            why: it.why,
            needs_person: it.needs_person,
            failures: failures.saturating_add(1),
            at,
        });
        let counts = problem.as_ref().is_some_and(|it| !it.needs_person);
        let spec = CertificateSpec {
            host: host.to_owned(),
            origin,
            project: want.by.project.clone(),
            fingerprint: held.as_ref().map(|it| it.fingerprint),
            expires: held.as_ref().map(|it| it.expires),
            problem,
        };
        let batch = match &old {
            // Only failures of authorities are counted.
            Some(old) if is_same(&old.spec, &spec) && !(step == Step::Attempt && counts) => return Ok(()),
            Some(old) => Batch::new().reword(old, spec),
            None => Batch::new().create(New::<Certificate> {
                uid: record::child_uid(&"certificates".parse().expect("a word is a uid"), host),
                key,
                owner: None,
                at,
                attached: Attached::default(),
                spec,
                operations: (),
            }),
        };
        self.store.commit(&Scope::All, batch).await?;
        want.apps.iter().for_each(|app| self.hints.mark(app));
        Ok(())
    }
}

/// Whether nothing but the count and the time of attempts differs.
fn is_same(old: &CertificateSpec, new: &CertificateSpec) -> bool {
    let said = |spec: &CertificateSpec| spec.problem.as_ref().map(|it| (it.why.clone(), it.needs_person));
    (old.fingerprint, old.expires, old.origin, said(old))
        == (new.fingerprint, new.expires, new.origin, said(new))
}

/// How often in a row an authority has refused: what a person has to do is no failure of its.
fn failures(problem: Option<&CertificateProblem>) -> u32 {
    problem.filter(|it| !it.needs_person).map_or(0, |it| it.failures)
}

/// How long it is until a time.
fn between(now: Timestamp, then: Timestamp) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}

/// When enough time has gone by since an attempt that failed. What a person has to do costs nobody anything to look for, and
/// what a process has not tried itself may have been put right since.
fn next_attempt(problem: &CertificateProblem, is_of_this_process: bool) -> Timestamp {
    if problem.needs_person {
        return problem.at;
    }
    let failures = if is_of_this_process { problem.failures.clamp(1, 16) } else { 1 };
    let pause = (RETRY_FIRST * 2_u32.saturating_pow(failures - 1)).min(RETRY_LONGEST);
    let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Timestamp(problem.at.0.saturating_add(pause))
}

fn is_encrypted(app: &Object<App>) -> bool {
    crate::surroundings::encrypted_hosts(&app.spec).next().is_some()
}

/// Whether an App's row may have an encrypted route.
fn may_be_encrypted(row: &Row) -> bool {
    row.spec.contains("\"tls\":\"auto\"") || row.spec.contains("\"tls\":{")
}
