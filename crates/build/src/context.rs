//! What an engine is sent: files of a source, and nothing that leads out of it.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek as _, Write as _};

use tar::{Builder, EntryType, Header};

use crate::recipe::{LARGEST_TEXT, Root, is_read};

/// How much a source may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of all files for each byte of the archive that holds them, once they are more than [`Limits::SMALL`].
    pub ratio: u64,
}

impl Limits {
    /// Below this, an archive may be packed as well as it likes.
    pub const SMALL: u64 = 10 << 20;

    /// What sources may hold.
    pub const USUAL: Self = Self { entries: 100_000, bytes: 1 << 30, ratio: 200 };
}

/// Directories within each other.
const DEEPEST: usize = 64;

/// Why something of a source is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It would lie elsewhere.
    #[error("{0:?} leads out of the source")]
    Outside(String),
    /// A link that leads elsewhere.
    #[error("{path} is a link to {to:?}, which leads out of the source")]
    LinkOutside {
        /// The link.
        path: String,
        /// Where it leads.
        to: String,
    },
    /// Something that would lie behind a link.
    #[error("{0} would lie behind a link")]
    BehindLink(String),
    /// Two things of one name.
    #[error("{0} is there twice")]
    Twice(String),
    /// Neither a file nor a directory nor a link.
    #[error("{0} is a device or something else that is no file")]
    NoFile(String),
    /// A name that cannot be one.
    #[error("{0:?} is no name of a file")]
    Name(String),
    /// Too many of them.
    #[error("there are more than {0} files")]
    Entries(usize),
    /// Too much in them.
    #[error("its files have more than {0} bytes")]
    Bytes(u64),
    /// A small archive of very much.
    #[error("its files have more than {0} times the bytes of the archive")]
    Ratio(u64),
    /// The directory that is to be built is not in it.
    #[error("there is no directory {0}")]
    NoDirectory(String),
    /// The file that says how it is built cannot be understood.
    #[error("{0} is no plain text file of at most {1} KiB in the directory that is built")]
    NoText(String, u64),
    /// Too many directories within each other.
    #[error("{0} lies more than {DEEPEST} directories deep")]
    Deep(String),
    /// It cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(String, #[source] io::Error),
    /// There is no room for it.
    #[error("there is no room for it")]
    Io(#[from] io::Error),
}

/// A context, ready to be sent.
#[derive(Debug)]
pub struct Context {
    /// The archive, from its beginning.
    pub tar: std::fs::File,
    /// What a recipe is chosen by.
    pub root: Root,
}

/// Takes a source's files into a context.
pub struct Packer {
    out: Builder<std::fs::File>,
    /// The directory of the source that is built, with `/` at its end; empty for all of it.
    directory: String,
    limits: Limits,
    /// Bytes of the archive that is read, if one is.
    packed: Option<u64>,
    entries: usize,
    bytes: u64,
    files: BTreeSet<String>,
    links: BTreeSet<String>,
    directories: BTreeSet<String>,
    root: Root,
}

