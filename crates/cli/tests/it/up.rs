//! `up` and the commands beside it, as a person would use them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_mins(1);

/// A copy of the shop, with a data directory of its own.
struct Shop {
    directory: TempDir,
}

/// A running `up`, and what it said so far.
struct Up {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Shop {
    fn new() -> Self {
        let directory = super::agent::scratch();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        for file in ["app.yaml", "store.py", "api.py", "web.py"] {
            std::fs::copy(example.join(file), directory.path().join(file)).unwrap();
        }
        let shop = Self { directory };
        // The soak time is for people.
        shop.edit("app.yaml", "soak: 2s", "soak: 300ms, deadline: 5s");
        shop
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.directory.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env("PLIMSOLL_DATA_DIR", self.data()).current_dir(self.directory.path());
        command
    }

    /// Runs a command to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn up(&self, options: &[&str]) -> Up {
        self.start_up(self.command(&[&["up", "app.yaml"], options].concat()))
    }

    /// As the machine would after its next start: with another boot id, and without anything that was in memory.
    fn up_after_reboot(&self) -> Up {
        super::agent::take_network_down(&self.data().join("node"));
        let boot = self.directory.path().join("boot_id");
        std::fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$1\" up app.yaml";
        command.args(["--mount", "sh", "-c", script]).arg(boot).arg(env!("CARGO_BIN_EXE_plimsoll"));
        command.env("PLIMSOLL_DATA_DIR", self.data()).current_dir(self.directory.path());
        self.start_up(command)
    }

    fn start_up(&self, mut command: Command) -> Up {
        if !self.data().exists() {
            // The usual port belongs to whoever came first; afterwards it is the one before.
            command.args(["--http-port", "0"]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let sink = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut said = sink.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Up { child, said }
    }

    /// What the shop's page says.
    fn page(&self, post: Option<&str>) -> Result<String, ureq::Error> {
        let text = std::fs::read_to_string(self.data().join("router/listen.json")).unwrap();
        let url = format!("http://{}/", text.trim_matches('"'));
        let mut answer = match post {
            Some(body) => ureq::post(url).header("Host", "shop.localhost").send(body)?,
            None => ureq::get(url).header("Host", "shop.localhost").call()?,
        };
        answer.body_mut().read_to_string()
    }

    /// Where the API and each copy listen, as `HOST/PORT`.
    fn doors(&self) -> Vec<String> {
        let read = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let api = read(&self.data().join("api.json"));
        let api: std::net::SocketAddr = api["address"].as_str().unwrap().parse().unwrap();
        let number = &read(&self.data().join("node/network.json"))["number"];
        let node = format!("10.209.{}.1", number.as_u64().unwrap() * 4);
        let mut doors = vec![format!("{}/{}", api.ip(), api.port()), format!("{node}/{}", api.port())];
        for entry in std::fs::read_dir(self.data().join("node/instances")).unwrap().flatten() {
            let mark = read(&entry.path().join("mark.json"));
            doors.push(format!("{}/{}", mark["address"].as_str().unwrap(), mark["ports"]["http"]));
        }
        doors
    }

    /// In which boots its copies were started.
    fn boots(&self) -> std::collections::BTreeSet<String> {
        let boot = |name: &str| {
            let path = self.data().join("node/instances").join(name).join("started.json");
            let started: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            started["boot"].as_str().unwrap().to_owned()
        };
        self.programs().iter().map(|(name, _)| boot(name)).collect()
    }

    /// The program of every running copy.
    fn programs(&self) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.data().join("node/instances")).unwrap().flatten() {
            let text = std::fs::read(entry.path().join("started.json")).unwrap_or_default();
            let started: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let name = entry.file_name().into_string().unwrap();
            found.push((name, started["program"]["pid"].as_i64().unwrap_or_default()));
        }
        found.sort();
        found
    }
}

impl Drop for Shop {
    /// Ends whatever a failed test left running.
    fn drop(&mut self) {
        super::agent::end_all_in(self.directory.path());
        super::agent::take_network_down(&self.data().join("node"));
    }
}

