//! `plimsoll top`: what copies use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use plimsoll_model::id::ObjectName;
use plimsoll_model::quantity::Bytes;

use crate::Ended;
use crate::place::Where;
use crate::table::table;

/// Time between the two looks from which the use of CPU is known.
const BETWEEN: Duration = Duration::from_secs(1);

/// Print how much CPU and memory copies use now
#[derive(Args)]
pub(crate) struct Top {
    /// Only copies of this App
    app: Option<ObjectName>,
    #[command(flatten)]
    place: Where,
}

impl Top {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let look = || client.usage(&self.place.project(), self.app.as_ref());
        let (began, first) = (Instant::now(), look()?);
        std::thread::park_timeout(BETWEEN);
        let (now, took) = (look()?, began.elapsed());
        let before: BTreeMap<_, _> = first.into_iter().map(|it| (it.instance, it.cpu_millis)).collect();
        let rows = now.into_iter().map(|it| {
            let spent = it.cpu_millis.saturating_sub(*before.get(&it.instance).unwrap_or(&it.cpu_millis));
            let millicores = u128::from(spent) * 1000 / took.as_millis().max(1);
            let memory = Bytes { bytes: it.memory >> 20 << 20 };
            vec![
                it.app.to_string(),
                it.component.to_string(),
                it.instance.to_string(),
                format!("{millicores}m"),
                memory.to_string(),
                it.processes.to_string(),
            ]
        });
        let headings = ["APP", "COMPONENT", "INSTANCE", "CPU", "MEMORY", "PROCESSES"];
        print!("{}", table(&headings, &rows.collect::<Vec<_>>()));
        Ok(Ended::Done)
    }
}
