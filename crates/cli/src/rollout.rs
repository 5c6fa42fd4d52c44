//! `plimsoll rollout`: what is on its way, what was before, and the way back.

use std::collections::BTreeSet;

use anyhow::anyhow;
use clap::Subcommand;
use plimsoll_api::Operation;
use plimsoll_manifest::{Declared, Document, Metadata};
use plimsoll_model::id::{ComponentName, ProjectName};
use plimsoll_model::kind::AppRevisions;
use plimsoll_model::revision::{AppRevision, Chosen};
use plimsoll_model::update::Follow;
use plimsoll_model::{App, AppSpec, Attached, Kind as _, Object};

use crate::Ended;
use crate::client::Client;
use crate::follow::{Follower, talk};
use crate::up;
use crate::verbs::OfApp;

/// What a rollout is asked
#[derive(Subcommand)]
pub(crate) enum Rollout {
    /// Follow the rollout to its end; fails when it does
    Status(OfApp),
    /// List the App's revisions
    History(OfApp),
    /// Go back to the declaration of an earlier revision
    Undo {
        #[command(flatten)]
        of: OfApp,
        /// The revision; the one before the newest without it
        #[arg(long)]
        to: Option<u64>,
    },
    /// Replace nothing until `resume`; healing goes on
    Pause(OfApp),
    /// Go on with what `pause` stopped
    Resume(OfApp),
    /// Let a rollout go on that tries new copies beside the old ones
    Promote {
        #[command(flatten)]
        of: OfApp,
        /// Only these components
        #[arg(short, long)]
        component: Vec<ComponentName>,
        /// End all steps that are left, not only the one that is under way
        #[arg(long)]
        all: bool,
    },
    /// Reject what is being rolled out: the last good revision takes its place
    Abort {
        #[command(flatten)]
        of: OfApp,
        /// Only these components
        #[arg(short, long)]
        component: Vec<ComponentName>,
    },
    /// Replace the copies once, as a rollout would
    Restart {
        #[command(flatten)]
        of: OfApp,
        /// Only these components
        #[arg(short, long)]
        component: Vec<ComponentName>,
    },
}

impl Rollout {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Status(of) => {
                let apps = BTreeSet::from([of.place.app(&of.app)]);
                up::rest(Follower::new(&of.place.client()?, apps).until_rest(None, || false)?)
            }
            Self::History(of) => history(&of),
            Self::Undo { of, to } => undo(&of, to),
            Self::Pause(of) => of.operate(&Operation::Paused(true), "paused"),
            Self::Resume(of) => of.operate(&Operation::Paused(false), "resumed"),
            Self::Promote { of, component, all } => {
                of.operate(&Operation::Promote { components: component, all }, "goes on")
            }
            Self::Abort { of, component } => of.operate(&Operation::Abort(component), "is taken back"),
            Self::Restart { of, component } => of.operate(&Operation::Restart(component), "restarts"),
        }
    }
}

/// Components of a revision that were rejected, and that no person has lifted.
fn rejected(app: &Object<App>, revision: &AppRevision) -> BTreeSet<ComponentName> {
    let all = app.status.iter().flat_map(|status| &status.value.rejected);
    let standing = all.filter(|(name, it)| app.operations.retry.get(&it.component) != Some(name));
    let hashes = revision.hashes();
    let own = standing.filter(|(_, it)| hashes.get(&it.component) == Some(&it.revision));
    own.map(|(_, it)| it.component.clone()).collect()
}

/// An App's revisions, the oldest first.
pub(crate) fn revisions(
    client: &Client,
    project: &ProjectName,
    app: &Object<App>,
) -> anyhow::Result<Vec<AppRevision>> {
    let all = client.list(Some(project), AppRevisions::PLURAL)?;
    let own = all.into_iter().filter(|it| it["metadata"]["owner"] == app.meta.uid.as_str());
    let mut own = own
        .map(|mut it| serde_json::from_value(it["spec"].take()))
        .collect::<Result<Vec<AppRevision>, _>>()?;
    own.sort_by_key(|revision| revision.number);
    Ok(own)
}

#[expect(clippy::print_stdout, reason = "the list is this command's data")]
fn history(of: &OfApp) -> anyhow::Result<Ended> {
    println!("REVISION  COMPONENTS");
    let client = of.place.client()?;
    let app = client.app(&of.place.app(&of.app))?;
    for revision in revisions(&client, &of.place.project(), &app)? {
        let (hashes, rejected) = (revision.hashes(), rejected(&app, &revision));
        let named = hashes.iter().map(|(name, hash)| {
            let verdict = if rejected.contains(name) { " (rejected)" } else { "" };
            format!("{name}={}{verdict}", hash.short())
        });
        let named: Vec<String> = named.collect();
        println!("{:<9} {}", revision.number, named.join(" "));
    }
    Ok(Ended::Done)
}

/// The declaration of a revision, with the bytes that the tags of its images led to then. What follows a tag would go
/// forward again at once.
fn with_pins(revision: &AppRevision) -> AppSpec {
    let mut spec = revision.declaration.clone();
    for (name, component) in &mut spec.components {
        let pinned = revision.components.get(name).and_then(|it| it.image.as_ref());
        if let (Some(image), Some(pinned)) = (&component.image, pinned) {
            let text = match image.digest() {
                Some(_) => image.to_string(),
                None => format!("{image}@sha256:{}", pinned.digest),
            };
            component.image = text.parse().ok();
            component.update.image.follow = Follow::None;
        }
        if let (Some(source), Some(Chosen::Built { commit: Some(commit) })) =
            (&mut component.source, revision.chosen.get(name))
        {
            source.reference = Some(commit.to_string());
            component.update.image.follow = Follow::None;
        }
    }
    spec
}

fn undo(of: &OfApp, to: Option<u64>) -> anyhow::Result<Ended> {
    let client = of.place.client()?;
    let app = client.app(&of.place.app(&of.app))?;
    let revisions = revisions(&client, &of.place.project(), &app)?;
    let known: Vec<String> = revisions.iter().map(|it| it.number.to_string()).collect();
    let wanted = match to {
        Some(number) => revisions.iter().find(|it| it.number.0 == number),
        // What was rejected is not started again, so there is no way back to it.
        None => revisions.iter().rev().skip(1).find(|it| rejected(&app, it).is_empty()),
    };
    let which = if to.is_some() { "such revision" } else { "revision to go back to" };
    let wanted =
        wanted.ok_or_else(|| anyhow!("app {} has no {which}; it has {}", of.app, known.join(", ")))?;
    let Attached { labels, annotations, .. } = app.meta.attached;
    let metadata = Metadata { name: of.app.clone(), project: None, labels, annotations };
    let spec = with_pins(wanted);
    // What was deployed since is over, also where the declaration stays the same.
    let mut operations = app.operations;
    operations.deploys.values_mut().for_each(|deploy| deploy.of = None);
    let operations = Some(operations).filter(|it| !it.deploys.is_empty());
    let document = Document::App(Declared { line: 1, metadata, spec, operations });
    client.apply(&[document], &of.place.project(), None)?;
    talk(&format!("app {} declares revision {} again", of.app, wanted.number));
    Ok(Ended::Done)
}
