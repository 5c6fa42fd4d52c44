//! Known ways to break an invariant, and whether the simulator notices each of them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

/// Seeds that a mutant may survive before it counts as not noticed.
const SEEDS: &str = "600";

/// Steps of each seed.
const STEPS: &str = "300";

/// What a copy needs for the simulator to be built there.
const COPIED: [&str; 4] = ["Cargo.toml", "Cargo.lock", "crates", "xtask"];

/// Applies every patch in turn and expects the simulator to fail.
pub(crate) fn check(root: &Path, name: &str) -> anyhow::Result<()> {
    let mut patches: Vec<_> = std::fs::read_dir(root.join("xtask/mutants"))
        .context("the patches cannot be listed")?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains(name)))
        .collect();
    patches.sort();
    ensure!(!patches.is_empty(), "no patch is called {name:?}");
    // One copy for all, so that cargo builds anew only what a patch touches. It is made anew, and its files are new,
    // because cargo would take a restored old file for the one it has already built.
    let copy = root.join("target/mutants");
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    std::fs::create_dir_all(&copy)?;
    run(Command::new("cp").arg("--recursive").args(COPIED).arg(&copy).current_dir(root))?;
    let mut unnoticed = Vec::new();
    for patch in &patches {
        let began = Instant::now();
        apply(patch, &copy, &[])
            .with_context(|| format!("{} does not apply any more: write it anew", patch.display()))?;
        let verdict = simulate(root, &copy)?;
        apply(patch, &copy, &["--reverse"])?;
        report(patch, verdict.as_deref(), began);
        if verdict.is_none() {
            unnoticed.push(patch.display().to_string());
        }
    }
    if !unnoticed.is_empty() {
        bail!("the simulator did not notice {}", unnoticed.join(", "));
    }
    Ok(())
}

fn apply(patch: &Path, copy: &Path, options: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("patch");
    command.args(["-p1", "--quiet", "--no-backup-if-mismatch"]).args(options).arg("-i").arg(patch);
    run(command.current_dir(copy))
}

/// Runs the copy's simulator; returns its first complaint, or nothing if every seed held.
fn simulate(root: &Path, copy: &Path) -> anyhow::Result<Option<String>> {
    let target = root.join("target");
    let cargo = |verb: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg(verb).args(["--quiet", "--profile", "sim", "-p", "plimsoll-sim", "--example", "seeds"]);
        cargo.env("CARGO_TARGET_DIR", &target).current_dir(copy);
        cargo
    };
    run(&mut cargo("build")).context("the mutant does not build")?;
    let output = cargo("run").args(["--", SEEDS, STEPS]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(Some(said.lines().next().unwrap_or("it failed without a word").to_owned()))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a command")]
fn report(patch: &Path, verdict: Option<&str>, began: Instant) {
    let name = patch.file_stem().unwrap_or_default().to_string_lossy();
    let verdict = verdict.unwrap_or("NOT NOTICED");
    println!("{name:<26} {:>4} s  {verdict}", began.elapsed().as_secs());
}
