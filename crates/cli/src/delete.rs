//! `plimsoll delete`: taking away, and giving up what cannot be reached.

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_api::Resource;
use plimsoll_model::{App, Kind as _, ObjectKey};

use crate::Ended;
use crate::client::Client;
use crate::follow::talk;
use crate::news::until_gone;
use crate::place::Where;
use crate::what::{What, project_of};

/// Delete an object; an App with everything of it, volumes too
#[derive(Args)]
pub(crate) struct Delete {
    /// What to delete: KIND/NAME, or the name of an App
    what: What,
    #[command(flatten)]
    place: Where,
    /// Return at once instead of waiting until nothing is left
    #[arg(long)]
    no_wait: bool,
    /// Give an App up though a target of it does not answer: print what may be left, which is removed once it answers
    #[arg(long)]
    abandon: bool,
    /// Check everything, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

impl Delete {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let What { resource, name } = &self.what;
        let kind = resource.kind.to_lowercase();
        if !resource.origin.is_deletable() {
            let can = Resource::ALL.iter().filter(|it| it.origin.is_deletable());
            let can: Vec<&str> = can.map(|it| it.plural).collect();
            bail!("{} cannot be deleted; {} can", resource.plural, can.join(", "));
        }
        let client = self.place.client()?;
        let project = self.place.project();
        let project = project_of(resource, &project);
        let key = ObjectKey { project: project.cloned(), name: name.parse().context("that is no name")? };
        if self.abandon {
            if resource.plural != App::PLURAL {
                bail!("only Apps can be given up; {} can be deleted", resource.plural);
            }
            return self.abandon(&client, &key);
        }
        client.delete(&key, resource.plural, self.dry_run)?;
        if self.dry_run {
            talk(&format!("{kind} {key} would be deleted"));
            return Ok(Ended::Done);
        }
        if !self.no_wait {
            until_gone(&client, project, resource.plural, name, || false)?;
        }
        talk(&format!("{kind} {key} {}", if self.no_wait { "is being deleted" } else { "deleted" }));
        Ok(Ended::Done)
    }
}

impl Delete {
    #[expect(clippy::print_stdout, reason = "what may be left is this command's data")]
    fn abandon(&self, client: &Client, key: &ObjectKey) -> anyhow::Result<Ended> {
        let left = client.abandon(key, self.dry_run)?;
        for scope in &left.silent {
            talk(&format!("{scope} does not answer"));
        }
        for (instance, target) in &left.instances {
            println!("instance {instance} on {target}");
        }
        for target in &left.targets {
            println!("volumes on {target}, if it had any");
        }
        for claim in &left.claims {
            println!("claim {claim}");
        }
        if self.dry_run {
            talk(&format!("app {key} would be given up, and the above would be left"));
            return Ok(Ended::Done);
        }
        talk(&format!(
            "app {key} is given up; the above may be left, and is removed once its targets answer"
        ));
        talk("now: plimsoll get tombstones");
        Ok(Ended::Done)
    }
}
