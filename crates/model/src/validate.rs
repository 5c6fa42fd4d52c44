//! What a declaration must obey beyond its schema: every violation at once, each with its field path.

mod hooks;
mod scale;
mod source;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::app::{AppSpec, Component, EnvValue, FileContent, Program, Route, TlsMode};
use crate::health::{Health, Probe};
use crate::id::{ComponentName, PartName};
use crate::image::ImageRef;
use crate::template::{self, Part};
use crate::update::{Follow, ImageUpdate};

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: keys and indices from the root of the spec.
    pub path: Vec<String>,
    /// What is wrong and why.
    pub message: String,
    /// What to write instead, where we can tell.
    pub suggestion: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.join("."), self.message)
    }
}

/// Collects violations below a path.
struct Check<'a> {
    path: Vec<String>,
    found: &'a mut Vec<Violation>,
}

impl Check<'_> {
    fn at(&mut self, part: impl fmt::Display) -> Check<'_> {
        let mut path = self.path.clone();
        path.push(part.to_string());
        Check { path, found: self.found }
    }

    fn fail(&mut self, message: impl Into<String>) {
        self.found.push(Violation { path: self.path.clone(), message: message.into(), suggestion: None });
    }

    fn fail_with(&mut self, message: impl Into<String>, suggestion: impl Into<String>) {
        let suggestion = Some(suggestion.into());
        self.found.push(Violation { path: self.path.clone(), message: message.into(), suggestion });
    }
}

/// Checks an App's spec. Whether other objects exist is not asked here: that is a wait, not an error.
pub fn app(spec: &AppSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut root = Check { path: Vec::new(), found: &mut found };
    let mut components = root.at("components");
    for (name, it) in &spec.components {
        component(&mut components.at(name), spec, it);
    }
    if let Some(cycle) = relation_cycle(spec) {
        let names: Vec<&str> = cycle.iter().map(ComponentName::as_str).collect();
        components.fail(format!("components consume each other in a circle: {}", names.join(" -> ")));
    }
    routes_are_unique(&mut components, spec);
    found
}

fn component(check: &mut Check<'_>, spec: &AppSpec, it: &Component) {
    match &it.program {
        Some(it_program) => program(&mut check.at("program"), it_program, !it.command.is_empty()),
        None if it.command.is_empty() && it.image.is_none() && it.source.is_none() => {
            check.fail_with(
                "nothing says what to run",
                "give `image`, `source: {git: …}`, `program: {file: …, runtime: …}` or `command`",
            );
        }
        None => {
            if it.command.iter().any(|part| part.contains("{file}")) {
                check.at("command").fail("`{file}` stands for the program's file, but there is no `program`");
            }
        }
    }
    ports(&mut check.at("ports"), &it.ports);
    for (name, value) in &it.env {
        if let EnvValue::Text(text) = value {
            literal(&mut check.at("env").at(name), it, text, Allowed::Everything);
        }
    }
    for (path, content) in &it.files {
        file(&mut check.at("files").at(path), it, path, content);
    }
    if let Some(workdir) = &it.workdir {
        placed_path(&mut check.at("workdir"), it, workdir);
    }
    reserve(check, it);
    image(check, it);
    source::source(check, it);
    volumes(check, it);
    outside_volumes(check, it);
    if let Some(it_health) = &it.health {
        health(&mut check.at("health"), it, it_health);
    }
    relations(check, spec, it);
    for (index, it_route) in it.routes.iter().enumerate() {
        route(&mut check.at("routes").at(index), it, it_route);
    }
    update::update(&mut check.at("update"), it);
    hooks::hooks(&mut check.at("hooks"), it);
    scale::scale(&mut check.at("scale"), it);
}

