//! Backups, restores, and the move to another store.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use plimsoll_model::object::Timestamp;
use plimsoll_server::{OnHold, Verified};
use serde_json::json;

use crate::Ended;
use crate::follow::talk;
use crate::place::Where;
use crate::plan;
use crate::table::now;

/// Backups: everything of an installation in one encrypted file
#[derive(Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a key pair: the file reads backups, the public key that is printed makes them
    Key {
        /// Where the secret part is written; keep it elsewhere than the installation
        file: PathBuf,
    },
    /// Take a backup while everything goes on
    Create {
        /// Where it is written; a file of that name is replaced once the new one is whole
        file: PathBuf,
        /// Public keys of those who can read it, age1…
        #[arg(
            long = "recipient",
            value_name = "KEY",
            env = "PLIMSOLL_BACKUP_RECIPIENT",
            value_delimiter = ','
        )]
        recipients: Vec<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Read a backup to its end and check all of it; no server is needed
    Verify {
        /// The backup
        file: PathBuf,
        /// The secret part of the key
        #[arg(long, value_name = "FILE", env = "PLIMSOLL_BACKUP_IDENTITY")]
        identity: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put everything back to what a backup holds, and on hold; no server may run there
    Restore {
        /// The backup
        file: PathBuf,
        /// The secret part of the key
        #[arg(long, value_name = "FILE", env = "PLIMSOLL_BACKUP_IDENTITY")]
        identity: PathBuf,
        /// The PostgreSQL database that keeps everything [default: a file in the data directory]
        #[arg(long, env = "PLIMSOLL_STORE", value_name = "URL", hide_env_values = true)]
        store: Option<String>,
        /// The file that is to open the secrets [default: one in the data directory]
        #[arg(long, env = "PLIMSOLL_KEY_FILE", value_name = "FILE")]
        key_file: Option<PathBuf>,
        #[command(flatten)]
        place: Where,
    },
    /// After a restore: show what would be done, ask, and let it be done
    Release {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Only show what would be done
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        #[command(flatten)]
        place: Where,
    },
}

/// Move everything from the file in the data directory to a PostgreSQL database
#[derive(Args)]
pub(crate) struct Migrate {
    /// Its address, postgres://…; it must be empty
    #[arg(long, value_name = "URL", env = "PLIMSOLL_MIGRATE_TO", hide_env_values = true)]
    to: String,
    #[command(flatten)]
    place: Where,
}

impl BackupCommand {
    #[expect(clippy::print_stdout, reason = "keys and reports are these commands' data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Key { file } => {
                let (secret, public) = plimsoll_server::new_identity(Timestamp(now()));
                let name = file.display();
                let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file);
                let mut made = made.with_context(|| format!("{name} cannot be made"))?;
                made.write_all(secret.expose().as_bytes()).and_then(|()| made.sync_all())?;
                println!("{public}");
                talk(&format!(
                    "{name} reads what is encrypted for this key: keep it away from the installation"
                ));
                talk("now: plimsoll backup create FILE --recipient KEY");
            }
            Self::Create { file, recipients, place } => create(&file, &recipients, &place)?,
            Self::Verify { file, identity, json } => {
                let verified = plimsoll_server::verify(&file, &identity)?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&verified)?);
                } else {
                    print!("{}", report(&verified));
                }
            }
            Self::Restore { file, identity, store, key_file, place } => {
                let data = place.local().data()?;
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                let _within = runtime.enter();
                let (store, key_file) = (store.as_deref(), key_file.as_deref());
                let now = Timestamp(now());
                let done = plimsoll_server::restore(&file, &identity, &data, store, key_file, now)?;
                print!("{}", report(&done.verified));
                if let Some(before) = &done.before {
                    talk(&format!("what was there before is kept in {}", before.display()));
                }
                talk(&format!("{} is restored, in epoch {}, and on hold", data.display(), done.epoch));
                talk("now: plimsoll server, and then plimsoll backup release");
            }
            Self::Release { yes, dry_run, place } => return release(yes, dry_run, &place),
        }
        Ok(Ended::Done)
    }
}

