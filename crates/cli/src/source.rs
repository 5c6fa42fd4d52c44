//! What people hand over: a file of declarations and the program files it names.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use plimsoll_model::AppSpec;
use plimsoll_model::id::Digest;

/// The largest program file that is read, in bytes.
const LARGEST_PROGRAM: u64 = 64 << 20;

/// A file of declarations.
pub(crate) struct Source {
    /// Its name, for messages.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) text: Vec<u8>,
    /// What the paths in it are relative to.
    base: PathBuf,
}

impl Source {
    /// Reads a file, or standard input for `-`.
    pub(crate) fn read(file: &str) -> anyhow::Result<Self> {
        if file == "-" {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).context("standard input cannot be read")?;
            return Ok(Self { name: "standard input".into(), text, base: PathBuf::from(".") });
        }
        let text = std::fs::read(file).with_context(|| format!("{file} cannot be read"))?;
        // The parent of a bare file name is the empty path, which stands for this directory.
        let parent = Path::new(file).parent().filter(|parent| *parent != Path::new(""));
        Ok(Self { name: file.to_owned(), text, base: parent.unwrap_or(Path::new(".")).to_owned() })
    }

    /// Fills in the digest of every program file, after `keep` took its bytes.
    pub(crate) fn add_digests(
        &self,
        spec: &mut AppSpec,
        keep: impl Fn(&[u8]) -> anyhow::Result<Digest>,
    ) -> anyhow::Result<()> {
        let root =
            self.base.canonicalize().with_context(|| format!("{} cannot be read", self.base.display()))?;
        for (name, component) in &mut spec.components {
            let Some(program) = &mut component.program else { continue };
            let (Some(file), None) = (&program.file, program.digest) else { continue };
            let bytes = read_program(&self.base.join(file), &root)
                .with_context(|| format!("{}: component {name}: program {file}", self.name))?;
            program.digest = Some(keep(&bytes)?);
        }
        Ok(())
    }
}

fn read_program(path: &Path, root: &Path) -> anyhow::Result<Vec<u8>> {
    let real = path.canonicalize().context("it cannot be read")?;
    if !real.starts_with(root) {
        bail!("it leads out of {} by a link", root.display());
    }
    let size = real.metadata().context("it cannot be read")?.len();
    if size > LARGEST_PROGRAM {
        bail!("it has {size} bytes, more than the {LARGEST_PROGRAM} allowed");
    }
    std::fs::read(&real).context("it cannot be read")
}
