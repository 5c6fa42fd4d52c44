//! `plimsoll sim`: seeds of the simulator, and the table of faults they met.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use clap::Args;
use plimsoll_sim::{Coverage, Failure, run};

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

#[derive(Default)]
struct Sum {
    coverage: Coverage,
    settled: u64,
    failure: Option<Box<Failure>>,
}

impl Sim {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (first, count) = self.seed.map_or((0, self.seeds), |seed| (seed, 1));
        let next = AtomicU64::new(0);
        let sum = Mutex::new(Sum::default());
        let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count || lock().failure.is_some() {
                            return;
                        }
                        let result = run(first + index, self.steps);
                        let mut sum = lock();
                        match result {
                            Ok(report) => {
                                sum.coverage.add(&report.coverage);
                                sum.settled += u64::from(report.settled);
                            }
                            // Of several failures the lowest seed is shown, so that a rerun shows the same.
                            Err(failure) if sum.failure.as_ref().is_none_or(|it| failure.seed < it.seed) => {
                                sum.failure = Some(failure);
                            }
                            Err(_) => {}
                        }
                    }
                });
            }
        });
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = sum.failure {
            bail!("{failure}again with: plimsoll sim --seed {} --steps {}", failure.seed, self.steps);
        }
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