impl Up {
    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn until_said(&self, wanted: &str) {
        until(wanted, || self.said(), |said| said.contains(wanted));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn interrupt(mut self) -> String {
        self.signal(Signal::INT);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }

    fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }
}

/// Looks until something is so, and says what was seen last if it never is.
pub(crate) fn until<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if is_so(&seen) {
            return seen;
        }
        assert!(Instant::now() < give_up, "{what:?} was never so; last seen was {seen:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn the_shop_runs_ends_and_comes_back_with_its_data() {
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("curl --resolve shop.localhost:");
    assert!(shop.page(None).unwrap().starts_with("Welcome! We have rope, lamp."));
    assert!(shop.page(Some("hat")).unwrap().contains("rope, lamp, hat"));
    let table = shop.must(&["get"]);
    assert!(table.contains("6/6") && table.contains("settled"), "{table}");
    assert!(shop.must(&["why", "app/shop"]).contains("it is as declared"));
    let said = up.interrupt();
    assert!(said.contains("everything has ended"), "{said}");
    assert!(super::agent::processes_in(shop.directory.path()).is_empty(), "nothing is left running");

    shop.edit("app.yaml", "Welcome", "Hello");
    let up = shop.up(&[]);
    up.until_said("settled");
    let page = shop.page(None).unwrap();
    assert!(page.starts_with("Hello! We have rope, lamp, hat."), "{page}");
    up.interrupt();
}

#[test]
fn what_a_killed_up_leaves_behind_runs_on_and_is_adopted() {
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("settled");
    let before = shop.programs();
    up.kill();
    assert!(shop.page(None).unwrap().contains("Welcome"), "traffic goes on");
    let error = shop.run(&["get"]);
    let said = String::from_utf8(error.stderr).unwrap();
    assert!(!error.status.success() && said.contains("start one with `plimsoll server`"), "{said}");
    let up = shop.up(&["--keep"]);
    up.until_said("settled");
    assert_eq!(shop.programs(), before, "the same processes");
    up.interrupt();
    assert!(shop.page(None).unwrap().contains("Welcome"), "--keep leaves it running");
    let up = shop.up(&[]);
    up.until_said("settled");
    assert_eq!(shop.programs(), before);
    // A killed router serves the same tables after its start.
    let router = super::agent::processes_in(&shop.data().join("router"));
    let router: Vec<i32> =
        router.into_iter().filter(|pid| *pid != i32::try_from(up.child.id()).unwrap()).collect();
    assert_eq!(router.len(), 1, "one router runs");
    super::agent::signal(router[0], Signal::KILL);
    until("served again", || shop.page(None).is_ok(), |served| *served);
    assert_eq!(shop.programs(), before);
    up.interrupt();
}

#[test]
fn after_everything_was_killed_it_comes_back_as_it_was() {
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("settled");
    shop.page(Some("hat")).unwrap();
    let names = |shop: &Shop| -> Vec<String> { shop.programs().into_iter().map(|(name, _)| name).collect() };
    let before = names(&shop);
    up.kill();
    // As a loss of power would: every process at once, and nobody says good-bye.
    for pid in super::agent::processes_in(shop.directory.path()) {
        super::agent::signal(pid, Signal::KILL);
    }
    assert!(shop.page(None).is_err(), "nothing is left");
    let (is_root, boot) = (rustix::process::geteuid().is_root(), shop.boots());
    let up = if is_root { shop.up_after_reboot() } else { shop.up(&[]) };
    up.until_said("settled");
    assert_eq!(names(&shop), before, "the same copies");
    // The status of before may be all that was seen so far.
    let boots = || format!("{:?}", shop.boots());
    let before = format!("{boot:?}");
    until("in another boot, as root can make it look", boots, |now| {
        (*now != before) == is_root && !now.contains(", ")
    });
    let page = shop.page(None).unwrap();
    assert!(page.contains("rope, lamp, hat"), "{page}");
    up.interrupt();
}

