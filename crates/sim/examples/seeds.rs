//! `seeds COUNT STEPS`: many seeds without the rest of the product, for the checks of the simulator itself.

use std::process::ExitCode;

/// Seeds from which on every fault must have met every call.
const ENOUGH: u32 = 2_000;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map_while(|text| text.parse::<u32>().ok());
    let (Some(count), Some(steps)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: seeds COUNT STEPS");
        return ExitCode::from(64);
    };
    match plimsoll_sim::many(0, count.into(), steps) {
        Ok(summary) => {
            println!("{}", summary.coverage);
            let unmet = summary.coverage.empty_cells();
            if count < ENOUGH || unmet.is_empty() {
                return ExitCode::SUCCESS;
            }
            eprintln!("never met: {unmet:?}");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
