//! An instance as a process of the node, with a supervisor of its own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::id::InstanceId;
use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Blockage, Limit};
use plimsoll_shim::{RUN, Run, SHARED, read};

use crate::cgroups::Cgroups;
use crate::networks::Networks;
use crate::place::{Mark, Place};
use crate::probe::Way;
use crate::render::{self, RenderError};
use crate::runner::{self, Latest, Runner, Surroundings};
use crate::vehicle::{NotStarted, Outcome};

/// Time on top of the grace time after which a supervisor that did not end its program is overruled.
const OVERRULED: Duration = Duration::from_secs(5);

/// What runs an instance as a process.
pub(crate) struct Process {
    pub(crate) instance: InstanceId,
    pub(crate) place: Place,
    pub(crate) mark: Arc<Mark>,
    pub(crate) content: PathBuf,
    pub(crate) shim: Arc<[String]>,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) networks: Arc<Networks>,
}

impl Process {
    pub(crate) async fn adopt(&self) -> io::Result<Option<Runner>> {
        runner::adopt(&self.place).await
    }

    pub(crate) fn latest(&self) -> io::Result<Latest> {
        runner::latest(&self.place)
    }

    /// Starts the next run.
    pub(crate) async fn start(&self) -> io::Result<Result<Runner, NotStarted>> {
        let run: Option<Run> = read(self.place.path(), RUN)?;
        // Written before every start, so that it is certain where the program has never been.
        let is_first = run.is_some_and(|run| run.attempt == 0);
        let blocked = if is_first { self.first_start() } else { None };
        let started = match blocked {
            Some(blockage) => Err(blockage),
            None => self.surroundings().and_then(|around| {
                runner::start(&self.place, &self.shim, around).map_err(|error| blockage(&error))
            }),
        };
        match started {
            Ok(runner) => {
                runner.announced(&self.place).await;
                Ok(Ok(runner))
            }
            Err(by) => Ok(Err(NotStarted::Blocked(by))),
        }
    }

    /// Ends a run, within the grace time and a little more.
    pub(crate) async fn end(&self, runner: &Runner, grace: Span) {
        runner::ask_to_stop(&self.place, grace).ok();
        let limit = Duration::from_millis(grace.millis) + OVERRULED;
        tokio::time::timeout(limit, runner.ended()).await.ok();
    }

    pub(crate) async fn outcome(&self, runner: &Runner) -> io::Result<Outcome> {
        let exit = runner.outcome(&self.place).await?;
        if runner.was_not_begun(&self.place)? {
            // That was not the program's fault: the log has the reason.
            self.networks.distrust();
            return Ok(Outcome::NotBegun);
        }
        Ok(Outcome::Ended(exit))
    }

    pub(crate) fn was_begun(&self, runner: &Runner) -> io::Result<bool> {
        Ok(!runner.was_not_begun(&self.place)?)
    }

    /// What is declared and cannot be enforced here.
    pub(crate) fn unenforced(&self) -> Vec<Limit> {
        let mut unenforced = self.cgroups.limit(&self.instance, &self.mark.launch.resources).unenforced;
        if self.mark.launch.volumes.values().any(|volume| volume.size.is_some()) {
            unenforced.push(Limit::VolumeSize);
        }
        if self.mark.address.is_none() {
            unenforced.push(Limit::Network);
        }
        if self.own_tmp().is_none() {
            unenforced.push(Limit::Tmp);
        }
        if !self.mark.launch.security.is_default() {
            unenforced.push(Limit::Security);
        }
        unenforced
    }

    /// A command line that runs what is added to it where the program runs.
    pub(crate) fn way_beside(&self) -> Way {
        let mut beside = self.shim.to_vec();
        beside.extend([self.place.path().display().to_string(), "--".into()]);
        Way::Process(beside)
    }

    /// What the next run is kept within: groups are made anew for each run, because a reboot forgets them.
    fn surroundings(&self) -> Result<Surroundings, Blockage> {
        let network = self.mark.address.map(|address| {
            let ports = self.mark.ports.values().copied().collect();
            self.networks.of(address, ports).map_err(|error| {
                plimsoll_shim::note(self.place.path(), &format!("it cannot be started: {error}"));
                Blockage::Network
            })
        });
        let groups = self.cgroups.limit(&self.instance, &self.mark.launch.resources).groups;
        Ok(Surroundings { groups, network: network.transpose()?, tmp: self.own_tmp() })
    }

    /// What takes the place of `/tmp`: nothing where we may not mount, nor where `/tmp` holds the node's own directory.
    fn own_tmp(&self) -> Option<PathBuf> {
        let hides_us = SHARED.iter().any(|shared| self.place.path().starts_with(shared));
        (!hides_us && self.networks.has_mounts()).then(|| self.place.tmp())
    }

    /// Puts the program in its place. Before the first run only: afterwards the directory is the
    /// program's own, and nothing is written there.
    fn first_start(&self) -> Option<Blockage> {
        match render::place_content(&self.place, &self.mark, &self.content) {
            Ok(true) => {
                if let Some(why) = self.networks.why_shared().filter(|_| self.mark.address.is_none()) {
                    plimsoll_shim::note(self.place.path(), &format!("it shares the node's network: {why}"));
                }
                None
            }
            Err(RenderError::Disk(error)) => Some(blockage(&error)),
            Ok(false) | Err(_) => Some(Blockage::Content),
        }
    }
}

/// Which reason outside of the program an error of the system stands for.
pub(crate) fn blockage(error: &io::Error) -> Blockage {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Blockage::Processes,
        _ => Blockage::Disk,
    }
}
