//! From a launch to what lies in the instance's directory: files, relation data, and the command line.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use plimsoll_driver::SecretValues;
use plimsoll_model::id::Digest;
use plimsoll_model::revision::{Content, Listing};
use plimsoll_model::step::{Fragment, Launch, Rendered, VolumeMount};
use plimsoll_model::world::from_containers;
use plimsoll_shim::Run;

use crate::fetch::Fetch;
use crate::place::{Mark, Place, own, private_directory, sync_below};

/// What every program finds in its environment unless it declares otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an instance cannot be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error("secret {0} did not come with the step")]
    NoSecret(String),
    #[error("{0} leads out of the instance's directory")]
    Outside(String),
    #[error("{0} lies in a volume, which is the program's own")]
    InVolume(String),
    #[error("its container cannot be described: {0}")]
    Recipe(&'static str),
    #[error("the listing of the program's directory cannot be read: {0}")]
    Listing(#[from] serde_json::Error),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// From where a copy sees the stable addresses of components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standpoint {
    /// As the node does.
    Node,
    /// From a container.
    Container,
}

/// What goes in the place of references.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) secrets: &'a SecretValues,
    pub(crate) from: Standpoint,
    /// How it gets its program, if it does so by itself.
    pub(crate) fetch: Option<&'a Fetch>,
}

impl Values<'_> {
    /// A stable address, as the copy sees it.
    fn address(&self, ip: Ipv4Addr) -> Ipv4Addr {
        match self.from {
            Standpoint::Node => ip,
            Standpoint::Container => from_containers(ip),
        }
    }
}

/// Text with its secrets and addresses put in.
pub(crate) fn text(rendered: &Rendered, values: Values<'_>) -> Result<String, RenderError> {
    let mut out = String::new();
    for fragment in &rendered.0 {
        match fragment {
            Fragment::Text(text) => out.push_str(text),
            Fragment::Host(ip) => out.push_str(&values.address(*ip).to_string()),
            Fragment::Secret { secret, .. } => {
                let value =
                    values.secrets.get(secret).ok_or_else(|| RenderError::NoSecret(secret.to_string()))?;
                out.push_str(value.expose());
            }
        }
    }
    Ok(out)
}

/// A declared path below `root`: relative, and never upwards.
fn below(root: &Path, path: &str) -> Result<PathBuf, RenderError> {
    let mut out = root.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return Err(RenderError::Outside(path.to_owned())),
        }
    }
    Ok(out)
}

fn write(root: &Path, path: &str, bytes: &[u8], user: Option<u32>) -> Result<(), RenderError> {
    let file = below(root, path)?;
    let mut made = root.to_owned();
    for part in file.strip_prefix(root).unwrap_or(&file).parent().into_iter().flat_map(Path::components) {
        made.push(part);
        if !made.is_dir() {
            private_directory(&made, user)?;
        }
    }
    std::fs::write(&file, bytes)?;
    own(&file, user)?;
    Ok(())
}

/// Everything but the program's content, which may come later. `place` is not yet under its final name, `home` is.
pub(crate) fn prepare(
    place: &Place,
    home: &Place,
    volumes: &Path,
    mark: &Mark,
    values: Values<'_>,
) -> Result<Run, RenderError> {
    let Mark { launch, user, .. } = mark;
    for directory in [place.work(), place.tmp(), place.bindings()] {
        private_directory(&directory, *user)?;
    }
    let mounts = mounts(place, mark)?;
    let own = |path: &str| -> Result<PathBuf, RenderError> {
        let at = below(&place.work(), path)?;
        let in_volume = mounts.iter().any(|mount| at.starts_with(mount));
        if in_volume { Err(RenderError::InVolume(path.to_owned())) } else { Ok(at) }
    };
    for (path, rendered) in &launch.files {
        own(path)?;
        write(&place.work(), path, text(rendered, values)?.as_bytes(), *user)?;
    }
    for (relation, data) in &launch.bindings {
        for (key, rendered) in data {
            let path = format!("{relation}/{key}");
            write(&place.bindings(), &path, text(rendered, values)?.as_bytes(), *user)?;
        }
    }
    let directory = match &launch.workdir {
        Some(path) => {
            // A volume may be the working directory; it is there already.
            if !mounts.contains(&below(&place.work(), path)?) {
                private_directory(&own(path)?, *user)?;
            }
            below(&home.work(), path)?
        }
        None => home.work(),
    };
    for (name, mount) in &launch.volumes {
        let volume = volumes.join(name.as_str());
        private_directory(&volume, *user)?;
        let link = mount_point(place, mount)?;
        let nested = mounts.iter().any(|other| *other != link && link.starts_with(other));
        if nested {
            return Err(RenderError::InVolume(mount.path.clone()));
        }
        if let Some(parent) = link.parent().filter(|parent| !parent.is_dir()) {
            private_directory(parent, *user)?;
        }
        std::os::unix::fs::symlink(&volume, &link)?;
    }
    Ok(Run {
        attempt: 0,
        argv: argv(launch, home)?,
        env: environment(home, mark, values)?,
        directory: directory.display().to_string(),
        groups: Vec::new(),
        user: *user,
        network: None,
        tmp: None,
        once: launch.hook.is_some(),
    })
}

/// A file that a container's user may read, whoever that is. Nobody else gets that far.
pub(crate) fn write_readable(path: &Path, bytes: &[u8]) -> Result<(), RenderError> {
    std::fs::write(path, bytes)?;
    Ok(std::fs::set_permissions(path, Permissions::from_mode(0o444))?)
}