#[test]
fn a_bad_version_is_rolled_back_rejected_and_explained() {
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("settled");
    std::fs::write(shop.directory.path().join("bad.py"), "print('no way')\nraise SystemExit(3)\n").unwrap();
    shop.edit("app.yaml", "file: web.py", "file: bad.py");
    let applied = shop.run(&["apply", "-f", "app.yaml", "--wait"]);
    let said = String::from_utf8(applied.stderr).unwrap();
    assert_eq!(applied.status.code(), Some(1), "{said}");
    assert!(shop.page(None).unwrap().contains("Welcome"), "the good version still serves");
    let described = shop.must(&["describe", "shop"]);
    for evidence in ["not ready within 5s", "exit: {\"code\":3}", "| no way"] {
        assert!(described.contains(evidence), "{evidence:?} is missing in {described}");
    }
    let events = shop.must(&["events", "shop"]);
    assert!(events.contains("create web/0") && events.contains("rejected web"), "{events}");
    assert!(events.contains("(web failed its gate and is rolled back)"), "{events}");
    assert!(shop.must(&["why", "shop"]).contains("plimsoll retry"));
    let again = shop.run(&["apply", "-f", "app.yaml", "--wait"]);
    assert_eq!(again.status.code(), Some(1), "what was rejected is not started again");
    // Undo declares what runs.
    shop.must(&["rollout", "undo", "shop"]);
    shop.must(&["wait", "shop"]);
    assert!(shop.must(&["why", "shop"]).contains("it is as declared"));
    up.interrupt();
}

#[test]
fn what_was_reviewed_is_done_and_nothing_else() {
    let shop = Shop::new();
    let planned = shop.run(&["plan", "-f", "app.yaml", "--exit-code"]);
    let said = String::from_utf8(planned.stderr).unwrap();
    assert!(planned.status.code() == Some(2) && said.contains("from an empty machine"), "{said}");
    let up = shop.up(&[]);
    up.until_said("settled");
    let unchanged = shop.run(&["plan", "-f", "app.yaml", "--exit-code"]);
    assert_eq!(unchanged.status.code(), Some(0), "{unchanged:?}");
    shop.edit("app.yaml", "Welcome", "Hello");
    let path = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["path"].as_str().unwrap().to_owned()
    };
    let reviewed = path(&shop.must(&["plan", "-f", "app.yaml", "-o", "json"]));
    assert_eq!(path(&shop.must(&["plan", "-f", "app.yaml", "-o", "json"])), reviewed, "the same change");
    shop.edit("app.yaml", "Hello", "Good evening");
    let refused = shop.run(&["apply", "-f", "app.yaml", "--plan", &reviewed]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("look at the plan again"), "{said}");
    assert!(said.contains("new copies of web run or are given something else"), "{said}");
    assert!(shop.page(None).unwrap().starts_with("Welcome"), "what is refused is not begun");
    shop.edit("app.yaml", "Good evening", "Hello");
    shop.must(&["apply", "-f", "app.yaml", "--plan", &reviewed, "--wait"]);
    assert!(shop.page(None).unwrap().starts_with("Hello"));
    up.interrupt();
}