impl Packer {
    /// An empty context of a directory of the source. The file it is written to has no name.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn new(directory: Option<&str>, limits: Limits) -> io::Result<Self> {
        let parts = directory.unwrap_or_default().split('/').filter(|part| !part.is_empty() && *part != ".");
        let directory: String = parts.flat_map(|part| [part, "/"]).collect();
        Ok(Self {
            out: Builder::new(tempfile::tempfile()?),
            directory,
            limits,
            packed: None,
            entries: 0,
            bytes: 0,
            files: BTreeSet::new(),
            links: BTreeSet::new(),
            directories: BTreeSet::new(),
            root: Root::default(),
        })
    }

    /// Says how long the archive is that the files come from.
    pub(crate) fn of_archive(&mut self, length: u64) {
        self.packed = Some(length);
    }

    /// Takes a file.
    ///
    /// # Errors
    /// [`PackError`], and nothing of the source is to be used then.
    pub fn file(&mut self, path: &str, executable: bool, mut content: impl Read) -> Result<(), PackError> {
        let path = self.enter(path)?;
        if !self.files.insert(path.clone()) || self.directories.contains(&path) || self.links.contains(&path)
        {
            return Err(PackError::Twice(path));
        }
        // The size comes before the bytes, and is not to be believed before they were read.
        let mut bytes = tempfile::spooled_tempfile(1 << 20);
        let room = self.room();
        let size =
            copy(&mut (&mut content).take(room.saturating_add(1)), &mut bytes).map_err(
                |failed| match failed {
                    Failed::Reading(error) => PackError::Unreadable(path.clone(), error),
                    Failed::Writing(error) => PackError::Io(error),
                },
            )?;
        if size > room {
            return Err(self.too_much());
        }
        self.bytes += size;
        bytes.rewind()?;
        let Some(inside) = self.inside(&path).map(str::to_owned) else { return Ok(()) };
        if is_read(&inside) && size <= LARGEST_TEXT {
            let mut text = Vec::new();
            bytes.read_to_end(&mut text)?;
            self.root.texts.insert(inside.clone(), String::from_utf8_lossy(&text).into_owned());
            bytes.rewind()?;
        }
        self.root.note(&inside);
        let mut header = header(EntryType::Regular, if executable { 0o755 } else { 0o644 });
        header.set_size(size);
        self.out.append_data(&mut header, &inside, bytes)?;
        Ok(())
    }

    /// Takes a directory.
    ///
    /// # Errors
    /// As [`Packer::file`].
    pub fn directory(&mut self, path: &str) -> Result<(), PackError> {
        if normal(path)?.is_empty() {
            return Ok(());
        }
        let path = self.enter(path)?;
        if self.files.contains(&path) || self.links.contains(&path) {
            return Err(PackError::Twice(path));
        }
        self.directories.insert(path.clone());
        if let Some(inside) = self.inside(&path).map(str::to_owned) {
            let mut header = header(EntryType::Directory, 0o755);
            header.set_size(0);
            self.out.append_data(&mut header, format!("{inside}/"), io::empty())?;
        }
        Ok(())
    }

    /// Takes a symbolic link to something in the source.
    ///
    /// # Errors
    /// As [`Packer::file`].
    pub fn link(&mut self, path: &str, to: &str) -> Result<(), PackError> {
        let path = self.enter(path)?;
        let outside = || PackError::LinkOutside { path: path.clone(), to: to.to_owned() };
        // What leads up may do so only at its beginning: after a link, up is somewhere else than the text says.
        let parts: Vec<&str> = to.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let up = parts.iter().take_while(|part| **part == "..").count();
        let from = self.inside(&path).unwrap_or(&path);
        let is_within = up <= from.matches('/').count() && !parts[up..].contains(&"..");
        if to.starts_with('/') || to.contains('\0') || to.is_empty() || !is_within {
            return Err(outside());
        }
        if self.files.contains(&path) || self.directories.contains(&path) || !self.links.insert(path.clone())
        {
            return Err(PackError::Twice(path));
        }
        if let Some(inside) = self.inside(&path).map(str::to_owned) {
            self.root.note(&inside);
            let mut header = header(EntryType::Symlink, 0o777);
            header.set_size(0);
            self.out.append_link(&mut header, &inside, to)?;
        }
        Ok(())
    }

    /// Takes another name of a file that was taken before.
    ///
    /// # Errors
    /// As [`Packer::file`].
    pub fn hard_link(&mut self, path: &str, to: &str) -> Result<(), PackError> {
        let path = self.enter(path)?;
        let target = normal(to)?;
        let outside = || PackError::LinkOutside { path: path.clone(), to: to.to_owned() };
        if !self.files.contains(&target) {
            return Err(outside());
        }
        if self.directories.contains(&path) || self.links.contains(&path) || !self.files.insert(path.clone())
        {
            return Err(PackError::Twice(path));
        }
        if let Some(inside) = self.inside(&path).map(str::to_owned) {
            let target = self.inside(&target).ok_or_else(outside)?.to_owned();
            self.root.note(&inside);
            let mut header = header(EntryType::Link, 0o644);
            header.set_size(0);
            self.out.append_link(&mut header, &inside, &target)?;
        }
        Ok(())
    }

    /// The context, when all of the source was taken.
    ///
    /// # Errors
    /// When the directory is not there, or there is no room.
    pub fn finish(self) -> Result<Context, PackError> {
        if !self.directory.is_empty() && self.root.names.is_empty() {
            return Err(PackError::NoDirectory(self.directory.trim_end_matches('/').to_owned()));
        }
        let mut tar = self.out.into_inner()?;
        tar.flush()?;
        tar.rewind()?;
        Ok(Context { tar, root: self.root })
    }

    /// Counts an entry, and says how its path is written here.
    fn enter(&mut self, path: &str) -> Result<String, PackError> {
        self.count()?;
        let path = normal(path)?;
        if path.is_empty() {
            return Err(PackError::Name(path));
        }
        if path.matches('/').count() > DEEPEST {
            return Err(PackError::Deep(path));
        }
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            if self.links.contains(parent) {
                return Err(PackError::BehindLink(path));
            }
            if self.files.contains(parent) {
                return Err(PackError::Twice(parent.to_owned()));
            }
            if !self.directories.insert(parent.to_owned()) {
                break;
            }
            // The engine makes it, whether or not anybody names it.
            self.count()?;
            above = parent;
        }
        Ok(path)
    }

    fn count(&mut self) -> Result<(), PackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(PackError::Entries(self.limits.entries));
        }
        Ok(())
    }

    /// The path within the directory that is built, if it is in there.
    fn inside<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.directory).filter(|rest| !rest.is_empty())
    }

    /// Bytes that may still come.
    fn room(&self) -> u64 {
        let most = self
            .packed
            .map_or(u64::MAX, |packed| (packed.saturating_mul(self.limits.ratio)).max(Limits::SMALL));
        self.limits.bytes.min(most).saturating_sub(self.bytes)
    }

    fn too_much(&self) -> PackError {
        let packed = self.packed.unwrap_or(u64::MAX);
        let by_ratio = packed.saturating_mul(self.limits.ratio).max(Limits::SMALL);
        if by_ratio < self.limits.bytes {
            PackError::Ratio(self.limits.ratio)
        } else {
            PackError::Bytes(self.limits.bytes)
        }
    }
}

