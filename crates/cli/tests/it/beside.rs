//! What people ask of running copies: commands beside them, files, what they say and use, and where they are.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::plane::{BASE, Plane};
use super::up::until;

/// An App that says a line for each second, and listens.
fn talker(plane: &Plane) {
    let script = "import os,sys,http.server\n\
                  open('pid', 'w').write(str(os.getpid()))\n\
                  print('hello from', os.environ['WHO'], flush=True)\n\
                  if os.path.exists('die'): os.remove('die'); print('dying', flush=True); sys.exit(3)\n\
                  server = http.server.HTTPServer(('', int(os.environ['PORT'])), http.server.BaseHTTPRequestHandler)\n\
                  server.serve_forever()\n";
    let app = json!({"spec": {"components": {"main": {
        "command": ["python3", "-c", script],
        "env": {"WHO": "talker"},
        "ports": {"http": 8000},
        "update": {"soak": "1ms"},
    }}}});
    plane.must("PUT", "/projects/default/apps/talker", &app);
    let settled = || plane.must("GET", "/projects/default/apps/talker", &Value::Null);
    until("settled", settled, |app| app["status"]["outcome"]["state"] == "settled");
    let said = || plane.carry_out(&["logs", "talker"]);
    until("its first words", said, |said| said.contains("hello from talker"));
}

impl Plane {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env("PLIMSOLL_DATA_DIR", self.data());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

#[test]
fn a_command_runs_where_the_program_does() {
    let plane = Plane::new();
    talker(&plane);
    let output = plane.run(&["exec", "talker", "--", "sh", "-c", "echo out $WHO; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "out talker\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "err\n");
    let missing = plane.run(&["exec", "talker", "--", "/no/such/program"]);
    assert!(!missing.status.success());
    assert!(plane.refused(&["exec", "nobody", "--", "true"]).contains("there is no app"));

    // Input is passed on to its end, and a large answer comes whole.
    let mut cat = plane.command(&["exec", "-i", "talker", "--", "cat"]).spawn().unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut input = cat.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
    let output = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == sent, "{} bytes came", output.stdout.len());

    // A terminal is one, of the size that was said; `script` gives the command one here.
    let ask = format!("{} exec -t talker -- sh -c 'test -t 0 && stty size'", env!("CARGO_BIN_EXE_plimsoll"));
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 33 cols 101; {ask}"), "/dev/null"]);
    let output = script.env("PLIMSOLL_DATA_DIR", plane.data()).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("33 101"), "{output:?}");

    // Whoever may only read may not, and what was done is on record.
    plane.project("default", &json!({"viewer": "viewer"}));
    let token = plane.token("viewer", "viewer");
    let path = format!("{BASE}/projects/default/apps/talker/exec?command=%5B%22true%22%5D");
    assert_eq!(plane.ask(&token, "GET", &path, None).status, 403);
    assert_eq!(plane.ask(&plane.admin, "GET", &path, None).status, 400, "it is no WebSocket");
    assert!(plane.carry_out(&["audit"]).contains("exec"));
}

#[test]
fn a_command_ends_with_its_client() {
    let plane = Plane::new();
    talker(&plane);
    let mut exec =
        plane.command(&["exec", "talker", "--", "sh", "-c", "echo begun; exec sleep 12345"]).spawn().unwrap();
    let mut said = BufReader::new(exec.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "begun");
    exec.kill().unwrap();
    exec.wait().unwrap();
    let left = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(b"sleep\x0012345\0")).count()
    };
    until("its end", left, |left| *left == 0);
}

#[test]
fn files_go_in_and_come_out() {
    let plane = Plane::new();
    talker(&plane);
    let file = plane.directory.path().join("note.txt");
    std::fs::write(&file, "a note").unwrap();
    plane.carry_out(&["cp", file.to_str().unwrap(), "talker:"]);
    assert_eq!(plane.carry_out(&["exec", "talker", "--", "cat", "note.txt"]), "a note");
    let back = plane.directory.path().join("back");
    std::fs::create_dir(&back).unwrap();
    plane.carry_out(&["cp", "talker:note.txt", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back.join("note.txt")).unwrap(), "a note");
    plane.refused(&["cp", "talker:nothing", back.to_str().unwrap()]);
}

#[test]
fn what_copies_say_is_followed_over_restarts() {
    let plane = Plane::new();
    talker(&plane);
    let mut follow = plane.command(&["logs", "-f", "talker"]).spawn().unwrap();
    let mut said = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.next().unwrap().ends_with("hello from talker"));
    plane.carry_out(&["exec", "talker", "--", "sh", "-c", "touch die; kill $(cat pid)"]);
    assert!(said.next().unwrap().ends_with("hello from talker"), "the next run");
    assert!(said.next().unwrap().ends_with("dying"));
    assert!(said.next().unwrap().ends_with("hello from talker"), "and the one after it");
    follow.kill().unwrap();
    follow.wait().unwrap();
    let previous = plane.carry_out(&["logs", "--previous", "talker"]);
    assert!(previous.contains("dying"), "{previous}");
    let lines = previous.lines().count();
    assert_eq!(plane.carry_out(&["logs", "talker"]).lines().count(), lines + 1, "{previous}");
}

#[test]
fn copies_are_found_and_measured() {
    let plane = Plane::new();
    talker(&plane);
    let top = plane.carry_out(&["top"]);
    assert!(top.contains("talker") && top.contains("Mi"), "{top}");
    let path = format!("{BASE}/projects/default/http_sd");
    let answer = plane.ask(&plane.admin, "GET", &path, None);
    let target = answer.json()[0].clone();
    assert_eq!(target["labels"]["__meta_plimsoll_app"], "talker", "{target}");
    let address: std::net::SocketAddr = target["targets"][0].as_str().unwrap().parse().unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok(), "it is reached there: {address}");
    let tag = answer.etag.unwrap();
    let again = plane.ask_as(&plane.admin, "GET", &path, &[("If-None-Match", &tag)], None);
    assert_eq!(again.status, 304);
    plane.project("empty", &json!({}));
    let empty = plane.ask(&plane.admin, "GET", &format!("{BASE}/projects/empty/http_sd"), None);
    assert_eq!((empty.status, empty.text.as_str()), (200, "[]"));
}
