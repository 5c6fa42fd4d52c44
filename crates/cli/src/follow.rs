//! Following Apps on their way: one line for each piece of news.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use plimsoll_model::operations::Power;
use plimsoll_model::status::{AppStatus, InstanceState, OutcomeState};
use plimsoll_model::{App, Kind as _, Object, ObjectKey};

use crate::client::{Client, RouterPlace};
use crate::news::News;

/// Where an App is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Something is still to come by itself.
    Moving,
    /// Declared and observed agree.
    Settled,
    /// Only a person can go on, or a wait outlasted its deadline.
    Stalled,
}

/// Follows some Apps.
pub(crate) struct Follower<'a> {
    client: &'a Client,
    apps: BTreeSet<ObjectKey>,
    shown: BTreeMap<(ObjectKey, String), String>,
    /// Where routes are served, once that is known.
    router: Option<RouterPlace>,
    /// News of Apps, once somebody waits.
    news: Option<News>,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(client: &'a Client, apps: BTreeSet<ObjectKey>) -> Self {
        Self { client, apps, shown: BTreeMap::new(), router: None, news: None }
    }

    /// Those that are still there.
    pub(crate) fn apps(&self) -> &BTreeSet<ObjectKey> {
        &self.apps
    }

    /// One look at all of them: says what is new, and where the one that is farthest back is.
    pub(crate) fn look(&mut self) -> anyhow::Result<Course> {
        let mut courses = Vec::new();
        for key in self.apps.clone() {
            let Some(app) = self.client.find_app(&key)? else {
                talk(&format!("app {} was deleted", key.name));
                self.apps.remove(&key);
                continue;
            };
            self.show(&app)?;
            courses.push(course(&app));
        }
        let any = |wanted| courses.contains(&wanted);
        Ok(match () {
            () if any(Course::Moving) => Course::Moving,
            () if any(Course::Stalled) => Course::Stalled,
            () => Course::Settled,
        })
    }

    /// Follows until nothing comes by itself any more; `None` when that takes too long, or `stop` says so.
    pub(crate) fn until_rest(
        &mut self,
        limit: Option<Duration>,
        stop: impl Fn() -> bool,
    ) -> anyhow::Result<Option<Course>> {
        let began = Instant::now();
        loop {
            let course = self.look()?;
            if self.apps.is_empty() {
                bail!("nothing is left to wait for");
            }
            match course {
                Course::Moving if stop() || limit.is_some_and(|limit| began.elapsed() >= limit) => {
                    return Ok(None);
                }
                Course::Moving => {
                    self.rest(|| stop() || limit.is_some_and(|limit| began.elapsed() >= limit))?;
                }
                rest => return Ok(Some(rest)),
            }
        }
    }

    /// Waits for news of the Apps, or until `stop` says so.
    pub(crate) fn rest(&mut self, stop: impl Fn() -> bool) -> anyhow::Result<()> {
        if self.news.is_none() {
            let mut projects = self.apps.iter().map(|key| &key.project);
            let first = projects.next().and_then(Option::as_ref);
            let one = projects.all(|it| it.as_ref() == first);
            self.news = Some(News::of(self.client, first.filter(|_| one), App::PLURAL)?);
        }
        if let Some(news) = &self.news {
            news.wait(stop);
        }
        Ok(())
    }

    fn show(&mut self, app: &Object<App>) -> anyhow::Result<()> {
        let Some(status) = app.status.as_ref().filter(|it| it.of == app.meta.generation) else {
            return Ok(());
        };
        let busy = status.value.outcome.as_ref().is_some_and(|it| it.state == OutcomeState::Advanced);
        for (name, head, reason) in lines(app, &status.value) {
            let place = (app.meta.key.clone(), name);
            let known = self.shown.get(&place);
            let line = if reason.is_empty() { head.clone() } else { format!("{head}: {reason}") };
            // While steps are carried out nobody says why; what was said before still holds.
            let old_news =
                known == Some(&line) || (busy && known.is_some_and(|known| known.starts_with(&head)));
            if !old_news {
                talk(&format!("{:<16} {line}", format!("{}/{}", app.meta.key.name, place.1)));
                self.shown.insert(place, line);
            }
        }
        let place = (app.meta.key.clone(), "routes".to_owned());
        let running = app.operations.power == Power::On && course(app) == Course::Settled;
        if running && !self.shown.contains_key(&place) {
            self.invite(app)?;
            self.shown.insert(place, String::new());
        }
        Ok(())
    }

    /// Says how to reach an App.
    fn invite(&mut self, app: &Object<App>) -> anyhow::Result<()> {
        for route in app.spec.components.values().flat_map(|component| &component.routes) {
            let router = match &self.router {
                Some(router) => router,
                None => &*self.router.insert(self.client.router()?),
            };
            let (scheme, address) = match (route.tls.is_on(), router.tls_address) {
                (true, Some(address)) => ("https", address),
                _ => ("http", router.address),
            };
            // What is served everywhere is served here too.
            let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
            let (host, port) = (&route.host, address.port());
            let url = format!("{scheme}://{host}:{port}{}", route.path);
            let is_own = scheme == "https" && (host == "localhost" || host.ends_with(".localhost"));
            let trust = router.authority.as_ref().filter(|_| is_own);
            let trust = trust.map_or_else(String::new, |file| format!("--cacert {} ", file.display()));
            talk(&format!("\n  {url}\n  curl {trust}--resolve {host}:{port}:{ip} {url}\n"));
        }
        Ok(())
    }
}

/// Where an App is.
pub(crate) fn course(app: &Object<App>) -> Course {
    let Some(status) = app.status.as_ref().filter(|it| it.of == app.meta.generation) else {
        return Course::Moving;
    };
    match status.value.outcome.as_ref().map(|it| it.state) {
        Some(OutcomeState::Settled) => Course::Settled,
        Some(OutcomeState::Stalled) => Course::Stalled,
        _ => Course::Moving,
    }
}

/// For each component its name, its count and why it is not where it should be.
fn lines(app: &Object<App>, status: &AppStatus) -> Vec<(String, String, String)> {
    let waits = || status.outcome.iter().flat_map(|outcome| &outcome.waits).map(|waited| &waited.wait);
    let reasons = |of: Option<&plimsoll_model::id::ComponentName>| {
        let own = waits().filter(|wait| wait.component() == of).map(|wait| wait.reason().to_string());
        own.collect::<Vec<_>>().join("; ")
    };
    let mut lines = Vec::new();
    for (name, component) in &status.components {
        let ended = || {
            let has_ended = |it| matches!(it, InstanceState::Stopped | InstanceState::Done);
            component.instances.iter().all(|it| has_ended(it.state))
        };
        let head = match component.desired {
            0 if ended() => "stopped".to_owned(),
            0 => "ending".to_owned(),
            desired => format!("{}/{desired} ready", component.ready),
        };
        lines.push((name.to_string(), head, reasons(Some(name))));
    }
    let whole = reasons(None);
    if !whole.is_empty() {
        lines.push(("-".to_owned(), "waits".to_owned(), whole));
    } else if course(app) == Course::Settled && app.operations.power == Power::On {
        lines.push(("-".to_owned(), "settled".to_owned(), String::new()));
    }
    lines
}

/// News for people, on standard error: standard output is for data.
pub(crate) fn talk(line: &str) {
    // Who has closed the terminal needs not be told.
    writeln!(std::io::stderr(), "{line}").ok();
}
