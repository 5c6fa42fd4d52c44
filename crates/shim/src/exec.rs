//! A command beside a program: with its user, environment, directory, limits, network and mounts.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::thread::set_no_new_privs;

use crate::namespaces;
use crate::record::{RUN, Run, STARTED, Started, read};
use crate::supervise::{command_of, enter_groups};

/// Becomes a command that runs where the instance's program runs; returns only if that fails. With a terminal as its
/// standard input, that is the command's own, with a session of its own.
pub fn exec(directory: &Path, argv: &[String], terminal: bool) -> io::Error {
    let prepared = (|| {
        if terminal {
            setsid()?;
            ioctl_tiocsctty(io::stdin())?;
        }
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the instance does not run");
        let run: Run = read(directory, RUN)?.ok_or_else(gone)?;
        let started: Started = read(directory, STARTED)?.ok_or_else(gone)?;
        if !started.shim.is_there() {
            return Err(gone());
        }
        enter_groups(&run)?;
        namespaces::join(started.shim.pid)?;
        set_no_new_privs(true)?;
        command_of(argv, &run)
    })();
    match prepared {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}
