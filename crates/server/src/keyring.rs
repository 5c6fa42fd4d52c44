//! Secrets at rest: values are sealed with a data key, and data keys with the installation's key file.
//!
//! The two make rotation cheap. Another key file means sealing a few data keys anew; another data key means sealing all
//! values anew, which a server does while it works. The key file lies in the data directory unless the installation was
//! given one from elsewhere, and then a copy of the data directory and of the store opens nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use plimsoll_model::kind::Sealed;
use plimsoll_model::secret::Sensitive;
use plimsoll_reconcile::Opener;
use plimsoll_shim::{read_whole, write_durably};
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock as Gate, RwLockReadGuard, RwLockWriteGuard};

use crate::seal::{Key, KeyId};

/// The data keys, sealed.
const RING: &str = "keyring.json";

/// The key file of an installation that was given none.
const OWN: &str = "key-file";

/// What versions before 0.2 kept: one key, in the clear, that sealed values itself.
const BEFORE: &str = "key";

/// What the text of a sealed value begins with: how it was sealed. The id of the data key follows, and a colon; values of
/// versions before 0.2 have none.
const PREFIX: &str = "gcm-siv:";

/// Why secrets could not be opened, or a key file not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("there is no key file {}: `plimsoll key create {}` makes one", .0.display(), .0.display())]
    NoFile(PathBuf),
    /// The installation's keys are sealed with a file that is not in its directory.
    #[error("the secrets here are sealed with key file {0}, which lies elsewhere: give it with --key-file")]
    Elsewhere(KeyId),
    /// It is another one.
    #[error("{} is key file {found}, and the secrets here are sealed with {needed}: give that one", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: KeyId,
        /// What is needed.
        needed: KeyId,
    },
    /// It has something else in it.
    #[error("{} is no key file: it must have one line, 32 bytes as base64", .0.display())]
    Form(PathBuf),
    /// Everybody may read it.
    #[error("everybody on this machine may read {}: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
    /// There are none, where there must be some.
    #[error("{} is missing, and nothing else opens the secrets here: take it from a copy, or restore a backup", .0.display())]
    NoRing(PathBuf),
    /// The data keys do not open though their key file is the right one.
    #[error("{} is damaged: take it from a copy, or restore a backup", .0.display())]
    Damaged(PathBuf),
    /// It cannot be read or written.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The data keys as they lie on the disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ring {
    /// The key file that seals them.
    key_file: KeyId,
    /// The newest is the last.
    keys: Vec<SealedKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SealedKey {
    id: KeyId,
    sealed: String,
}

/// Data keys in the clear, as a backup has them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plain {
    keys: Vec<String>,
}

/// The data keys of an installation: the newest seals, all of them open.
#[derive(Debug, Default, Clone)]
pub(crate) struct DataKeys(Vec<Key>);

impl DataKeys {
    fn generate() -> io::Result<Self> {
        Ok(Self(vec![Key::generate()?]))
    }

    /// Whether a key is one of them.
    fn has(&self, key: &Key) -> bool {
        self.0.iter().any(|it| it.id() == key.id())
    }

    /// For a backup, which is encrypted as a whole.
    pub(crate) fn plain(&self) -> io::Result<Vec<u8>> {
        let keys = self.0.iter().map(|key| key.text().expose().clone()).collect();
        Ok(serde_json::to_vec(&Plain { keys })?)
    }

    /// From a backup; those of versions before 0.2 have the bytes of one key.
    pub(crate) fn from_plain(bytes: &[u8]) -> Option<Self> {
        if let Some(key) = Key::from_bytes(bytes) {
            return Some(Self(vec![key]));
        }
        let Plain { keys } = serde_json::from_slice(bytes).ok()?;
        keys.iter().map(|text| Key::from_text(text)).collect::<Option<_>>().map(Self)
    }