#[test]
fn a_program_reaches_nothing_that_is_not_its_own() {
    if !rustix::process::geteuid().is_root() {
        // Without root there is one user, and `up` serves one project only.
        return;
    }
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("settled");
    shop.must(&["project", "create", "other"]);
    let data = shop.data().display().to_string();
    let doors = shop.doors();
    assert!(doors.len() >= 8, "the API, as the node and as this machine, and six copies: {doors:?}");
    let doors = doors.join(" ");
    let (theirs, pids): (Vec<_>, Vec<_>) =
        shop.programs().into_iter().map(|(name, pid)| (name, pid.to_string())).unzip();
    let (theirs, pids) = (theirs.join(" "), pids.join(" "));
    let status: serde_json::Value =
        serde_json::from_str(&shop.must(&["get", "apps", "shop", "-o", "json"])).unwrap();
    let address = status["status"]["memory"]["store"]["address"].as_str().unwrap();
    let thief = format!(
        "apiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {{name: other}}\nspec: {{}}\n---\n\
         apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: thief, project: other}}\nspec:\n  components:\n    thief:\n      \
         program: {{file: thief.sh, runtime: bash}}\n      env: {{DATA: {data}, DOORS: {doors}, OWN_DOOR: {address}/7000, THEIRS: {theirs}, PIDS: \"{pids}\"}}\n      update: {{soak: 0s}}\n"
    );
    std::fs::write(shop.directory.path().join("thief.yaml"), thief).unwrap();
    let script = r#"
for file in plimsoll.db plimsoll.db-wal key admin.token api.json installation.json node/ledger node/users.json; do
  cat "$DATA/$file" > /dev/null 2>&1 && echo "GOT $file"
done
ls "$DATA" > /dev/null 2>&1 && echo "GOT a list of the data directory"
ls "$DATA/node/instances" > /dev/null 2>&1 && echo "GOT a list of instances"
ls "$DATA/content" > /dev/null 2>&1 && echo "GOT content"
cat "$HOME/../run.json" > /dev/null 2>&1 && echo "GOT its own supervisor's file"
kill -0 "$(cat "$DATA/lock" 2> /dev/null || echo 1)" 2> /dev/null && echo "GOT to signal the server"
env | grep -q -i token && echo "GOT a token"
for theirs in $THEIRS; do
  ls "$DATA/node/instances/$theirs/work" > /dev/null 2>&1 && echo "GOT the files of $theirs"
  cat "$DATA/node/instances/$theirs/log" > /dev/null 2>&1 && echo "GOT the words of $theirs"
done
for pid in $PPID $PIDS; do
  cat "/proc/$pid/environ" > /dev/null 2>&1 && echo "GOT the environment of $pid"
  kill -0 "$pid" 2> /dev/null && echo "GOT to signal $pid"
  # PTRACE_ATTACH, as ptrace(2) has it.
  /usr/bin/python3 -c "import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, $pid, 0, 0) == 0)" || echo "GOT hold of $pid"
done
touch /tmp/thief-was-here /var/tmp/thief-was-here
for at in $DOORS; do ( (echo > "/dev/tcp/$at") 2> /dev/null && echo "GOT a connection to $at") & done
wait
(echo > "/dev/tcp/$OWN_DOOR") 2> /dev/null && echo "a service may be reached"
echo done
exec sleep 1000
"#;
    std::fs::write(shop.directory.path().join("thief.sh"), script).unwrap();
    shop.must(&["apply", "-f", "thief.yaml", "--wait"]);
    until(
        "the end of the attempts",
        || shop.must(&["logs", "thief", "--project", "other"]),
        |said| said.contains("done"),
    );
    let said = shop.must(&["logs", "thief", "--project", "other"]);
    assert!(!said.contains("GOT"), "{said}");
    assert!(
        said.contains("a service may be reached"),
        "the doors were tried by something that opens doors: {said}"
    );
    for shared in ["/tmp", "/var/tmp"] {
        assert!(!Path::new(shared).join("thief-was-here").exists(), "{shared} is its own");
    }
    shop.must(&["delete", "thief", "--project", "other"]);
    up.interrupt();
}

