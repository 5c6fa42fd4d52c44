//! Repositories, fetched by git's own command.
//!
//! What it is told comes from people whom nobody knows, and so does what it is sent. So it has an environment of its own, a home
//! with nothing in it, one protocol, no hooks, no helpers, and as root it runs as nobody. What opens a repository lies in files that
//! are gone with the fetch, never in arguments or in the environment.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Output, Stdio};
use std::time::Duration;

use plimsoll_model::id::CommitId;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::source::is_commit;
use tempfile::TempDir;
use tokio::process::Command;

/// How long one command may take.
const ASKING: Duration = Duration::from_mins(1);
const FETCHING: Duration = Duration::from_mins(10);

/// The user that is nobody, on all systems that we know.
const NOBODY: u32 = 65_534;

/// What opens a repository.
#[derive(Debug, Clone)]
pub enum Login {
    /// A user and a password or token, over https.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Sensitive<String>,
    },
    /// A key, over ssh.
    Key {
        /// The private key, as ssh-keygen writes it.
        key: Sensitive<String>,
        /// The hosts' keys, as `known_hosts` has them.
        known_hosts: String,
    },
}

/// Why a repository was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It has no such branch, tag or commit.
    #[error("the repository has no {0}")]
    NoReference(String),
    /// Whoever keeps it says no.
    #[error("the repository is not opened: {0}")]
    Refused(String),
    /// Git says something else.
    #[error("git: {0}")]
    Failed(String),
    /// It takes too long.
    #[error("the repository does not answer within {} s", .0.as_secs())]
    TooLong(Duration),
    /// Git cannot be run.
    #[error("git cannot be run on this machine")]
    Io(#[from] io::Error),
}

impl GitError {
    /// Whether only another source, or another Secret, helps.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NoReference(_) | Self::Refused(_))
    }
}

/// What the directories of fetches are called, before the process that they belong to.
const PLACE: &str = "plimsoll-git-";

/// Removes what fetches of processes have left that were killed, credentials among it. To be called before the first fetch: what bears
/// this process' own id is of one before it.
pub fn sweep() {
    let own = std::process::id();
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix(PLACE)?.split_once('-')?.0.parse::<u32>().ok());
        let Some(process) = process else { continue };
        if process == own || !std::path::Path::new("/proc").join(process.to_string()).exists() {
            // What is not ours is not to be removed by us.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Asks one repository.
pub struct Fetch {
    address: String,
    /// Home, credentials and what was fetched; gone with this.
    place: TempDir,
}

impl Fetch {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn new(address: &str, login: Option<&Login>) -> Result<Self, GitError> {
        let place = tempfile::Builder::new().prefix(&format!("{PLACE}{}-", std::process::id())).tempdir()?;
        let fetch = Self { address: address.to_owned(), place };
        for directory in ["home", "repository"] {
            fs::create_dir(fetch.at(directory))?;
        }
        // Repositories of this machine belong to others. What serves them hears of this by a file alone.
        fetch.keep("settings", "[safe]\n\tdirectory = *\n")?;
        match login {
            None => {}
            Some(Login::Password { user, password }) => {
                fetch.keep("user", user)?;
                fetch.keep("password", password.expose())?;
                let quoted = fetch.at("").display().to_string().replace('\'', "'\\''");
                let script = format!(
                    "#!/bin/sh\ncase \"$1\" in Username*) cat '{quoted}'/user;; *) cat '{quoted}'/password;; esac\n"
                );
                fetch.keep("askpass", &script)?;
                fs::set_permissions(fetch.at("askpass"), fs::Permissions::from_mode(0o700))?;
            }
            Some(Login::Key { key, known_hosts }) => {
                let key = key.expose().trim_end();
                fetch.keep("key", &format!("{key}\n"))?;
                fetch.keep("known_hosts", known_hosts)?;
            }
        }
        fetch.hand_over()?;
        Ok(fetch)
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    fn keep(&self, name: &str, text: &str) -> io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(self.at(name))?;
        file.write_all(text.as_bytes())
    }

    /// Makes everything here nobody's, who runs git as root's.
    fn hand_over(&self) -> io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        chown(self.place.path(), Some(NOBODY), Some(NOBODY))?;
        for entry in fs::read_dir(self.place.path())? {
            chown(entry?.path(), Some(NOBODY), Some(NOBODY))?;
        }
        Ok(())
    }

    /// The commit that a branch, a tag or a commit's own name leads to; the default branch without any.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn commit(&self, reference: Option<&str>) -> Result<CommitId, GitError> {
        let missing = || GitError::NoReference(reference.unwrap_or("default branch").to_owned());
        if let Some(commit) = reference.filter(|it| is_commit(it)) {
            return commit.parse().map_err(|_| missing());
        }
        let wanted = match reference {
            None => vec!["HEAD".to_owned()],
            // The commit that a tag of its own is about comes with `^{}`.
            Some(name) => vec![
                format!("refs/heads/{name}"),
                format!("refs/tags/{name}^{{}}"),
                format!("refs/tags/{name}"),
            ],
        };
        let asked: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let arguments = [&["ls-remote", "--end-of-options", &self.address], &asked[..]].concat();
        let said = self.git(&arguments, ASKING).await?;
        let said = String::from_utf8_lossy(&said.stdout);
        let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        let found = wanted.iter().find_map(|name| lines.iter().find(|(_, known)| known == name));
        let commit = found.map(|(commit, _)| *commit).filter(|it| is_commit(it)).ok_or_else(missing)?;
        commit.parse().map_err(|_| missing())
    }

    /// Fetches a commit, and hands over its files as an archive of tar. Sub-modules stay empty.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn archive(&self, commit: &CommitId) -> Result<fs::File, GitError> {
        self.git(&["init", "--quiet", "--bare", "."], ASKING).await?;
        let one = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--end-of-options",
            &self.address,
            commit.as_str(),
        ];
        if let Err(error) = self.git(&one, FETCHING).await {
            // Servers of old hand out what branches and tags lead to only.
            if matches!(error, GitError::Refused(_) | GitError::TooLong(_) | GitError::Io(_)) {
                return Err(error);
            }
            let all = [
                "fetch",
                "--quiet",
                "--end-of-options",
                &self.address,
                "+refs/heads/*:refs/heads/*",
                "+refs/tags/*:refs/tags/*",
            ];
            self.git(&all, FETCHING).await?;
        }
        let name = format!("{commit}^{{commit}}");
        if self.git(&["cat-file", "-e", &name], ASKING).await.is_err() {
            return Err(GitError::NoReference(format!("commit {commit}")));
        }
        let written = ["archive", "--format=tar", "--output=../files.tar", commit.as_str()];
        self.git(&written, FETCHING).await?;
        Ok(fs::File::open(self.at("files.tar"))?)
    }

    async fn git(&self, arguments: &[&str], patience: Duration) -> Result<Output, GitError> {
        let mut command = self.command();
        command.args(arguments);
        let mut running = command.spawn()?;
        // It starts helpers of its own: all of them end with it.
        let mut group =
            Group(running.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)));
        let output = async {
            use tokio::io::AsyncReadExt as _;
            let (mut said, mut complained) = (Vec::new(), Vec::new());
            let (out, err) = (running.stdout.take(), running.stderr.take());
            let read_out = async {
                match out {
                    Some(out) => out.take(MOST_SAID).read_to_end(&mut said).await,
                    None => Ok(0),
                }
            };
            let read_err = async {
                match err {
                    Some(err) => err.take(MOST_SAID).read_to_end(&mut complained).await,
                    None => Ok(0),
                }
            };
            tokio::try_join!(read_out, read_err)?;
            let status = running.wait().await?;
            Ok::<_, io::Error>(Output { status, stdout: said, stderr: complained })
        };
        let output =
            tokio::time::timeout(patience, output).await.map_err(|_| GitError::TooLong(patience))??;
        group.0 = None;
        if output.status.success() {
            Ok(output)
        } else {
            Err(sorted(&String::from_utf8_lossy(&output.stderr)))
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command.env_clear().current_dir(self.at("repository")).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let settings = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "credential.helper=",
            "transfer.fsckObjects=true",
            "submodule.recurse=false",
            // Who is asked is who was named: nobody is shown a password or sent elsewhere by others.
            "http.followRedirects=false",
        ];
        for setting in settings {
            command.args(["-c", setting]);
        }
        let ssh = format!(
            "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o StrictHostKeyChecking=yes -o ConnectTimeout=30 -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={} -i {}",
            self.quoted("known_hosts"),
            self.quoted("key"),
        );
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.at("home")).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", self.at("settings"));
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_SSH_COMMAND", ssh).env("GIT_SSH_VARIANT", "ssh");
        command.env("GIT_ALLOW_PROTOCOL", protocol(&self.address));
        let askpass = self.at("askpass");
        command.env("GIT_ASKPASS", if askpass.exists() { askpass } else { "/bin/false".into() });
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// A path as the shell takes it.
    fn quoted(&self, name: &str) -> String {
        format!("'{}'", self.at(name).display().to_string().replace('\'', "'\\''"))
    }
}

