//! Container engines of a test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::registry::Registry;

/// How long an engine may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// The image that every engine here has: Debian's busybox, and nothing else.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Docker's `dockerd`.
    Docker,
    /// Podman's service.
    Podman,
}

/// A running engine with a place of its own; it ends when this is dropped, with all its containers.
#[derive(Debug)]
pub struct Engine {
    make: Make,
    running: Mutex<Option<Child>>,
    /// What Docker's service runs containers by; it is a service of its own and outlives the other.
    containerd: Option<Child>,
    directory: TempDir,
}

impl Engine {
    /// Starts an engine that has [`BUSYBOX`].
    ///
    /// # Panics
    /// When that fails; `./test` installs the programs, and only root may run them.
    pub fn start(make: Make) -> Self {
        // Sockets have short names, and layers need a disk that knows extended attributes.
        let directory =
            tempfile::Builder::new().prefix("plim-").tempdir_in("/var/lib").expect("root's own directory");
        fs::write(directory.path().join("containers.conf"), PODMAN).expect("a file");
        // As Docker has it by itself: registries of this machine are asked without encryption.
        let registries = "[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n";
        fs::write(directory.path().join("registries.conf"), registries).expect("a file");
        let mut engine = Self { make, running: Mutex::default(), containerd: None, directory };
        if make == Make::Docker {
            engine.make_bridge();
            engine.containerd = Some(engine.start_containerd());
        }
        engine.resume();
        engine.import(BUSYBOX, &[]);
        engine
    }

    /// Which it is.
    pub fn make(&self) -> Make {
        self.make
    }

    /// Where it answers, as `DOCKER_HOST` has it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    /// The name of its own bridge: that of its directory, as far as names of devices go.
    fn bridge(&self) -> String {
        let name = self.directory.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        format!("pt-{}", name.trim_start_matches("plim-"))
    }

    fn make_bridge(&self) {
        let number = std::process::id();
        let address = format!("10.{}.{}.1/24", 212 + number / 256 % 32, number % 256);
        let script = format!(
            "link add {name} type bridge\naddr add {address} dev {name}\nlink set {name} up\n",
            name = self.bridge()
        );
        let file = self.directory.path().join("bridge");
        fs::write(&file, script).expect("a file");
        let made = Command::new("ip").arg("-batch").arg(file).status();
        assert!(made.is_ok_and(|status| status.success()), "a bridge cannot be made");
    }

    fn start_containerd(&self) -> Child {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        fs::write(at("containerd.toml"), CONTAINERD).expect("a file");
        let mut command = Command::new("containerd");
        command.args([
            "--config",
            &at("containerd.toml"),
            "--root",
            &at("containerd"),
            "--state",
            &at("state"),
        ]);
        command.args(["--address", &at("containerd.sock")]).stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(at("containerd.log")).expect("a log");
        let started = command.stderr(log).spawn().expect("containerd, which ./test installs");
        self.await_socket("containerd.sock", "containerd.log");
        started
    }

