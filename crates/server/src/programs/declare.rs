//! What somebody wants loaded, and the declaration that it amounts to.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_model::app::{MOST_COPIES, Program, Reserve, Resources, Route, TlsMode};
use plimsoll_model::health::{Health, HttpProbe, Live};
use plimsoll_model::id::{ComponentName, Digest, LabelName, PartName, RuntimeName, TargetName};
use plimsoll_model::quantity::{Bytes, Cpu, Span};
use plimsoll_model::relation::Provide;
use plimsoll_model::{AppSpec, Attached, Component};
use serde::{Deserialize, Serialize};

use super::PROGRAM_LABEL;

/// The annotation of those that were loaded for somebody; whom, as was said.
pub const USER_ANNOTATION: &str = "plimsoll.dev/user";

/// Bytes of a program's text at most.
pub const LARGEST_PROGRAM: usize = 1 << 20;

/// The port of the health contract: `GET /health` there is answered `true` by a program that is well.
pub const HEALTH_PORT: u16 = 4001;

/// The component that a loaded App has.
const COMPONENT: &str = "program";

/// What a copy gets if nothing is said.
const USUAL_CPU: Cpu = Cpu { millicores: 100 };
const USUAL_MEMORY: Bytes = Bytes { bytes: 128 << 20 };

/// A program to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Load {
    /// Its text.
    pub program: String,
    /// Which of the target's runtimes runs it.
    pub runtime: RuntimeName,
    /// The name of its file, for people.
    #[serde(default)]
    pub file: Option<String>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Copies.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Whether it keeps the health contract.
    #[serde(default)]
    pub health: bool,
    /// The limit of CPU time of each copy.
    #[serde(default)]
    pub cpu: Option<Cpu>,
    /// The limit of memory of each copy.
    #[serde(default)]
    pub memory: Option<Bytes>,
    /// What each copy is sure to have, where that is less than its limits.
    #[serde(default)]
    pub reserve: Reserve,
    /// A host of the router that leads to the first port.
    #[serde(default)]
    pub host: Option<String>,
    /// Where it runs; the project's default target if nothing is said.
    #[serde(default)]
    pub target: Option<TargetName>,
    /// Whom it is loaded for, where that is not whoever loads it.
    #[serde(skip)]
    pub user: Option<String>,
}

fn one() -> u32 {
    1
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What, and what to do about it.
    pub message: String,
}

impl Load {
    pub(super) fn file(&self) -> &str {
        self.file.as_deref().unwrap_or("program")
    }

    /// What is wrong with its fields, as far as they alone can tell.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        let mut fail = |pointer: String, message: String| found.push(Fault { pointer, message });
        if self.program.trim().is_empty() || self.program.len() > LARGEST_PROGRAM {
            let message = format!("a program is 1 to {LARGEST_PROGRAM} bytes of text");
            fail("/program".into(), message);
        }
        if !(1..=MOST_COPIES).contains(&self.replicas) {
            let message = format!("1 to {MOST_COPIES} copies can run");
            fail("/replicas".into(), message);
        }
        if self.ports.len() > 32 {
            fail("/ports".into(), "a program has 32 ports at most".into());
        }
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            let pointer = format!("/ports/{index}");
            if *port == 0 {
                fail(pointer, "a port number is 1 to 65535".into());
            } else if *port == HEALTH_PORT {
                fail(pointer, format!("port {HEALTH_PORT} is that of the health contract: say `health`"));
            } else if !seen.insert(*port) {
                fail(pointer, format!("port {port} is there twice"));
            }
        }
        if self.file().is_empty() || self.file().contains(['/', '\0', '\\']) || self.file().starts_with('.') {
            fail("/file".into(), "the name of a file alone is meant, such as web.py".into());
        }
        let Resources { cpu, memory, .. } = self.limits();
        if self.reserve.cpu.zip(cpu).is_some_and(|(reserve, limit)| reserve > limit) {
            fail("/reserve/cpu".into(), "more is reserved than the limit".into());
        }
        if self.reserve.memory.zip(memory).is_some_and(|(reserve, limit)| reserve > limit) {
            fail("/reserve/memory".into(), "more is reserved than the limit".into());
        }
        if self.host.is_some() && self.ports.is_empty() {
            fail("/host".into(), "it leads to the first port, and there is none".into());
        }
        found
    }

    fn limits(&self) -> Resources {
        let (cpu, memory) = (self.cpu.unwrap_or(USUAL_CPU), self.memory.unwrap_or(USUAL_MEMORY));
        Resources { cpu: Some(cpu), memory: Some(memory), pids: None }
    }

    /// What is declared for it.
    pub(super) fn spec(&self, digest: Digest) -> AppSpec {
        let part = |name: &str| name.parse::<PartName>().expect("a word and a number form a name");
        let port = |port: u16| part(&format!("p{port}"));
        let mut ports: BTreeMap<PartName, u16> = self.ports.iter().map(|it| (port(*it), *it)).collect();
        if self.health {
            ports.insert(part("health"), HEALTH_PORT);
        }
        // What is provided has an address for life, where other programs find it too.
        let endpoint = |port: PartName| {
            let interface = "tcp".parse().expect("a valid name");
            (port.clone(), Provide { interface, port: Some(port), data: BTreeMap::new() })
        };
        let provides = self.ports.iter().map(|it| endpoint(port(*it))).collect();
        let contract = || Health {
            http: Some(HttpProbe { port: part("health"), path: "/health".into(), body: Some("true".into()) }),
            tcp: None,
            exec: None,
            every: Span::seconds(2),
            timeout: Span::seconds(3),
            failures: 3,
            start: Span::seconds(15),
            live: Live { failures: 3 },
        };
        let first = self.ports.first().copied();
        let route = self.host.clone().zip(first).map(|(host, first)| Route {
            host,
            path: "/".into(),
            port: port(first),
            tls: TlsMode::Off,
            hsts: None,
        });
        let component = Component {
            program: Some(Program {
                file: Some(self.file().to_owned()),
                digest: Some(digest),
                runtime: Some(self.runtime.clone()),
                fetch: true,
                ..Program::default()
            }),
            replicas: Some(self.replicas),
            ports,
            resources: self.limits(),
            reserve: self.reserve,
            health: self.health.then(contract),
            provides,
            routes: route.into_iter().collect(),
            ..Component::default()
        };
        let name: ComponentName = COMPONENT.parse().expect("a valid name");
        AppSpec { target: self.target.clone(), components: [(name, component)].into() }
    }

    pub(super) fn attached(&self) -> Attached {
        let name = |text: &str| text.parse::<LabelName>().expect("a valid label");
        let annotations = self.user.iter().map(|user| (name(USER_ANNOTATION), user.clone()));
        Attached {
            labels: [(name(PROGRAM_LABEL), self.runtime.to_string())].into(),
            annotations: annotations.collect(),
            managers: Vec::new(),
        }
    }
}
