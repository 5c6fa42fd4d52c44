//! Archives that want more than to be read.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use plimsoll_build::{ArchiveError, Context, Limits, PackError, archive};
use tar::{Builder, EntryType, Header};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An entry of tar as nobody but an attacker would write it.
fn entry(kind: EntryType, path: &str, to: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_size(content.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..path.len()].copy_from_slice(path.as_bytes());
    gnu.linkname[..to.len()].copy_from_slice(to.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", content.as_bytes())
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn zipped(write: impl FnOnce(&mut ZipWriter<std::io::Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    write(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::default());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn read_within(bytes: &[u8], directory: Option<&str>, limits: Limits) -> Result<Context, ArchiveError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    archive::read(file, directory, limits)
}

fn read(bytes: &[u8]) -> Result<Context, ArchiveError> {
    read_within(bytes, None, Limits::USUAL)
}

fn refused(bytes: &[u8]) -> PackError {
    match read(bytes) {
        Err(ArchiveError::Pack(error)) => error,
        other => panic!("it is taken, or otherwise: {other:?}"),
    }
}

/// What a context holds: files with their content, links with where they lead.
fn held(context: Context) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(context.tar);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        assert_eq!(entry.header().mode().unwrap() & 0o7000, 0, "{path}: nothing gives rights");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if let Some(to) = entry.link_name().unwrap() {
            text = format!("-> {}", to.display());
        }
        found.insert(path, text);
    }
    found
}

fn pair(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

#[test]
fn archives_of_all_forms_are_read() {
    let plain = tar(&[
        entry(EntryType::Directory, "./app/", "", b""),
        file("./app/main.py", "print()"),
        entry(EntryType::Symlink, "./app/link", "../app/main.py", b""),
        entry(EntryType::Link, "./app/twin", "./app/main.py", b""),
    ]);
    let wanted = BTreeMap::from([
        pair("app/", ""),
        pair("app/main.py", "print()"),
        pair("app/link", "-> ../app/main.py"),
        pair("app/twin", "-> app/main.py"),
    ]);
    assert_eq!(held(read(&plain).unwrap()), wanted);
    assert_eq!(held(read(&packed(&plain)).unwrap()), wanted);
    let zip = zipped(|zip| {
        zip.start_file("app/main.py", SimpleFileOptions::default()).unwrap();
        zip.write_all(b"print()").unwrap();
        zip.add_symlink("app/link", "main.py", SimpleFileOptions::default()).unwrap();
    });
    let wanted = BTreeMap::from([pair("app/main.py", "print()"), pair("app/link", "-> main.py")]);
    assert_eq!(held(read(&zip).unwrap()), wanted);
    let context = read_within(&plain, Some("./app"), Limits::USUAL);
    assert!(
        matches!(context, Err(ArchiveError::Pack(PackError::LinkOutside { .. }))),
        "it leads out of what is built"
    );
    let inside = tar(&[file("app/main.py", "print()"), file("other", "x")]);
    let context =
        read_within(&inside, Some("app"), Limits::USUAL).unwrap().with_file("Dockerfile", "FROM x").unwrap();
    assert!(context.root.names.contains("main.py"));
    assert_eq!(held(context), BTreeMap::from([pair("main.py", "print()"), pair("Dockerfile", "FROM x")]));
    let nowhere = read_within(&inside, Some("web"), Limits::USUAL);
    assert!(matches!(nowhere, Err(ArchiveError::Pack(PackError::NoDirectory(_)))));
    assert!(matches!(read(b"#!/bin/sh"), Err(ArchiveError::Unknown)));
}

#[test]
fn nothing_leads_out_by_its_path() {
    for path in ["../x", "a/../../x", "/etc/passwd", "a/..", "..", "./../x"] {
        assert!(matches!(refused(&tar(&[file(path, "")])), PackError::Outside(_)), "{path}");
        let zip = zipped(|zip| zip.start_file(path, SimpleFileOptions::default()).unwrap());
        let is_refused = matches!(read(&zip), Err(ArchiveError::Pack(PackError::Outside(_))));
        assert!(is_refused, "{path} in a zip");
    }
    let zip = zipped(|zip| zip.start_file("..\\x", SimpleFileOptions::default()).unwrap());
    assert!(matches!(refused(&zip), PackError::Name(_)));
}

#[test]
fn nothing_leads_out_by_a_link() {
    let link = |path: &str, to: &str| entry(EntryType::Symlink, path, to, b"");
    for (path, to) in [("a", "/etc"), ("a", ".."), ("b/a", "../../x"), ("a", "b/../../x"), ("a", "b/..")] {
        let error = refused(&tar(&[link(path, to)]));
        assert!(matches!(error, PackError::LinkOutside { .. }), "{path} -> {to}: {error}");
        let zip = zipped(|zip| zip.add_symlink(path, to, SimpleFileOptions::default()).unwrap());
        assert!(matches!(refused(&zip), PackError::LinkOutside { .. }), "{path} -> {to} in a zip");
    }
    // A link first, and then something behind it.
    let behind = [link("a", "b"), file("a/x", "")];
    assert!(matches!(refused(&tar(&behind)), PackError::BehindLink(_)));
    let replaced = [file("a/x", ""), link("a", "b")];
    assert!(matches!(refused(&tar(&replaced)), PackError::Twice(_)));
    let hard = |to: &str| tar(&[entry(EntryType::Link, "a", to, b"")]);
    assert!(matches!(refused(&hard("/etc/passwd")), PackError::Outside(_)));
    assert!(matches!(refused(&hard("../x")), PackError::Outside(_)));
    assert!(matches!(refused(&hard("not-there")), PackError::LinkOutside { .. }));
    let through = [link("a", "b"), entry(EntryType::Link, "c", "a", b"")];
    assert!(matches!(refused(&tar(&through)), PackError::LinkOutside { .. }));
}

#[test]
fn devices_and_other_things_that_are_no_files_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        let read = read(&tar(&[entry(kind, "dev", "", b"")]));
        let is_refused =
            matches!(read, Err(ArchiveError::Pack(PackError::NoFile(_)) | ArchiveError::Broken(_)));
        assert!(is_refused, "{kind:?}");
    }
    let mut zip = zipped(|zip| {
        zip.start_file("dev", SimpleFileOptions::default().unix_permissions(0o644)).unwrap();
    });
    // The mode is in the upper half of the external attributes, 38 bytes into the entry of the directory.
    let at = zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap() + 38;
    zip[at..at + 4].copy_from_slice(&(0o020_666_u32 << 16).to_le_bytes());
    assert!(matches!(refused(&zip), PackError::NoFile(_)));
}

