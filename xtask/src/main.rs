//! Checks of the repository itself, for whoever works on it.
//!
//! `layers` holds the crates to the order that `ARCHITECTURE.md` draws, `tidy` holds files to the house rules that no
//! other tool knows, and `mutants` proves that the simulator would notice: it applies each of `mutants/*.patch` to a
//! copy of the sources and expects the copy's simulator to fail.
//!
//! Deliberately absent: anything that the product needs, and anything that a cargo subcommand does already.

mod layers;
mod mutants;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks of the repository itself")]
struct Arguments {
    #[command(subcommand)]
    check: Check,
}

#[derive(Subcommand)]
enum Check {
    /// Crates depend on lower ones only
    Layers,
    /// Files keep the house rules
    Tidy,
    /// The simulator notices every known way to break an invariant
    Mutants {
        /// Only the patches whose name contains this
        #[arg(default_value = "")]
        name: String,
    },
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

#[expect(clippy::print_stderr, reason = "this is a command")]
fn main() -> ExitCode {
    let result = match Arguments::parse().check {
        Check::Layers => layers::check(&root()),
        Check::Tidy => tidy::check(&root()),
        Check::Mutants { name } => mutants::check(&root(), &name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
