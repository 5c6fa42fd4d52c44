//! The supervisor of one instance: a process that is small, does little, and outlives everything else of ours.
//!
//! It holds the lock of the instance's directory, so that one id never runs twice, and hands the lock on to the
//! program and its descendants: as long as the lock is held, something of the instance still runs, whatever
//! became of the supervisor. It starts the program in a process group of its own, writes what the program says to
//! a log that it rotates, ends the program when asked to, then ends whatever the program left behind, and
//! last of all records how the program ended. Restarting is the agent's business.
//!
//! Deliberately absent: async, threads, networking, and any knowledge of plans, probes or backoff.

mod descendants;
mod exec;
mod log;
mod namespaces;
mod record;
mod supervise;

pub use exec::exec;
pub use log::{LogLine, Stream, note, read_line};
pub use namespaces::{Network, SHARED, tool};
pub use record::{
    CONTROL, ENDED, Ended, LOCK, LOG, LOG_BEFORE, NOT_BEGUN, NotBegun, ProcessRef, RUN, Run, STARTED,
    Started, boot_id, read, read_whole, write_durably,
};
pub use supervise::{LOCKED, ShimError, supervise};