#[test]
fn names_that_are_there_twice_are_refused() {
    assert!(matches!(refused(&tar(&[file("a", "1"), file("./a", "2")])), PackError::Twice(_)));
    assert!(matches!(refused(&tar(&[file("a", "1"), file("a/b", "2")])), PackError::Twice(_)));
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let few = Limits { entries: 3, ..Limits::USUAL };
    let many: Vec<Vec<u8>> = (0..4).map(|number| file(&format!("f{number}"), "")).collect();
    let entries = read_within(&tar(&many), None, few);
    assert!(matches!(entries, Err(ArchiveError::Pack(PackError::Entries(3)))));

    let small = Limits { bytes: 1000, ..Limits::USUAL };
    let large = read_within(&tar(&[file("a", &"x".repeat(600)), file("b", &"x".repeat(600))]), None, small);
    assert!(matches!(large, Err(ArchiveError::Pack(PackError::Bytes(1000)))));
    let zip = zipped(|zip| {
        zip.start_file("a", SimpleFileOptions::default()).unwrap();
        zip.write_all(&[0; 1200]).unwrap();
    });
    assert!(matches!(read_within(&zip, None, small), Err(ArchiveError::Pack(PackError::Bytes(1000)))));

    // A little that becomes very much.
    let zeros = vec![0; 40 << 20];
    let mut plain = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(zeros.len() as u64);
    plain.append_data(&mut header, "zeros", &zeros[..]).unwrap();
    let bomb = packed(&plain.into_inner().unwrap());
    assert!(matches!(refused(&bomb), PackError::Ratio(200)), "{} bytes", bomb.len());
    let zip = zipped(|zip| {
        zip.start_file("zeros", SimpleFileOptions::default()).unwrap();
        zip.write_all(&zeros).unwrap();
    });
    assert!(matches!(refused(&zip), PackError::Ratio(200)), "{} bytes", zip.len());
    // One that lies about how long it is.
    let mut lying = entry(EntryType::Regular, "a", "", b"");
    lying[124..136].copy_from_slice(b"77777777777\0");
    assert!(read(&tar(&[lying])).is_err());

    // Names are read into memory: they have an end too.
    let name = entry(EntryType::GNULongName, "././@LongLink", "", &vec![b'a'; 1 << 20]);
    assert!(matches!(read(&tar(&[name, file("a", "")])), Err(ArchiveError::Broken(_))));
}

#[test]
fn what_is_broken_is_said_to_be() {
    let whole = packed(&tar(&[file("a", &"content ".repeat(1000))]));
    assert!(matches!(
        read(&whole[..whole.len() / 2]),
        Err(ArchiveError::Broken(_) | ArchiveError::Pack(PackError::Unreadable(..)))
    ));
    assert!(matches!(read(b"PK\x03\x04 and no more"), Err(ArchiveError::Broken(_))));
}

#[test]
fn two_readings_find_the_same_and_nothing_lies_too_deep() {
    let two_sizes = [entry(EntryType::XHeader, "x", "", b"13 size=1024\n"), file("a", "x")];
    assert!(matches!(read(&tar(&two_sizes)), Err(ArchiveError::Broken(_))));
    let deep = format!("{}x", "a/".repeat(40));
    assert!(read(&tar(&[file(&deep, "")])).is_ok());
    let zip = zipped(|zip| {
        zip.start_file(format!("{}x", "a/".repeat(65)), SimpleFileOptions::default()).unwrap();
    });
    assert!(matches!(refused(&zip), PackError::Deep(_)));
    // Directories that nobody names count as well.
    let few = Limits { entries: 20, ..Limits::USUAL };
    let many = read_within(&tar(&[file(&deep, "")]), None, few);
    assert!(matches!(many, Err(ArchiveError::Pack(PackError::Entries(20)))));
}

#[test]
fn the_text_of_a_dockerfile_is_that_of_a_plain_file() {
    let mut context = read(&tar(&[
        file("Dockerfile", "FROM x"),
        entry(EntryType::Symlink, "link", "Dockerfile", b""),
        entry(EntryType::Regular, "bytes", "", b"\xff"),
    ]))
    .unwrap();
    assert_eq!(context.text("./Dockerfile").unwrap(), "FROM x");
    for other in ["link", "bytes", "nothing"] {
        assert!(matches!(context.text(other), Err(PackError::NoText(..))), "{other}");
    }
    let mut head = [0; 10];
    context.tar.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"Dockerfile", "all of it is sent");
}
