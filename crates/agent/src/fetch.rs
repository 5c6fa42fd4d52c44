//! Credentials by which copies get their programs by themselves: each is good for one copy and for nothing else.
//!
//! They are not stored but derived, from a key that only the node has and from the copy's id, which is never used again: a node
//! that was started anew knows the same ones. They look like random UUIDs, which is what wrappers of earlier systems expect.

use std::io;
use std::net::SocketAddrV4;
use std::path::Path;

use plimsoll_model::ObjectKey;
use plimsoll_model::id::{Digest, InstanceId};
use plimsoll_model::secret::Sensitive;
use plimsoll_shim::{read, write_durably};
use ring::hmac;

const FILE: &str = "credentials.json";

/// Bytes of the key.
const KEY: usize = 32;

/// How a copy gets its program.
pub(crate) struct Fetch {
    /// The stable address where it is.
    pub(crate) at: SocketAddrV4,
    /// What the copy shows there.
    pub(crate) credential: Sensitive<String>,
}

/// What a credential is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Whose copy it is.
    pub app: ObjectKey,
    /// The copy.
    pub instance: InstanceId,
    /// Its program.
    pub digest: Digest,
}

/// One credential.
pub(crate) struct Credential(String);

impl Credential {
    pub(crate) fn into_text(self) -> Sensitive<String> {
        Sensitive::new(self.0)
    }

    /// Credentials are compared by their hashes, so that time tells nothing of them.
    pub(crate) fn hash(&self) -> Digest {
        Digest::of_bytes(self.0.as_bytes())
    }
}

/// What all credentials of a node are derived from.
pub(crate) struct Credentials(hmac::Key);

impl Credentials {
    /// Reads the node's key, making it if there is none.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let bytes = if let Some(bytes) = read::<[u8; KEY]>(directory, FILE)? {
            bytes
        } else {
            let mut bytes = [0; KEY];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            write_durably(directory, FILE, &bytes)?;
            bytes
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The credential of a copy.
    pub(crate) fn of(&self, instance: &InstanceId) -> Credential {
        let tag = hmac::sign(&self.0, instance.as_str().as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag.as_ref()[..16]);
        // Version 4 and variant 1, see RFC 9562.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let digits = format!("{:032x}", u128::from_be_bytes(bytes));
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        Credential(parts.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_of_one_copy_and_one_node() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of =
            |directory: &Path, id: &str| Credentials::open(directory).unwrap().of(&id.parse().unwrap()).0;
        let first = of(one.path(), "web-0-a");
        assert_eq!(first, of(one.path(), "web-0-a"), "also after a restart");
        assert_ne!(first, of(one.path(), "web-1-a"));
        assert_ne!(first, of(other.path(), "web-0-a"));
        assert!(first.len() == 36 && first.as_bytes()[14] == b'4', "{first}");
    }
}
