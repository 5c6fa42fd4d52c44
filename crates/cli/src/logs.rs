//! `plimsoll logs`: what copies said.

use std::io::{self, Write as _};

use clap::Args;
use plimsoll_api::LogEntry;
use plimsoll_model::id::{ComponentName, InstanceId};
use plimsoll_model::quantity::Span;

use crate::Ended;
use crate::follow::talk;
use crate::news::Lines;
use crate::table::now;
use crate::verbs::OfApp;

/// Print what an App's copies said
#[derive(Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    of: OfApp,
    /// Only copies of this component
    #[arg(short, long)]
    component: Option<ComponentName>,
    /// Only this copy
    #[arg(short, long)]
    instance: Option<InstanceId>,
    /// So many of the latest lines
    #[arg(short, long, default_value_t = 200)]
    tail: usize,
    /// Only lines of this last time, such as `5m`
    #[arg(long)]
    since: Option<Span>,
    /// Only what was said before its present run: why it ended
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
    /// Go on with what is said from now on
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    #[expect(clippy::print_stdout, reason = "the lines are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.of.place.client()?;
        let app = self.of.place.app(&self.of.app);
        let component = self.component.iter().map(|it| format!("&component={it}"));
        let instance = self.instance.iter().map(|it| format!("&instance={it}"));
        let only: String = component.chain(instance).collect();
        let after = self.since.map_or(0, |since| now().saturating_sub(since.millis));
        let query = format!("tail={}&after={after}&previous={}{only}", self.tail, self.previous);
        if self.follow {
            client.follow_logs(&app, &query, &mut Lines::new(print))?;
            talk("the server ended, or the app");
            return Ok(Ended::Done);
        }
        let lines = client.logs(&app, &query)?;
        for line in &lines {
            println!("{} {}", line.instance, line.text);
        }
        if lines.is_empty() {
            talk("nothing was said");
        }
        Ok(Ended::Done)
    }
}

/// Prints a log line that comes as JSON.
fn print(line: &[u8]) -> io::Result<()> {
    let line: LogEntry = serde_json::from_slice(line)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{} {}", line.instance, line.text)?;
    out.flush()
}