fn create(file: &std::path::Path, recipients: &[String], place: &Where) -> anyhow::Result<()> {
    if recipients.is_empty() {
        bail!(
            "a backup is for somebody: give --recipient KEY, or set PLIMSOLL_BACKUP_RECIPIENT; \
             `plimsoll backup key FILE` makes a key"
        );
    }
    let client = place.client()?;
    let directory = file.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or(std::path::Path::new("."));
    let draft = tempfile::NamedTempFile::new_in(directory);
    let mut draft = draft.with_context(|| format!("{} cannot be written", directory.display()))?;
    let body = serde_json::to_vec(&json!({"recipients": recipients}))?;
    let bytes = client.copy("POST", "backup", &body, draft.as_file_mut())?;
    draft.as_file().sync_all()?;
    draft.persist(file).with_context(|| format!("{} cannot be written", file.display()))?;
    File::open(directory)?.sync_all()?;
    talk(&format!("{} has everything, {bytes} bytes; check it: plimsoll backup verify", file.display()));
    Ok(())
}

/// What a backup holds, for people.
fn report(verified: &Verified) -> String {
    use std::fmt::Write as _;
    let Verified { head, end, kinds, audit_head, missing } = verified;
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let mut text = format!(
        "installation {}, epoch {}, taken {} by version {}, at revision {}\nobjects   {}: {}\nprograms  {}\naudit log {} records",
        head.installation,
        head.epoch,
        head.taken,
        head.version,
        head.revision,
        end.objects,
        kinds.join(", "),
        end.programs,
        end.records,
    );
    // Writing to a String cannot fail.
    if let Some(hash) = audit_head {
        write!(text, ", up to {hash}").ok();
    }
    for digest in missing {
        write!(text, "\nmissing   {digest}: it was declared and never uploaded; apply its App again").ok();
    }
    text + "\nall of it is whole\n"
}

#[expect(clippy::print_stdout, reason = "what would be done is this command's data")]
fn release(yes: bool, dry_run: bool, place: &Where) -> anyhow::Result<Ended> {
    let client = place.client()?;
    let Some(hold) = client.hold()? else {
        talk("nothing is on hold");
        return Ok(Ended::Done);
    };
    print!("{}", preview(&hold));
    if dry_run {
        return Ok(Ended::Done);
    }
    if !yes {
        if !std::io::stdin().is_terminal() {
            bail!("this needs an answer: look at the above, then give --yes");
        }
        talk("Type `release` to let this be done:");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != "release" {
            talk("it stays on hold");
            return Ok(Ended::No);
        }
    }
    client.release()?;
    talk("released; `plimsoll get` shows how it goes on");
    Ok(Ended::Done)
}

/// What a release would do, for people.
fn preview(OnHold { held, unknown, apps, more }: &OnHold) -> String {
    use std::fmt::Write as _;
    let mut text = format!("restored {} from a backup taken {}\n", held.since, held.taken);
    // Writing to a String cannot fail.
    for it in unknown {
        writeln!(
            text,
            "not known: {} of app {} runs on {}, and would be ended",
            it.instance, it.app, it.target
        )
        .ok();
    }
    for app in apps {
        text.push_str(&plan::text_of(&app.key.name, &app.path));
    }
    if *more > 0 {
        writeln!(text, "and {more} more apps").ok();
    }
    if unknown.is_empty() && apps.is_empty() {
        text.push_str("everything is as restored: a release would do nothing\n");
    }
    text
}

impl Migrate {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let moved = self.place.client()?.migrate(&self.to)?;
        talk(&format!(
            "moved {} objects and {} records of the audit log; both stores have {}",
            moved.objects, moved.records, moved.digest
        ));
        talk(
            "everything can be read, and nothing written, until the server is started again with --store URL",
        );
        Ok(Ended::Done)
    }
}
