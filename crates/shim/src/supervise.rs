//! One run of a program, from its start to the record of its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use plimsoll_model::world::Exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, FlockOperation, Mode, flock, mknodat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open, set_child_subreaper, setsid,
};
use rustix::thread::set_no_new_privs;

use crate::log::{Log, Stream, note};
use crate::record::{
    CONTROL, ENDED, Ended, LOCK, NOT_BEGUN, NotBegun, ProcessRef, RUN, Run, STARTED, Started, boot_id, read,
    write_durably,
};
use crate::{descendants, namespaces};

/// Exit code of a supervisor that found the instance running already.
pub const LOCKED: u8 = 75;

/// How often children that nobody announces are reaped, and those that must die are killed again.
const TICK: Duration = Duration::from_millis(500);

/// How often survivors are killed again.
const KILL_TICK: Duration = Duration::from_millis(10);

/// How long output may still come from pipes after everything has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a supervisor gave up. The program was not started, or was ended again.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Something of the instance is still running.
    #[error("the instance is running already")]
    Locked,
    /// It was to be run once, and was begun before.
    #[error("it was begun before")]
    Begun,
    /// The instance's directory holds nothing to run.
    #[error("there is nothing to run")]
    Nothing,
    /// The directory cannot be used.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> ShimError {
    move |source| ShimError::Io { what, source }
}

/// Runs what an instance's directory says and returns after its end was recorded.
///
/// # Errors
/// [`ShimError`], when there was nothing to record.
pub fn supervise(directory: &Path) -> Result<(), ShimError> {
    // It fails for a leader of a process group, which is as well separated from our caller's signals.
    setsid().ok();
    let lock = take_lock(directory)?;
    set_child_subreaper(Some(getpid())).map_err(|errno| io_error("it cannot adopt orphans")(errno.into()))?;
    // What runs below can never gain rights that we do not have, by set-uid programs for instance.
    set_no_new_privs(true).map_err(|errno| io_error("it cannot give up privileges")(errno.into()))?;
    let run: Run =
        read(directory, RUN).map_err(io_error("run.json cannot be read"))?.ok_or(ShimError::Nothing)?;
    if run.once && has_begun(directory)? {
        return Err(ShimError::Begun);
    }
    let control = open_control(directory).map_err(io_error("the control pipe cannot be made"))?;
    if let Err(error) = enter(&run) {
        // Nobody reads what this process says; people read the log.
        note(directory, &format!("it cannot be started: {error}"));
        let refused = NotBegun { attempt: run.attempt };
        write_durably(directory, NOT_BEGUN, &refused).map_err(io_error("the refusal cannot be recorded"))?;
        return Err(io_error("its surroundings cannot be made")(error));
    }
    let mut log = Log::open(directory);
    let exit = match spawn(&run) {
        Ok(program) => watch(directory, program, &run, &control, &mut log)?,
        Err(error) => Exit::Exec(error.raw_os_error().unwrap_or(0)),
    };
    log.finish();
    let ended = Ended { attempt: run.attempt, exit };
    write_durably(directory, ENDED, &ended).map_err(io_error("the end cannot be recorded"))?;
    drop(lock);
    Ok(())
}

/// Takes the instance's lock and lets the program inherit it.
fn take_lock(directory: &Path) -> Result<File, ShimError> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK))
        .map_err(io_error("the lock cannot be opened"))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(ShimError::Locked),
        Err(errno) => return Err(io_error("the lock cannot be taken")(errno.into())),
    }
    fcntl_setfd(&lock, FdFlags::empty())
        .map_err(|errno| io_error("the lock cannot be handed on")(errno.into()))?;
    Ok(lock)
}

/// Whether a program was begun in this directory. Only true while the lock is held.
fn has_begun(directory: &Path) -> Result<bool, ShimError> {
    let unreadable = io_error("what was begun cannot be read");
    let started = read::<Started>(directory, STARTED).map_err(&unreadable)?;
    Ok(started.is_some() || read::<Ended>(directory, ENDED).map_err(&unreadable)?.is_some())
}

/// Opened for both directions, so that it never reports an end when a writer goes.
fn open_control(directory: &Path) -> io::Result<File> {
    let path = directory.join(CONTROL);
    match mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    OpenOptions::new().read(true).write(true).open(path)
}

/// Enters the control groups, network and mounts, and with it whatever is started below.
fn enter(run: &Run) -> io::Result<()> {
    enter_groups(run)?;
    if let Some(network) = &run.network {
        namespaces::enter_network(network)?;
    }
    namespaces::enter_mounts(run.tmp.as_deref(), run.network.is_some())
}

pub(crate) fn enter_groups(run: &Run) -> io::Result<()> {
    for group in &run.groups {
        let mut procs = OpenOptions::new().write(true).open(group.join("cgroup.procs"))?;
        procs.write_all(std::process::id().to_string().as_bytes())?;
    }
    Ok(())
}

/// A command line as the program's user, in its directory and with its environment.
pub(crate) fn command_of(argv: &[String], run: &Run) -> io::Result<Command> {
    let (name, arguments) = argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(name);
    command.args(arguments).env_clear().envs(&run.env).current_dir(&run.directory);
    if let Some(user) = run.user {
        command.uid(user).gid(user);
    }
    Ok(command)
}