fn program(check: &mut Check<'_>, it: &Program, has_command: bool) {
    let given = [it.file.is_some(), it.directory.is_some(), it.inline.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        check.fail("give exactly one of `file`, `directory` and `inline`");
    }
    if it.runtime.is_none() && !has_command {
        check.fail_with("nothing says how to run the program", "give `runtime: python`, or a `command`");
    }
    if it.inline.is_some() && it.digest.is_some() {
        check.at("digest").fail("`inline` content has no digest of its own");
    }
    if it.fetch && it.file.is_none() {
        check.at("fetch").fail("only a program of one `file` is fetched");
    }
    if it.entry.is_some() && it.directory.is_none() {
        check.at("entry").fail("`entry` belongs to a `directory`");
    }
    if it.directory.is_some() && it.entry.is_none() && !has_command {
        check.fail_with("a `directory` needs an `entry`, or a `command`", "entry: main.py");
    }
    for (name, path) in [("file", &it.file), ("directory", &it.directory), ("entry", &it.entry)] {
        if let Some(path) = path {
            relative_path(&mut check.at(name), path);
        }
    }
}

/// What a copy may not have cannot be reserved for it.
fn reserve(check: &mut Check<'_>, it: &Component) {
    let mut check = check.at("reserve");
    if it.reserve.cpu.zip(it.resources.cpu).is_some_and(|(reserve, limit)| reserve > limit) {
        check.at("cpu").fail("more is reserved than the limit in `resources`");
    }
    if it.reserve.memory.zip(it.resources.memory).is_some_and(|(reserve, limit)| reserve > limit) {
        check.at("memory").fail("more is reserved than the limit in `resources`");
    }
}

fn ports(check: &mut Check<'_>, ports: &BTreeMap<PartName, u16>) {
    let mut seen = BTreeMap::new();
    for (name, number) in ports {
        if *number == 0 {
            check.at(name).fail("a port number is 1 to 65535");
        } else if let Some(other) = seen.insert(number, name) {
            check.at(name).fail(format!("{number} is already the port `{other}`"));
        }
    }
}

fn file(check: &mut Check<'_>, it: &Component, path: &str, content: &FileContent) {
    placed_path(check, it, path);
    match (&content.content, &content.secret) {
        (Some(text), None) => literal(&mut check.at("content"), it, text, Allowed::Everything),
        (None, Some(_)) => {}
        _ => check.fail("give exactly one of `content` and `secret`"),
    }
}

/// Which names a template may use where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Everything,
    OwnAddress,
    NoSecrets,
}

fn literal(check: &mut Check<'_>, it: &Component, text: &str, allowed: Allowed) {
    let parts = match template::parse(text) {
        Ok(parts) => parts,
        Err(error) => return check.fail(error.to_string()),
    };
    if text.contains('\0') {
        check.fail("a zero byte cannot be passed to a program");
    }
    for part in parts {
        match part {
            Part::Text(_) | Part::Host => {}
            Part::Port(name) if it.ports.contains_key(&name) => {}
            Part::Port(name) => {
                let known = known_names(it.ports.keys());
                check.fail(format!("`${{port:{name}}}`: the component has no such port ({known})"));
            }
            Part::Secret(_) if allowed == Allowed::NoSecrets => {
                check.fail("a secret cannot be part of this");
            }
            Part::Secret(_) => {}
            Part::Relation(name, _) if allowed != Allowed::Everything => {
                check.fail(format!("`${{{name}.…}}`: relation data cannot be part of this"));
            }
            Part::Relation(name, _) if it.consumes.contains_key(&name) => {}
            Part::Relation(name, _) => {
                let known = known_names(it.consumes.keys());
                check.fail(format!("`${{{name}.…}}`: the component consumes no `{name}` ({known})"));
            }
        }
    }
}

fn known_names<'a>(names: impl Iterator<Item = &'a PartName>) -> String {
    let names: Vec<&str> = names.map(PartName::as_str).collect();
    if names.is_empty() { "there is none".into() } else { format!("known: {}", names.join(", ")) }
}

/// Paths stay below the directory they are relative to, whatever it is.
fn relative_path(check: &mut Check<'_>, path: &str) {
    if path.is_empty() {
        check.fail("the path is empty");
    } else if path.len() > 1024 || path.contains('\0') || path.contains('\\') {
        check.fail("the path is longer than 1024 bytes, or holds a zero byte or a backslash");
    } else if path.starts_with('/') {
        check.fail("the path must be relative");
    } else if path.split('/').any(|part| part == "..") {
        check.fail("the path leads out of its directory by `..`");
    }
}