    fn seal(&self, value: &str) -> io::Result<Sealed> {
        let key = self.0.last().ok_or_else(|| io::Error::other("there is no data key"))?;
        Ok(Sealed(format!("{PREFIX}{}:{}", key.id(), key.seal(value)?)))
    }

    pub(crate) fn open(&self, sealed: &Sealed) -> Option<Sensitive<String>> {
        let text = sealed.0.strip_prefix(PREFIX)?;
        match text.split_once(':') {
            Some((id, text)) => self.0.iter().find(|key| key.id().to_string() == id)?.open(text),
            None => self.0.iter().find_map(|key| key.open(text)),
        }
    }

    /// Whether a value is sealed with the newest key.
    fn is_newest(&self, sealed: &Sealed) -> bool {
        let id = sealed.0.strip_prefix(PREFIX).and_then(|text| text.split_once(':')).map(|(id, _)| id);
        self.0.last().is_some_and(|key| id == Some(&*key.id().to_string()))
    }

    fn write(&self, directory: &Path, file: &Key) -> io::Result<()> {
        let seal =
            |key: &Key| Ok(SealedKey { id: key.id().clone(), sealed: file.seal(key.text().expose())? });
        let keys = self.0.iter().map(seal).collect::<io::Result<_>>()?;
        write_durably(directory, RING, &Ring { key_file: file.id().clone(), keys })
    }
}

/// The data keys of an installation, and what seals them.
#[derive(Debug)]
pub(crate) struct Keyring {
    directory: PathBuf,
    file: Key,
    keys: RwLock<DataKeys>,
    /// Held for reading from the sealing of a value to its commit: who holds it for writing knows that nothing is on its way
    /// that was sealed with an older key.
    sealing: Gate<()>,
}

impl Keyring {
    /// Opens the data keys of an installation, or makes one for it if it is new.
    ///
    /// # Errors
    /// [`KeyError`]; no key was lost then.
    pub(crate) fn open(directory: &Path, given: Option<&Path>, is_new: bool) -> Result<Self, KeyError> {
        let fail = |source| KeyError::Io { path: directory.join(RING), source };
        let earlier = before(directory)?;
        let (file, mut keys) = match read_whole::<Ring>(directory, RING).map_err(fail)? {
            Some(ring) => unlock(directory, given, &ring)?,
            None if is_new || earlier.is_some() => (key_file(directory, given)?, DataKeys::default()),
            None => return Err(KeyError::NoRing(directory.join(RING))),
        };
        if let Some(earlier) = earlier.filter(|it| !keys.has(it)) {
            // An installation that went back to version 0.1 and came forward again has both.
            keys.0.insert(0, earlier);
            keys.write(directory, &file).map_err(fail)?;
        }
        if keys.0.is_empty() {
            keys = DataKeys::generate().map_err(fail)?;
            keys.write(directory, &file).map_err(fail)?;
        }
        Ok(Self::of(directory, file, keys))
    }

    fn of(directory: &Path, file: Key, keys: DataKeys) -> Self {
        Self { directory: directory.to_owned(), file, keys: RwLock::new(keys), sealing: Gate::default() }
    }

