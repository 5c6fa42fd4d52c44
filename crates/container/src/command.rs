//! A command beside a container's program.

use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures::{Stream, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWrite;

use crate::engine::Engine;
use crate::error::EngineError;

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
    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn exit_code(&self) -> Result<Option<i64>, EngineError> {
        let state = self.engine.inner.docker.inspect_exec(&self.id).await?;
        Ok(state.exit_code.filter(|_| state.running != Some(true)))
    }

    /// Kills it, if it still runs: engines have no request for that.
    pub async fn kill(&self) {
        let Ok(state) = self.engine.inner.docker.inspect_exec(&self.id).await else { return };
        let pid = state.pid.filter(|_| state.running == Some(true));
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            kill_process(pid, Signal::KILL).ok();
        }
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, width: u16, height: u16) {
        // A terminal without its program needs no size.
        self.engine.inner.docker.resize_exec(&self.id, ResizeExecOptions { height, width }).await.ok();
    }
}
