//! Many seeds on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fault::Coverage;
use crate::run::{Failure, run};
use crate::shrink::shrink;

/// What came of many runs without a failure.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Which fault met which call how often.
    pub coverage: Coverage,
    /// Runs that ended with every App settled.
    pub settled: u64,
}

/// Runs `count` seeds from `first` on.
///
/// # Errors
/// The failure of the lowest seed that failed, shrunk. Later seeds are then not tried any more.
pub fn many(first: u64, count: u64, steps: u32) -> Result<Summary, Box<Failure>> {
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Summary::default(), None::<Box<Failure>>));
    let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || lock().1.is_some() {
                        return;
                    }
                    let result = run(first + index, steps);
                    let (summary, worst) = &mut *lock();
                    match result {
                        Ok(report) => {
                            summary.coverage.add(&report.coverage);
                            summary.settled += u64::from(report.settled);
                        }
                        // Of several failures the lowest seed is shown, so that a rerun shows the same.
                        Err(failure) if worst.as_ref().is_none_or(|it| failure.seed < it.seed) => {
                            *worst = Some(failure);
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
    match sum.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(failure)) => Err(shrink(failure, steps)),
        (summary, None) => Ok(summary),
    }
}