    /// Removes the one key of version 0.1, which is a data key by now. To be called once there is no way back to that version.
    pub(crate) fn forget_before(&self) -> Result<(), KeyError> {
        match before(&self.directory)? {
            Some(key) if self.all().has(&key) => {
                let path = self.directory.join(BEFORE);
                std::fs::remove_file(&path).map_err(|source| KeyError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Puts the data keys of a backup in the place of those that are there, which are kept beside under another name. Nobody
    /// needs to be able to open those.
    pub(crate) fn replace(
        directory: &Path,
        file: RestoreKey,
        keys: DataKeys,
        kept: &str,
    ) -> Result<Self, KeyError> {
        let fail = |source| KeyError::Io { path: directory.join(RING), source };
        let earlier = before(directory).ok().flatten();
        if earlier.is_some_and(|it| keys.has(&it)) {
            // It must not lie about in the clear beside the ring that has it.
            std::fs::remove_file(directory.join(BEFORE)).map_err(fail)?;
        }
        for name in [RING, BEFORE] {
            match std::fs::rename(directory.join(name), directory.join(format!("{name}.{kept}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
                _ => {}
            }
        }
        keys.write(directory, &file.0).map_err(fail)?;
        Ok(Self::of(directory, file.0, keys))
    }

    /// Seals the data keys with another key file. The installation's own is removed, unless it is that one.
    pub(crate) fn change(directory: &Path, given: Option<&Path>, to: &Path) -> Result<KeyId, KeyError> {
        let ring = Self::open(directory, given, false)?;
        let file = read_key(to)?;
        let fail = |path: PathBuf| |source| KeyError::Io { path, source };
        ring.all().write(directory, &file).map_err(fail(directory.join(RING)))?;
        let own = directory.join(OWN);
        if own.exists() && read_key(&own).is_ok_and(|own| own.id() != file.id()) {
            std::fs::remove_file(&own).map_err(fail(own))?;
        }
        Ok(file.id().clone())
    }

    /// All data keys.
    pub(crate) fn all(&self) -> DataKeys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// To be held from the sealing of a value to its commit.
    pub(crate) async fn sealing(&self) -> RwLockReadGuard<'_, ()> {
        self.sealing.read().await
    }

    /// To be held for a moment between the adding of a key and the look for what older ones have sealed.
    pub(crate) async fn sealed(&self) -> RwLockWriteGuard<'_, ()> {
        self.sealing.write().await
    }

    /// Seals a value with the newest key.
    pub(crate) fn seal(&self, value: &Sensitive<String>) -> io::Result<Sealed> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).seal(value.expose())
    }

    /// The same value, sealed with the newest key; `None` if it cannot be opened.
    pub(crate) fn seal_anew(&self, sealed: &Sealed) -> io::Result<Option<Sealed>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if keys.is_newest(sealed) {
            return Ok(Some(sealed.clone()));
        }
        keys.open(sealed).map(|value| keys.seal(value.expose())).transpose()
    }

    /// Makes a new key, by which everything is sealed from now on.
    pub(crate) fn add(&self) -> io::Result<KeyId> {
        let key = Key::generate()?;
        let id = key.id().clone();
        self.write(|keys| keys.0.push(key)).map(|()| id)
    }

    /// Forgets all keys but the newest.
    pub(crate) fn forget_older(&self) -> io::Result<()> {
        self.write(|keys| {
            keys.0.drain(..keys.0.len().saturating_sub(1));
        })
    }

    fn write(&self, change: impl FnOnce(&mut DataKeys)) -> io::Result<()> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = keys.clone();
        change(&mut changed);
        changed.write(&self.directory, &self.file)?;
        *keys = changed;
        Ok(())
    }
}

impl Opener for Keyring {
    fn open(&self, sealed: &Sealed) -> Option<Sensitive<String>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).open(sealed)
    }
}

/// Makes a key file that nobody else can read, and says which one it is.
///
/// # Errors
/// [`KeyError::Io`], also when there is a file of that name.
pub fn create_key_file(path: &Path) -> Result<KeyId, KeyError> {
    Ok(make(path)?.id().clone())
}

fn make(path: &Path) -> Result<Key, KeyError> {
    let make = || {
        let key = Key::generate()?;
        // It gets its name when it is whole, and never takes the place of another one.
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        let written = writeln!(file, "{}", key.text().expose()).and_then(|()| file.sync_all());
        let named = written.and_then(|()| std::fs::hard_link(&draft, path));
        std::fs::remove_file(&draft)?;
        named?;
        if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Ok(key)
    };
    make().map_err(|source| KeyError::Io { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<Key, KeyError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::NoFile(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), source },
    };
    if path.metadata().map_err(fail)?.mode() & 0o007 != 0 {
        return Err(KeyError::Open(path.to_owned()));
    }
    let text = std::fs::read(path).map_err(fail)?;
    let key = str::from_utf8(&text).ok().and_then(Key::from_text);
    key.ok_or_else(|| KeyError::Form(path.to_owned()))
}