/// Where something lies: in the instance's own directory, or anywhere in an image.
fn placed_path(check: &mut Check<'_>, it: &Component, path: &str) {
    match path.strip_prefix('/') {
        Some("") if it.is_image_alone() => check.fail("the root of the image cannot be meant"),
        Some(_)
            if it.is_image_alone() && path.split('/').skip(1).any(|part| part.is_empty() || part == ".") =>
        {
            check.fail("the path has empty parts");
        }
        Some(_)
            if it.is_image_alone()
                && ["/proc", "/sys", "/dev", BINDINGS].iter().any(|above| is_within(path, above)) =>
        {
            check.fail("/proc, /sys, /dev and /bindings are made for each container");
        }
        Some(inside) if it.is_image_alone() => relative_path(check, inside),
        None if it.is_image_alone() => {
            check.fail_with("a path in an image is absolute", format!("/{path}"));
        }
        _ => relative_path(check, path),
    }
}

/// Where relation data is seen in an image.
const BINDINGS: &str = "/bindings";

/// Whether a path is another one, or lies below it.
fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What only containers have.
fn image(check: &mut Check<'_>, it: &Component) {
    if it.image.is_none() && it.source.is_none() && it.update.image != ImageUpdate::default() {
        check.at("update").at("image").fail("there is no `image` whose tag could be followed");
    }
    if it.image.is_none() && it.source.is_none() && it.program.is_none() && !it.security.is_default() {
        check.at("security").fail("it is about containers, and this is a command of the node");
    }
    if it.program.is_some() && (it.security.user.is_some() || it.security.capabilities.is_some()) {
        check
            .at("security")
            .fail("a program runs as its project's user, without capabilities, in an image too");
    }
    let word = |word: &str| {
        let first = word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        first && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    if it.security.user.as_ref().is_some_and(|user| user.splitn(2, ':').any(|part| !word(part))) {
        check
            .at("security")
            .at("user")
            .fail_with("a user, and a group if need be, by name or number", "1000:1000");
    }
    if it.update.image.every.is_some_and(|every| every.millis < 10_000) {
        check
            .at("update")
            .at("image")
            .at("every")
            .fail_with("a registry is asked every 10s at most", "every: 1m");
    }
    let is_pinned = it.image.as_ref().is_some_and(|image| image.digest().is_some());
    let mut follow = check.at("update");
    let mut follow = follow.at("image");
    let mut follow = follow.at("follow");
    if is_pinned && it.update.image.follow != Follow::None {
        follow.fail("a digest leads to the same bytes for ever: name a tag");
    } else if it.update.image.range().is_some() {
        if it.image.as_ref().is_some_and(ImageRef::has_tag) {
            follow.fail("the range chooses among all tags: leave the tag of `image` out");
        }
        if it.image.as_ref().is_some_and(|image| image.repository().is_of_this_machine()) {
            follow.fail("an engine does not say which versions it has: name a registry");
        }
    }
}

fn volumes(check: &mut Check<'_>, it: &Component) {
    let mut paths = BTreeSet::new();
    for (name, volume) in &it.volumes {
        let path = volume.path.trim_start_matches('/');
        if it.is_image_alone() {
            placed_path(&mut check.at("volumes").at(name).at("path"), it, &volume.path);
        } else {
            relative_path(&mut check.at("volumes").at(name).at("path"), path);
        }
        if !paths.insert(path) {
            check.at("volumes").at(name).at("path").fail("another volume has the same path");
        }
    }
}

/// A volume is the program's own: nothing that is declared is written into it, and no other volume lies in it.
fn outside_volumes(check: &mut Check<'_>, it: &Component) {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
    };
    let mounts: Vec<_> = it.volumes.iter().map(|(name, volume)| (name, parts(&volume.path))).collect();
    let holder = |path: &str| {
        let path = parts(path);
        mounts.iter().find(|(_, mount)| path.starts_with(mount)).map(|(name, mount)| (*name, path == *mount))
    };
    for path in it.files.keys() {
        if let Some((volume, _)) = holder(path) {
            let message = format!("it would lie in the volume `{volume}`, which is the program's own");
            check.at("files").at(path).fail(message);
        }
    }
    for (name, path) in &mounts {
        let other =
            mounts.iter().find(|(other, mount)| other != name && path != mount && path.starts_with(mount));
        if let Some((other, _)) = other {
            check.at("volumes").at(name).at("path").fail(format!("it would lie in the volume `{other}`"));
        }
    }
    if let Some(workdir) = &it.workdir
        && let Some((volume, false)) = holder(workdir)
    {
        let message = format!("it would lie in the volume `{volume}`, where nobody makes it");
        check.at("workdir").fail(message);
    }
}

