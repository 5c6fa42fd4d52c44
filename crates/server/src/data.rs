//! The data directory: who owns it, and what identifies the installation.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_model::id::{Epoch, InstallationId};
use plimsoll_model::object::Timestamp;
use plimsoll_shim::{read_whole, write_durably};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::keyring::{DataKeys, KeyError, Keyring, RestoreKey};
use crate::seal::KeyId;

const IDENTITY: &str = "installation.json";
const LOCK: &str = "lock";

/// Where the node of a root installation lies if its users could not reach the data directory.
const SHARED_NODES: &str = "/var/lib/plimsoll";

/// An owned data directory. It is free again when this is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    keyring: Arc<Keyring>,
    _lock: File,
}

/// What is written down of an installation outside of its store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    installation: InstallationId,
    epoch: Epoch,
    #[serde(default)]
    state: State,
}

/// Whether an installation may do what its store declares.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// It may.
    #[default]
    Live,
    /// A restore has begun, and not finished: key and store may not belong together.
    Restoring,
    /// It was restored: a person has to see first what would be done.
    Held(Held),
}

/// A restore that was not released yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// When everything was restored.
    pub since: Timestamp,
    /// When the backup was taken: whatever was done after that is not known here.
    pub taken: Timestamp,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process owns it.
    #[error("{} belongs to a running Plimsoll (process {owner}): stop that one, or choose another directory", path.display())]
    Owned {
        /// The directory.
        path: PathBuf,
        /// The process, as it wrote itself down.
        owner: String,
    },
    /// It holds something else.
    #[error("{} is not empty and no data directory of Plimsoll: choose another one", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// A restore of it was cut off.
    #[error(
        "a restore of {} has not finished, and what is there may not belong together: run it again", path.display()
    )]
    HalfRestored {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another installation than what is to be restored.
    #[error(
        "{} holds installation {own}, and the backup is of {other}: choose another directory", path.display()
    )]
    OtherInstallation {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        own: InstallationId,
        /// Whose the backup is.
        other: InstallationId,
    },
    /// There is none.
    #[error("{} holds no installation", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// Its secrets cannot be opened.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It cannot be read or written.
    #[error("the data directory {} cannot be used", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DataDirectory {
    /// Takes a data directory, making it if it is not there. Its secrets are opened with the key file that is given, or with
    /// its own.
    ///
    /// # Errors
    /// [`DataError`]; nothing was changed then but that the directory may have been made.
    pub fn take(path: &Path, key_file: Option<&Path>) -> Result<Self, DataError> {
        let (path, lock) = Self::own(path)?;
        let fail = |file: &str| {
            let path = path.join(file);
            move |source| DataError::Io { path, source }
        };
        let identity = match read_whole::<Identity>(&path, IDENTITY).map_err(fail(IDENTITY))? {
            Some(Identity { state: State::Restoring, .. }) => return Err(DataError::HalfRestored { path }),
            known => known,
        };
        // A key first: an installation without one would never get one.
        let keyring = Arc::new(Keyring::open(&path, key_file, identity.is_none())?);
        let identity = match identity {
            Some(identity) => identity,
            None => Self::found(&path).map_err(fail(""))?,
        };
        Ok(Self { path, identity, keyring, _lock: lock })
    }

    /// Takes a data directory for an installation that is about to be restored into it, with data keys of its own. From here on
    /// it is half restored until [`DataDirectory::restored`] says otherwise.
    ///
    /// # Errors
    /// [`DataError`]; nothing was changed then but that the directory may have been made.
    pub(crate) fn take_over(
        path: &Path,
        installation: &InstallationId,
        epoch: Epoch,
        (keys, key_file): (DataKeys, Option<&Path>),
    ) -> Result<Self, DataError> {
        let (path, lock) = Self::own(path)?;
        let fail = |file: &str| {
            let path = path.join(file);
            move |source| DataError::Io { path, source }
        };
        let before = read_whole::<Identity>(&path, IDENTITY).map_err(fail(IDENTITY))?;
        if let Some(Identity { installation: own, .. }) = &before
            && own != installation
        {
            return Err(DataError::OtherInstallation { own: own.clone(), other: installation.clone(), path });
        }
        let key_file = RestoreKey::find(&path, key_file)?;
        let epoch = Epoch(before.map_or(epoch, |it| it.epoch.max(epoch)).0 + 1);
        let identity = Identity { installation: installation.clone(), epoch, state: State::Restoring };
        write_durably(&path, IDENTITY, &identity).map_err(fail(IDENTITY))?;
        let keyring = Keyring::replace(&path, key_file, keys, &format!("before-{epoch}"))?;
        Ok(Self { path, identity, keyring: Arc::new(keyring), _lock: lock })
    }

    /// Seals the data keys of a directory that no server has with another key file, and says which one that is.
    ///
    /// # Errors
    /// [`DataError`]; the file before is still the right one then.
    pub fn change_key_file(path: &Path, key_file: Option<&Path>, to: &Path) -> Result<KeyId, DataError> {
        if !path.join(IDENTITY).exists() {
            return Err(DataError::Nothing { path: path.to_owned() });
        }
        let (path, _lock) = Self::own(path)?;
        let fail = |source| DataError::Io { path: path.join(IDENTITY), source };
        match read_whole::<Identity>(&path, IDENTITY).map_err(fail)? {
            Some(Identity { state: State::Restoring, .. }) => Err(DataError::HalfRestored { path }),
            _ => Ok(Keyring::change(&path, key_file, to)?),
        }
    }

    /// Everything is restored, and on hold.
    pub(crate) fn restored(&mut self, held: Held) -> io::Result<()> {
        self.identity.state = State::Held(held);
        write_durably(&self.path, IDENTITY, &self.identity)
    }

    /// The restore that was not released when the directory was taken.
    pub fn held(&self) -> Option<Held> {
        match self.identity.state {
            State::Held(held) => Some(held),
            State::Live | State::Restoring => None,
        }
    }

    /// Writes down that a restore was released.
    pub(crate) fn release(&self) -> io::Result<()> {
        let identity = Identity { state: State::Live, ..self.identity.clone() };
        write_durably(&self.path, IDENTITY, &identity)
    }

    /// Makes a directory if it is not there, and locks it.
    fn own(path: &Path) -> Result<(PathBuf, File), DataError> {
        let fail = |file: &Path| {
            let path = file.to_owned();
            move |source| DataError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(fail(path))?;
        let path = path.canonicalize().map_err(fail(path))?;
        let is_ours = path.join(IDENTITY).exists() || path.join(LOCK).exists();
        if !is_ours && path.read_dir().map_err(fail(&path))?.next().is_some() {
            return Err(DataError::Foreign { path });
        }
        // Users of instances may pass through, and not look around.
        std::fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(fail(&path))?;
        let lock = Self::lock(&path)?;
        Ok((path, lock))
    }

    fn lock(path: &Path) -> Result<File, DataError> {
        let name = path.join(LOCK);
        let fail = |source| DataError::Io { path: name.clone(), source };
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&name)
            .map_err(fail)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                lock.read_to_string(&mut owner).map_err(fail)?;
                let owner = owner.trim().to_owned();
                return Err(DataError::Owned { path: path.to_owned(), owner });
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(fail)?;
        writeln!(lock, "{}", std::process::id()).map_err(fail)?;
        Ok(lock)
    }

    /// Makes a new installation.
    fn found(path: &Path) -> io::Result<Identity> {
        let installation = format!("i-{}", random_name()?);
        let installation =
            installation.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let identity = Identity { installation, epoch: Epoch(1), state: State::Live };
        write_durably(path, IDENTITY, &identity)?;
        Ok(identity)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The installation that lives here.
    pub fn installation(&self) -> &InstallationId {
        &self.identity.installation
    }

    /// Raised by every restore.
    pub fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    /// What seals secrets.
    pub(crate) fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Where the logs of builds lie.
    pub(crate) fn builds(&self) -> PathBuf {
        self.path.join("builds")
    }

    /// Where the bytes of programs lie, by digest.
    pub fn content(&self) -> PathBuf {
        self.path.join("content")
    }

    /// Where the local node lies. As root instances run as other users, who must be able to pass through every
    /// directory above their own; below somebody's private directory they could not.
    ///
    /// # Errors
    /// When a directory above cannot be examined.
    pub fn node(&self) -> io::Result<PathBuf> {
        if rustix::process::geteuid().is_root() {
            for above in self.path.ancestors() {
                if above.metadata()?.mode() & 0o001 == 0 {
                    return Ok(Path::new(SHARED_NODES).join(self.installation().as_str()));
                }
            }
        }
        Ok(self.path.join("node"))
    }
}

