//! How scripted programs behave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_model::id::ComponentHash;
use plimsoll_model::quantity::Span;

/// How the copies of one component revision behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Ready after this time.
    Good {
        /// Time from start to ready.
        after: Span,
    },
    /// Running, never ready.
    NeverReady,
    /// Ends by itself after this time, again and again.
    Crashing {
        /// Time from start to end.
        after: Span,
    },
    /// Ready, and unready again for a moment in each of these periods.
    Flapping {
        /// The period.
        every: Span,
    },
}

/// How programs behave, by component revision. Clones share the script.
#[derive(Debug, Clone, Default)]
pub struct Script {
    lines: Arc<Mutex<BTreeMap<ComponentHash, Behaviour>>>,
}

impl Script {
    /// Says how a component revision behaves from now on.
    pub fn set(&self, revision: ComponentHash, behaviour: Behaviour) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(revision, behaviour);
    }

    /// How a component revision behaves; at once ready unless said otherwise.
    pub fn of(&self, revision: ComponentHash) -> Behaviour {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(&revision).copied().unwrap_or(Behaviour::Good { after: Span::ZERO })
    }
}
