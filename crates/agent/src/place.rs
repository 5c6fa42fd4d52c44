//! An instance's directory and the records in it.
//!
//! ```text
//! instances/ID/
//!   mark.json      whose it is and what it runs
//!   intent.json    whether it should run
//!   counters.json  what is counted over its life
//!   run.json …     what agent and supervisor tell each other, see plimsoll-shim
//!   container.json what its container is made of, where it is one
//!   begun.json     that its container was about to be started
//!   files/         declared files, as they are mounted into an image
//!   log, log.1     what the program said
//!   bindings/      relation data
//!   tmp/           the program's own temporary files
//!   work/          where the program runs: its files, and links to its volumes
//! ```
//!
//! Until the first start nobody but root can pass into it, so that root may write what will be the program's own;
//! afterwards root does not write there again. Volumes belong to programs from their first use on.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use plimsoll_container::Recipe;
use plimsoll_driver::Marked;
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{
    BindingsHash, ComponentHash, ComponentName, InstallationId, InstanceId, PartName, Slot, Uid,
};
use plimsoll_model::kind::EngineAddress;
use plimsoll_model::quantity::Span;
use plimsoll_model::step::Launch;
use serde::{Deserialize, Serialize};

const MARK: &str = "mark.json";
const INTENT: &str = "intent.json";
const COUNTERS: &str = "counters.json";
const RECIPE: &str = "container.json";
const BEGUN: &str = "begun.json";

/// Whose an instance is and what it runs. Without secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mark {
    pub(crate) installation: InstallationId,
    pub(crate) app: Uid,
    pub(crate) key: ObjectKey,
    pub(crate) component: ComponentName,
    pub(crate) slot: Slot,
    pub(crate) revision: ComponentHash,
    pub(crate) bindings: BindingsHash,
    /// The ports that the program was given: the declared ones, where it has a network of its own.
    pub(crate) ports: BTreeMap<PartName, u16>,
    /// Where it is reached, in a network of its own; otherwise it shares the node's loopback address.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) user: Option<u32>,
    /// Where it is a container, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<ContainerMark>,
    pub(crate) launch: Launch,
}

/// Where an instance is a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerMark {
    /// The engine that keeps it.
    pub(crate) engine: EngineAddress,
    /// Ports of the node's loopback address that lead to it, where it has no address of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) published: BTreeMap<PartName, u16>,
}

impl Mark {
    pub(crate) fn marked(&self, instance: &InstanceId) -> Marked {
        Marked {
            installation: self.installation.clone(),
            app: self.app.clone(),
            key: self.key.clone(),
            instance: instance.clone(),
        }
    }

    pub(crate) fn endpoints(&self) -> BTreeMap<PartName, SocketAddr> {
        let ip = self.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let at = |port| SocketAddr::from((ip, port));
        let published = self.container.as_ref().map(|it| &it.published).filter(|_| self.address.is_none());
        published.unwrap_or(&self.ports).iter().map(|(name, port)| (name.clone(), at(*port))).collect()
    }
}

/// Whether an instance should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Intent {
    /// It is kept running.
    Run,
    /// It is ended, within this time by itself.
    Stop(Span),
    /// Its directory is being removed: nobody keeps it any more.
    Remove,
}

/// What is counted over an instance's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counters {
    pub(crate) restarts: u32,
    pub(crate) unready: u32,
}

/// An instance's directory.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub(crate) fn bindings(&self) -> PathBuf {
        self.path.join("bindings")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(crate) fn mark(&self) -> io::Result<Option<Mark>> {
        plimsoll_shim::read(&self.path, MARK)
    }

    pub(crate) fn write_mark(&self, mark: &Mark) -> io::Result<()> {
        plimsoll_shim::write_durably(&self.path, MARK, mark)
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    pub(crate) fn recipe(&self) -> io::Result<Option<Recipe>> {
        plimsoll_shim::read(&self.path, RECIPE)
    }

    pub(crate) fn write_recipe(&self, recipe: &Recipe) -> io::Result<()> {
        plimsoll_shim::write_durably(&self.path, RECIPE, recipe)
    }

    /// Whether a container of it may have run: nothing is written where its program may have been.
    pub(crate) fn has_begun(&self) -> io::Result<bool> {
        Ok(plimsoll_shim::read::<bool>(&self.path, BEGUN)?.is_some())
    }

    pub(crate) fn write_begun(&self) -> io::Result<()> {
        plimsoll_shim::write_durably(&self.path, BEGUN, &true)
    }

    /// A directory without an intent was made by a step that meant it to run.
    pub(crate) fn intent(&self) -> io::Result<Intent> {
        Ok(plimsoll_shim::read(&self.path, INTENT)?.unwrap_or(Intent::Run))
    }

    pub(crate) fn write_intent(&self, intent: Intent) -> io::Result<()> {
        plimsoll_shim::write_durably(&self.path, INTENT, &intent)
    }

    pub(crate) fn counters(&self) -> Counters {
        plimsoll_shim::read(&self.path, COUNTERS).ok().flatten().unwrap_or_default()
    }

    /// Counters that a full disk loses are counted on in memory.
    pub(crate) fn write_counters(&self, counters: Counters) {
        plimsoll_shim::write_durably(&self.path, COUNTERS, &counters).ok();
    }
}

/// Makes a directory that only its owner may enter, owned by `user` if given.
pub(crate) fn private_directory(path: &Path, user: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    own(path, user)
}

/// Makes a directory that anybody may pass through and nobody else may list.
pub(crate) fn passable_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o711))
}

/// Gives a file or directory to the user of an instance; a link itself, not what it leads to.
pub(crate) fn own(path: &Path, user: Option<u32>) -> io::Result<()> {
    match user {
        Some(user) => lchown(path, Some(user), Some(user)),
        None => Ok(()),
    }
}

/// Makes everything below a directory durable, with whatever else waits to be written on its disk.
pub(crate) fn sync_below(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_data()
}