    fn await_socket(&self, name: &str, log: &str) {
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.directory.path().join(name)).is_err() {
            let said = || fs::read_to_string(self.directory.path().join(log)).unwrap_or_default();
            assert!(Instant::now() < until, "{name} does not answer: {}", said());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Starts it again after [`Engine::kill`].
    ///
    /// # Panics
    /// When it does not answer.
    pub fn resume(&self) {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = match self.make {
            Make::Docker => {
                let mut command = Command::new("dockerd");
                command.args([
                    "--data-root",
                    &at("data"),
                    "--exec-root",
                    &at("exec"),
                    "--pidfile",
                    &at("pid"),
                ]);
                // Several of them share the machine: none may touch what is not its own. Without a bridge of its own it
                // would take that of the machine's Docker for its own, or away.
                command.args(["--bridge", &self.bridge(), "--iptables=false", "--ip6tables=false"]);
                command.args(["--host", &self.address(), "--containerd", &at("containerd.sock")]);
                command
            }
            Make::Podman => {
                let mut command = self.podman();
                command.args(["system", "service", "--time=0", &self.address()]);
                command
            }
        };
        fs::remove_file(self.socket()).ok();
        fs::remove_file(at("pid")).ok();
        let log = fs::File::options().create(true).append(true).open(at("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let program = command.get_program().to_owned();
        let running = command.spawn();
        let running =
            running.unwrap_or_else(|error| panic!("{}: {error}; ./test installs it", program.display()));
        *self.running() = Some(running);
        self.await_socket("api.sock", "log");
    }

    /// Kills its service as a crash would. What it runs is another matter.
    pub fn kill(&self) {
        if let Some(mut running) = self.running().take() {
            running.kill().ok();
            running.wait().ok();
        }
    }

    /// Podman's command, for this place.
    fn podman(&self) -> Command {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new("podman");
        command.args(["--root", &at("root"), "--runroot", &at("run"), "--tmpdir", &at("tmp")]);
        command.args(["--network-config-dir", &at("networks")]);
        command.env("CONTAINERS_CONF", at("containers.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", at("registries.conf"));
        command
    }

    /// The engine's own command.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.make {
            Make::Docker => {
                let mut command = Command::new("docker");
                command.args(["--host", &self.address()]);
                command
            }
            Make::Podman => self.podman(),
        };
        command.args(arguments);
        command
    }

    /// What the engine's own command says.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the engine's command");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Makes an image of busybox with further files, by path and content. Its id comes of its bytes and its time.
    ///
    /// # Panics
    /// When the engine does not take it.
    pub fn import(&self, name: &str, files: &[(&str, &str)]) {
        let root = self.directory.path().join("image");
        fs::remove_dir_all(&root).ok();
        for directory in ["bin", "etc", "tmp", "data"] {
            fs::create_dir_all(root.join(directory)).expect("a directory");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox, which ./test installs");
        let applets = Command::new("/bin/busybox").arg("--list").output().expect("busybox");
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|it| *it != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
            .expect("a file");
        fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").expect("a file");
        for (path, content) in files {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        // Engines take the rights of what is mounted there from it.
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("rights");
        let archive = self.directory.path().join("image.tar");
        let at = |path: &Path| path.display().to_string();
        let packed = Command::new("tar").args(["-C", &at(&root), "-cf", &at(&archive), "."]).status();
        assert!(packed.is_ok_and(|status| status.success()), "tar fails");
        let change = "CMD [\"/bin/sleep\", \"100000\"]";
        self.run(&["import", "--change", change, "--change", "ENV PATH=/bin", &at(&archive), name]);
    }
}

impl Engine {
    /// Makes an image like [`Engine::import`] and pushes it, and returns its digest in the registry, as `sha256:…`.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push(&self, registry: &Registry, name: &str, files: &[(&str, &str)]) -> String {
        let name = format!("{}/{name}", registry.host());
        self.import(&name, files);
        match self.make {
            Make::Docker => {
                let said = self.run(&["push", &name]);
                let digest = said.split_whitespace().skip_while(|word| *word != "digest:").nth(1);
                digest.expect("docker says the digest").to_owned()
            }
            Make::Podman => {
                let file = self.directory.path().join("digest");
                let file = file.display().to_string();
                self.run(&["push", "--quiet", "--tls-verify=false", "--digestfile", &file, &name]);
                fs::read_to_string(file).expect("podman writes the digest").trim().to_owned()
            }
        }
    }
}

/// Debian's crun refuses control groups of both versions beside each other, and limits may not be raised everywhere.
const PODMAN: &str = "[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=4096:4096\"]
[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// Removes the rules of each network in 10.210.0.0/15 to which no route leads.
const FORGOTTEN: &str = r#"nft list tables ip | sed -n 's/^table ip plimc\([0-9]*\)$/\1/p' | while read -r n; do
  net="10.$((210 + n / 128)).$((n % 128 * 2)).0/23"
  [ -n "$(ip route show "$net")" ] || nft delete table ip "plimc$n"
done"#;

/// Without the part for Kubernetes, which wants more of the machine.
const CONTAINERD: &str = "version = 2
disabled_plugins = [\"io.containerd.grpc.v1.cri\"]
";

impl Drop for Engine {
    fn drop(&mut self) {
        if self.running().is_none() {
            self.resume();
        }
        let lines = |arguments: &[&str]| {
            let output = self.command(arguments).output().map(|it| it.stdout).unwrap_or_default();
            String::from_utf8_lossy(&output).into_owned()
        };
        let all = lines(&["ps", "--all", "--quiet"]);
        let all: Vec<&str> = all.lines().collect();
        if !all.is_empty() {
            self.command(&[&["rm", "--force"], &all[..]].concat()).output().ok();
        }
        let networks = lines(&["network", "ls", "--format", "{{.Name}}"]);
        for network in networks.lines().filter(|name| name.starts_with("plimsoll-")) {
            self.command(&["network", "rm", network]).output().ok();
        }
        if let Some(mut running) = self.running().take() {
            // Docker ends what it started beside itself.
            let pid = rustix::process::Pid::from_child(&running);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            running.wait().ok();
        }
        if let Some(containerd) = &mut self.containerd {
            containerd.kill().ok();
            containerd.wait().ok();
            Command::new("ip").args(["link", "del", &self.bridge()]).output().ok();
        }
        // Rules of networks that are gone: nobody was told to remove those of a control plane that was killed.
        Command::new("sh").args(["-c", FORGOTTEN]).output().ok();
    }
}
