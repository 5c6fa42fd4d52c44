//! Rows, ages and states as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use plimsoll_model::hook::HookPoint;
use plimsoll_model::status::{InstanceState, OutcomeRecord, OutcomeState};
use plimsoll_model::world::Exit;
use plimsoll_model::{App, Object};
use serde_json::Value;

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Rows under headings.
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(headings: impl IntoIterator<Item = &'a str>, rows: Vec<Vec<String>>) -> Self {
        Self { headings: headings.into_iter().map(str::to_owned).collect(), rows }
    }

    /// How wide each column is: as wide as its widest cell.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.headings[column].chars().count()]).max().unwrap_or_default()
        };
        (0..self.headings.len()).map(widest).collect()
    }

    /// Headings and rows.
    pub(crate) fn text(&self) -> String {
        let widths = self.widths();
        line(&self.headings, &widths) + &self.rows(&widths)
    }

    /// The rows alone, in columns of these widths.
    pub(crate) fn rows(&self, widths: &[usize]) -> String {
        self.rows.iter().map(|row| line(row, widths)).collect()
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// Rows under headings as text.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    Table::new(headings.iter().copied(), rows.to_vec()).text()
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

/// What a copy is doing; and what the task of a hook is doing, or how it ended.
pub(crate) fn state_of(state: InstanceState, hook: Option<HookPoint>, exit: Option<Exit>) -> String {
    let state = match state {
        InstanceState::Unready if hook.is_some() => "running",
        state => state_name(state),
    };
    let hook = hook.map(|hook| format!("{hook}: ")).unwrap_or_default();
    let exit = exit.map(|exit| format!(", {exit}")).unwrap_or_default();
    format!("{hook}{state}{exit}")
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
        InstanceState::Done => "done",
    }
}
