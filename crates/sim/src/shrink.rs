//! From a failure to the few steps that it takes.

use crate::run::{Failure, run_steps};

/// Runs that may be spent on one failure.
const MOST_RUNS: u32 = 400;

/// Leaves out steps of a failed run for as long as it fails, larger pieces first, and returns the failure of
/// what is left. The failure may turn into another one on the way; each is a failure.
pub fn shrink(failure: Box<Failure>, steps: u32) -> Box<Failure> {
    let (seed, mut best) = (failure.seed, failure);
    let mut kept: Vec<u32> = (0..steps).filter(|step| *step <= best.step).collect();
    let mut runs = 0;
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < kept.len() && runs < MOST_RUNS {
            let mut fewer = kept.clone();
            fewer.drain(start..(start + size).min(kept.len()));
            runs += 1;
            match run_steps(seed, fewer.iter().copied()) {
                Err(smaller) => {
                    fewer.retain(|step| *step <= smaller.step);
                    (best, kept) = (smaller, fewer);
                }
                Ok(_) => start += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    best.taken = kept.len();
    best
}
