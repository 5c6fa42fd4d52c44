//! Sealing with one key: AES-256-GCM-SIV (RFC 8452), which forgives a nonce that comes twice.

use std::fmt;
use std::io;

use aes_gcm_siv::aead::{Aead as _, KeyInit as _};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use base64ct::{Base64, Encoding as _};
use plimsoll_model::id::Digest;
use plimsoll_model::secret::Sensitive;
use serde::{Deserialize, Serialize};

/// Length of a key in bytes.
const KEY_LENGTH: usize = 32;

/// Length of a nonce in bytes.
const NONCE_LENGTH: usize = 12;

/// By which a key is told from others: the beginning of its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One key.
#[derive(Clone)]
pub(crate) struct Key {
    bytes: Sensitive<[u8; KEY_LENGTH]>,
    cipher: Aes256GcmSiv,
    id: KeyId,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn generate() -> io::Result<Self> {
        let mut bytes = [0; KEY_LENGTH];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self::of(bytes))
    }

    /// A key from its bytes; `None` unless there are 32.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::of)
    }

    /// A key from its text form, base64.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::from_bytes(&Base64::decode_vec(text.trim()).ok()?)
    }

    fn of(bytes: [u8; KEY_LENGTH]) -> Self {
        let id = Digest::of_bytes(&bytes).to_string();
        let id = id.trim_start_matches("sha256:").chars().take(12).collect();
        Self { cipher: Aes256GcmSiv::new(&bytes.into()), bytes: Sensitive::new(bytes), id: KeyId(id) }
    }

    /// What it is told from others by.
    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    /// Its text form, base64.
    pub(crate) fn text(&self) -> Sensitive<String> {
        Sensitive::new(Base64::encode_string(self.bytes.expose()))
    }

    /// Seals a text. The same text is sealed differently each time.
    ///
    /// # Errors
    /// When the system has no random numbers, or the text has more than 64 GiB.
    pub(crate) fn seal(&self, text: &str) -> io::Result<String> {
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), text.as_bytes());
        let sealed = sealed.map_err(|_| io::Error::other("a value is too long to be sealed"))?;
        Ok(Base64::encode_string(&[&nonce[..], &sealed].concat()))
    }

    /// What was sealed with this key; `None` for everything else.
    pub(crate) fn open(&self, sealed: &str) -> Option<Sensitive<String>> {
        let bytes = Base64::decode_vec(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LENGTH>()?;
        let text = self.cipher.decrypt(&Nonce::from(*nonce), sealed).ok()?;
        Some(Sensitive::new(String::from_utf8(text).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_what_was_sealed() {
        let (a, b) = (Key::generate().unwrap(), Key::generate().unwrap());
        let sealed = a.seal("hunter2").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_ne!(sealed, a.seal("hunter2").unwrap());
        let again = Key::from_text(a.text().expose()).unwrap();
        assert_eq!(
            (again.id(), again.open(&sealed).map(|it| it.expose().clone())),
            (a.id(), Some("hunter2".into()))
        );
        assert!(b.open(&sealed).is_none());
        assert_ne!(a.id(), b.id());
    }
}
