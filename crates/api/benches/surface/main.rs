//! What the API costs: the figures of `docs/performance.md` that need many objects, and no real programs.
//!
//! `cargo bench -p plimsoll-api --bench surface`; a word after `--` runs those whose name contains it. The server is a process
//! of its own (this binary in another role) on a real disk, with `synchronous=FULL`, and with drivers that do at once
//! whatever they are told. Nothing here decides a test.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on ends here")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway"
)]

mod connection;
mod idle;
mod scenes;

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", directory] => idle::serve(Path::new(directory)),
        [] => scenes::run(""),
        [word, ..] => scenes::run(word),
    }
}
