//! A command beside a container's program.

use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures::{Stream, StreamExt as _};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::error::EngineError;

/// How long an engine may take to know how a command ended, and the pause between two questions.
const SETTLED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A command that runs in a container.
pub struct Attached {
    /// The command itself.
    pub command: Command,
    /// What it says, until it has ended.
    pub output: Pin<Box<dyn Stream<Item = Output> + Send>>,
    /// What it hears.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// A command in a container, as its engine knows it.
#[derive(Clone)]
pub struct Command {
    engine: Engine,
    id: String,
}

/// A piece of what a command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// On standard output, or on a terminal.
    Out(Vec<u8>),
    /// On standard error.
    Err(Vec<u8>),
}

impl Engine {
    /// Runs a command where a container's program runs, with the same user and rights.
    ///
    /// # Errors
    /// When the container does not run, or the engine does not do it.
    pub async fn attach(
        &self,
        name: &str,
        argv: &[String],
        stdin: bool,
        tty: bool,
    ) -> Result<Attached, EngineError> {
        let options = CreateExecOptions::<String> {
            attach_stdin: Some(stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(argv.to_vec()),
            ..CreateExecOptions::default()
        };
        let id = self.inner.docker.create_exec(name, options).await?.id;
        let start = StartExecOptions { detach: false, tty, output_capacity: None };
        match self.inner.docker.start_exec(&id, Some(start)).await? {
            StartExecResults::Attached { output, input } => {
                // An error is the end of what can be heard; how the command ended is asked for.
                let output = output.take_while(|piece| std::future::ready(piece.is_ok()));
                let output =
                    output.filter_map(|piece| std::future::ready(piece.ok())).map(|piece| match piece {
                        LogOutput::StdErr { message } => Output::Err(message.to_vec()),
                        other => Output::Out(other.into_bytes().to_vec()),
                    });
                let command = Command { engine: self.clone(), id };
                Ok(Attached { command, output: Box::pin(output), input })
            }
            StartExecResults::Detached => Err(EngineError::Refused("it gives no output".to_owned())),
        }
    }
}

impl Command {
    /// How it ended, once nothing more is said: engines know that a little later.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn outcome(&self) -> Result<i64, EngineError> {
        let until = Instant::now() + SETTLED;
        loop {
            let state = self.engine.inner.docker.inspect_exec(&self.id).await?;
            match state.exit_code.filter(|_| state.running != Some(true)) {
                Some(code) => return Ok(code),
                None if Instant::now() < until => tokio::time::sleep(LOOK).await,
                None => return Err(EngineError::Refused("nobody knows how it ended".to_owned())),
            }
        }
    }

    /// Kills it, if it still runs: engines have no request for that.
    pub async fn kill(&self) {
        let Ok(state) = self.engine.inner.docker.inspect_exec(&self.id).await else { return };
        let pid = state.pid.filter(|_| state.running == Some(true)).and_then(|pid| i32::try_from(pid).ok());
        let (Some(pid), Some(container)) = (pid, state.container_id) else { return };
        let Some(process) = Pid::from_raw(pid) else { return };
        // The engine may count processes otherwise than we do: what is killed is in the container's own group.
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return };
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if groups.contains(&container) {
            pidfd_send_signal(handle, Signal::KILL).ok();
        }
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, width: u16, height: u16) {
        // A terminal without its program needs no size.
        self.engine.inner.docker.resize_exec(&self.id, ResizeExecOptions { height, width }).await.ok();
    }
}
