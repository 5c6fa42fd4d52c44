//! Archives: tar, tgz and zip, from people whom nobody knows.

use std::io::{self, Read, Seek};

use flate2::read::MultiGzDecoder;
use tar::EntryType;
use zip::ZipArchive;

use crate::context::{Context, Limits, PackError, Packer};

/// The kind of file in the upper bits of a Unix mode, and two of its values.
const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The longest target of a link in a zip archive.
const LONGEST_LINK: u64 = 4096;

/// Bytes of the longest extension of an entry.
const LONGEST_EXTENSION: u64 = 64 << 10;

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is none that is known.
    #[error("it is no archive of tar, tgz or zip")]
    Unknown,
    /// It is broken.
    #[error("the archive is broken: {0}")]
    Broken(String),
    /// Something in it.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Reads an archive into a context of one of its directories, or of all of it.
///
/// # Errors
/// [`ArchiveError`]; nothing of it is to be used then.
pub fn read(
    mut file: std::fs::File,
    directory: Option<&str>,
    limits: Limits,
) -> Result<Context, ArchiveError> {
    let length = file.metadata().map_err(PackError::Io)?.len();
    let mut head = [0; 262];
    let mut known = 0;
    while known < head.len() {
        match file.read(&mut head[known..]).map_err(PackError::Io)? {
            0 => break,
            more => known += more,
        }
    }
    file.rewind().map_err(PackError::Io)?;
    let mut packer = Packer::new(directory, limits).map_err(PackError::Io)?;
    packer.of_archive(length);
    match &head[..known] {
        [0x1f, 0x8b, ..] => {
            check_tar(MultiGzDecoder::new(&file), length, limits)?;
            file.rewind().map_err(PackError::Io)?;
            read_tar(MultiGzDecoder::new(file), &mut packer)?;
        }
        [b'P', b'K', 3, 4, ..] => read_zip(file, &mut packer)?,
        head if head.get(257..262) == Some(b"ustar") => {
            check_tar(&file, length, limits)?;
            file.rewind().map_err(PackError::Io)?;
            read_tar(file, &mut packer)?;
        }
        _ => return Err(ArchiveError::Unknown),
    }
    Ok(packer.finish()?)
}

/// Looks at what entries claim before any is believed: long names and other extensions are read into memory as a whole.
fn check_tar(archive: impl Read, packed: u64, limits: Limits) -> Result<(), ArchiveError> {
    let most = limits.bytes.min(packed.saturating_mul(limits.ratio).max(Limits::SMALL));
    // Each entry has a header and is filled up; one more byte than that is too much.
    let most = most.saturating_add(limits.entries as u64 * 4096);
    let mut archive = tar::Archive::new(archive.take(most));
    let mut entries = 0;
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        entries += 1;
        if entries > limits.entries.saturating_mul(2) {
            return Err(PackError::Entries(limits.entries).into());
        }
        let kind = entry.header().entry_type();
        let is_extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if is_extension && entry.size() > LONGEST_EXTENSION {
            return Err(ArchiveError::Broken(format!("an extension has {} bytes", entry.size())));
        }
        if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
            let mut records = Vec::new();
            entry.read_to_end(&mut records).map_err(broken)?;
            for record in tar::PaxExtensions::new(&records) {
                // The second reading would find other entries than this one has looked at.
                if record.map_err(broken)?.key_bytes() == b"size" {
                    return Err(ArchiveError::Broken("an extension says another size".to_owned()));
                }
            }
        }
        if entry.size() > limits.bytes {
            return Err(PackError::Bytes(limits.bytes).into());
        }
    }
    Ok(())
}

fn read_tar(archive: impl Read, packer: &mut Packer) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        let path = text(&entry.path_bytes())?;
        let to = match entry.link_name_bytes() {
            Some(to) => Some(text(&to)?),
            None => None,
        };
        match (kind, to) {
            // What git says of a whole archive.
            (EntryType::XGlobalHeader, _) => {}
            (EntryType::Regular | EntryType::Continuous, _) => {
                let executable = entry.header().mode().map_err(broken)? & 0o100 != 0;
                packer.file(&path, executable, &mut entry)?;
            }
            (EntryType::Directory, _) => packer.directory(&path)?,
            (EntryType::Symlink, Some(to)) => packer.link(&path, &to)?,
            (EntryType::Link, Some(to)) => packer.hard_link(&path, &to)?,
            _ => return Err(PackError::NoFile(path).into()),
        }
    }
    Ok(())
}

fn read_zip(archive: impl Read + Seek, packer: &mut Packer) -> Result<(), ArchiveError> {
    let broken = |error: zip::result::ZipError| ArchiveError::Broken(error.to_string());
    let mut archive = ZipArchive::new(archive).map_err(broken)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let path = entry.name().map_err(broken)?.into_owned();
        if path.contains('\\') {
            return Err(PackError::Name(path).into());
        }
        let mode = entry.unix_mode().unwrap_or(0o644);
        match mode & KIND {
            _ if entry.is_dir() => packer.directory(&path)?,
            LINK => {
                let mut to = String::new();
                (&mut entry).take(LONGEST_LINK).read_to_string(&mut to).map_err(self::broken)?;
                packer.link(&path, &to)?;
            }
            0 | FILE => packer.file(&path, mode & 0o100 != 0, &mut entry)?,
            _ => return Err(PackError::NoFile(path).into()),
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped with")]
fn broken(error: io::Error) -> ArchiveError {
    ArchiveError::Broken(error.to_string())
}

fn text(bytes: &[u8]) -> Result<String, ArchiveError> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| PackError::Name(String::from_utf8_lossy(bytes).into_owned()).into())
}