impl Context {
    /// The text of a plain file in it.
    ///
    /// # Errors
    /// When there is no such file, or it is a link, no text, or too long.
    pub fn text(&mut self, path: &str) -> Result<String, PackError> {
        let path = normal(path)?;
        self.tar.rewind()?;
        let mut found = None;
        let mut archive = tar::Archive::new(&self.tar);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            if entry.path_bytes() == path.as_bytes() {
                if entry.header().entry_type() == EntryType::Regular && entry.size() <= LARGEST_TEXT {
                    let mut text = Vec::new();
                    entry.take(LARGEST_TEXT).read_to_end(&mut text)?;
                    found = String::from_utf8(text).ok();
                }
                break;
            }
        }
        self.tar.rewind()?;
        found.ok_or(PackError::NoText(path, LARGEST_TEXT >> 10))
    }

    /// Adds a file of our own, such as the one that says how the rest is built.
    ///
    /// # Errors
    /// When there is no room.
    pub fn with_file(self, name: &str, text: &str) -> io::Result<Self> {
        let Self { mut tar, root } = self;
        // Its end is two empty blocks; more entries come in their place.
        let end = tar.seek(io::SeekFrom::End(-1024))?;
        tar.set_len(end)?;
        let mut out = Builder::new(tar);
        let mut header = header(EntryType::Regular, 0o644);
        header.set_size(text.len() as u64);
        out.append_data(&mut header, name, text.as_bytes())?;
        let mut tar = out.into_inner()?;
        tar.rewind()?;
        Ok(Self { tar, root })
    }
}

/// Which end of a copy has failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> Result<u64, Failed> {
    let (mut piece, mut size) = (vec![0; 64 << 10], 0);
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => return Ok(size),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failed::Reading(error)),
        };
        to.write_all(&piece[..length]).map_err(Failed::Writing)?;
        size += length as u64;
    }
}

/// Times and owners are nobody's business: the same files are the same context.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A path without what says nothing.
fn normal(path: &str) -> Result<String, PackError> {
    if path.starts_with('/') {
        return Err(PackError::Outside(path.to_owned()));
    }
    if path.contains('\0') || path.len() > 4096 {
        return Err(PackError::Name(path.to_owned()));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(PackError::Outside(path.to_owned()));
    }
    Ok(parts.join("/"))
}