/// Twelve random hexadecimal digits, for names.
pub(crate) fn random_name() -> io::Result<String> {
    hexadecimal::<6>()
}

/// So many random hexadecimal digits that nobody guesses them.
///
/// # Errors
/// When the system has no random numbers.
pub fn random_text() -> io::Result<String> {
    hexadecimal::<20>()
}

fn hexadecimal<const BYTES: usize>() -> io::Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("precious"), "x").unwrap();
        let mode = directory.path().metadata().unwrap().mode();
        assert!(matches!(DataDirectory::take(directory.path(), None), Err(DataError::Foreign { .. })));
        assert_eq!(directory.path().metadata().unwrap().mode(), mode);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_directory_has_one_owner_and_keeps_its_identity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = DataDirectory::take(&path, None).unwrap();
        let id = first.installation().clone();
        let second = DataDirectory::take(&path, None).unwrap_err();
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        drop(first);
        assert_eq!(*DataDirectory::take(&path, None).unwrap().installation(), id);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_not_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        drop(DataDirectory::take(directory.path(), None).unwrap());
        std::fs::write(directory.path().join(IDENTITY), "{").unwrap();
        let error = DataDirectory::take(directory.path(), None).unwrap_err();
        assert!(matches!(error, DataError::Io { .. }), "{error}");
        assert_eq!(std::fs::read(directory.path().join(IDENTITY)).unwrap(), b"{");
    }
}
