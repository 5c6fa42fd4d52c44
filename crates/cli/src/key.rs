//! What seals the secrets of an installation.

use std::path::PathBuf;

use clap::Subcommand;
use plimsoll_server::{DataDirectory, create_key_file};

use crate::Ended;
use crate::follow::talk;
use crate::place::Where;

/// Keys: what opens the secrets of an installation
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key file, for `server --key-file` and `key change`
    Create {
        /// Where it is written; without it the secrets of its installation are lost
        file: PathBuf,
    },
    /// Make a new data key and seal all secrets with it, while everything goes on; nothing is rolled for that
    Rotate {
        #[command(flatten)]
        place: Where,
    },
    /// Seal the data keys with another key file; no server may run there meanwhile, what runs goes on
    Change {
        /// The key file from now on
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// The key file until now [default: the one in the data directory]
        #[arg(long, env = "PLIMSOLL_KEY_FILE", value_name = "FILE")]
        key_file: Option<PathBuf>,
        #[command(flatten)]
        place: Where,
    },
}

impl KeyCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Create { file } => {
                let (id, name) = (create_key_file(&file)?, file.display());
                talk(&format!(
                    "{name} is key file {id}: keep a copy of it where no copy of the data directory is"
                ));
                talk(&format!(
                    "now: plimsoll key change --to {name}, and then plimsoll server --key-file {name}"
                ));
            }
            Self::Rotate { place } => {
                let rotated = place.client()?.rotate_key()?;
                talk(&format!("{} secrets are sealed with data key {} now", rotated.secrets, rotated.key));
            }
            Self::Change { to, key_file, place } => {
                let data = place.local().data()?;
                let id = DataDirectory::change_key_file(&data, key_file.as_deref(), &to)?;
                talk(&format!("the secrets of {} are opened by key file {id} from now on", data.display()));
                talk(&format!("now: plimsoll server --key-file {}", to.display()));
            }
        }
        Ok(Ended::Done)
    }
}