fn health(check: &mut Check<'_>, it: &Component, health: &Health) {
    let port = match health.probe() {
        None => return check.fail("give exactly one of `http`, `tcp` and `exec`"),
        Some(Probe::Http(http)) => {
            if !http.path.starts_with('/') || http.path.contains(char::is_whitespace) {
                check.at("http").at("path").fail("the path must begin with `/` and hold no white space");
            }
            Some(("http", &http.port))
        }
        Some(Probe::Tcp(tcp)) => Some(("tcp", &tcp.port)),
        Some(Probe::Exec(_)) => None,
    };
    if let Some((probe, port)) = port {
        declared_port(&mut check.at(probe).at("port"), it, port);
    }
    if health.every.millis < 100 {
        check.at("every").fail_with("probes come at most ten times a second", "every: 100ms");
    }
    if health.timeout.millis == 0 {
        check.at("timeout").fail("a probe needs some time");
    }
}

fn declared_port(check: &mut Check<'_>, it: &Component, port: &PartName) {
    if !it.ports.contains_key(port) {
        let known = known_names(it.ports.keys());
        check.fail(format!("the component has no port `{port}` ({known})"));
    }
}

fn relations(check: &mut Check<'_>, spec: &AppSpec, it: &Component) {
    for (name, provide) in &it.provides {
        let mut at = check.at("provides");
        let mut at = at.at(name);
        match &provide.port {
            Some(port) => declared_port(&mut at.at("port"), it, port),
            None if it.ports.len() == 1 => {}
            None if it.ports.is_empty() => at.fail("the component has no port to provide it on"),
            None => at.fail_with("the component has several ports", "say which by `port`"),
        }
        for (key, text) in &provide.data {
            literal(&mut at.at("data").at(key), it, text, Allowed::OwnAddress);
        }
    }
    for (name, consume) in &it.consumes {
        if consume.from.app.is_some() {
            continue;
        }
        let mut at = check.at("consumes");
        let mut at = at.at(name);
        let provider = spec.components.get(&consume.from.component);
        match provider.and_then(|provider| provider.provides.get(&consume.from.endpoint)) {
            None => at.at("from").fail(format!("no component of this App provides {}", consume.from)),
            Some(provide) if provide.interface != consume.interface => {
                let message = format!("{} provides `{}`", consume.from, provide.interface);
                at.at("interface").fail_with(message, format!("interface: {}", provide.interface));
            }
            Some(_) => {}
        }
    }
}

fn route(check: &mut Check<'_>, it: &Component, route: &Route) {
    declared_port(&mut check.at("port"), it, &route.port);
    literal(&mut check.at("host"), it, &route.host, Allowed::NoSecrets);
    let host = route.host.strip_prefix("*.").unwrap_or(&route.host);
    if !host.contains("${") && host.parse::<crate::id::ObjectName>().is_err() {
        check.at("host").fail("not a host name: lower-case letters, digits, `-` and `.`");
    }
    let mut tls = check.at("tls");
    if route.tls.is_on() && route.host.contains("${") {
        tls.fail("a certificate is for a host that is written out");
    }
    if route.tls == TlsMode::Auto && route.host.starts_with("*.") {
        tls.fail_with("authorities give none for `*` by what routes can show", "tls: {secret: NAME}");
    }
    if route.tls.is_on() && route.host.parse::<std::net::IpAddr>().is_ok() {
        tls.fail("clients do not say which address they mean: give a name");
    }
    if route.hsts.is_some() && !route.tls.is_on() {
        check.at("hsts").fail("there is no encryption to keep to: set `tls`");
    }
    if !route.path.starts_with('/') || route.path.contains(char::is_whitespace) || route.path.contains('?') {
        check.at("path").fail("the path must begin with `/` and hold neither white space nor `?`");
    }
}

