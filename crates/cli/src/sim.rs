//! `plimsoll sim`: seeds of the simulator, and the table of faults they met.

use anyhow::{anyhow, bail};
use clap::Args;
use plimsoll_sim::many;

use crate::Ended;

/// Run the whole control plane under simulated faults
#[derive(Args)]
pub(crate) struct Sim {
    /// Run this one seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run this many seeds, from 0
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,
    /// Steps of each seed before the faults end and everything must settle
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
}

impl Sim {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (first, count) = self.seed.map_or((0, self.seeds), |seed| (seed, 1));
        let sum = many(first, count, self.steps).map_err(|failure| {
            anyhow!("{failure}again with: plimsoll sim --seed {} --steps {}", failure.seed, self.steps)
        })?;
        println!("{}", sum.coverage);
        println!(
            "{count} seeds of {} steps held; {} of them ended with every App settled",
            self.steps, sum.settled
        );
        let empty = sum.coverage.empty_cells();
        if self.seed.is_none() && count >= 1000 && !empty.is_empty() {
            let cells: Vec<String> = empty.iter().map(|(fault, op)| format!("{fault} x {op}")).collect();
            bail!("these faults were never met: {}", cells.join(", "));
        }
        Ok(Ended::Done)
    }
}
