//! `plimsoll logs`: what copies said.

use clap::Args;
use plimsoll_model::id::{ComponentName, InstanceId};
use plimsoll_model::quantity::Span;

use crate::Ended;
use crate::follow::{pause, talk};
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
        let mut after = self.since.map_or(0, |since| now().saturating_sub(since.millis));
        let mut tail = self.tail;
        loop {
            let lines = client.logs(&app, &format!("tail={tail}&after={after}{only}"))?;
            for line in &lines {
                println!("{} {}", line.instance, line.text);
            }
            if !self.follow {
                if lines.is_empty() {
                    talk("nothing was said");
                }
                return Ok(Ended::Done);
            }
            after = lines.last().map_or(after, |line| line.at);
            tail = 100_000;
            pause();
        }
    }
}