fn routes_are_unique(check: &mut Check<'_>, spec: &AppSpec) {
    let mut seen: BTreeMap<(&str, &str), &ComponentName> = BTreeMap::new();
    for (name, it) in &spec.components {
        for (index, route) in it.routes.iter().enumerate() {
            if let Some(other) = seen.insert((&route.host, &route.path), name) {
                let mut at = check.at(name);
                let mut at = at.at("routes");
                at.at(index).fail(format!("component `{other}` has the same host and path"));
            }
        }
    }
}

/// A circle of components that consume each other, the first repeated at the end.
fn relation_cycle(spec: &AppSpec) -> Option<Vec<ComponentName>> {
    fn visit<'a>(
        spec: &'a AppSpec,
        name: &'a ComponentName,
        done: &mut BTreeSet<&'a ComponentName>,
        trail: &mut Vec<&'a ComponentName>,
    ) -> Option<Vec<ComponentName>> {
        if let Some(start) = trail.iter().position(|seen| *seen == name) {
            return Some(trail[start..].iter().copied().chain([name]).cloned().collect());
        }
        if !done.insert(name) {
            return None;
        }
        trail.push(name);
        let found = spec.components.get(name).and_then(|component| {
            let local = component.consumes.values().filter(|consume| consume.from.app.is_none());
            local.map(|consume| &consume.from.component).find_map(|next| visit(spec, next, done, trail))
        });
        trail.pop();
        found
    }
    let mut done = BTreeSet::new();
    spec.components.keys().find_map(|name| visit(spec, name, &mut done, &mut Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(json: serde_json::Value) -> Vec<String> {
        app(&serde_json::from_value(json).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_complete_app_passes() {
        let found = violations(serde_json::json!({"components": {
            "db": {"command": ["db"], "ports": {"pg": 5432},
                   "provides": {"sql": {"interface": "postgresql", "data": {"url": "pg://${host}:${port:pg}"}}}},
            "web": {"program": {"inline": "x", "runtime": "python"}, "ports": {"http": 8080},
                    "env": {"DB": "${db.url}", "N": 3},
                    "consumes": {"db": {"interface": "postgresql", "from": "db/sql"}},
                    "health": {"http": {"port": "http"}},
                    "routes": [{"host": "shop.localhost", "port": "http"}]},
        }}));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let found = violations(serde_json::json!({"components": {
            "a": {"consumes": {"b": {"interface": "x", "from": "b/e"}}, "command": ["run", "{file}"]},
            "b": {"program": {"file": "../secret", "inline": "x"}, "ports": {"p": 1, "q": 1},
                  "env": {"E": "${port:nope}"}, "provides": {"e": {"interface": "y", "port": "p"}},
                  "consumes": {"a": {"interface": "x", "from": "a/e"}},
                  "health": {"every": "1ms"},
                  "update": {"surge": 0, "unavailable": 0}},
        }}));
        for part in [
            "there is no `program`",
            "exactly one of `file`",
            "how to run the program",
            "by `..`",
            "already the port",
            "no such port",
            "provides `y`",
            "no component of this App provides a/e",
            "in a circle",
            "`http`, `tcp` and `exec`",
            "nothing can ever be replaced",
        ] {
            assert!(found.iter().any(|line| line.contains(part)), "{part} is missing in {found:#?}");
        }
    }

    #[test]
    fn a_circle_is_printed() {
        let found = violations(serde_json::json!({"components": {
            "a": {"command": ["x"], "ports": {"p": 1}, "provides": {"e": {"interface": "i"}},
                  "consumes": {"b": {"interface": "i", "from": "b/e"}}},
            "b": {"command": ["x"], "ports": {"p": 1}, "provides": {"e": {"interface": "i"}},
                  "consumes": {"a": {"interface": "i", "from": "a/e"}}},
        }}));
        assert_eq!(found, ["components: components consume each other in a circle: a -> b -> a"]);
    }
}
