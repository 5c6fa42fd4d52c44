//! What is asked of a running instance by people: a command beside its program, where it is reached, what it uses.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use plimsoll_container::{Engine, EngineError};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{ComponentName, Digest, InstanceId, PartName};
use plimsoll_model::kind::EngineAddress;
use plimsoll_shim::{ENDED, LOG, LOG_BEFORE, STARTED, Started, read};

use crate::agent::Agent;

/// Clock ticks of a second, as the kernel counts time for programs: `USER_HZ`, which is 100 on every Linux.
const TICKS: u64 = 100;

/// Where an instance is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Whose it is.
    pub app: ObjectKey,
    /// Its component.
    pub component: ComponentName,
    /// Addresses of its ports, from this machine.
    pub endpoints: BTreeMap<PartName, SocketAddr>,
}

/// How a command is run beside an instance's program.
pub enum Beside {
    /// By this command line of the node.
    Process(Command),
    /// By the engine that has its container.
    Container {
        /// The engine.
        engine: Engine,
        /// The container.
        container: String,
        /// The command.
        argv: Vec<String>,
    },
}

/// Where an instance's words are.
#[derive(Clone)]
pub struct Log {
    /// Files with lines of the shim's form, older ones first: what a process said, and the agent's own notes.
    pub files: [PathBuf; 2],
    /// The engine and its container, where they have what the program said.
    pub container: Option<(Engine, String)>,
}

/// What the processes of an instance use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time so far, in milliseconds, of those too that have ended and been waited for by one of them. It may shrink
    /// when another process ends.
    pub cpu_millis: u64,
    /// Resident memory in bytes; pages that processes share count for each.
    pub memory: u64,
    /// Processes.
    pub processes: u32,
}

impl Agent {
    /// Where an instance is reached; `None` if it is not kept here.
    pub fn reached(&self, instance: &InstanceId) -> Option<Reached> {
        self.with(instance, |mark, _| Reached {
            app: mark.key.clone(),
            component: mark.component.clone(),
            endpoints: mark.endpoints(),
        })
    }

    /// How a command is run where an instance's program runs; `None` if it is not kept here.
    pub fn beside(&self, instance: &InstanceId, argv: &[String], terminal: bool) -> Option<Beside> {
        if let Some((engine, container)) = self.container(instance) {
            return Some(Beside::Container { engine, container, argv: argv.to_vec() });
        }
        self.with(instance, |_, place| {
            let (shim, arguments) = self.shim().split_first()?;
            let mut command = Command::new(shim);
            command.args(arguments).arg(place.path());
            if terminal {
                command.arg("--terminal");
            }
            command.arg("--").args(argv).current_dir("/");
            Some(Beside::Process(command))
        })?
    }

    /// Where an instance's words are; `None` if it is not kept here.
    pub fn log(&self, instance: &InstanceId) -> Option<Log> {
        let files =
            self.with(instance, |_, place| [place.path().join(LOG_BEFORE), place.path().join(LOG)])?;
        Some(Log { files, container: self.container(instance) })
    }

    /// The engine at an address, or the usual one.
    ///
    /// # Errors
    /// When there is none.
    pub fn engine(&self, address: Option<&EngineAddress>) -> Result<Engine, EngineError> {
        self.engines().get(address)
    }

    /// The id of an image that the usual engine has under a name.
    ///
    /// # Errors
    /// Why the engine does not say, as a sentence.
    pub async fn image(&self, name: &str) -> Result<Option<Digest>, String> {
        let engine = self.engines().get(None).map_err(|error| error.to_string())?;
        engine.image_id(name).await.map_err(|error| error.to_string())
    }

    /// When an instance's latest run began, in milliseconds since 1970 UTC; `None` if it is not kept here.
    pub fn began(&self, instance: &InstanceId) -> Option<u64> {
        if let Some((engine, container)) = self.container(instance) {
            return engine.view().borrow().containers.get(&container)?.began;
        }
        self.written(instance, STARTED)
    }

    /// When an instance's last run that is over ended, in milliseconds since 1970 UTC; `None` if it is not kept here, or none
    /// is.
    pub fn ended(&self, instance: &InstanceId) -> Option<u64> {
        if let Some((engine, container)) = self.container(instance) {
            return engine.view().borrow().containers.get(&container)?.ended;
        }
        self.written(instance, ENDED)
    }

    /// When a record of an instance was written.
    fn written(&self, instance: &InstanceId, record: &str) -> Option<u64> {
        let directory = self.with(instance, |_, place| place.path().to_owned())?;
        let written = directory.join(record).metadata().ok()?.modified().ok()?;
        let since = written.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    /// What the processes of instances use now, of those that are kept here and run.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn used(&self, instances: &[InstanceId]) -> io::Result<BTreeMap<InstanceId, Used>> {
        let mut children: BTreeMap<i32, Vec<(i32, Used)>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some((parent, used)) = process(pid) {
                children.entry(parent).or_default().push((pid, used));
            }
        }
        let mut found = BTreeMap::new();
        for instance in instances {
            if let Some((engine, container)) = self.container(instance) {
                let pid = engine.view().borrow().containers.get(&container).and_then(|seen| seen.pid);
                let first = pid.and_then(|pid| Some((pid, process(pid)?.1)));
                if let Some((pid, used)) = first {
                    found.insert(instance.clone(), below(pid, used, &mut children));
                }
                continue;
            }
            let Some(directory) = self.with(instance, |_, place| place.path().to_owned()) else { continue };
            // One that cannot be read makes nothing unknown of the others.
            let Ok(Some(started)) = read::<Started>(&directory, STARTED) else { continue };
            if started.shim.is_there() {
                found.insert(instance.clone(), below(started.shim.pid, Used::default(), &mut children));
            }
        }
        Ok(found)
    }
}

/// The sum of all processes below one, added to another.
fn below(parent: i32, mut sum: Used, children: &mut BTreeMap<i32, Vec<(i32, Used)>>) -> Used {
    let mut open = vec![parent];
    while let Some(parent) = open.pop() {
        for (pid, used) in children.remove(&parent).unwrap_or_default() {
            sum.cpu_millis += used.cpu_millis;
            sum.memory += used.memory;
            sum.processes += 1;
            open.push(pid);
        }
    }
    sum
}

/// A process: its parent, and what it uses. See `proc_pid_stat`(5).
fn process(pid: i32) -> Option<(i32, Used)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let page = rustix::param::page_size() as u64;
    let used = Used {
        // Its own, and that of its children that have ended.
        cpu_millis: (number(14)? + number(15)? + number(16)? + number(17)?) * 1000 / TICKS,
        memory: number(24)? * page,
        processes: 1,
    };
    Some((fields.get(1)?.parse().ok()?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_the_kernel() {
        let (parent, used) = process(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(u32::try_from(parent).unwrap(), std::os::unix::process::parent_id());
        assert!(used.memory > 100 << 10, "{used:?}");
        assert_eq!(process(i32::MAX), None);
    }
}
