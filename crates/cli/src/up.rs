//! `plimsoll up`: a control plane for as long as the command runs, with what a file declares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::StreamExt as _;
use plimsoll_manifest::Document;
use plimsoll_model::id::ProjectName;
use plimsoll_model::operations::Power;
use plimsoll_model::status::{AppStatus, OutcomeState};
use plimsoll_model::{App, Object, ObjectKey};
use plimsoll_server::{Change, Server, Settings};
use plimsoll_store::{Query, Scope};

use crate::Ended;
use crate::source::Source;

/// How long an end may take before the command gives up waiting for it.
const END: Duration = Duration::from_secs(120);

/// Run what a file declares on this machine, and keep it running
#[derive(Args)]
pub(crate) struct Up {
    /// The file with the declarations; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Where everything is kept [default: plimsoll in the XDG data directory]
    #[arg(long, env = "PLIMSOLL_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The project of what does not name one
    #[arg(short, long, default_value = "default")]
    project: ProjectName,
    /// At the end of the command leave everything running; the next `up` adopts it
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// At the end of the command end everything the file declares; volumes and addresses stay (the default)
    #[arg(long)]
    down: bool,
}

/// The directory of the XDG base directory specification, unless one is given.
fn data_directory(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("plimsoll")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/share/plimsoll")))
        .context("there is no HOME, so there is no place for data: give one with --data-dir")
}

impl Up {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let source = Source::read(&self.file)?;
        let documents = plimsoll_manifest::parse(&source.name, &source.text)?;
        let data = data_directory(self.data_dir.clone())?;
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let settings = Settings { data, program };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            // From here on an interrupt is an answer to wait for, not an end.
            let mut end = Interrupts::new()?;
            let server = Server::start(settings).await?;
            let apps = self.apply(&server, &source, documents).await?;
            let address = server.router().address().await.context("the router cannot be reached")?;
            let mut view = View { server: &server, apps, address, shown: BTreeMap::new() };
            tokio::select! {
                result = view.follow() => result?,
                () = end.next() => {}
            }
            if self.keep {
                talk("left running; `plimsoll up` with the same file takes it back");
                return Ok(Ended::Done);
            }
            talk("ending; interrupt again to leave it running");
            tokio::select! {
                result = tokio::time::timeout(END, view.end()) => {
                    result.context("not everything ended in time; what still runs goes on")??;
                    // A router that still serves other Apps stays.
                    server.router().end().await.ok();
                    talk("everything has ended; volumes and addresses stay");
                    Ok(Ended::Done)
                }
                () = end.next() => bail!("interrupted; what still runs goes on"),
            }
        })
    }

    /// Brings the file into the store and says what changed.
    async fn apply(
        &self,
        server: &Server,
        source: &Source,
        mut documents: Vec<Document>,
    ) -> anyhow::Result<BTreeSet<ObjectKey>> {
        for document in &mut documents {
            if let Document::App(app) = document {
                let content = server.data().content();
                source.add_digests(&mut app.spec, |bytes| {
                    plimsoll_server::save_content(&content, bytes)
                        .with_context(|| format!("{} does not take the program", content.display()))
                })?;
            }
        }
        let mut apps = BTreeSet::new();
        for applied in plimsoll_server::apply(server, &documents, &self.project).await? {
            let change = match applied.change {
                Change::Created => "created",
                Change::Changed => "changed",
                Change::Unchanged => "unchanged",
            };
            talk(&format!("{} {} {change}", applied.kind.to_lowercase(), applied.key));
            if applied.kind == <App as plimsoll_model::Kind>::NAME {
                apps.insert(applied.key);
            }
        }
        if apps.is_empty() {
            bail!("{} declares no App, so there is nothing to run", source.name);
        }
        for key in &apps {
            // A former end of this command switched it off.
            server.operate(key, |operations| operations.power = Power::On).await?;
        }
        Ok(apps)
    }
}

/// The requests to end: from the terminal, or from whoever started us.
struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What is shown of some Apps, each line when it is news.
struct View<'a> {
    server: &'a Server,
    apps: BTreeSet<ObjectKey>,
    /// Where routes are served.
    address: SocketAddr,
    shown: BTreeMap<(ObjectKey, String), String>,
}

