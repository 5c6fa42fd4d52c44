//! Processes that a program left behind. They become children of the supervisor, which is their subreaper: see
//! `PR_SET_CHILD_SUBREAPER` in prctl(2).

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Children of this process, running or ended.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

/// Takes the exit statuses of children that ended, other than the program itself.
pub(crate) fn reap(program: Pid) {
    for child in children().into_iter().filter(|child| *child != program) {
        // A child that still runs has no status yet.
        waitpid(Some(child), WaitOptions::NOHANG).ok();
    }
}

/// Kills every child but the program. Their own children then become ours: call it until it returns false.
pub(crate) fn kill_all(program: Pid) -> bool {
    reap(program);
    let left: Vec<Pid> = children().into_iter().filter(|child| *child != program).collect();
    for child in &left {
        kill_process(*child, Signal::KILL).ok();
    }
    !left.is_empty()
}
