//! When certificates are got, on a clock of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_engine::{Clock, Fut, Hints};
use plimsoll_model::id::Digest;
use plimsoll_model::kind::{
    Certificate, CertificateOrigin, CertificateSpec, Claim, ClaimSpec, HeldCertificate, Sealed,
};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::status::AppStatus;
use plimsoll_model::{App, Attached, ObjectKey};
use plimsoll_reconcile::{Certificates, Certifier, Hold, Opener, Uncertified, route_claim};
use plimsoll_store::{Batch, Memory, New, Query, Scope, Store};
use serde_json::json;
use tokio::time::Instant;

const DAY: Duration = Duration::from_hours(24);

/// The runtime's clock, as a wall clock.
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_millis()).unwrap())
    }
}

struct NoSecrets;

impl Opener for NoSecrets {
    fn open(&self, _: &Sealed) -> Option<Sensitive<String>> {
        None
    }
}

/// An authority and a router in memory.
struct Fake {
    clock: Paused,
    held: Mutex<BTreeMap<String, HeldCertificate>>,
    /// Orders by host, and whether they succeed.
    asked: Mutex<Vec<String>>,
    refuses: Mutex<Option<Uncertified>>,
}

impl Certifier for Fake {
    fn held(&self) -> Fut<'_, Result<BTreeMap<String, HeldCertificate>, Uncertified>> {
        Box::pin(async { Ok(self.held.lock().unwrap().clone()) })
    }

    fn origin(&self, _: &str) -> CertificateOrigin {
        CertificateOrigin::Authority
    }

    fn obtain<'a>(&'a self, host: &'a str, _: u32) -> Fut<'a, Result<HeldCertificate, Uncertified>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.asked.lock().unwrap().push(host.to_owned());
            if let Some(problem) = self.refuses.lock().unwrap().clone() {
                return Err(problem);
            }
            let begins = self.clock.now();
            let expires = Timestamp(begins.0 + u64::try_from((90 * DAY).as_millis()).unwrap());
            let fingerprint = Digest::of_bytes(format!("{host} {begins}").as_bytes());
            let held = HeldCertificate { origin: self.origin(host), fingerprint, begins, expires };
            self.held.lock().unwrap().insert(host.to_owned(), held.clone());
            Ok(held)
        })
    }

    fn install<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a HeldCertificate>,
        _: String,
        _: Sensitive<String>,
    ) -> Fut<'a, Result<HeldCertificate, Uncertified>> {
        Box::pin(async { unreachable!("no Secret can be opened") })
    }

    fn forget<'a>(&'a self, host: &'a str) -> Fut<'a, Result<(), String>> {
        Box::pin(async move {
            self.held.lock().unwrap().remove(host);
            Ok(())
        })
    }
}

