//! What people do in a run: six Apps, most of them related Apps, and changes to them drawn from the seed.

use plimsoll_driver::fake::{Behaviour, Script};
use plimsoll_model::id::{ComponentName, ProjectName, Uid};
use plimsoll_model::kind::{Sealed, SecretSpec, TargetSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::{Operations, Power, Promotion};
use plimsoll_model::quantity::Span;
use plimsoll_model::{App, AppSpec, Attached, Object, ObjectKey, Secret, Target};
use plimsoll_store::{Batch, Memory, New, Query, Scope, Store};

/// The Apps of a run and how they consume each other: `store` <- `api` <- `web` and `jobs`; `solo` and
/// `trial`, which tries what is new beside what is old, alone.
const APPS: [&str; 6] = ["store", "api", "web", "jobs", "solo", "trial"];

fn declaration(name: &str) -> serde_json::Value {
    match name {
        "store" => serde_json::json!({"components": {"db": {
            "command": ["db"], "ports": {"pg": 5432}, "volumes": {"data": {"path": "data"}},
            "env": {"VERSION": "1", "PASSWORD": {"secret": "creds/password"}},
            "provides": {"sql": {"interface": "sql", "data": {"url": "db://${host}:${port:pg}/${secret:creds/password}"}}},
            "update": {"soak": "5s", "deadline": "20s"},
        }}}),
        "api" => serde_json::json!({"components": {"server": {
            "command": ["api"], "ports": {"http": 80}, "replicas": 2, "env": {"VERSION": "1"},
            "consumes": {"db": {"interface": "sql", "from": "store/db/sql"}},
            "provides": {"rest": {"interface": "http"}},
            "hooks": {"before": {"command": ["migrate"], "deadline": "20s"}},
            "update": {"soak": "5s", "deadline": "20s"},
        }}}),
        "web" => serde_json::json!({"components": {
            "cache": {"command": ["cache"], "ports": {"c": 11211}, "env": {"VERSION": "1"},
                      "provides": {"kv": {"interface": "kv"}}, "update": {"soak": "2s", "deadline": "20s"}},
            "front": {"command": ["web"], "ports": {"http": 8080}, "replicas": 3, "env": {"VERSION": "1"},
                      "consumes": {"cache": {"interface": "kv", "from": "cache/kv"},
                                   "api": {"interface": "http", "from": "api/server/rest"}},
                      "routes": [{"host": "shop.localhost", "port": "http"}],
                      "update": {"soak": "5s", "deadline": "20s", "surge": 2}},
        }}),
        "jobs" => serde_json::json!({"components": {"worker": {
            "command": ["work"], "replicas": 2, "env": {"VERSION": "1"},
            "consumes": {"api": {"interface": "http", "from": "api/server/rest"}},
            "update": {"strategy": "recreate", "soak": "2s", "deadline": "20s"},
        }}}),
        "trial" => serde_json::json!({"components": {
            "canary": {"command": ["canary"], "ports": {"http": 80}, "replicas": 3, "env": {"VERSION": "1"},
                       "routes": [{"host": "canary.localhost", "port": "http"}],
                       "hooks": {"before": {"command": ["migrate"], "deadline": "20s"},
                                 "after": {"command": ["tell"], "deadline": "20s"}},
                       "update": {"strategy": "canary", "soak": "3s", "deadline": "20s", "surge": 2, "steps": [
                           {"weight": 20}, {"weight": 50, "hold": true}, {"weight": 80, "soak": "1s"}]}},
            "green": {"command": ["green"], "ports": {"http": 80}, "replicas": 2, "env": {"VERSION": "1"},
                      "routes": [{"host": "green.localhost", "port": "http"}],
                      "update": {"strategy": "blue-green", "soak": "3s", "deadline": "20s"}},
        }}),
        _ => serde_json::json!({"components": {"main": {
            "command": ["solo"], "ports": {"http": 80}, "replicas": 3, "env": {"VERSION": "1"},
            "routes": [{"host": "shop.localhost", "path": "/solo", "port": "http"}],
            "hooks": {"after": {"command": ["tell"], "deadline": "20s"}},
            "update": {"soak": "3s", "deadline": "15s", "surge": 0, "unavailable": 1},
        }}}),
    }
}

/// People at work on a store.
pub(crate) struct Scenario {
    store: Store,
    script: Script,
    project: ProjectName,
    made: u32,
}

impl Scenario {
    pub(crate) fn new(memory: &Memory, script: &Script) -> Self {
        let project = "demo".parse().expect("a valid project name");
        let store = Store::new(memory.clone());
        Self { store, script: script.clone(), project, made: 0 }
    }

    pub(crate) fn keys(&self) -> Vec<ObjectKey> {
        APPS.iter().map(|name| self.key(name)).collect()
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::in_project(self.project.clone(), name.parse().expect("a valid name"))
    }

    fn uid(&mut self, name: &str) -> Uid {
        self.made += 1;
        format!("{name}-{}", self.made).parse().expect("a valid uid")
    }

    /// Declares everything for the first time.
    pub(crate) async fn begin(&mut self) {
        let target = New::<Target> {
            uid: "target".parse().expect("a valid uid"),
            key: ObjectKey::of_installation("local".parse().expect("a valid name")),
            owner: None,
            at: Timestamp(0),
            attached: Attached::default(),
            spec: TargetSpec::local(),
            operations: (),
        };
        self.commit(Batch::new().create(target)).await;
        self.rotate(0).await;
        for name in APPS {
            self.declare_new(name).await;
        }
    }

    /// A person's write. Where the control plane wrote in between, the person tries again another time.
    async fn commit(&self, batch: Batch) -> bool {
        self.store.commit(&Scope::All, batch).await.is_ok()
    }

    async fn declare_new(&mut self, name: &str) -> bool {
        let new = New::<App> {
            uid: self.uid(name),
            key: self.key(name),
            owner: None,
            at: Timestamp(0),
            attached: Attached::default(),
            spec: serde_json::from_value(declaration(name)).expect("a valid declaration"),
            operations: Operations::default(),
        };
        self.commit(Batch::new().create(new)).await
    }

    async fn rotate(&mut self, version: u32) -> bool {
        let data = [("password".parse().expect("a key"), Sealed(format!("sealed-{version}")))];
        let spec = SecretSpec { data: data.into() };
        let key = self.key("creds");
        let old = self.store.get::<Secret>(&Scope::All, &key).await.expect("memory answers");
        let batch = if let Some(old) = old {
            Batch::new().declare(&old, spec, ())
        } else {
            let uid = self.uid("creds");
            Batch::new().create(New::<Secret> {
                uid,
                key,
                owner: None,
                at: Timestamp(0),
                attached: Attached::default(),
                spec,
                operations: (),
            })
        };
        self.commit(batch).await
    }

    /// One change by a person; says what it was, and to which App.
    pub(crate) async fn act(&mut self, rng: &mut fastrand::Rng, at: Timestamp) -> (ObjectKey, String) {
        let name = APPS[rng.usize(0..APPS.len())];
        let key = self.key(name);
        let Some(app) = self.store.get::<App>(&Scope::All, &key).await.expect("memory answers") else {
            self.declare_new(name).await;
            return (key, format!("declare {name} again"));
        };
        let said = match rng.u32(0..100) {
            0..40 => self.new_version(&app, rng).await,
            40..60 => self.operate(&app, rng).await,
            60..70 => {
                let version = rng.u32(1..1000);
                self.rotate(version).await;
                format!("rotate the secret to {version}")
            }
            70..80 => {
                self.commit(Batch::new().mark_deleting(&app, at)).await;
                "delete".to_owned()
            }
            80..87 => self.retry(&app).await,
            87..92 => self.decide(&app, rng).await,
            _ => self.resize(&app, rng).await,
        };
        (key, format!("{name}: {said}"))
    }

    fn pick(app: &Object<App>, rng: &mut fastrand::Rng) -> ComponentName {
        let names: Vec<_> = app.spec.components.keys().cloned().collect();
        names[rng.usize(0..names.len())].clone()
    }

    async fn new_version(&mut self, app: &Object<App>, rng: &mut fastrand::Rng) -> String {
        let name = Self::pick(app, rng);
        let behaviour = match rng.u32(0..10) {
            0..6 => Behaviour::Good { after: Span::millis(rng.u64(0..4000)) },
            6 => Behaviour::NeverReady,
            7 => Behaviour::Crashing { after: Span::millis(500) },
            8 => Behaviour::Flapping { every: Span::seconds(2) },
            _ => Behaviour::Good { after: Span::seconds(15) },
        };
        let version = format!("{}", rng.u32(2..12));
        let mut spec: AppSpec = app.spec.clone();
        if let Some(component) = spec.components.get_mut(&name) {
            let value = plimsoll_model::app::EnvValue::Text(version.clone());
            component.env.insert("VERSION".parse().expect("a key"), value);
        }
        let target = "local".parse().expect("a valid target name");
        let tags = plimsoll_plan::resolve::Tags::default();
        let revisions = plimsoll_plan::resolve::resolve(&spec, &target, Some(&TargetSpec::local()), tags);
        if let Some(revision) = revisions.ok().and_then(|mut it| it.components.remove(&name)) {
            self.script.set(revision.hash(), behaviour);
        }
        self.commit(Batch::new().declare(app, spec, app.operations.clone())).await;
        format!("{name} version {version} ({behaviour:?})")
    }

    async fn operate(&mut self, app: &Object<App>, rng: &mut fastrand::Rng) -> String {
        let mut operations = app.operations.clone();
        let said = match rng.u32(0..4) {
            0 => {
                operations.power = if operations.power == Power::On { Power::Off } else { Power::On };
                format!("power {:?}", operations.power)
            }
            1 => {
                operations.paused = !operations.paused;
                format!("paused {}", operations.paused)
            }
            2 => {
                let name = Self::pick(app, rng);
                *operations.restarts.entry(name.clone()).or_default() += 1;
                format!("restart {name}")
            }
            _ => {
                let name = Self::pick(app, rng);
                let replicas = rng.u32(0..5);
                operations.replicas.insert(name.clone(), replicas);
                format!("scale {name} to {replicas}")
            }
        };
        self.commit(Batch::new().declare(app, app.spec.clone(), operations)).await;
        said
    }

    /// A person lets a step end, or does not want what is rolled out.
    async fn decide(&mut self, app: &Object<App>, rng: &mut fastrand::Rng) -> String {
        let memory = app.status.iter().flat_map(|status| &status.value.memory);
        let mut rolling = memory.filter_map(|(name, it)| Some((name.clone(), it.rollout.clone()?)));
        let Some((name, rollout)) = rolling.next() else { return "nothing to decide".to_owned() };
        let mut operations = app.operations.clone();
        let said = if rng.bool() {
            let steps = rollout.trial.as_ref().map_or(0, |trial| trial.step) + 1;
            operations.promotions.insert(name.clone(), Promotion { rollout: rollout.reference(), steps });
            format!("promote {name} to step {steps}")
        } else {
            operations.aborts.insert(name.clone(), rollout.reference());
            format!("abort {name}")
        };
        self.commit(Batch::new().declare(app, app.spec.clone(), operations)).await;
        said
    }

    async fn resize(&mut self, app: &Object<App>, rng: &mut fastrand::Rng) -> String {
        let name = Self::pick(app, rng);
        let mut spec = app.spec.clone();
        let replicas = rng.u32(1..5);
        if let Some(component) = spec.components.get_mut(&name) {
            component.replicas = Some(replicas);
        }
        self.commit(Batch::new().declare(app, spec, app.operations.clone())).await;
        format!("{name} replicas {replicas}")
    }

    async fn retry(&mut self, app: &Object<App>) -> String {
        let rejected = app.status.as_ref().and_then(|status| status.value.rejected.last_key_value());
        let Some((id, it)) = rejected else { return "nothing to retry".to_owned() };
        let mut operations = app.operations.clone();
        operations.retry.insert(it.component.clone(), id.clone());
        operations.aborts.remove(&it.component);
        let said = format!("retry {id}");
        self.commit(Batch::new().declare(app, app.spec.clone(), operations)).await;
        said
    }

    /// Ends every pause, hold and power-off, so that the end of the run can be compared with a fresh installation; and
    /// if asked to, declares a good program in place of whatever there is.
    pub(crate) async fn release(&self, mend: bool) {
        for app in self.store.list::<App>(&Scope::All, &Query::default()).await.expect("memory answers") {
            let mut operations = app.operations.clone();
            operations.paused = false;
            operations.power = Power::On;
            operations.aborts.clear();
            let mut spec = app.spec.clone();
            spec.components
                .values_mut()
                .flat_map(|it| &mut it.update.steps)
                .for_each(|step| step.hold = false);
            for component in spec.components.values_mut().filter(|_| mend) {
                let value = plimsoll_model::app::EnvValue::Text("mended".into());
                component.env.insert("VERSION".parse().expect("a key"), value);
            }
            self.commit(Batch::new().declare(&app, spec, operations)).await;
        }
    }
}