/// The key file of an installation that has no data keys yet.
fn key_file(directory: &Path, given: Option<&Path>) -> Result<Key, KeyError> {
    let own = directory.join(OWN);
    match given {
        Some(given) => read_key(given),
        None if own.exists() => read_key(&own),
        None => make(&own),
    }
}

/// Opens data keys with the key file that sealed them.
fn unlock(directory: &Path, given: Option<&Path>, ring: &Ring) -> Result<(Key, DataKeys), KeyError> {
    let own = directory.join(OWN);
    let path = match given {
        Some(given) => given,
        None if own.exists() => &own,
        None => return Err(KeyError::Elsewhere(ring.key_file.clone())),
    };
    let file = read_key(path)?;
    if *file.id() != ring.key_file {
        let (found, needed) = (file.id().clone(), ring.key_file.clone());
        return Err(KeyError::Other { path: path.to_owned(), found, needed });
    }
    let open =
        |key: &SealedKey| Key::from_text(file.open(&key.sealed)?.expose()).filter(|it| *it.id() == key.id);
    let keys = ring.keys.iter().map(open).collect::<Option<Vec<Key>>>().filter(|keys| !keys.is_empty());
    let damaged = || KeyError::Damaged(directory.join(RING));
    Ok((file, DataKeys(keys.ok_or_else(damaged)?)))
}