#[test]
fn verbs_do_what_they_say() {
    let shop = Shop::new();
    let up = shop.up(&[]);
    up.until_said("settled");
    shop.must(&["scale", "shop", "web=1"]);
    shop.must(&["wait", "shop"]);
    assert!(shop.must(&["get"]).contains("4/4"));
    let before = shop.programs();
    shop.must(&["rollout", "restart", "shop", "--component", "web"]);
    shop.must(&["wait", "shop"]);
    let after = shop.programs();
    let changed = after.iter().filter(|copy| !before.contains(copy)).count();
    assert_eq!((after.len(), changed), (before.len(), 1), "{before:?} {after:?}");
    let instances = shop.must(&["get", "instances"]);
    for (name, _) in &after {
        assert!(instances.contains(name), "{instances}");
    }
    let (name, _) = &after[0];
    let described = shop.must(&["describe", &format!("instance/{name}")]);
    assert!(described.contains("ready") && described.contains("it is as declared"), "{described}");
    assert!(shop.must(&["get", "events"]).contains("create web/0"));
    assert!(shop.must(&["get", "app/shop", "-o", "json"]).starts_with('{'), "one object is no list");
    assert!(shop.must(&["describe", "target/local"]).contains("runtimes"));
    let unknown = String::from_utf8(shop.run(&["get", "ships"]).stderr).unwrap();
    assert!(unknown.contains("no kind \"ships\". There are apps"), "{unknown}");
    shop.must(&["stop", "shop"]);
    shop.must(&["wait", "shop"]);
    assert!(shop.must(&["get"]).contains("0/0"));
    shop.must(&["start", "shop"]);
    shop.must(&["wait", "shop"]);
    assert!(shop.page(None).unwrap().contains("Welcome"));
    let unknown = shop.run(&["scale", "shop", "wep=2"]);
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.contains("no component wep") && said.contains("web"), "{said}");
    shop.must(&["delete", "shop"]);
    assert!(!shop.must(&["get"]).contains("shop"));
    assert_eq!(shop.programs(), [], "nothing is left on the node");
    up.interrupt();
}

#[test]
fn two_installations_on_one_machine_do_not_touch_each_other() {
    let (one, two) = (Shop::new(), Shop::new());
    two.edit("app.yaml", "Welcome", "Good day");
    let (up_one, up_two) = (one.up(&[]), two.up(&[]));
    up_one.until_said("settled");
    up_two.until_said("settled");
    let before = two.programs();
    assert!(one.page(None).unwrap().contains("Welcome"));
    assert!(two.page(None).unwrap().contains("Good day"));
    one.must(&["delete", "shop"]);
    assert_eq!(one.programs(), []);
    assert_eq!(two.programs(), before, "the same processes");
    assert!(two.page(None).unwrap().contains("Good day"));
    up_one.interrupt();
    up_two.interrupt();
}

#[test]
fn a_root_that_may_not_make_networks_serves_and_says_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let shop = Shop::new();
    // As in a container that was given no more than usual.
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set",
        "-sys_admin,-net_admin",
        env!("CARGO_BIN_EXE_plimsoll"),
        "up",
        "app.yaml",
    ]);
    command.env("PLIMSOLL_DATA_DIR", shop.data()).current_dir(shop.directory.path());
    let up = shop.start_up(command);
    up.until_said("settled");
    assert!(shop.page(None).unwrap().contains("Welcome"));
    let described = shop.must(&["describe", "shop"]);
    assert!(described.contains("not enforced here: own network, own /tmp"), "{described}");
    let said = shop.must(&["logs", "shop"]);
    assert!(said.contains("it shares the node's network: unshare"), "{said}");
    up.interrupt();
}

