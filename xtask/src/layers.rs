//! Crates depend on lower ones only.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// The crates from the lowest layer up; those of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["plimsoll-model", "plimsoll-web"],
    &[
        "plimsoll-testkit",
        "plimsoll-manifest",
        "plimsoll-plan",
        "plimsoll-store",
        "plimsoll-driver",
        "plimsoll-engine",
        "plimsoll-shim",
        "plimsoll-registry",
        "plimsoll-build",
    ],
    &["plimsoll-container", "plimsoll-certificate"],
    &["plimsoll-reconcile", "plimsoll-store-sql", "plimsoll-agent", "plimsoll-router"],
    &["plimsoll-sim", "plimsoll-server"],
    &["plimsoll-api"],
    &["plimsoll-compat"],
    &["plimsoll"],
    &["xtask"],
];

/// Checks every dependency between members of the workspace.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("cargo metadata cannot be started")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = layer(name) else {
            wrong.push(format!("{name} has no layer: give it one in xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (other, is_test) =
                (dependency["name"].as_str().unwrap_or_default(), dependency["kind"] == "dev");
            if layer(other).is_some_and(|other| other >= own) && !is_test && other != name {
                wrong.push(format!("{name} depends on {other}, which is not below it"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}
