//! A full disk, and one that may not be written: requests fail cleanly, what runs runs on, and it goes on by itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::agent::{processes_in, scratch};
use super::plane::{BASE, Plane, sleeper};
use super::up::until;

/// A small file system for a data directory; it goes with this.
struct Disk(PathBuf);

impl Disk {
    fn new(directory: &Path) -> Self {
        let place = directory.join("data");
        std::fs::create_dir(&place).unwrap();
        let disk = Self(place);
        disk.mount(&["-t", "tmpfs", "-o", "size=16m,mode=0711", "tmpfs"]);
        disk
    }

    fn mount(&self, options: &[&str]) {
        let output = Command::new("mount").args(options).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
        // What is not empty is somebody's.
        std::fs::remove_dir(&self.0).ok();
        std::fs::remove_dir(self.0.parent().unwrap()).ok();
    }
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut piece = 1 << 20;
    while piece > 0 {
        if file.write_all(&vec![0; piece]).is_err() {
            piece /= 2;
        }
    }
}

#[test]
fn a_full_disk_or_one_that_may_not_be_written_loses_nothing() {
    let directory = scratch();
    let disk = Disk::new(directory.path());
    let mut plane = Plane::within(directory);
    plane.must("PUT", "/projects/default/apps/web", &sleeper(2));
    let app = |plane: &Plane| plane.must("GET", "/projects/default/apps/web", &Value::Null);
    until("settled", || app(&plane), |app| app["status"]["outcome"]["state"] == "settled");
    let instances = disk.0.join("node/instances");
    let running = || {
        let mut all = processes_in(&instances);
        all.sort_unstable();
        all
    };
    let before = running();
    let put = |plane: &Plane, number: usize| {
        let path = format!("{BASE}/projects/default/secrets/s{number}");
        let body = json!({"spec": {"data": {"k": "x".repeat(4000)}}});
        plane.ask(&plane.admin, "PUT", &path, Some(&body))
    };

    fill(&disk.0.join("filler"));
    let mut written = 0;
    let refused = loop {
        let answer = put(&plane, written);
        if answer.status != 201 {
            break answer;
        }
        written += 1;
        assert!(written < 2000, "the disk is full");
    };
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.text.contains("the store is not available") && refused.text.contains("full"),
        "{}",
        refused.text
    );
    for _ in 0..20 {
        put(&plane, written);
    }
    assert_eq!(app(&plane)["status"]["outcome"]["state"], "settled", "what is there can be read");
    assert_eq!(running(), before);
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    until("room", || put(&plane, written).status, |status| matches!(status, 200 | 201));
    let all = plane.carry_out(&["get", "secrets", "-o", "name"]);
    assert_eq!(all.lines().count(), written + 1, "what was acknowledged is there, and nothing else");
    plane.carry_out(&["audit", "verify"]);
    plane.must("PUT", "/projects/default/apps/web", &sleeper(3));
    until("scaled", running, |now| now.len() > before.len());
    until("settled", || app(&plane), |app| app["status"]["outcome"]["state"] == "settled");

    // A disk that may not be written is said to be that, and nothing that runs is touched.
    let before = running();
    plane.stop();
    let check = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchone()[0])";
    let checked =
        Command::new("python3").args(["-c", check]).arg(disk.0.join("plimsoll.db")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&checked.stdout).trim(), "ok", "{checked:?}");
    // What runs has its own files open: the directory is read only for whoever comes now.
    let closed = disk.0.with_file_name("closed");
    std::fs::create_dir(&closed).unwrap();
    let bound = Command::new("mount").arg("--bind").arg(&disk.0).arg(&closed).status().unwrap();
    assert!(bound.success());
    let closed = Disk(closed);
    closed.mount(&["-o", "remount,bind,ro"]);
    let data = closed.0.display().to_string();
    let said = plane.refused(&["server", "--data-dir", &data]);
    assert!(said.contains(&data) && said.contains("Read-only file system"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    Command::new("umount").arg(&closed.0).status().unwrap();
    plane.start();
    assert_eq!(running(), before);
    until("settled", || app(&plane), |app| app["status"]["outcome"]["state"] == "settled");
}
