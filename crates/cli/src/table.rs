//! Rows, ages and states as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use plimsoll_model::status::{InstanceState, OutcomeRecord, OutcomeState};
use plimsoll_model::{App, Object};
use serde_json::Value;

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Rows under a heading, each column as wide as its widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([heading[column].len()]).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(heading.to_vec())).chain(rows).collect()
}

/// How the latest reconcile of the present declaration ended; nothing while there was none.
pub(crate) fn outcome(app: &Object<App>) -> Option<&OutcomeRecord> {
    let status = app.status.as_ref().filter(|status| status.of == app.meta.generation)?;
    status.value.outcome.as_ref()
}

/// An App's state in one word.
pub(crate) fn state(app: &Object<App>) -> &'static str {
    if app.meta.deleting.is_some() {
        return "deleting";
    }
    match outcome(app).map(|it| it.state) {
        Some(OutcomeState::Settled) => "settled",
        Some(OutcomeState::Advanced) | None => "working",
        Some(OutcomeState::Waiting) => "waiting",
        Some(OutcomeState::Stalled) => "stalled",
    }
}

/// Milliseconds since 1970 UTC.
#[expect(clippy::disallowed_methods, reason = "ages are for people")]
pub(crate) fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Time since a moment, for people.
pub(crate) fn ago(millis: u64) -> String {
    let seconds = now().saturating_sub(millis) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What a copy is doing, in one word.
pub(crate) fn state_name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Unknown => "unknown",
        InstanceState::Blocked => "blocked",
        InstanceState::Unready => "unready",
        InstanceState::Ready => "ready",
        InstanceState::Backoff => "backoff",
        InstanceState::Stopping => "stopping",
        InstanceState::Stopped => "stopped",
    }
}