impl View<'_> {
    /// Shows progress until something goes wrong with the store.
    async fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let mut changes = self.server.store().watch::<App>(&Scope::All, None)?;
            for app in self.server.store().list::<App>(&Scope::All, &Query::default()).await? {
                self.show(&app);
            }
            while let Some(Ok(change)) = changes.next().await {
                if let plimsoll_store::ChangeKind::Put(row) = change.kind {
                    self.show(&plimsoll_store::decode::<App>(*row)?);
                }
            }
        }
    }

    fn show(&mut self, app: &Object<App>) {
        let Some(status) = app.status.as_ref().filter(|it| it.of == app.meta.generation) else { return };
        if !self.apps.contains(&app.meta.key) {
            return;
        }
        for (name, line) in lines(app, &status.value) {
            let place = (app.meta.key.clone(), name.clone());
            if self.shown.get(&place) != Some(&line) {
                talk(&format!("{:<16} {line}", format!("{}/{name}", app.meta.key.name)));
                self.shown.insert(place, line);
            }
        }
        let place = (app.meta.key.clone(), "routes".to_owned());
        if is_running(app, &status.value) && !self.shown.contains_key(&place) {
            self.invite(app);
            self.shown.insert(place, String::new());
        }
    }

    /// Says how to reach an App.
    fn invite(&self, app: &Object<App>) {
        for route in app.spec.components.values().flat_map(|component| &component.routes) {
            let (host, address) = (&route.host, self.address);
            let url = format!("http://{host}:{}{}", address.port(), route.path);
            talk(&format!("\n  {url}\n  curl --resolve {host}:{}:{} {url}\n", address.port(), address.ip()));
        }
    }

    /// Switches the Apps off and waits until nothing of them runs.
    async fn end(&mut self) -> anyhow::Result<()> {
        for key in &self.apps {
            self.server.operate(key, |operations| operations.power = Power::Off).await?;
        }
        let mut changes = self.server.store().watch::<App>(&Scope::All, None)?;
        loop {
            let mut open = false;
            for key in self.apps.clone() {
                let Some(app) = self.server.store().get::<App>(&Scope::All, &key).await? else { continue };
                self.show(&app);
                let settled = app.status.as_ref().is_some_and(|it| {
                    let state = it.value.outcome.as_ref().map(|outcome| outcome.state);
                    it.of == app.meta.generation && state == Some(OutcomeState::Settled)
                });
                open |= !settled;
            }
            if !open {
                return Ok(());
            }
            changes.next().await.transpose()?;
        }
    }
}

/// One line for each component, and one for the App if something concerns it as a whole.
fn lines(app: &Object<App>, status: &AppStatus) -> Vec<(String, String)> {
    let waits = || status.outcome.iter().flat_map(|outcome| &outcome.waits).map(|waited| &waited.wait);
    let mut lines = Vec::new();
    for (name, component) in &status.components {
        let because: Vec<String> = waits()
            .filter(|wait| wait.component() == Some(name))
            .map(|wait| wait.reason().to_string())
            .collect();
        let mut line = match component.desired {
            0 if component
                .instances
                .iter()
                .all(|it| it.state == plimsoll_model::status::InstanceState::Stopped) =>
            {
                "stopped".to_owned()
            }
            0 => "ending".to_owned(),
            desired => format!("{}/{desired} ready", component.ready),
        };
        if !because.is_empty() {
            line = format!("{line}: {}", because.join("; "));
        }
        lines.push((name.to_string(), line));
    }
    for wait in waits().filter(|wait| wait.component().is_none()) {
        lines.push(("-".to_owned(), wait.reason().to_string()));
    }
    if is_running(app, status) {
        lines.push(("-".to_owned(), "settled".to_owned()));
    }
    lines
}

/// Everything declared is there.
fn is_running(app: &Object<App>, status: &AppStatus) -> bool {
    let settled = status.outcome.as_ref().is_some_and(|it| it.state == OutcomeState::Settled);
    settled && app.operations.power == Power::On
}

#[expect(clippy::print_stderr, reason = "this is the command line")]
fn talk(line: &str) {
    eprintln!("{line}");
}
