//! The far side's memory of plans: which one to follow for each App, and how much was done for it.
//!
//! This is the decision only. Whoever uses it makes the entry durable before the effect it admits.

use std::collections::BTreeMap;

use plimsoll_model::id::{Effects, Epoch, PlanHash, PlanNo, Uid};
use plimsoll_model::step::Fence;
use serde::{Deserialize, Serialize};

/// What a far side remembers of plans, by App.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    entries: BTreeMap<Uid, Entry>,
}

/// One App's entry as a line of its own, for a far side that keeps its ledger as a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLine {
    app: Uid,
    #[serde(flatten)]
    entry: Entry,
}

/// One App's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    epoch: Epoch,
    plan: PlanNo,
    hash: PlanHash,
    effects: Effects,
    closed: bool,
}

/// Why a fence was refused. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// A newer plan is being followed.
    #[error("plan {current} is already being followed")]
    Older {
        /// The plan to follow.
        current: PlanNo,
    },
    /// The same number is known with another content.
    #[error("plan {plan} is known here with another content")]
    Forked {
        /// The number.
        plan: PlanNo,
    },
    /// Other effects came in since the plan was made.
    #[error("the plan was made on {seen} effects, there are {effects} now")]
    Overtaken {
        /// Effects when the plan was made.
        seen: Effects,
        /// Effects now.
        effects: Effects,
    },
    /// The App was closed here.
    #[error("the App was closed here")]
    Closed,
}

impl Ledger {
    /// Whether a step under this fence may be carried out. If so, the fence is the one to follow from now on.
    pub fn admit(&mut self, fence: &Fence) -> Result<(), Refusal> {
        let Some(entry) = self.entries.get_mut(&fence.app) else {
            if fence.seen != Effects(0) {
                return Err(Refusal::Overtaken { seen: fence.seen, effects: Effects(0) });
            }
            let entry = Entry {
                epoch: fence.epoch,
                plan: fence.plan,
                hash: fence.hash,
                effects: Effects(0),
                closed: false,
            };
            self.entries.insert(fence.app.clone(), entry);
            return Ok(());
        };
        match (fence.epoch, fence.plan).cmp(&(entry.epoch, entry.plan)) {
            std::cmp::Ordering::Less => Err(Refusal::Older { current: entry.plan }),
            std::cmp::Ordering::Equal if fence.hash != entry.hash => {
                Err(Refusal::Forked { plan: entry.plan })
            }
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater if entry.closed => Err(Refusal::Closed),
            std::cmp::Ordering::Greater if fence.seen != entry.effects => {
                Err(Refusal::Overtaken { seen: fence.seen, effects: entry.effects })
            }
            std::cmp::Ordering::Greater => {
                *entry = Entry { epoch: fence.epoch, plan: fence.plan, hash: fence.hash, ..*entry };
                Ok(())
            }
        }
    }

    /// Counts an effect that changed something.
    pub fn record(&mut self, app: &Uid) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.effects = entry.effects.next();
        }
    }

    /// Refuses every later plan of an App that is gone.
    pub fn close(&mut self, app: &Uid) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.closed = true;
        }
    }

    /// One App's entry, as it is now.
    pub fn line(&self, app: &Uid) -> Option<LedgerLine> {
        self.entries.get(app).map(|entry| LedgerLine { app: app.clone(), entry: *entry })
    }

    /// Every App's entry.
    pub fn lines(&self) -> impl Iterator<Item = LedgerLine> {
        self.entries.iter().map(|(app, entry)| LedgerLine { app: app.clone(), entry: *entry })
    }

    /// Takes an entry from a log; later lines replace earlier ones.
    pub fn learn(&mut self, line: LedgerLine) {
        self.entries.insert(line.app, line.entry);
    }

    /// The newest plan that was begun.
    pub fn following(&self, app: &Uid) -> PlanNo {
        self.entries.get(app).map(|entry| entry.plan).unwrap_or_default()
    }

    /// Effects counted so far.
    pub fn effects(&self, app: &Uid) -> Effects {
        self.entries.get(app).map(|entry| entry.effects).unwrap_or_default()
    }

    /// Whether the App was closed.
    pub fn is_closed(&self, app: &Uid) -> bool {
        self.entries.get(app).is_some_and(|entry| entry.closed)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::ObjectKey;
    use plimsoll_model::id::Digest;

    use super::*;

    fn fence(plan: u64, content: &str, seen: u64) -> Fence {
        Fence {
            installation: "here".parse().unwrap(),
            epoch: Epoch(1),
            app: "u1".parse().unwrap(),
            key: ObjectKey::in_project("p".parse().unwrap(), "a".parse().unwrap()),
            plan: PlanNo(plan),
            hash: PlanHash(Digest::of_bytes(content.as_bytes())),
            seen: Effects(seen),
        }
    }

    #[test]
    fn only_the_newest_plan_is_followed() {
        let mut ledger = Ledger::default();
        let app = "u1".parse().unwrap();
        assert_eq!(ledger.admit(&fence(2, "x", 0)), Ok(()));
        assert_eq!(ledger.admit(&fence(2, "x", 0)), Ok(()), "further steps of the same plan");
        ledger.record(&app);
        assert_eq!(ledger.admit(&fence(2, "x", 0)), Ok(()), "its own effects do not overtake it");
        assert_eq!(ledger.admit(&fence(1, "x", 1)), Err(Refusal::Older { current: PlanNo(2) }));
        assert_eq!(ledger.admit(&fence(2, "y", 1)), Err(Refusal::Forked { plan: PlanNo(2) }));
        let overtaken = Refusal::Overtaken { seen: Effects(0), effects: Effects(1) };
        assert_eq!(ledger.admit(&fence(3, "x", 0)), Err(overtaken));
        assert_eq!(ledger.admit(&fence(3, "x", 1)), Ok(()));
    }

    #[test]
    fn a_later_epoch_outranks_every_plan() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.admit(&fence(9, "x", 0)), Ok(()));
        let restored = Fence { epoch: Epoch(2), ..fence(3, "y", 0) };
        assert_eq!(ledger.admit(&restored), Ok(()));
        assert_eq!(ledger.admit(&fence(10, "x", 0)), Err(Refusal::Older { current: PlanNo(3) }));
    }

    #[test]
    fn a_closed_app_stays_closed() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.admit(&fence(1, "x", 0)), Ok(()));
        ledger.close(&"u1".parse().unwrap());
        assert_eq!(ledger.admit(&fence(1, "x", 0)), Ok(()), "closing twice is closing once");
        assert_eq!(ledger.admit(&fence(2, "x", 0)), Err(Refusal::Closed));
    }
}
