//! Backups: everything of an installation in one file that only the holder of a key can read.
//!
//! A backup is made of one moment of the store while everything goes on, with the programs that this moment names and the
//! key that opens its secrets. It is encrypted for age recipients (<https://age-encryption.org/v1>): the server never has
//! what is needed to read one. Restoring raises the installation's epoch and puts it on hold: what runs is newer than the
//! backup, so a person sees first what would be done about that, and releases it.
//!
//! Deliberately absent: volumes, which belong to nodes, and the node's own records, which are what a restored store
//! is compared with.

mod archive;
mod create;
mod restore;

use std::io;

use age::x25519;
use plimsoll_model::object::Timestamp;
use plimsoll_store::StoreError;
use plimsoll_store_sql::OpenError;
use serde::{Deserialize, Serialize};

use crate::data::DataError;

pub(crate) use archive::{End, Pages, Tally};
pub(crate) use restore::installation_key;
pub use restore::{Restored, Verified, restore, verify};

/// Who can read a backup: public keys of age, `age1…`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipients(Vec<String>);

impl Recipients {
    /// The holders of the identities that belong to these public keys.
    ///
    /// # Errors
    /// [`BackupError::Recipient`] for what is none, [`BackupError::NoRecipient`] for nobody.
    pub fn new(keys: Vec<String>) -> Result<Self, BackupError> {
        if keys.is_empty() {
            return Err(BackupError::NoRecipient);
        }
        let all = Self(keys);
        all.keys().map(|_| all)
    }

    fn keys(&self) -> Result<Vec<x25519::Recipient>, BackupError> {
        let key = |text: &String| text.parse().map_err(|_| BackupError::Recipient(text.clone()));
        self.0.iter().map(key).collect()
    }
}

/// Makes an identity that reads backups: its secret text, for a file, and its public key, for whoever makes them.
pub fn new_identity(now: Timestamp) -> (plimsoll_model::secret::Sensitive<String>, String) {
    use age::secrecy::ExposeSecret as _;
    let identity = x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let secret = identity.to_string();
    let text = format!("# created: {now}\n# public key: {public}\n{}\n", secret.expose_secret());
    (plimsoll_model::secret::Sensitive::new(text), public)
}

/// What can go wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nobody could read it.
    #[error("a backup is for somebody: give a public key; `plimsoll backup key FILE` makes one")]
    NoRecipient,
    /// What was given is no public key.
    #[error("{0:?} is no public key of age, which begin with age1")]
    Recipient(String),
    /// It cannot be encrypted.
    #[error("the backup cannot be encrypted")]
    Encrypt(#[from] age::EncryptError),
    /// It cannot be decrypted: it is for others, or it is none.
    #[error("the backup cannot be opened")]
    Decrypt(#[from] age::DecryptError),
    /// The identity cannot be understood.
    #[error("the identity file cannot be used")]
    Identity(#[source] age::DecryptError),
    /// Files cannot be read or written.
    #[error("the backup cannot be read or written")]
    Io(#[from] io::Error),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It was made by a later version.
    #[error("the backup was made by version {0} and in a form that this version does not know")]
    Later(String),
    /// It is not whole, or not right.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// The database of the address keeps another store.
    #[error("{0}")]
    Elsewhere(&'static str),
}
