//! How many copies of a component are wanted, by what is measured.
//!
//! Each measure says how many copies what there is to do is worth. What asks for another number all the time for as long as its
//! window, and comes late enough after the last change, becomes the number wanted: of what was asked for in that time, what
//! changes least. Nothing is written down but the beginning of such a time, so that what goes on as it is stays silent.

use std::collections::BTreeMap;

use plimsoll_model::app::Resources;
use plimsoll_model::id::InstanceId;
use plimsoll_model::quantity::Span;
use plimsoll_model::scale::Scale;
use plimsoll_model::status::{Clock, Pending, Scaling};
use plimsoll_model::world::{NodeTime, RouterView};

use crate::input::UsedView;
use crate::survey::{Copy, Survey, Traffic, count};

/// How often it is looked at what is measured.
const MEASURED_EVERY: Span = Span::seconds(5);

/// How often it is looked after what sleeps: the router says when it is asked for.
const ASLEEP: Span = Span::seconds(60);

/// Seconds of the time that requests are counted in.
const MINUTE: u64 = 60;

/// What is looked at to say how many copies are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Measured<'a> {
    pub(crate) survey: &'a Survey<'a>,
    pub(crate) used: &'a BTreeMap<InstanceId, UsedView>,
    pub(crate) limits: Resources,
    /// The router, if it answers.
    pub(crate) router: Option<&'a RouterView>,
    /// Requests that wait for a copy.
    pub(crate) waiting: u32,
    /// Something is being rolled out, which needs its copies.
    pub(crate) is_rolling: bool,
}

/// What was decided at one look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    /// More copies than there may be are asked for.
    pub(crate) limited: bool,
    /// Why nothing can be decided.
    pub(crate) undecided: Option<String>,
    /// When to look again.
    pub(crate) look: Span,
}

/// Carries the number wanted forward by one look.
pub(crate) fn advance(state: &mut Scaling, scale: &Scale, measured: Measured<'_>) -> Scaled {
    let now = measured.survey.now;
    if let (Some(changed), true) = (&mut state.changed, now.is_some()) {
        // It goes on after a reboot of the node, on another node, and where no node has said the time yet.
        changed.run(true, now);
    }
    let look = match sleep(state, scale, measured) {
        Some(look) if state.wanted == 0 => return Scaled { limited: false, undecided: None, look },
        left => left.unwrap_or(MEASURED_EVERY).min(MEASURED_EVERY),
    };
    let asked = match measured.asked(scale, state.wanted) {
        Ok(Some(asked)) => asked,
        // While nothing serves, nothing can be measured, and other waits say why.
        Ok(None) => {
            state.pending = None;
            return Scaled { limited: false, undecided: None, look };
        }
        Err(why) => {
            state.pending = None;
            return Scaled { limited: false, undecided: Some(why), look };
        }
    };
    let (limited, asked) = (asked > scale.max, asked.clamp(scale.min, scale.max));
    if asked == state.wanted {
        state.pending = None;
        return Scaled { limited, undecided: None, look };
    }
    let is_up = asked > state.wanted;
    let pace = if is_up { scale.up } else { scale.down };
    let same = state.pending.take().filter(|pending| (pending.to > state.wanted) == is_up);
    let mut pending = same.unwrap_or(Pending { to: asked, clock: Clock::ZERO });
    pending.to = if is_up { pending.to.min(asked) } else { pending.to.max(asked) };
    pending.clock.run(true, now);
    let window = pace.window.minus(pending.clock.reading(now));
    let cooldown =
        state.changed.as_ref().map_or(Span::ZERO, |changed| pace.cooldown.minus(changed.reading(now)));
    let left = window.max(cooldown);
    if left == Span::ZERO && now.is_some() {
        *state = changed(pending.to, now);
    } else {
        state.pending = Some(pending);
    }
    let look = if left == Span::ZERO { look } else { look.min(left) };
    Scaled { limited, undecided: None, look }
}

/// The beginning of a time in which another number is wanted.
fn changed(wanted: u32, now: Option<&NodeTime>) -> Scaling {
    let mut changed = Clock::ZERO;
    changed.run(true, now);
    Scaling { wanted, changed: Some(changed), pending: None }
}

