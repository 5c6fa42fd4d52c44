//! What runs an instance: a supervisor of the node, or a container engine. The keeper does not mind which.

use std::io;

use plimsoll_model::quantity::Span;
use plimsoll_model::world::{Blockage, Exit, Limit, Phase};

use crate::container::{self, Container};
use crate::probe::Way;
use crate::process::Process;
use crate::runner::{Latest, Runner};

/// What runs an instance.
pub(crate) enum Vehicle {
    Process(Process),
    Container(Container),
}

/// A run under way.
pub(crate) enum Running {
    Process(Runner),
    Container(container::Run),
}

/// Why there is no run.
pub(crate) enum NotStarted {
    /// For a reason outside of the program.
    Blocked(Blockage),
    /// The program cannot be executed.
    Failed(Exit),
}

/// What came of a run that ended.
pub(crate) enum Outcome {
    Ended(Exit),
    /// The program was never started, and that was not its fault.
    NotBegun,
}

impl Vehicle {
    /// Finds what runs of the instance.
    pub(crate) async fn adopt(&self) -> io::Result<Option<Running>> {
        Ok(match self {
            Self::Process(process) => process.adopt().await?.map(Running::Process),
            Self::Container(container) => container.adopt().await?.map(Running::Container),
        })
    }

    /// How the latest run ended. Only true while nothing runs.
    pub(crate) async fn latest(&self) -> io::Result<Latest> {
        match self {
            Self::Process(process) => process.latest(),
            Self::Container(container) => container.latest().await,
        }
    }

    /// Starts the next run. `enter` hears of what it waits for meanwhile.
    pub(crate) async fn start(&self, enter: impl Fn(Phase)) -> io::Result<Result<Running, NotStarted>> {
        Ok(match self {
            Self::Process(process) => process.start().await?.map(Running::Process),
            Self::Container(container) => container.start(enter).await?.map(Running::Container),
        })
    }

    /// Whether the program of a run was started.
    pub(crate) fn was_begun(&self, run: &Running) -> io::Result<bool> {
        match (self, run) {
            (Self::Process(process), Running::Process(runner)) => process.was_begun(runner),
            _ => Ok(true),
        }
    }

    /// Waits for a run's end. May be asked again.
    pub(crate) async fn ended(&self, run: &Running) {
        match run {
            Running::Process(runner) => runner.ended().await,
            Running::Container(run) => run.ended().await,
        }
    }

    /// Ends a run, within the grace time and a little more.
    pub(crate) async fn end(&self, run: &Running, grace: Span) {
        match (self, run) {
            (Self::Process(process), Running::Process(runner)) => process.end(runner, grace).await,
            (_, Running::Container(run)) => run.end(grace).await,
            (Self::Container(_), Running::Process(_)) => {}
        }
    }

    /// What came of a run; what is left of it is ended first.
    pub(crate) async fn outcome(&self, run: &Running) -> io::Result<Outcome> {
        match (self, run) {
            (Self::Process(process), Running::Process(runner)) => process.outcome(runner).await,
            (_, Running::Container(run)) => run.outcome().await.map(Outcome::Ended),
            (Self::Container(_), Running::Process(_)) => Ok(Outcome::NotBegun),
        }
    }

    /// What is declared and cannot be enforced.
    pub(crate) async fn unenforced(&self) -> Vec<Limit> {
        match self {
            Self::Process(process) => process.unenforced(),
            Self::Container(container) => container.unenforced().await,
        }
    }

    /// How a command is run where the program runs.
    pub(crate) fn way_beside(&self) -> Way {
        match self {
            Self::Process(process) => process.way_beside(),
            Self::Container(container) => container.way_beside(),
        }
    }
}
