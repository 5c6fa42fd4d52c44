//! `plimsoll up`: what a file declares, for as long as the command runs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use plimsoll_api::Operation;
use plimsoll_model::id::PathHash;
use plimsoll_model::operations::Power;
use plimsoll_model::{App, Kind, ObjectKey};

use crate::Ended;
use crate::bundle::Bundle;
use crate::client::{Applied, Client};
use crate::follow::{Course, Follower, talk};
use crate::host::{Host, HostOptions};
use crate::place::Where;

/// How long an end may take before the command gives up waiting for it.
const END: Duration = Duration::from_mins(2);

/// Run what a file declares on this machine, and keep it running
#[derive(Args)]
pub(crate) struct Up {
    /// The file with the declarations; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: HostOptions,
    /// At the end of the command leave everything running; the next `up` or `server` adopts it
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// At the end of the command end everything the file declares; volumes and addresses stay (the default)
    #[arg(long)]
    down: bool,
}

impl Up {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let bundle = Bundle::file(&self.file)?;
        let name = bundle.name();
        let place = self.place.local();
        let data = place.data()?;
        let host = Host::start_unless_owned(data.clone(), self.options)?;
        let client = Client::of(&data)?;
        let applied = apply(&client, bundle, &place, Review::Silent)?;
        let apps = apps_of(&applied);
        if apps.is_empty() {
            bail!("{name} declares no App, so there is nothing to run");
        }
        for app in &apps {
            // A former end of this command switched it off.
            client.operate(app, &Operation::Power(Power::On))?;
        }
        let mut follower = Follower::new(&client, apps);
        let Some(host) = host else {
            talk("another process serves this data directory: it goes on without this command");
            return rest(follower.until_rest(None, || false)?);
        };
        while host.interrupts() == 0 {
            follower.look()?;
            follower.rest(|| host.interrupts() > 0)?;
        }
        if self.keep {
            talk("left running; `plimsoll up` with the same file, or `plimsoll server`, takes it back");
            return Ok(Ended::Done);
        }
        talk("ending; interrupt again to leave it running");
        for app in follower.apps() {
            // One that somebody deleted meanwhile ends anyway.
            if client.find_app(app)?.is_some() {
                client.operate(app, &Operation::Power(Power::Off))?;
            }
        }
        let interrupted = || host.interrupts() > 1;
        follower.look()?;
        if follower.apps().is_empty() {
            return Ok(Ended::Done);
        }
        match follower.until_rest(Some(END), interrupted)? {
            Some(Course::Settled) => {
                host.end_router();
                talk("everything has ended; volumes and addresses stay");
                Ok(Ended::Done)
            }
            _ => bail!("not everything has ended; what still runs goes on"),
        }
    }
}

/// How a command that waited for Apps ends.
pub(crate) fn rest(course: Option<Course>) -> anyhow::Result<Ended> {
    match course {
        Some(Course::Settled) => Ok(Ended::Done),
        Some(_) => bail!("it needs a person now: see `plimsoll why APP`"),
        None => Ok(Ended::TimedOut),
    }
}

/// What is said of an apply before it is done.
#[derive(Clone, Copy)]
pub(crate) enum Review {
    /// Nothing.
    Silent,
    /// What it does.
    Show,
    /// What it does was reviewed, and it is refused if it would do anything else.
    Only(PathHash),
}

/// Uploads what the documents name, applies them, and says what changed.
pub(crate) fn apply(
    client: &Client,
    bundle: Bundle,
    place: &Where,
    review: Review,
) -> anyhow::Result<Vec<Applied>> {
    let documents = uploaded(client, bundle, place)?;
    let reviewed = match review {
        Review::Silent => None,
        Review::Show => {
            talk(crate::plan::text(&client.plan(&documents, &place.project())?).trim_end());
            None
        }
        Review::Only(hash) => Some(hash),
    };
    let applied = client.apply(&documents, &place.project(), reviewed)?;
    Ok(say(applied, false))
}

/// Says what changed, or would change.
pub(crate) fn say(applied: Vec<Applied>, dry_run: bool) -> Vec<Applied> {
    let note = if dry_run { " (dry run)" } else { "" };
    for it in &applied {
        talk(&format!("{} {} {}{note}", it.kind.to_lowercase(), it.name, it.change));
    }
    applied
}

/// Uploads what the documents name.
pub(crate) fn uploaded(
    client: &Client,
    bundle: Bundle,
    place: &Where,
) -> anyhow::Result<Vec<plimsoll_manifest::Document>> {
    let usual = place.project();
    bundle.kept(|project, bytes| client.upload(project.unwrap_or(&usual), bytes))
}

/// The Apps among what was applied.
pub(crate) fn apps_of(applied: &[Applied]) -> BTreeSet<ObjectKey> {
    let apps = applied.iter().filter(|it| it.kind == App::NAME);
    apps.map(|it| ObjectKey { project: it.project.clone(), name: it.name.clone() }).collect()
}
