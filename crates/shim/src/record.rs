//! The files of an instance's directory through which agent and supervisor talk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use plimsoll_model::id::BootId;
use plimsoll_model::world::Exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::namespaces::Network;

/// Held for as long as anything of the instance runs.
pub const LOCK: &str = "lock";
/// What to run.
pub const RUN: &str = "run.json";
/// What was started.
pub const STARTED: &str = "started.json";
/// How it ended.
pub const ENDED: &str = "ended.json";
/// That the latest run was not begun.
pub const NOT_BEGUN: &str = "not-begun.json";
/// A pipe: `stop MILLIS` asks the supervisor to end the program within that grace time.
pub const CONTROL: &str = "control";
/// What the program said lately.
pub const LOG: &str = "log";
/// What it said before [`LOG`] began.
pub const LOG_BEFORE: &str = "log.1";

/// What to run. It holds secrets in the clear: the file is for its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Which start of the instance this is, from 1.
    pub attempt: u32,
    /// The command line.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub directory: String,
    /// Control groups to enter first.
    #[serde(default)]
    pub groups: Vec<std::path::PathBuf>,
    /// The user and group to run as, unless the supervisor's own.
    pub user: Option<u32>,
    /// A network of its own.
    #[serde(default)]
    pub network: Option<Network>,
    /// What it finds as `/tmp` and `/var/tmp`, unless those of the machine.
    #[serde(default)]
    pub tmp: Option<std::path::PathBuf>,
    /// It is not begun a second time, whoever asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
}

/// A process, told from any other that had or will have its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRef {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub started: u64,
}

impl ProcessRef {
    /// The process that has this number now, or had it and was not yet asked by its parent how it ended: a program may
    /// be quicker than whoever writes down its start.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        Self::look(pid).map(|(found, _)| found)
    }

    /// Whether it still is that process and has not ended.
    pub fn is_there(self) -> bool {
        Self::look(self.pid).is_ok_and(|(now, has_ended)| now == self && !has_ended)
    }

    /// A process and whether it has ended.
    fn look(pid: i32) -> io::Result<(Self, bool)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, field 2, is in parentheses and may hold anything, parentheses too.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let started = after_name.split(' ').nth(19).and_then(|field| field.parse().ok());
        let started = started.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok((Self { pid, started }, after_name.starts_with('Z')))
    }
}

/// What was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// Which start of the instance.
    pub attempt: u32,
    /// In which boot of the machine.
    pub boot: BootId,
    /// The supervisor.
    pub shim: ProcessRef,
    /// The program.
    pub program: ProcessRef,
}

/// How a run ended; nothing of it is left when this is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Which start of the instance.
    pub attempt: u32,
    /// How.
    pub exit: Exit,
}

/// A run that was not begun: groups, network or mounts of the program could not be made. The log says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotBegun {
    /// Which start of the instance.
    pub attempt: u32,
}

/// The present boot of this machine.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a record; `None` if there is none, or none that can be understood.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<Option<T>> {
    match std::fs::read(directory.join(name)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a record that must be whole if it is there, since nothing else knows what it says.
///
/// # Errors
/// When the file is there and cannot be read or understood.
pub fn read_whole<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<Option<T>> {
    match std::fs::read(directory.join(name)) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes);
            let damaged =
                |error| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged: {error}"));
            record.map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a record as a whole, so that it is on the disk when this returns.
///
/// # Errors
/// When the disk is full or broken; then the older record is still there.
pub fn write_durably<T: Serialize>(directory: &Path, name: &str, value: &T) -> io::Result<()> {
    let draft = directory.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()?;
    std::fs::rename(&draft, directory.join(name))?;
    File::open(directory)?.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ended_at_once_can_be_written_down_and_is_not_there() {
        let mut quick = std::process::Command::new("true").spawn().unwrap();
        let pid = quick.id().cast_signed();
        let handle = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&quick),
            rustix::process::PidfdFlags::empty(),
        );
        let mut ended = [rustix::event::PollFd::from_borrowed_fd(
            std::os::fd::AsFd::as_fd(handle.as_ref().unwrap()),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ended, None).unwrap();
        let found = ProcessRef::of(pid).unwrap();
        assert!(!found.is_there());
        quick.wait().unwrap();
        assert!(ProcessRef::of(pid).is_err());
    }
}
