//! The `plimsoll` command: arguments in, text out.
//!
//! Data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 changes found (only
//! with `--exit-code`), 64 wrong usage. What the commands do lives in the other crates.

mod plan;
mod sim;
mod source;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Plans, deploys, heals, rolls back and explains.
#[derive(Parser)]
#[command(name = "plimsoll", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the Path: every step from an empty machine to what a file declares
    Plan(plan::Plan),
    /// Run the whole control plane under simulated faults
    Sim(sim::Sim),
    /// Run what a file declares on this machine, and keep it running
    Up(up::Up),
    /// Print the version
    Version,
    /// Lead traffic to what is ready; the server starts it
    #[command(hide = true)]
    Router {
        /// Where its tables are kept
        directory: std::path::PathBuf,
        /// The installation it serves
        installation: plimsoll_model::id::InstallationId,
    },
    /// Supervise one instance; the agent starts it
    #[command(hide = true)]
    Shim {
        /// The instance's directory
        directory: std::path::PathBuf,
    },
}

/// How a command ended, where that is not a failure.
enum Ended {
    Done,
    /// Changes were found and `--exit-code` asks to be told.
    Changes,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "this is the command line")]
fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed terminal is no reason to fail differently.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let ended = match arguments.command {
        Command::Plan(plan) => plan.run(),
        Command::Sim(sim) => sim.run(),
        Command::Up(up) => up.run(),
        Command::Router { directory, installation } => {
            plimsoll_router::run(&directory, installation).map(|()| Ended::Done).map_err(Into::into)
        }
        Command::Shim { directory } => match plimsoll_shim::supervise(&directory) {
            Ok(()) => Ok(Ended::Done),
            Err(plimsoll_shim::ShimError::Locked) => return ExitCode::from(plimsoll_shim::LOCKED),
            Err(error) => Err(error.into()),
        },
        Command::Version => {
            println!("plimsoll {}", env!("CARGO_PKG_VERSION"));
            Ok(Ended::Done)
        }
    };
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Changes) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
