//! What people hand over: a file of declarations and the program files it names.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ignore::WalkBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use plimsoll_model::AppSpec;
use plimsoll_model::id::Digest;
use plimsoll_model::revision::{ListedFile, Listing};

use crate::bundle::text_of;

/// The largest program file that is read, in bytes.
const LARGEST_PROGRAM: u64 = 64 << 20;

/// The most files of a program's directory.
const MOST_FILES: usize = 10_000;

/// Names what stays behind of a program's directory.
const IGNORED: &str = ".plimsollignore";

/// Names what engines do not see of a tree.
const DOCKERIGNORE: &str = ".dockerignore";

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
        let text = text_of(file)?;
        if file == "-" {
            return Ok(Self::of("standard input", text));
        }
        // The parent of a bare file name is the empty path, which stands for this directory.
        let parent = Path::new(file).parent().filter(|parent| *parent != Path::new(""));
        Ok(Self { name: file.to_owned(), text, base: parent.unwrap_or(Path::new(".")).to_owned() })
    }

    /// A text from elsewhere; paths in it are relative to this directory.
    pub(crate) fn of(name: &str, text: Vec<u8>) -> Self {
        Self { name: name.to_owned(), text, base: PathBuf::from(".") }
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
            if let Some(source) = component.source.as_mut().filter(|source| source.digest.is_none()) {
                let place = |path| format!("{}: component {name}: source {path}", self.name);
                if let Some(archive) = &source.archive {
                    let bytes =
                        read_program(&self.base.join(archive), &root).with_context(|| place(archive))?;
                    source.digest = Some(keep(&bytes)?);
                } else if let Some(path) = &source.path {
                    let digest = keep_tree(&self.base.join(path), &root, &Leave::of_source(), None, &keep);
                    source.digest = Some(digest.with_context(|| place(path))?);
                }
            }
            let Some(program) = &mut component.program else { continue };
            if program.digest.is_some() {
                continue;
            }
            let place = |path| format!("{}: component {name}: program {path}", self.name);
            if let Some(file) = &program.file {
                let bytes = read_program(&self.base.join(file), &root).with_context(|| place(file))?;
                program.digest = Some(keep(&bytes)?);
            } else if let Some(directory) = &program.directory {
                let entry = program.entry.as_deref();
                let digest = keep_tree(&self.base.join(directory), &root, &Leave::of_program(), entry, &keep);
                program.digest = Some(digest.with_context(|| place(directory))?);
            }
        }
        Ok(())
    }
}

/// What stays behind of a tree, beside `.git`.
struct Leave {
    /// Files that name it, as `.gitignore` does; they stay behind too.
    named_in: &'static [&'static str],
    /// Whether `.dockerignore` at its top names it too, as engines read that.
    by_engine: bool,
}

impl Leave {
    fn of_program() -> Self {
        Self { named_in: &[IGNORED], by_engine: false }
    }

    fn of_source() -> Self {
        Self { named_in: &[IGNORED, ".gitignore"], by_engine: true }
    }

    /// What `.dockerignore` names. Its patterns begin at the top, where those of git may begin anywhere.
    fn by_engine(&self, directory: &Path) -> anyhow::Result<Gitignore> {
        let mut patterns = GitignoreBuilder::new("");
        let text = match std::fs::read_to_string(directory.join(DOCKERIGNORE)) {
            Ok(text) if self.by_engine => text,
            Ok(_) => return Ok(Gitignore::empty()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Gitignore::empty()),
            Err(error) => return Err(error).context(DOCKERIGNORE),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (but, pattern) = line.strip_prefix('!').map_or(("", line), |pattern| ("!", pattern.trim()));
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            patterns
                .add_line(None, &format!("{but}/{pattern}"))
                .with_context(|| format!("{DOCKERIGNORE}: {line}"))?;
        }
        // What says how it is built is needed in any case.
        for name in ["Dockerfile", DOCKERIGNORE] {
            patterns.add_line(None, &format!("!/{name}"))?;
        }
        patterns.build().context(DOCKERIGNORE)
    }
}

/// Hands over every file of a tree, then its listing.
fn keep_tree(
    directory: &Path,
    root: &Path,
    leave: &Leave,
    entry: Option<&str>,
    keep: &impl Fn(&[u8]) -> anyhow::Result<Digest>,
) -> anyhow::Result<Digest> {
    let real = directory.canonicalize().context("it cannot be read")?;
    if !real.starts_with(root) {
        bail!("it leads out of {} by a link", root.display());
    }
    if !real.is_dir() {
        bail!("it is no directory: give `file:` instead");
    }
    let mut walk = WalkBuilder::new(&real);
    walk.standard_filters(false);
    for name in leave.named_in {
        walk.add_custom_ignore_filename(name);
    }
    let by_engine = leave.by_engine(&real)?;
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let (mut files, mut size) = (BTreeMap::new(), 0);
    for found in walk.build() {
        let found = found.context("it cannot be read")?;
        let path = found.path().strip_prefix(&real).unwrap_or(found.path());
        let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        let real_file = found.path().canonicalize().with_context(|| format!("{name} cannot be read"))?;
        if real_file.is_dir() && found.path_is_symlink() {
            bail!("{name} is a link to a directory; name what it leads to instead");
        }
        let is_left = by_engine.matched_path_or_any_parents(path, false).is_ignore();
        if real_file.is_dir() || name == IGNORED || is_left {
            continue;
        }
        let metadata = real_file.metadata().with_context(|| format!("{name} cannot be read"))?;
        if !metadata.is_file() {
            bail!("{name} is neither a file nor a directory");
        }
        size += metadata.len();
        if size > LARGEST_PROGRAM || files.len() == MOST_FILES {
            bail!(
                "it holds more than {LARGEST_PROGRAM} bytes or {MOST_FILES} files; name what the program does not need in {IGNORED}"
            );
        }
        let bytes = read_program(&real_file, root).with_context(|| name.to_owned())?;
        let executable = metadata.permissions().mode() & 0o100 != 0;
        files.insert(name.to_owned(), ListedFile { digest: keep(&bytes)?, executable });
    }
    if let Some(entry) = entry
        && !files.contains_key(entry.trim_start_matches("./"))
    {
        bail!("it holds no {entry}, which is its `entry`");
    }
    keep(&serde_json::to_vec(&Listing { files })?)
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