struct World {
    store: Store,
    memory: Memory,
    fake: Arc<Fake>,
    hold: Hold,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        let fake = Fake {
            clock: Paused(Instant::now()),
            held: Mutex::default(),
            asked: Mutex::default(),
            refuses: Mutex::default(),
        };
        Self { store: Store::new(memory.clone()), memory, fake: Arc::new(fake), hold: Hold::default() }
    }

    fn begin(&self) -> tokio::task::JoinHandle<()> {
        let clock = Arc::new(Paused(self.fake.clock.0));
        let (store, hold) = (self.store.clone(), self.hold.clone());
        let certifier = self.fake.clone();
        let certificates =
            Certificates::new(store, certifier, Arc::new(NoSecrets), clock, Hints::new(1), hold);
        tokio::spawn(certificates.run())
    }

    /// An App with an encrypted route that it holds, or that another one has.
    async fn declare(&self, name: &str, host: &str, tls: serde_json::Value, holds: bool) {
        let key = ObjectKey::in_project("demo".parse().unwrap(), name.parse().unwrap());
        let app = New::<App> {
            uid: format!("app-{name}").parse().unwrap(),
            key: key.clone(),
            owner: None,
            at: self.fake.clock.now(),
            attached: Attached::default(),
            spec: serde_json::from_value(json!({"components": {"main": {
                "command": ["main"], "ports": {"http": 80}, "routes": [{"host": host, "path": format!("/{name}"), "port": "http", "tls": tls}],
            }}}))
            .unwrap(),
            operations: Operations::default(),
        };
        self.store.commit(&Scope::All, Batch::new().create(app)).await.unwrap();
        let app = self.store.get::<App>(&Scope::All, &key).await.unwrap().unwrap();
        let claim = route_claim(&"local".parse().unwrap(), host, &format!("/{name}"));
        let mut batch = Batch::new();
        if holds {
            batch = batch.create(New::<Claim> {
                uid: format!("claim-{name}").parse().unwrap(),
                key: ObjectKey::of_installation(claim.clone()),
                owner: None,
                at: self.fake.clock.now(),
                attached: Attached::default(),
                spec: ClaimSpec { app: app.meta.uid.clone(), key },
                operations: (),
            });
        }
        let claims = holds.then_some(claim).into_iter().collect();
        let status = AppStatus { claims, ..AppStatus::default() };
        self.store.commit(&Scope::All, batch.report(&app, status, Timestamp(1))).await.unwrap();
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.asked.lock().unwrap())
    }

    async fn known(&self, host: &str) -> Option<CertificateSpec> {
        let all = self.store.list::<Certificate>(&Scope::All, &Query::default()).await.unwrap();
        all.into_iter().map(|it| it.spec).find(|it| it.host == host)
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_got_once_and_again_after_two_thirds_of_its_time() {
    let world = World::new();
    world.declare("web", "web.example", json!("auto"), true).await;
    world.declare("thief", "other.example", json!("auto"), false).await;
    let loop_ = world.begin();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.asked(), ["web.example"], "and nothing for who does not hold its route");
    // Whoever comes later to a host does not decide about it, though their App be the first of all by name.
    world.declare("a-late", "web.example", json!({"secret": "mine"}), true).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let known = world.known("web.example").await.unwrap();
    assert!(known.origin == CertificateOrigin::Authority && known.problem.is_none(), "{known:?}");
    let writes = world.memory.commits();
    tokio::time::sleep(59 * DAY).await;
    assert!(world.asked().is_empty());
    assert_eq!(world.memory.commits(), writes, "settled means silent");
    let first = world.known("web.example").await.unwrap();
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(world.asked(), ["web.example"]);
    assert_ne!(world.known("web.example").await.unwrap().fingerprint, first.fingerprint);
    loop_.abort();
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_refuses_is_asked_less_and_less_and_what_is_there_goes_on() {
    let world = World::new();
    let refused = |needs_person| Some(Uncertified { why: "no".into(), needs_person });
    *world.fake.refuses.lock().unwrap() = refused(false);
    world.declare("web", "web.example", json!("auto"), true).await;
    let loop_ = world.begin();
    tokio::time::sleep(Duration::from_hours(24)).await;
    let asked = world.asked().len();
    assert!((10..=14).contains(&asked), "{asked} orders within a day");
    *world.fake.refuses.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_hours(7)).await;
    assert_eq!(world.asked().len(), 1);
    // From here on renewals fail, and the certificate is served until its end.
    *world.fake.refuses.lock().unwrap() = refused(false);
    tokio::time::sleep(80 * DAY).await;
    let known = world.known("web.example").await.unwrap();
    assert!(known.fingerprint.is_some() && known.problem.is_some(), "{known:?}");
    tokio::time::sleep(12 * DAY).await;
    assert_eq!(world.known("web.example").await.unwrap().fingerprint, None, "it has ended");
    // What only a person can change is no failure of the authority's.
    *world.fake.refuses.lock().unwrap() = refused(true);
    tokio::time::sleep(DAY).await;
    let writes = world.memory.commits();
    tokio::time::sleep(DAY).await;
    assert_eq!(world.memory.commits(), writes, "settled means silent");
    loop_.abort();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_on_hold_and_what_nobody_wants_is_forgotten_at_its_end() {
    let world = World { hold: Hold::new(true), ..World::new() };
    world.declare("web", "web.example", json!("auto"), true).await;
    let loop_ = world.begin();
    tokio::time::sleep(DAY).await;
    assert!(world.asked().is_empty() && world.known("web.example").await.is_none());
    world.hold.release();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(world.asked(), ["web.example"]);
    let key = ObjectKey::in_project("demo".parse().unwrap(), "web".parse().unwrap());
    let app = world.store.get::<App>(&Scope::All, &key).await.unwrap().unwrap();
    world.store.commit(&Scope::All, Batch::new().delete(&app)).await.unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.known("web.example").await.is_none());
    assert_eq!(world.fake.held.lock().unwrap().len(), 1, "it is kept for whoever wants the host again");
    tokio::time::sleep(91 * DAY).await;
    assert!(world.fake.held.lock().unwrap().is_empty() && world.asked().is_empty());
    loop_.abort();
}

/// Hosts that only a person can help keep nobody else from their certificates.
#[tokio::test(start_paused = true)]
async fn many_that_are_refused_hold_nobody_up() {
    let world = World::new();
    *world.fake.refuses.lock().unwrap() = Some(Uncertified { why: "no".into(), needs_person: true });
    for number in 0..10 {
        world.declare(&format!("a{number}"), &format!("a{number}.example"), json!("auto"), true).await;
    }
    let loop_ = world.begin();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let asked = world.asked();
    assert_eq!(asked.len(), 10, "{asked:?}");
    tokio::time::sleep(Duration::from_mins(10)).await;
    let asked = world.asked().len();
    assert!((50..=120).contains(&asked), "{asked} in ten minutes");
    loop_.abort();
}
