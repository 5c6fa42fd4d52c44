//! House rules that no other tool knows.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The most lines of a source file.
const LONGEST: usize = 800;

/// Checks every source file and every crate.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for place in ["crates", "xtask"] {
        collect(&root.join(place), &mut files)?;
    }
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| format!("{name} cannot be read"))?;
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{name} has {lines} lines, more than {LONGEST}: find the two things it does"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not begin by saying what it is for"));
        }
        let is_crate = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        if is_crate && !text.to_lowercase().contains("deliberately absent") && !name.contains("cli/") {
            wrong.push(format!("{name} does not say what is deliberately absent"));
        }
        // Put together here, so that this file does not hold what it looks for.
        for word in
            [["todo", "!("].concat(), ["unimplemented", "!("].concat(), ["thread::", "sleep"].concat()]
        {
            if let Some(line) = text.lines().position(|line| line.contains(&word)) {
                wrong.push(format!("{name}:{} contains {word}", line + 1));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

fn collect(place: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(place).with_context(|| format!("{} cannot be listed", place.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
