//! Git repositories of a test's own, served over HTTP.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// A repository that git's own `http-backend` serves; it ends with the test's process.
#[derive(Debug)]
pub struct Git {
    directory: TempDir,
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Git {
    /// An empty repository, for everybody or for those with this `user:password` in base64.
    ///
    /// # Panics
    /// When git is not there.
    pub fn start(login: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // Whoever fetches may be nobody.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("rights");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (root, asked) = (directory.path().to_owned(), Arc::new(AtomicUsize::new(0)));
        let (login, counted) = (login.map(|it| format!("Basic {it}")), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, login, counted) = (root.clone(), login.clone(), counted.clone());
                std::thread::spawn(move || serve(stream, &root, login.as_deref(), &counted));
            }
        });
        let git = Self { directory, port, asked };
        git.run(&["init", "--quiet", "--initial-branch=main", "work"]);
        git.run(&["init", "--quiet", "--bare", "--initial-branch=main", "app.git"]);
        git
    }

    /// Its address over HTTP.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/app.git", self.port)
    }

    /// The repository itself.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("app.git")
    }

    /// Requests so far that were let in.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Commits files to a branch and pushes it, and says which commit that is.
    ///
    /// # Panics
    /// When git refuses.
    pub fn push(&self, branch: &str, files: &[(&str, &str)]) -> String {
        let work = self.directory.path().join("work");
        self.run(&["-C", "work", "checkout", "--quiet", "-B", branch]);
        for (name, text) in files {
            let path = work.join(name);
            fs::create_dir_all(path.parent().expect("a file lies somewhere")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        self.run(&["-C", "work", "add", "--all"]);
        self.run(&["-C", "work", "commit", "--quiet", "--allow-empty", "--message", "a change"]);
        self.run(&["-C", "work", "push", "--quiet", "--force", "../app.git", branch]);
        self.run(&["-C", "work", "rev-parse", "HEAD"])
    }

    /// Names the latest commit.
    ///
    /// # Panics
    /// When git refuses.
    pub fn tag(&self, name: &str) {
        self.run(&["-C", "work", "tag", "--annotate", "--message", "a tag", name]);
        self.run(&["-C", "work", "push", "--quiet", "../app.git", name]);
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.directory.path()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "test")
                .env(format!("GIT_{role}_EMAIL"), "test@localhost");
        }
        let Output { status, stdout, stderr } = command.output().expect("git");
        assert!(status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).trim().to_owned()
    }
}

/// Answers one request by what git has for web servers.
fn serve(stream: TcpStream, root: &std::path::Path, login: Option<&str>, asked: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let header =
        |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let mut out = stream;
    if login.is_some() && header("authorization") != login {
        out.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
        return Some(());
    }
    asked.fetch_add(1, Ordering::Relaxed);
    let mut body = vec![0; header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut command = Command::new("git");
    command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", path);
    command.env("QUERY_STRING", query).env("REQUEST_METHOD", &method).env("REMOTE_ADDR", "127.0.0.1");
    command.env("CONTENT_TYPE", header("content-type").unwrap_or_default());
    command.env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default());
    if let Some(encoding) = header("content-encoding") {
        command.env("HTTP_CONTENT_ENCODING", encoding);
    }
    let mut backend = command.spawn().ok()?;
    backend.stdin.take()?.write_all(&body).ok()?;
    let said = backend.wait_with_output().ok()?.stdout;
    let status = match said.strip_prefix(b"Status: ") {
        Some(rest) => String::from_utf8_lossy(rest.split(|byte| *byte == b'\r').next()?).into_owned(),
        None => "200 OK".to_owned(),
    };
    out.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes()).ok()?;
    out.write_all(&said).ok()
}
