//! Whose processes the instances are: as root, one user number for each project.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use plimsoll_model::id::ProjectName;
use plimsoll_shim::{read_whole, write_durably};

/// The first user number given away. Debian's own tools give away numbers below 60,000 and container tools those
/// from 100,000 to 165,535 by default.
const FIRST: u32 = 210_000;

const FILE: &str = "users.json";

/// User numbers by project, kept on disk.
pub(crate) struct Users {
    directory: PathBuf,
    is_root: bool,
    known: BTreeMap<ProjectName, u32>,
}

/// Why a project cannot have instances here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoUser {
    /// Without root there is one user, and tenants must not share one.
    #[error(
        "this node runs without root and serves project {served} only: run it as root to keep projects apart"
    )]
    OneProject { served: ProjectName },
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Users {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let known = read_whole(directory, FILE)?.unwrap_or_default();
        let is_root = rustix::process::geteuid().is_root();
        Ok(Self { directory: directory.to_owned(), is_root, known })
    }

    /// The user number of a project; `None` is the agent's own user.
    pub(crate) fn of(&mut self, project: &ProjectName) -> Result<Option<u32>, NoUser> {
        if let Some(number) = self.known.get(project) {
            return Ok(self.is_root.then_some(*number));
        }
        if !self.is_root
            && let Some(served) = self.known.keys().next()
        {
            return Err(NoUser::OneProject { served: served.clone() });
        }
        let number = self.known.values().max().map_or(FIRST, |last| last + 1);
        let mut known = self.known.clone();
        known.insert(project.clone(), number);
        write_durably(&self.directory, FILE, &known)?;
        self.known = known;
        Ok(self.is_root.then_some(number))
    }
}