#[test]
fn a_copy_that_no_app_owns_is_reported() {
    let shop = Shop::new();
    let up = shop.up(&["--keep"]);
    up.until_said("settled");
    up.interrupt();
    // As an older backup of the store would leave it: a copy whose App was never heard of.
    let instances = shop.data().join("node/instances");
    let (model, ghost) = (instances.join(&shop.programs()[0].0), instances.join("ghost-0-abc"));
    std::fs::create_dir(&ghost).unwrap();
    for file in ["mark.json", "run.json"] {
        let text = std::fs::read_to_string(model.join(file)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        if file == "mark.json" {
            record["app"] = "app-ghost".into();
            record["key"]["name"] = "ghost".into();
            record["address"] = serde_json::Value::Null;
            record["launch"]["health"] = serde_json::Value::Null;
        } else {
            record["argv"] = serde_json::json!(["sleep", "1000"]);
        }
        std::fs::write(ghost.join(file), record.to_string()).unwrap();
    }
    let up = shop.up(&[]);
    up.until_said("settled");
    let seen = || shop.must(&["get", "instances"]);
    until("the orphan", seen, |table| table.contains("ghost-0-abc") && table.contains("orphan"));
    let why = shop.must(&["why", "instance/ghost-0-abc"]);
    assert!(why.contains("app ghost is not declared"), "{why}");
    up.interrupt();
    assert!(ghost.exists(), "it is left alone for its time of grace");
}

#[test]
fn a_directory_is_a_program() {
    let shop = Shop::new();
    let tree = shop.directory.path().join("tree");
    for directory in ["lib", "data", "node_modules"] {
        std::fs::create_dir_all(tree.join(directory)).unwrap();
    }
    std::fs::write(tree.join("main.sh"), "cat lib/words; ./lib/tool; ls; ls data; exec sleep 1000\n")
        .unwrap();
    std::fs::write(tree.join("lib/words"), "from the library\n").unwrap();
    std::fs::write(tree.join("lib/tool"), "#!/bin/sh\necho from a tool\n").unwrap();
    std::fs::set_permissions(tree.join("lib/tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    std::fs::write(tree.join("data/hidden"), "by a volume").unwrap();
    std::fs::write(tree.join("node_modules/big"), "not needed").unwrap();
    std::fs::write(tree.join(".plimsollignore"), "node_modules/\n").unwrap();
    let app = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: tree, labels: {team: wood}}\nspec:\n  components:\n    \
               main:\n      program: {directory: tree, entry: main.sh, runtime: bash}\n      \
               volumes: {data: {path: data}}\n      update: {soak: 0s, deadline: 5s}\n";
    std::fs::write(shop.directory.path().join("app.yaml"), app).unwrap();
    let up = shop.up(&[]);
    up.until_said("settled");
    until("the program's words", || shop.must(&["logs", "tree"]), |said| said.contains("main.sh"));
    let said = shop.must(&["logs", "tree"]);
    assert!(said.contains("from the library") && said.contains("from a tool"), "{said}");
    assert!(!said.contains("hidden") && !said.contains("node_modules"), "{said}");
    assert!(shop.must(&["describe", "tree"]).contains("labels team=wood"));
    // One changed file is another program.
    std::fs::write(tree.join("lib/words"), "from another library\n").unwrap();
    shop.must(&["apply", "-f", "app.yaml", "--wait"]);
    until("new words", || shop.must(&["logs", "tree"]), |said| said.contains("another library"));

    std::os::unix::fs::symlink("/etc/hostname", tree.join("lib/outside")).unwrap();
    let refused = String::from_utf8(shop.run(&["apply", "-f", "app.yaml"]).stderr).unwrap();
    assert!(refused.contains("lib/outside") && refused.contains("leads out of"), "{refused}");
    std::fs::remove_file(tree.join("lib/outside")).unwrap();
    shop.edit("app.yaml", "entry: main.sh", "entry: nothing.sh");
    let refused = String::from_utf8(shop.run(&["apply", "-f", "app.yaml"]).stderr).unwrap();
    assert!(refused.contains("it holds no nothing.sh"), "{refused}");
    up.interrupt();
}

#[test]
fn a_database_may_keep_everything_and_be_gone_for_a_while() {
    let mut server = plimsoll_testkit::Postgres::start();
    let url = server.database("shop");
    let shop = Shop::new();
    let up = shop.up(&["--store", &url]);
    up.until_said("settled");
    let before = shop.programs();
    server.kill();
    let refused = shop.run(&["scale", "shop", "web=4"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("the store is not available"), "{said}");
    assert!(shop.page(None).unwrap().contains("Welcome"), "what runs is served");
    server.resume();
    until("scaled", || shop.run(&["scale", "shop", "web=4"]).status.success(), |done| *done);
    shop.must(&["wait", "shop"]);
    let now = shop.programs();
    assert!(before.iter().all(|it| now.contains(it)), "nothing was started again: {before:?}, {now:?}");
    assert_eq!(now.len(), before.len() + 1);
    up.kill();
    // An empty store in place of the database would make orphans of all that runs.
    let refused = shop.run(&["server"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("give its address with --store"), "{said}");
    let up = shop.up(&["--store", &url]);
    up.until_said("settled");
    assert_eq!(shop.programs(), now);
    up.interrupt();
}