/// A directory that a container's user may read.
pub(crate) fn readable_directory(path: &Path) -> Result<(), RenderError> {
    private_directory(path, None)?;
    Ok(std::fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Where volumes are to be seen.
fn mounts(place: &Place, mark: &Mark) -> Result<Vec<PathBuf>, RenderError> {
    mark.launch.volumes.values().map(|mount| mount_point(place, mount)).collect()
}

/// A volume's path is relative to where the program works, also if it is written as an absolute one.
fn mount_point(place: &Place, mount: &VolumeMount) -> Result<PathBuf, RenderError> {
    below(&place.work(), mount.path.trim_start_matches('/'))
}

/// The command line with `{file}` filled in.
fn argv(launch: &Launch, home: &Place) -> Result<Vec<String>, RenderError> {
    let file = match &launch.content {
        Some(Content::File { name, .. } | Content::Inline { name, .. }) => {
            Some(below(&home.work(), name)?.display().to_string())
        }
        Some(Content::Tree { entry: Some(entry), .. }) => {
            Some(below(&home.work(), entry)?.display().to_string())
        }
        Some(Content::Tree { entry: None, .. } | Content::Fetched { .. }) | None => None,
    };
    let fill = |part: &String| match &file {
        Some(file) => part.replace("{file}", file),
        None => part.clone(),
    };
    Ok(launch.argv.iter().map(fill).collect())
}

fn environment(
    home: &Place,
    mark: &Mark,
    values: Values<'_>,
) -> Result<BTreeMap<String, String>, RenderError> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("HOME".to_owned(), home.work().display().to_string()),
        ("TMPDIR".to_owned(), home.tmp().display().to_string()),
        ("SERVICE_BINDING_ROOT".to_owned(), home.bindings().display().to_string()),
    ]);
    env.append(&mut own_environment(mark, values)?);
    Ok(env)
}

/// What every copy is told of itself, and what is declared for it.
pub(crate) fn own_environment(
    mark: &Mark,
    values: Values<'_>,
) -> Result<BTreeMap<String, String>, RenderError> {
    let mut env = BTreeMap::from([
        ("PLIMSOLL_APP".to_owned(), mark.key.name.to_string()),
        ("PLIMSOLL_COMPONENT".to_owned(), mark.component.to_string()),
        ("PLIMSOLL_SLOT".to_owned(), mark.slot.0.to_string()),
    ]);
    if let [port] = mark.ports.values().collect::<Vec<_>>()[..] {
        env.insert("PORT".to_owned(), port.to_string());
    }
    if let Some(fetch) = values.fetch {
        let at = format!("http://{}:{}/program", values.address(*fetch.at.ip()), fetch.at.port());
        env.insert("PLIMSOLL_PROGRAM_URL".to_owned(), at);
        env.insert("TOKEN".to_owned(), fetch.credential.expose().clone());
    }
    for (name, port) in &mark.ports {
        let name = name.as_str().to_uppercase().replace('-', "_");
        env.insert(format!("PORT_{name}"), port.to_string());
    }
    for (name, rendered) in &mark.launch.env {
        env.insert(name.to_string(), text(rendered, values)?);
    }
    Ok(env)
}

/// Puts the program's content in its place; false if it has not reached this node.
///
/// Declared files win over it, and what lies where a volume is to be is hidden by the volume: that directory is the
/// program's own already, and nothing of ours is written there.
pub(crate) fn place_content(place: &Place, mark: &Mark, content: &Path) -> Result<bool, RenderError> {
    let mut files = BTreeMap::new();
    match &mark.launch.content {
        None | Some(Content::Fetched { .. }) if mark.launch.image.is_some() => {
            sync_below(place.path())?;
            return Ok(true);
        }
        // The copy gets it by itself.
        Some(Content::Fetched { .. }) => {}
        None if mark.launch.files.is_empty() && mark.launch.bindings.is_empty() => return Ok(true),
        None => {}
        Some(Content::Inline { name, text }) => {
            files.insert(name.clone(), (text.clone().into_bytes(), false));
        }
        Some(Content::File { name, digest }) => {
            let Some(bytes) = fetch(content, *digest)? else { return Ok(false) };
            files.insert(name.clone(), (bytes, false));
        }
        Some(Content::Tree { digest, .. }) => {
            let Some(listing) = fetch(content, *digest)? else { return Ok(false) };
            for (path, file) in serde_json::from_slice::<Listing>(&listing)?.files {
                let Some(bytes) = fetch(content, file.digest)? else { return Ok(false) };
                files.insert(path, (bytes, file.executable));
            }
        }
    }
    let (work, mounts) = (place.work(), mounts(place, mark)?);
    let declared = mark.launch.files.keys().map(|path| below(&work, path));
    let declared = declared.collect::<Result<Vec<_>, _>>()?;
    for (path, (bytes, executable)) in files {
        let file = below(&work, &path)?;
        // What an earlier attempt left half written is written again.
        if declared.contains(&file) || mounts.iter().any(|mount| file.starts_with(mount)) {
            continue;
        }
        write(&work, &path, &bytes, mark.user)?;
        if executable {
            std::fs::set_permissions(&file, Permissions::from_mode(0o755))?;
        }
    }
    sync_below(&work)?;
    Ok(true)
}

fn fetch(content: &Path, digest: Digest) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(content.join(digest.to_string())) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
