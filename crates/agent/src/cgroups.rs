//! Limits of instances, by the kernel's control groups: version 1 or 2, whichever has the controller. See cgroups(7).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use plimsoll_model::app::Resources;
use plimsoll_model::id::{InstallationId, InstanceId};
use plimsoll_model::world::Limit;

/// The period over which CPU time is shared out, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// Where each controller is, if it is anywhere we may use it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    controllers: BTreeMap<Limit, Controller>,
}

/// A hierarchy that has a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Controller {
    version: Version,
    /// Our directory in it; each instance's is below.
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What became of an instance's limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limited {
    /// The groups that its processes must enter.
    pub(crate) groups: Vec<PathBuf>,
    /// What was declared and cannot be enforced here.
    pub(crate) unenforced: Vec<Limit>,
}

/// The controller of a limit, by the kernel's name.
fn controller(limit: Limit) -> &'static str {
    match limit {
        Limit::Cpu => "cpu",
        Limit::Memory => "memory",
        Limit::Pids => "pids",
        Limit::VolumeSize | Limit::Network | Limit::Tmp | Limit::Security | Limit::Addresses => "",
    }
}

/// Mount points of control groups: version, what it controls, where.
fn hierarchies() -> Vec<(Version, String, PathBuf)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mount = PathBuf::from(mount.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        match kind.next()? {
            "cgroup" => Some((Version::One, kind.nth(1)?.replace(',', " "), mount)),
            "cgroup2" => {
                let controllers = std::fs::read_to_string(mount.join("cgroup.controllers")).ok()?;
                Some((Version::Two, controllers, mount))
            }
            _ => None,
        }
    };
    text.lines().filter_map(parse).collect()
}

impl Cgroups {
    /// Finds out what this process may limit for an installation.
    pub(crate) fn discover(installation: &InstallationId) -> Self {
        let hierarchies = hierarchies();
        let mut controllers = BTreeMap::new();
        for limit in [Limit::Cpu, Limit::Memory, Limit::Pids] {
            let has = |list: &str| list.split_whitespace().any(|name| name == controller(limit));
            for (version, list, mount) in &hierarchies {
                let ours = mount.join("plimsoll");
                let root = ours.join(installation.as_str());
                let parents = [mount, &ours, &root];
                if has(list) && prepare(*version, controller(limit), &parents).is_ok() {
                    controllers.insert(limit, Controller { version: *version, root });
                    break;
                }
            }
        }
        Self { controllers }
    }

    /// Makes the groups of an instance with its limits.
    pub(crate) fn limit(&self, instance: &InstanceId, resources: &Resources) -> Limited {
        let declared = [
            (Limit::Cpu, resources.cpu.map(|cpu| cpu.millicores * (PERIOD / 1000))),
            (Limit::Memory, resources.memory.map(|memory| memory.bytes)),
            (Limit::Pids, resources.pids.map(u64::from)),
        ];
        let mut limited = Limited::default();
        for (limit, value) in declared.into_iter().filter_map(|(limit, value)| Some((limit, value?))) {
            let made = self.controllers.get(&limit).and_then(|it| it.make(instance, limit, value).ok());
            match made {
                Some(group) if !limited.groups.contains(&group) => limited.groups.push(group),
                Some(_) => {}
                None => limited.unenforced.push(limit),
            }
        }
        limited
    }

    /// Removes the groups of an instance of which nothing runs any more.
    pub(crate) fn remove(&self, instance: &InstanceId) {
        for controller in self.controllers.values() {
            // One that is not there, or not empty after all, stays as it is.
            std::fs::remove_dir(controller.root.join(instance.as_str())).ok();
        }
    }
}

/// Makes the directories above those of instances, with the controller switched on for what is below.
fn prepare(version: Version, name: &str, parents: &[&PathBuf]) -> io::Result<()> {
    for parent in parents {
        std::fs::create_dir_all(parent)?;
        if version == Version::Two {
            std::fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"))?;
        }
    }
    Ok(())
}

impl Controller {
    fn make(&self, instance: &InstanceId, limit: Limit, value: u64) -> io::Result<PathBuf> {
        let group = self.root.join(instance.as_str());
        std::fs::create_dir_all(&group)?;
        let write = |file: &str, text: String| write_existing(&group.join(file), &text);
        match (limit, self.version) {
            (Limit::Cpu, Version::One) => {
                write("cpu.cfs_period_us", PERIOD.to_string())?;
                write("cpu.cfs_quota_us", value.to_string())?;
            }
            (Limit::Cpu, Version::Two) => write("cpu.max", format!("{value} {PERIOD}"))?,
            (Limit::Memory, Version::One) => write("memory.limit_in_bytes", value.to_string())?,
            (Limit::Memory, Version::Two) => write("memory.max", value.to_string())?,
            (Limit::Pids, _) => write("pids.max", value.to_string())?,
            (Limit::VolumeSize | Limit::Network | Limit::Tmp | Limit::Security | Limit::Addresses, _) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        Ok(group)
    }
}

/// Writes a file of the kernel's, which must be there already.
fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