/// Bytes of a command's words that are listened to.
const MOST_SAID: u64 = 4 << 20;

/// Processes that end with this.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

/// The one way to a repository that is open.
fn protocol(address: &str) -> &str {
    match address.split_once("://") {
        Some((scheme, _)) => scheme,
        None => "ssh",
    }
}

/// What git's words mean.
fn sorted(said: &str) -> GitError {
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let important = lines.iter().rev().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let text = important.or(lines.last()).copied().unwrap_or("it says nothing").to_owned();
    let refused = [
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied",
        "host key verification failed",
        "not found",
        "does not appear to be a git repository",
        "the requested url returned error: 403",
        "not allowed",
    ];
    if has(&["not our ref", "couldn't find remote ref", "no such remote ref"]) {
        GitError::NoReference(text)
    } else if has(&refused) && !has(&["could not resolve host", "connection refused", "command not found"]) {
        GitError::Refused(text)
    } else {
        GitError::Failed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_has_left_is_swept() {
        let left = tempfile::Builder::new().prefix("plimsoll-git-4194305-").tempdir().unwrap();
        fs::write(left.path().join("key"), "k").unwrap();
        let others = tempfile::Builder::new().prefix("plimsoll-git-1-").tempdir().unwrap();
        sweep();
        assert!(!left.path().exists() && others.path().exists());
    }

    #[test]
    fn what_git_says_is_told_apart() {
        for (said, is_final) in [
            ("fatal: Authentication failed for 'https://x/'", true),
            ("fatal: could not read Username for 'https://x': terminal prompts disabled", true),
            ("remote: Repository not found.\nfatal: repository 'https://x/' not found", true),
            ("git@x: Permission denied (publickey).\nfatal: Could not read from remote repository.", true),
            ("fatal: unable to access 'https://x/': Could not resolve host: x", false),
            ("fatal: unable to access 'http://127.0.0.1:1/': Connection refused", false),
            ("fatal: the remote end hung up unexpectedly", false),
        ] {
            assert_eq!(sorted(said).is_final(), is_final, "{said}");
        }
    }
}