/// The one key of versions before 0.2.
fn before(directory: &Path) -> Result<Option<Key>, KeyError> {
    let path = directory.join(BEFORE);
    match std::fs::read(&path) {
        Ok(bytes) => Key::from_bytes(&bytes).map(Some).ok_or(KeyError::Damaged(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::Io { path, source }),
    }
}

/// The key file by which what is restored will be sealed.
pub(crate) struct RestoreKey(Key);

impl RestoreKey {
    /// The given file, or the directory's own, which is made if there is none. What is restored over needs not be opened.
    ///
    /// # Errors
    /// [`KeyError::Elsewhere`] if the installation has one that is not here, and none was given.
    pub(crate) fn find(directory: &Path, given: Option<&Path>) -> Result<Self, KeyError> {
        let known = read_whole::<Ring>(directory, RING).ok().flatten();
        match (given, known) {
            (None, Some(ring)) if !directory.join(OWN).exists() => Err(KeyError::Elsewhere(ring.key_file)),
            _ => key_file(directory, given).map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Sensitive<String> {
        Sensitive::new(text.to_owned())
    }

    fn opened(ring: &Keyring, sealed: &Sealed) -> Option<String> {
        ring.open(sealed).map(|it| it.expose().clone())
    }

    #[test]
    fn values_outlive_a_rotation_and_older_keys_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let ring = Keyring::open(directory.path(), None, true).unwrap();
        let old = ring.seal(&value("hunter2")).unwrap();
        ring.add().unwrap();
        assert_eq!(opened(&ring, &old).as_deref(), Some("hunter2"));
        let new = ring.seal_anew(&old).unwrap().unwrap();
        assert_eq!(ring.seal_anew(&new).unwrap(), Some(new.clone()), "it is sealed with the newest key");
        ring.forget_older().unwrap();
        drop(ring);
        let ring = Keyring::open(directory.path(), None, true).unwrap();
        assert_eq!(opened(&ring, &new).as_deref(), Some("hunter2"));
        assert_eq!(opened(&ring, &old), None);
    }

    #[test]
    fn a_key_file_from_elsewhere_is_asked_for_and_no_other_one_is_taken() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (elsewhere.path().join("1"), elsewhere.path().join("2"));
        let id = create_key_file(&first).unwrap();
        create_key_file(&second).unwrap();
        let sealed = Keyring::open(directory.path(), None, true).unwrap().seal(&value("hunter2")).unwrap();
        assert_eq!(Keyring::change(directory.path(), None, &first).unwrap(), id);
        assert!(!directory.path().join(OWN).exists());
        let refused = |given: Option<&Path>| Keyring::open(directory.path(), given, false).err().unwrap();
        assert!(matches!(refused(None), KeyError::Elsewhere(it) if it == id));
        assert!(matches!(refused(Some(&second)), KeyError::Other { needed, .. } if needed == id));
        assert!(matches!(refused(Some(&elsewhere.path().join("3"))), KeyError::NoFile(_)));
        std::fs::set_permissions(&second, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(refused(Some(&second)), KeyError::Open(_)));
        let ring = Keyring::open(directory.path(), Some(&first), false).unwrap();
        assert_eq!(opened(&ring, &sealed).as_deref(), Some("hunter2"));
    }

    #[test]
    fn the_one_key_of_earlier_versions_becomes_a_data_key() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(BEFORE), [7; 32]).unwrap();
        let sealed =
            Sealed(format!("{PREFIX}{}", Key::from_bytes(&[7; 32]).unwrap().seal("hunter2").unwrap()));
        let open = || Keyring::open(directory.path(), None, false).unwrap();
        for _ in 0..2 {
            assert_eq!(opened(&open(), &sealed).as_deref(), Some("hunter2"));
            assert!(directory.path().join(BEFORE).exists(), "until there is no way back");
        }
        open().forget_before().unwrap();
        assert!(!directory.path().join(BEFORE).exists(), "it must not lie about in the clear");
        assert_eq!(opened(&open(), &sealed).as_deref(), Some("hunter2"));
        // Who went back to that version, and restored what it had, comes forward with its key once more.
        let ring = open();
        ring.add().unwrap();
        ring.forget_older().unwrap();
        let newer = ring.seal(&value("hunter3")).unwrap();
        std::fs::write(directory.path().join(BEFORE), [7; 32]).unwrap();
        assert_eq!(opened(&open(), &sealed).as_deref(), Some("hunter2"));
        assert_eq!(opened(&open(), &newer).as_deref(), Some("hunter3"));
    }

    #[test]
    fn no_key_is_made_where_there_must_be_one_and_none_is_removed_that_is_needed() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = directory.path();
        assert!(matches!(Keyring::open(path, None, false), Err(KeyError::NoRing(_))));
        let sealed = Keyring::open(path, None, true).unwrap().seal(&value("hunter2")).unwrap();
        let (far, own) = (elsewhere.path().join("key"), path.join(OWN));
        create_key_file(&far).unwrap();
        Keyring::change(path, None, &far).unwrap();
        assert!(!own.exists());
        assert!(matches!(RestoreKey::find(path, None), Err(KeyError::Elsewhere(_))));
        // And back to a file of its own, by whatever name.
        create_key_file(&own).unwrap();
        Keyring::change(path, Some(&far), &own).unwrap();
        assert!(own.exists());
        Keyring::change(
            path,
            None,
            &elsewhere.path().join("../").join(elsewhere.path().file_name().unwrap()).join("key"),
        )
        .unwrap();
        std::fs::copy(&far, &own).unwrap();
        Keyring::change(path, Some(&far), &own).unwrap();
        assert_eq!(opened(&Keyring::open(path, None, false).unwrap(), &sealed).as_deref(), Some("hunter2"));
        // A restore needs nothing of what it is made over.
        std::fs::write(path.join(RING), "{").unwrap();
        std::fs::remove_file(&own).unwrap();
        let file = RestoreKey::find(path, None).unwrap();
        Keyring::replace(path, file, DataKeys::generate().unwrap(), "before-2").unwrap();
        assert_eq!(std::fs::read(path.join("keyring.json.before-2")).unwrap(), b"{");
        assert!(Keyring::open(path, None, false).is_ok());
    }
}