fn spawn(run: &Run) -> io::Result<Child> {
    let mut command = command_of(&run.argv, run)?;
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

fn watch(
    directory: &Path,
    mut program: Child,
    run: &Run,
    control: &File,
    log: &mut Log,
) -> Result<Exit, ShimError> {
    let pid = i32::try_from(program.id()).ok().and_then(Pid::from_raw).ok_or(ShimError::Nothing)?;
    if let Err(error) = announce(directory, run, pid) {
        // A run that nobody can find again must not go on.
        kill_process_group(pid, Signal::KILL).ok();
        while descendants::kill_all(pid) {}
        program.wait().ok();
        return Err(io_error("the start cannot be recorded")(error));
    }
    let status = Watch { program: &mut program, pid, control, log, kill_at: None }.until_ended();
    status.map(exit_of).map_err(io_error("the program cannot be watched"))
}

fn announce(directory: &Path, run: &Run, pid: Pid) -> io::Result<()> {
    let started = Started {
        attempt: run.attempt,
        boot: boot_id()?,
        shim: ProcessRef::of(getpid().as_raw_nonzero().get())?,
        program: ProcessRef::of(pid.as_raw_nonzero().get())?,
    };
    write_durably(directory, STARTED, &started)
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Lost,
    }
}

struct Watch<'a> {
    program: &'a mut Child,
    pid: Pid,
    control: &'a File,
    log: &'a mut Log,
    /// When whatever still runs is killed.
    kill_at: Option<Instant>,
}

/// What there is to react to.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each thing that is polled")]
struct Ready {
    ended: bool,
    control: bool,
    out: bool,
    err: bool,
}

impl Watch<'_> {
    fn until_ended(mut self) -> io::Result<ExitStatus> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        loop {
            let ready = self.poll(Some(pidfd.as_fd()), self.pause())?;
            self.read_output(&ready);
            if ready.control {
                self.obey();
            }
            descendants::reap(self.pid);
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                kill_process_group(self.pid, Signal::KILL).ok();
            }
            if ready.ended {
                break;
            }
        }
        // The group first, while its number is still taken by the program's remains.
        kill_process_group(self.pid, Signal::KILL).ok();
        while descendants::kill_all(self.pid) {
            let ready = self.poll(None, KILL_TICK)?;
            self.read_output(&ready);
        }
        let status = self.program.wait()?;
        self.last_words()?;
        Ok(status)
    }

    fn pause(&self) -> Duration {
        self.kill_at.map_or(TICK, |at| at.saturating_duration_since(Instant::now()).clamp(KILL_TICK, TICK))
    }

    fn poll(&self, pidfd: Option<std::os::fd::BorrowedFd<'_>>, pause: Duration) -> io::Result<Ready> {
        let (out, err) = (self.program.stdout.as_ref(), self.program.stderr.as_ref());
        let fds = [pidfd, Some(self.control.as_fd()), out.map(|out| out.as_fd()), err.map(|err| err.as_fd())];
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let pause = Timespec::try_from(pause).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match poll(&mut polled, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
        let mut answer = |asked: bool| asked && answers.next().unwrap_or(false);
        Ok(Ready {
            ended: answer(fds[0].is_some()),
            control: answer(true),
            out: answer(fds[2].is_some()),
            err: answer(fds[3].is_some()),
        })
    }

    fn read_output(&mut self, ready: &Ready) {
        let mut buffer = [0; 8192];
        if ready.out
            && let Some(out) = &mut self.program.stdout
        {
            match out.read(&mut buffer) {
                Ok(0) | Err(_) => self.program.stdout = None,
                Ok(length) => self.log.take(Stream::Out, &buffer[..length]),
            }
        }
        if ready.err
            && let Some(err) = &mut self.program.stderr
        {
            match err.read(&mut buffer) {
                Ok(0) | Err(_) => self.program.stderr = None,
                Ok(length) => self.log.take(Stream::Err, &buffer[..length]),
            }
        }
    }

    /// What the pipes still hold.
    fn last_words(&mut self) -> io::Result<()> {
        let end = Instant::now() + LAST_WORDS;
        while self.program.stdout.is_some() || self.program.stderr.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            let ready = self.poll(None, left)?;
            if !ready.out && !ready.err {
                return Ok(());
            }
            self.read_output(&ready);
        }
        Ok(())
    }

    /// Reads a request to stop. A second one may shorten the grace time.
    fn obey(&mut self) {
        let mut buffer = [0; 256];
        let Ok(length) = (&mut &*self.control).read(&mut buffer) else { return };
        let text = String::from_utf8_lossy(&buffer[..length]);
        for grace in text.lines().filter_map(|line| line.strip_prefix("stop ")) {
            let Ok(grace) = grace.parse().map(Duration::from_millis) else { continue };
            let kill_at = Instant::now() + grace;
            if self.kill_at.is_none() {
                kill_process_group(self.pid, Signal::TERM).ok();
            }
            self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        }
    }
}