/// Takes the last copies away that nobody has asked for in a while, and wants some again at once when somebody does. Returns when
/// to look again, where that may have none.
fn sleep(state: &mut Scaling, scale: &Scale, measured: Measured<'_>) -> Option<Span> {
    let zero = scale.to_zero?;
    let now = measured.survey.now;
    if state.wanted == 0 {
        if measured.waiting > 0 {
            *state = changed(scale.min, now);
            return None;
        }
        return Some(ASLEEP);
    }
    let left = zero.after.minus(measured.idle()?);
    if left == Span::ZERO && now.is_some() {
        *state = changed(0, now);
        return Some(ASLEEP);
    }
    Some(left)
}

impl Measured<'_> {
    /// How long nobody has asked for any copy; `None` while somebody does, and where nobody would be woken.
    fn idle(&self) -> Option<Span> {
        if self.waiting > 0 || !self.router.is_some_and(|router| router.wakes) || self.survey.blind {
            return None;
        }
        // Without copies it would be forgotten how far that is.
        if self.is_rolling {
            return None;
        }
        let mut active = self.survey.copies.iter().filter(|copy| copy.traffic == Traffic::Active).peekable();
        active.peek()?;
        active.map(|copy| copy.idle).collect::<Option<Vec<Span>>>()?.into_iter().min()
    }

    /// The copies that what there is to do is worth; `None` while no copy serves.
    fn asked(&self, scale: &Scale, wanted: u32) -> Result<Option<u32>, String> {
        let serving: Vec<&Copy<'_>> =
            self.survey.copies.iter().filter(|copy| self.survey.is_available(copy)).collect();
        let on = &scale.on;
        if self.survey.blind || self.router.is_none() && (on.requests.is_some() || on.in_flight.is_some()) {
            return Err("the node or the router does not say what its copies have to do".into());
        }
        if serving.is_empty() {
            return Ok(None);
        }
        let mut asked = 0;
        let mut ask = |all: u64, each: u64| asked = asked.max(worth(all, each, wanted, scale.tolerance));
        if let Some(requests) = on.requests {
            let all = self.survey.copies.iter().filter_map(|copy| copy.recent).map(|recent| recent.requests);
            ask(all.sum(), u64::from(requests) * MINUTE);
        }
        if let Some(in_flight) = on.in_flight {
            let all = self.survey.copies.iter().map(|copy| u64::from(copy.in_flight));
            ask(all.sum(), u64::from(in_flight));
        }
        let used = || {
            let used = serving.iter().map(|copy| self.used.get(copy.id).copied());
            used.collect::<Option<Vec<UsedView>>>()
                .ok_or_else(|| "what its copies use is not known".to_owned())
        };
        if let (Some(percent), Some(limit)) = (on.cpu, self.limits.cpu) {
            ask(used()?.iter().map(|it| it.millicores * 100).sum(), limit.millicores * u64::from(percent));
        }
        if let (Some(percent), Some(limit)) = (on.memory, self.limits.memory) {
            let all = used()?.iter().map(|it| it.memory / 1024 * 100).sum();
            ask(all, limit.bytes / 1024 * u64::from(percent));
        }
        // A copy that is missing has nothing to do: that is no reason to want fewer.
        let is_short = count(serving.iter()) < wanted;
        Ok(Some(if is_short { asked.max(wanted) } else { asked }))
    }
}

/// So many copies, if each should have so much of all there is. A difference within the tolerance is none.
fn worth(all: u64, each: u64, wanted: u32, tolerance: u32) -> u32 {
    let each = each.max(1);
    let now = each.saturating_mul(u64::from(wanted));
    if all.abs_diff(now).saturating_mul(100) <= now.saturating_mul(u64::from(tolerance)) {
        return wanted;
    }
    u32::try_from(all.div_ceil(each)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_little_changes_nothing() {
        assert_eq!(worth(0, 10, 3, 10), 0);
        assert_eq!(worth(33, 10, 3, 10), 3);
        assert_eq!(worth(34, 10, 3, 10), 4);
        assert_eq!(worth(27, 10, 3, 10), 3);
        assert_eq!(worth(20, 10, 3, 10), 2);
        assert_eq!(worth(21, 10, 3, 0), 3);
        assert_eq!(worth(u64::MAX, 1, 3, 10), u32::MAX);
    }
}
