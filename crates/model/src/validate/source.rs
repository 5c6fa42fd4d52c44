//! What an image is built from.

use super::{Check, relative_path};
use crate::app::Component;
use crate::source::{Source, is_dockerfile};
use crate::update::Follow;

/// Ways to repositories.
const SCHEMES: [&str; 4] = ["https://", "http://", "ssh://", "file:///"];

pub(super) fn source(check: &mut Check<'_>, component: &Component) {
    let Some(it) = &component.source else { return };
    if component.image.is_some() || component.program.is_some() {
        check.fail("what is built takes the place of an `image` or a `program`: leave that out");
    }
    follow(check, component, it);
    let mut check = check.at("source");
    if [it.git.is_some(), it.archive.is_some(), it.path.is_some()].iter().filter(|given| **given).count() != 1
    {
        check.fail("give exactly one of `git`, `archive` and `path`");
    }
    if let Some(git) = &it.git {
        repository(&mut check.at("git"), git);
    }
    for (name, is_there) in [("ref", it.reference.is_some()), ("secret", it.secret.is_some())] {
        if is_there && it.git.is_none() {
            check.at(name).fail("it belongs to a repository of `git`");
        }
    }
    if it.git.is_some() && it.digest.is_some() {
        check.at("digest").fail("a repository is known by its commits: name one as `ref`");
    }
    if let Some(reference) = &it.reference {
        self::reference(&mut check.at("ref"), reference);
    }
    let paths = [
        ("archive", &it.archive),
        ("path", &it.path),
        ("directory", &it.directory),
        ("dockerfile", &it.dockerfile),
    ];
    for (name, path) in paths {
        if let Some(path) = path {
            relative_path(&mut check.at(name), path);
        }
    }
    if it.dockerfile.as_deref().is_some_and(|name| !is_dockerfile(name)) {
        check
            .at("dockerfile")
            .fail("it is of letters, digits, `.`, `_`, `/`, `-`, `+` and `@`, and does not end with `.in`");
    }
    if it.git.as_deref().is_some_and(is_overheard) && it.secret.is_some() {
        check.at("secret").fail("over http everybody on the way reads it: use https or ssh");
    }
    if it.dockerfile.is_some() && (it.language.is_some() || it.base.is_some()) {
        check.at("dockerfile").fail("a `language` and its `base` are for sources without one");
    }
}

/// Whether what is sent to an address passes others in the clear: from this machine to itself it does not.
fn is_overheard(git: &str) -> bool {
    let Some(rest) = git.strip_prefix("http://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    // Whoever is named before an `@` is not where it goes.
    let host = host.rsplit('@').next().unwrap_or_default();
    let is_address = host.parse::<std::net::SocketAddr>().is_ok_and(|at| at.ip().is_loopback())
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let name = host.split(':').next().unwrap_or_default();
    !(is_address || name == "localhost")
}

fn follow(check: &mut Check<'_>, component: &Component, it: &Source) {
    let mut check = check.at("update");
    let mut check = check.at("image");
    let mut check = check.at("follow");
    match component.update.image.follow {
        Follow::None => {}
        Follow::Semver(_) => check.fail("a source has no versions: name a tag as `ref`"),
        Follow::Digest if it.git.is_none() || it.is_commit() => {
            check.fail("only a branch or a tag of a repository can lead elsewhere");
        }
        Follow::Digest => {}
    }
}

/// An address that git takes for one, and for nothing else.
fn repository(check: &mut Check<'_>, git: &str) {
    let is_plain = git.bytes().all(|byte| byte.is_ascii_graphic());
    let has_scheme =
        SCHEMES.iter().any(|scheme| git.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    let is_remote = git.split_once(':').is_some_and(|(host, path)| {
        let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"@.-_".contains(&byte);
        let begins = host.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        begins
            && host.contains('@')
            && host.bytes().all(host_byte)
            && !path.is_empty()
            && !path.starts_with([':', '-'])
    });
    if !is_plain || !(has_scheme || is_remote) {
        check.fail_with(
            "a repository is an address of https, http, ssh or file, or user@host:path",
            "https://example.org/team/app.git",
        );
        return;
    }
    let authority = SCHEMES.iter().find_map(|scheme| git.strip_prefix(scheme)?.split('/').next());
    let Some(authority) = authority else { return };
    if authority.starts_with('-') {
        check.fail("the name of a host does not begin with `-`");
    }
    if authority.split_once('@').is_some_and(|(user, _)| user.contains(':') || !git.starts_with("ssh://")) {
        check.fail_with("credentials do not belong into an address", "secret: NAME");
    }
}

/// A name that git takes for one of a branch, a tag or a commit.
fn reference(check: &mut Check<'_>, reference: &str) {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    let is_name = reference.bytes().all(word)
        && !reference.starts_with(['-', '/', '.'])
        && !reference.ends_with(['/', '.'])
        && !reference.contains("..")
        && !reference.contains("//");
    if !is_name {
        check.fail_with("it is the name of a branch or a tag, or a whole commit", "main");
    }
}

#[cfg(test)]
mod tests {
    use crate::validate::app;

    fn found(source: &serde_json::Value) -> Vec<String> {
        let spec = serde_json::json!({"components": {"web": {"source": source}}});
        app(&serde_json::from_value(spec).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sources_that_are_right_pass() {
        for source in [
            serde_json::json!({"git": "https://example.org/team/app.git", "ref": "release/1.2", "secret": "forge"}),
            serde_json::json!({"git": "git@example.org:team/app.git"}),
            serde_json::json!({"git": "ssh://git@example.org:2222/app", "ref": "ab".repeat(20)}),
            serde_json::json!({"git": "file:///srv/git/app.git", "directory": "web", "dockerfile": "build/Dockerfile"}),
            serde_json::json!({"path": ".", "language": "python", "base": "r.example/python:3"}),
            serde_json::json!({"archive": "app.tgz"}),
        ] {
            assert_eq!(found(&source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn sources_that_mislead_git_are_refused() {
        for git in [
            "--upload-pack=touch",
            "ext::sh -c id",
            "-oProxyCommand=id@host:x",
            "/srv/git/app",
            "file://",
            "ssh://-oProxyCommand=id/x",
            "https://user:password@example.org/a",
            "git@host:-x",
            "https://example.org/a b",
        ] {
            assert!(!found(&serde_json::json!({"git": git})).is_empty(), "{git}");
        }
        for reference in ["-x", "a..b", "refs/heads/*", "a b", "+a:b", "a~1", "/a", "a/"] {
            let source = serde_json::json!({"git": "https://example.org/a", "ref": reference});
            assert!(!found(&source).is_empty(), "{reference}");
        }
        let open = serde_json::json!({"git": "http://example.org/a", "secret": "forge"});
        assert_eq!(found(&open).len(), 1);
        let own = |git: &str| found(&serde_json::json!({"git": git, "secret": "forge"}));
        assert!(own("http://127.0.0.1:80/a").is_empty() && own("http://localhost/a").is_empty());
        assert!(
            !own("http://127.0.0.1.example.org/a").is_empty()
                && !own("http://localhost@example.org/a").is_empty()
        );
        for name in ["Dockerfile.in", "a/b.IN", "http://127.0.0.1/x", "[\"a\"]", "a b"] {
            assert!(!found(&serde_json::json!({"path": ".", "dockerfile": name})).is_empty(), "{name}");
        }
        assert!(found(&serde_json::json!({"path": "..", "archive": "a.tgz", "ref": "main"})).len() >= 3);
    }
}
