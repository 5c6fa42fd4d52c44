//! Faults, the calls they hit, and the table of which met which.

use std::collections::BTreeMap;
use std::fmt;

use plimsoll_model::step::Action;

/// Declares an enum with its values and their names.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $value,)* }
        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$value => $text,)* })
            }
        }
    };
}

named!(
    /// A call from the control plane to the outside.
    Op {
        /// Read one object.
        Get = "get",
        /// Read many.
        List = "list",
        /// Write a batch.
        Commit = "commit",
        /// Look at a driver.
        Observe = "observe",
        /// A step.
        Create = "create",
        /// A step.
        Stop = "stop",
        /// A step.
        Remove = "remove",
        /// A step.
        Close = "close",
        /// A step.
        Publish = "publish",
        /// A step.
        Admit = "admit",
        /// A step.
        Drain = "drain",
        /// A step.
        Expel = "expel",
        /// A step.
        Withdraw = "withdraw",
    }
);

named!(
    /// What may go wrong at a call, or between this call and the next.
    Fault {
        /// The control plane dies before the call.
        Crash = "crash",
        /// The call fails and has no effect; the plan's other steps go on.
        Error = "error",
        /// The call has its effect and its reply is lost.
        LostReply = "lost reply",
        /// The call has its effect later, after its sender gave it up.
        Late = "late",
        /// The reading is older than the present.
        Stale = "stale read",
        /// The driver says it is done, and it is not.
        Ghost = "ghost",
        /// The hint about a change is lost, doubled or late.
        Hint = "bad hint",
        /// A copy without an owner appears.
        Orphan = "orphan",
        /// The wall clock jumps, or the node reboots.
        ClockJump = "clock jump",
        /// A control plane on a copy of the store sends the step under its own plan of the same number.
        Fork = "fork",
        /// Another control plane has a plan of its own under way.
        Rival = "rival",
    }
);

impl Op {
    /// The call that carries out an action.
    pub fn of(action: &Action) -> Self {
        match action {
            Action::Create { .. } => Self::Create,
            Action::Stop { .. } => Self::Stop,
            Action::Remove { .. } => Self::Remove,
            Action::Close => Self::Close,
            Action::Publish { .. } => Self::Publish,
            Action::Admit { .. } => Self::Admit,
            Action::Drain { .. } => Self::Drain,
            Action::Expel { .. } => Self::Expel,
            Action::Withdraw => Self::Withdraw,
        }
    }

    fn is_step(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Commit | Self::Observe)
    }
}

impl Fault {
    /// Whether this fault can meet that call at all.
    pub fn applies_to(self, op: Op) -> bool {
        match self {
            Self::Stale => matches!(op, Op::Get | Op::List | Op::Observe),
            Self::LostReply => op == Op::Commit || op.is_step(),
            Self::Late | Self::Fork => op.is_step(),
            Self::Ghost => matches!(op, Op::Stop | Op::Remove | Op::Expel),
            Self::Crash | Self::Error | Self::Hint | Self::Orphan | Self::ClockJump | Self::Rival => true,
        }
    }
}

/// How often each fault met each call.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    met: BTreeMap<(Fault, Op), u64>,
}

impl Coverage {
    /// Counts one meeting.
    pub fn count(&mut self, fault: Fault, op: Op) {
        *self.met.entry((fault, op)).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (cell, times) in &other.met {
            *self.met.entry(*cell).or_default() += times;
        }
    }

    /// Cells that could have been met and were not.
    pub fn empty_cells(&self) -> Vec<(Fault, Op)> {
        let cells = Fault::ALL.iter().flat_map(|fault| Op::ALL.iter().map(move |op| (*fault, *op)));
        cells.filter(|(fault, op)| fault.applies_to(*op) && !self.met.contains_key(&(*fault, *op))).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11}", "")?;
        for op in Op::ALL {
            write!(f, "{op:>9}")?;
        }
        for fault in Fault::ALL {
            write!(f, "\n{fault:<11}")?;
            for op in Op::ALL {
                match self.met.get(&(*fault, *op)) {
                    _ if !fault.applies_to(*op) => write!(f, "{:>9}", "-")?,
                    times => write!(f, "{:>9}", times.copied().unwrap_or(0))?,
                }
            }
        }
        Ok(())
    }
}
