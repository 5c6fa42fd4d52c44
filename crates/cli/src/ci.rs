//! `plimsoll ci`: what pipelines say after they have built something.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use plimsoll_api::{Deployed, Wish};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{CommitId, ComponentName, Digest, ObjectName};
use plimsoll_model::image::ImageRef;
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Commit;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::AppRevision;

use crate::Ended;
use crate::client::Client;
use crate::follow::{Course, Follower, talk};
use crate::place::Where;
use crate::rollout::revisions;

/// Where systems that run pipelines say which commit they work on.
const COMMIT_VARIABLES: [&str; 5] =
    ["GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "CIRCLE_SHA1", "GIT_COMMIT"];

/// Where GitLab says when that was committed. The others leave it to the checkout.
const TIME_VARIABLE: &str = "CI_COMMIT_TIMESTAMP";

/// What a pipeline says
#[derive(Subcommand)]
pub(crate) enum Ci {
    /// Deploy what was built to every component that declares an image of its repository
    Deploy(Deploy),
}

impl Ci {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Deploy(deploy) => deploy.run(),
        }
    }
}

/// Deploy what was built to every component that declares an image of its repository
///
/// The control plane and the token come from `PLIMSOLL_SERVER`, `PLIMSOLL_TOKEN` and `PLIMSOLL_PROJECT`; a token made with
/// `--only-verbs read,deploy` is enough.
#[derive(Args)]
pub(crate) struct Deploy {
    /// What was built: `REPOSITORY@sha256:…`
    #[arg(long)]
    image: ImageRef,
    /// Only to this App
    #[arg(long)]
    app: Option<ObjectName>,
    /// Only to this component
    #[arg(short, long)]
    component: Option<ComponentName>,
    /// What it was built from [default: what the variables of GitHub, GitLab, Buildkite, Circle or Jenkins say, or HEAD of the checkout]
    #[arg(long)]
    commit: Option<CommitId>,
    /// When that was committed, as 2026-01-31T12:00:00Z: what is older than what runs is refused [default: what GitLab or
    /// the checkout say]
    #[arg(long, value_name = "TIME")]
    committed: Option<Timestamp>,
    /// Where the checkout is
    #[arg(long, value_name = "DIR", default_value = ".")]
    checkout: PathBuf,
    /// Deploy it though something newer was deployed before
    #[arg(long)]
    rollback: bool,
    /// Check everything, and write nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait for the end of the rollout; fails when it does
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; exit code 124
    #[arg(long, default_value = "10m")]
    timeout: Span,
    #[command(flatten)]
    place: Where,
}

impl Deploy {
    fn run(self) -> anyhow::Result<Ended> {
        let Some(digest) = self.image.digest() else {
            bail!("{} may be something else by now: give what was pushed, as {}@sha256:…", self.image, {
                self.image.repository()
            })
        };
        let commit = self.commit()?;
        let client = self.place.client()?;
        let wish = Wish {
            image: self.image.clone(),
            app: self.app.clone(),
            component: self.component.clone(),
            commit,
            rollback: self.rollback,
        };
        let deployed = client.deploy(&self.place.project(), &wish, self.dry_run)?;
        for Deployed { app, component, changed } in &deployed {
            let word = match (changed, self.dry_run) {
                (true, false) => "deployed",
                (true, true) => "would be deployed",
                (false, _) => "deployed already",
            };
            talk(&format!("{:<16} {word}: sha256:{}", format!("{app}/{component}"), digest.short()));
        }
        if !self.wait {
            return Ok(Ended::Done);
        }
        let apps: BTreeSet<ObjectKey> = deployed.iter().map(|it| self.place.app(&it.app)).collect();
        let limit = Duration::from_millis(self.timeout.millis);
        let Some(course) = Follower::new(&client, apps).until_rest(Some(limit), || false)? else {
            return Ok(Ended::TimedOut);
        };
        for it in &deployed {
            self.judge(&client, it, digest, course)?;
        }
        Ok(Ended::Done)
    }

    /// Fails unless what was deployed to a component is what its copies run now.
    fn judge(&self, client: &Client, it: &Deployed, digest: Digest, course: Course) -> anyhow::Result<()> {
        let Deployed { app: name, component, .. } = it;
        let app = client.app(&self.place.app(name))?;
        let revisions = revisions(client, &self.place.project(), &app)?;
        let pinned = |revision: &AppRevision| {
            revision.components.get(component).and_then(|it| it.image.as_ref()).map(|it| it.digest)
        };
        let status = app.status.as_ref().map(|status| &status.value);
        let meant = revisions.iter().rev().find(|it| status.and_then(|it| it.revision) == Some(it.number));
        if meant.and_then(pinned) != Some(digest) {
            let other = app.operations.deploys.get(component).and_then(|it| it.commit.as_ref());
            let other = other.map_or_else(String::new, |commit| format!(" by commit {}", commit.id));
            bail!("{name}/{component}: sha256:{} was overtaken{other} before it was done", digest.short());
        }
        let before = revisions.iter().rev().filter_map(pinned).find(|it| *it != digest);
        let before = before.map_or_else(|| "nothing".to_owned(), |it| format!("sha256:{}", it.short()));
        let rejected = status.is_some_and(|status| {
            let hash = meant.and_then(|it| it.hashes().get(component).copied());
            status.rejected.values().any(|it| it.component == *component && Some(it.revision) == hash)
        });
        if rejected {
            bail!(
                "{name}/{component}: sha256:{} did not become ready and was rejected; back to {before}: see \
                 `plimsoll why {name}`",
                digest.short()
            );
        }
        if course != Course::Settled {
            bail!("{name}: it needs a person now: see `plimsoll why {name}`");
        }
        talk(&format!("{:<16} from {before} to sha256:{}", format!("{name}/{component}"), digest.short()));
        Ok(())
    }

    /// What it was built from, if anybody says so.
    fn commit(&self) -> anyhow::Result<Option<Commit>> {
        let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let said = COMMIT_VARIABLES.iter().find_map(variable);
        let said = said.map(|text| text.parse().context("the environment names no commit")).transpose()?;
        let id: Option<CommitId> = self.commit.clone().or(said);
        let id = match id {
            Some(id) => Some(id),
            None => git(&self.checkout, &["rev-parse", "--verify", "--quiet", "HEAD"])
                .and_then(|text| text.parse().ok()),
        };
        let Some(id) = id else {
            talk("which commit this is, is not known: nothing keeps an older one from taking its place");
            return Ok(None);
        };
        if let Some(at) = self.committed {
            return Ok(Some(Commit { id, at }));
        }
        // What the environment says is of the commit that it names.
        let said =
            variable(&TIME_VARIABLE).filter(|_| variable(&"CI_COMMIT_SHA").as_deref() == Some(id.as_str()));
        let found =
            said.or_else(|| git(&self.checkout, &["show", "--no-patch", "--format=%cI", id.as_str(), "--"]));
        let at = found.and_then(|text| text.parse().ok()).with_context(|| {
            format!(
                "when {id} was committed, is not known: say where it is checked out with --checkout, or --committed"
            )
        })?;
        Ok(Some(Commit { id, at }))
    }
}

/// What `git` answers about a checkout, whoever owns it; nothing if there is none, or no `git`.
fn git(checkout: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(checkout).args(["-c", "safe.directory=*"]).args(arguments);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
