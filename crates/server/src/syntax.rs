//! Whether a program is one of its language at all, as the runtime's own tool says. It is read, not run.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::data::random_name;

/// How long a tool may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Tools that run at the same time.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// Whose processes tools are, where we are root: nobody's.
const NOBODY: u32 = 65534;

/// What keeps a tool within limits: seconds of CPU time, blocks of 512 bytes in a file, and no core dumps. The first argument is
/// the tool.
const LIMITED: &str = "ulimit -t 15; ulimit -f 20480; ulimit -c 0; exec \"$@\"";

/// Characters of what a tool says that are passed on, and bytes of it that are kept at all.
const LONGEST: usize = 2000;
const KEPT: u64 = 64 << 10;

/// What a tool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checked {
    /// It is one.
    Passed,
    /// Nobody can say: the runtime has no tool, or it is not on this machine.
    Unchecked,
    /// It is none; why.
    Failed(String),
}

/// A directory that goes with whoever has it.
struct Room(PathBuf);

impl Room {
    fn new() -> io::Result<Self> {
        // Below a directory that everybody may pass through.
        let room = Self(Path::new("/tmp").join(format!("plimsoll-check-{}", random_name()?)));
        std::fs::DirBuilder::new().mode(0o700).create(&room.0)?;
        Ok(room)
    }

    /// A file in it that a tool may read, and may write beside. Its name is ours: a tool might take one for its own.
    fn hand_over(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let is_plain =
            |end: &&OsStr| end.len() <= 8 && end.as_encoded_bytes().iter().all(u8::is_ascii_alphanumeric);
        let mut file = self.0.join("program");
        if let Some(end) = Path::new(name).extension().filter(is_plain) {
            file.set_extension(end);
        }
        // A first line that names an interpreter can have options for it, which some tools take.
        let text = match text.strip_prefix("#!") {
            Some(rest) => format!("# {rest}"),
            None => text.to_owned(),
        };
        std::fs::write(&file, text)?;
        if rustix::process::geteuid().is_root() {
            for path in [&file, &self.0] {
                chown(path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        Ok(file)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Has a program checked by a command line in which `{file}` stands for it.
///
/// # Errors
/// When the disk or the system refuses.
pub(crate) async fn check(tool: &[String], name: &str, text: &str) -> io::Result<Checked> {
    if tool.is_empty() {
        return Ok(Checked::Unchecked);
    }
    let busy = |_| io::Error::other("too many programs are being checked: try again later");
    let turn = tokio::time::timeout(WITHIN, AT_ONCE.acquire()).await.map_err(busy)?;
    let _turn = turn.map_err(io::Error::other)?;
    let room = Room::new()?;
    let file = room.hand_over(name, text)?.display().to_string();
    let mut command = Command::new("sh");
    command.args(["-c", LIMITED, "sh"]).args(tool.iter().map(|part| part.replace("{file}", &file)));
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
    command.env("HOME", &room.0).env("TMPDIR", &room.0).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut tool = command.spawn()?;
    let (out, err) = (tool.stdout.take(), tool.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let all = async {
        let (out, err, status) =
            tokio::join!(beginning(out, &mut said), beginning(err, &mut complained), tool.wait());
        out.and(err).and(status)
    };
    let Ok(status) = tokio::time::timeout(WITHIN, all).await else {
        let why = format!("its syntax was not checked within {} s", WITHIN.as_secs());
        return Ok(Checked::Failed(why));
    };
    let status = status?;
    Ok(match status.code() {
        Some(0) => Checked::Passed,
        // As a shell says that there is no such tool, or none that can be executed.
        Some(126 | 127) => Checked::Unchecked,
        _ => {
            complained.append(&mut said);
            let said = String::from_utf8_lossy(&complained).replace(&file, name);
            let said: String = said.trim().chars().take(LONGEST).collect();
            Checked::Failed(if said.is_empty() { status.to_string() } else { said })
        }
    })
}

/// Keeps the beginning of what a tool says, and lets the rest go by.
async fn beginning(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut output) = output else { return Ok(()) };
    (&mut output).take(KEPT).read_to_end(kept).await?;
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_says_where_a_program_is_wrong_and_does_not_run_it() {
        let python = ["python3", "-I", "-m", "py_compile", "{file}"].map(str::to_owned);
        let checked = check(&python, "a.py", "print('a')\nimport os; os._exit(3)\n").await.unwrap();
        assert_eq!(checked, Checked::Passed);
        let Checked::Failed(said) = check(&python, "a.py", "x = 1\ndef f(:\n").await.unwrap() else {
            panic!()
        };
        assert!(said.contains("a.py") && said.contains("line 2") && !said.contains("/tmp"), "{said}");
        let bash = ["bash", "-n", "{file}"].map(str::to_owned);
        assert_eq!(check(&bash, "a.sh", "exit 3").await.unwrap(), Checked::Passed);
        assert!(matches!(check(&bash, "a.sh", "if true; then").await.unwrap(), Checked::Failed(_)));
        // A program with the name of a tool's own module is read all the same.
        let checked = check(&python, "py_compile.py", "import os; os._exit(0)\ndef f(:\n").await.unwrap();
        assert!(matches!(checked, Checked::Failed(said) if said.contains("py_compile.py")));
        let loud = ["sh", "-c", "cat {file} >&2; yes | head -c 1000000; exit 1", "{file}"].map(str::to_owned);
        let Checked::Failed(said) = check(&loud, "a", "#!/bin/sh -x\n").await.unwrap() else { panic!() };
        assert!(said.starts_with("# /bin/sh -x\ny\ny") && said.len() <= LONGEST, "{said}");
        let none = ["no-such-tool-here".to_owned()];
        assert_eq!(check(&none, "a", "").await.unwrap(), Checked::Unchecked);
        assert_eq!(check(&[], "a", "").await.unwrap(), Checked::Unchecked);
    }
}
