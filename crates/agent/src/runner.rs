//! An instance's supervisor as the agent handles it: start, find again, stop, and clear away what is left.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plimsoll_model::quantity::Span;
use plimsoll_model::world::Exit;
use plimsoll_shim::{
    CONTROL, ENDED, Ended, LOCK, NOT_BEGUN, Network, NotBegun, RUN, Run, STARTED, Started, boot_id, read,
    write_durably,
};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::place::{Place, passable_directory};

/// How long a supervisor may take to say what it started.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two looks at something that gives no notice.
const LOOK: Duration = Duration::from_millis(5);

/// A supervisor that runs.
pub(crate) struct Runner {
    pub(crate) attempt: u32,
    ended: AsyncFd<OwnedFd>,
}

/// What is known of an instance's latest run, from its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) attempt: u32,
    /// How it ended, if it did; a run of which nothing is left and no end was recorded is lost.
    pub(crate) exit: Option<Exit>,
}

/// What the directory says of the latest run. Only true while nothing runs.
pub(crate) fn latest(place: &Place) -> io::Result<Latest> {
    let started: Option<Started> = read(place.path(), STARTED)?;
    let ended: Option<Ended> = read(place.path(), ENDED)?;
    let attempt = started.as_ref().map_or(0, |it| it.attempt).max(ended.as_ref().map_or(0, |it| it.attempt));
    let exit = ended.filter(|it| it.attempt == attempt).map(|it| it.exit);
    Ok(Latest { attempt, exit: exit.or((attempt > 0).then_some(Exit::Lost)) })
}

/// Whether anything of the instance runs. Must not be asked while a supervisor is being started.
fn is_running(place: &Place) -> io::Result<bool> {
    let lock = match File::open(place.path().join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Finds what runs of an instance: its supervisor, or nothing after whatever had lost its supervisor was ended.
pub(crate) async fn adopt(place: &Place) -> io::Result<Option<Runner>> {
    let give_up = tokio::time::Instant::now() + ANNOUNCED_WITHIN;
    loop {
        let started: Option<Started> = read(place.path(), STARTED)?;
        let shim = started.filter(|it| boot_id().is_ok_and(|now| now == it.boot) && it.shim.is_there());
        // A program could give up the lock that it inherited; its supervisor still speaks for it.
        if shim.is_none() && !is_running(place)? {
            return Ok(None);
        }
        if let Some(Started { attempt, shim, .. }) = shim {
            let pid = Pid::from_raw(shim.pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::NONBLOCK)
                && shim.is_there()
            {
                return Ok(Some(Runner { attempt, ended: watched(pidfd)? }));
            }
        }
        // Either it is just being started, or its supervisor is gone.
        if tokio::time::Instant::now() >= give_up || has_ended_supervisor(place)? {
            clear(place).await?;
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the supervisor of the latest announced run is surely gone.
fn has_ended_supervisor(place: &Place) -> io::Result<bool> {
    let started: Option<Started> = read(place.path(), STARTED)?;
    let run: Option<Run> = read(place.path(), RUN)?;
    Ok(started.is_some_and(|it| run.is_some_and(|run| run.attempt == it.attempt) && !it.shim.is_there()))
}

#[expect(deprecated, reason = "it is unsound for types that do not own what they name; this one does")]
fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// Kills everything that holds the instance's lock, until nobody does.
pub(crate) async fn clear(place: &Place) -> io::Result<()> {
    while is_running(place)? {
        for pid in holders(&place.path().join(LOCK))? {
            kill(pid, &place.path().join(LOCK));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Kills a process if it still holds the lock: the handle keeps its number from being given to another one.
fn kill(pid: Pid, lock: &Path) {
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && holds(pid, lock)
    {
        pidfd_send_signal(handle, Signal::KILL).ok();
    }
}

fn holds(pid: Pid, lock: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|target| target == lock)
}

/// Processes that have the lock open, this one apart.
fn holders(lock: &Path) -> io::Result<Vec<Pid>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| *name != own) else { continue };
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
        if holds(pid, lock) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// What a run is kept within.
pub(crate) struct Surroundings {
    pub(crate) groups: Vec<PathBuf>,
    pub(crate) network: Option<Network>,
    pub(crate) tmp: Option<PathBuf>,
}

/// Starts the next run of an instance that does not run.
pub(crate) fn start(place: &Place, shim: &[String], around: Surroundings) -> io::Result<Runner> {
    let mut run: Run = read(place.path(), RUN)?.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    run.attempt = latest(place)?.attempt.max(run.attempt) + 1;
    Surroundings { groups: run.groups, network: run.network, tmp: run.tmp } = around;
    write_durably(place.path(), RUN, &run)?;
    // Others may pass into it only now that it is on record that the program may have been there: until then root
    // writes into it. At every start, so that a crash in between does no harm.
    passable_directory(place.path())?;
    let (program, arguments) =
        shim.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(program);
    command.args(arguments).arg(place.path()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let handle = || watched(pidfd_open(pid, PidfdFlags::NONBLOCK)?);
    tokio::spawn(reap(child, handle()?));
    Ok(Runner { attempt: run.attempt, ended: handle()? })
}

/// Takes the exit status of a supervisor that we started, whoever waits for its end and whenever.
async fn reap(mut child: Child, ended: AsyncFd<OwnedFd>) {
    while ended.readable().await.is_err() {}
    // It has ended, so this does not wait.
    child.wait().ok();
}

impl Runner {
    /// Waits until the program was started, or the supervisor has ended without.
    pub(crate) async fn announced(&self, place: &Place) {
        let give_up = tokio::time::Instant::now() + ANNOUNCED_WITHIN;
        while tokio::time::Instant::now() < give_up {
            let started: Option<Started> = read(place.path(), STARTED).ok().flatten();
            if started.is_some_and(|it| it.attempt == self.attempt) {
                return;
            }
            tokio::select! {
                () = self.ended() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Waits for the supervisor's end. May be asked again.
    pub(crate) async fn ended(&self) {
        // Readable for good once the process has ended; it is never cleared.
        while self.ended.readable().await.is_err() {}
    }

    /// Whether the program was never started because its surroundings could not be made.
    pub(crate) fn was_not_begun(&self, place: &Place) -> io::Result<bool> {
        let refused: Option<NotBegun> = read(place.path(), NOT_BEGUN)?;
        Ok(refused.is_some_and(|it| it.attempt == self.attempt))
    }

    /// How the run ended; what a killed supervisor left behind is ended first.
    pub(crate) async fn outcome(&self, place: &Place) -> io::Result<Exit> {
        clear(place).await?;
        let ended: Option<Ended> = read(place.path(), ENDED)?;
        Ok(ended.filter(|it| it.attempt == self.attempt).map_or(Exit::Lost, |it| it.exit))
    }
}

/// Asks a supervisor to end its program.
pub(crate) fn ask_to_stop(place: &Place, grace: Span) -> io::Result<()> {
    let path: PathBuf = place.path().join(CONTROL);
    // Without a reader this fails at once: the supervisor is gone, or not there yet.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut control = OpenOptions::new().write(true).custom_flags(nonblocking).open(path)?;
    control.write_all(format!("stop {}\n", grace.millis).as_bytes())
}
