//! Secrets at rest: AES-256-GCM-SIV (RFC 8452) under a key that lies beside the store, not in it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aes_gcm_siv::aead::{Aead as _, KeyInit as _};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use base64ct::{Base64, Encoding as _};
use plimsoll_model::kind::Sealed;
use plimsoll_model::secret::Sensitive;
use plimsoll_reconcile::Opener;

/// Length of the key in bytes.
const KEY_LENGTH: usize = 32;

/// Length of a nonce in bytes.
const NONCE_LENGTH: usize = 12;

/// What the text of a sealed value begins with: how it was sealed.
const PREFIX: &str = "gcm-siv:";

/// The key of an installation.
#[derive(Clone)]
pub(crate) struct Key {
    cipher: Aes256GcmSiv,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads the key, or makes one if there is none.
    pub(crate) fn load_or_make(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path)?,
            Err(error) => return Err(error),
        };
        Self::from_bytes(&bytes)
    }

    /// A key from its bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "the key must have 32 bytes");
        Ok(Self { cipher: Aes256GcmSiv::new_from_slice(bytes).map_err(wrong)? })
    }

    /// Puts a key in the place of another one, which is kept beside it.
    pub(crate) fn replace(path: &Path, bytes: &[u8], before: &Path) -> io::Result<Self> {
        let key = Self::from_bytes(bytes)?;
        match std::fs::read(path) {
            Ok(old) if old == bytes => return Ok(key),
            Ok(_) => std::fs::rename(path, before)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Self::write(path, bytes)?;
        Ok(key)
    }

    fn make(path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; KEY_LENGTH];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Self::write(path, &bytes)?;
        Ok(bytes)
    }

    fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Seals a value. The same value is sealed differently each time.
    pub(crate) fn seal(&self, value: &Sensitive<String>) -> io::Result<Sealed> {
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), value.expose().as_bytes())
            .map_err(|_| io::Error::other("a value is too long to be sealed"))?;
        let text = Base64::encode_string(&[&nonce[..], &sealed].concat());
        Ok(Sealed(format!("{PREFIX}{text}")))
    }
}

impl Opener for Key {
    fn open(&self, sealed: &Sealed) -> Option<Sensitive<String>> {
        let bytes = Base64::decode_vec(sealed.0.strip_prefix(PREFIX)?).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LENGTH>()?;
        let value = self.cipher.decrypt(&Nonce::from(*nonce), sealed).ok()?;
        Some(Sensitive::new(String::from_utf8(value).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_what_was_sealed() {
        let directory = tempfile::tempdir().unwrap();
        let key = |name: &str| Key::load_or_make(&directory.path().join(name)).unwrap();
        let value = Sensitive::new("hunter2".to_owned());
        let sealed = key("a").seal(&value).unwrap();
        assert!(!sealed.0.contains("hunter2"));
        assert_ne!(sealed.0, key("a").seal(&value).unwrap().0);
        assert_eq!(key("a").open(&sealed).map(|it| it.expose().clone()), Some("hunter2".to_owned()));
        assert!(key("b").open(&sealed).is_none());
    }
}
