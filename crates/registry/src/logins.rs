//! Logins to registries, as the commands of engines leave them: `config.json` of Docker, `auth.json` of Podman, and
//! credential helpers that either names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use plimsoll_model::secret::Sensitive;
use rustix::process::geteuid;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long a credential helper may take.
const HELPER: Duration = Duration::from_secs(10);

/// What Docker's files call its own registry.
const DOCKER_HUB: [&str; 2] = ["https://index.docker.io/v1/", "index.docker.io"];

/// What credential helpers give as user when the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// Who asks a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// How they prove it.
    pub secret: Secret,
}

/// How somebody proves who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// By a password, or an access token in its place.
    Password(Sensitive<String>),
    /// By a token that other tokens are got with (`identitytoken`, a refresh token of OAuth 2).
    IdentityToken(Sensitive<String>),
}

/// Files with logins, each asked in turn.
#[derive(Debug, Clone)]
pub struct Logins {
    files: Vec<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Logins {
    /// The files of whoever runs this process.
    pub fn of_this_user() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Services have no home of their own in their environment.
        let home = var("HOME").or_else(|| geteuid().is_root().then(|| PathBuf::from("/root")));
        let docker = var("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
        let podman = var("REGISTRY_AUTH_FILE").or_else(|| {
            let runtime = var("XDG_RUNTIME_DIR").map(|it| it.join("containers/auth.json"));
            runtime.or_else(|| Some(format!("/run/containers/{}/auth.json", geteuid().as_raw()).into()))
        });
        Self::in_files([docker.map(|it| it.join("config.json")), podman].into_iter().flatten().collect())
    }

    /// Certain files.
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// The login for a registry, if there is one. A file that cannot be read has none.
    pub async fn get(&self, registry: &str) -> Option<Login> {
        for file in &self.files {
            if let Some(login) = of_file(file, registry).await {
                return Some(login);
            }
        }
        None
    }
}

async fn of_file(path: &Path, registry: &str) -> Option<Login> {
    let config: ConfigFile = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let names = names(registry);
    let helper = names.iter().find_map(|name| config.cred_helpers.get(name));
    if let Some(helper) = helper.or(config.creds_store.as_ref()) {
        for name in &names {
            if let Ok(Some(login)) = ask_helper(helper, name).await {
                return Some(login);
            }
        }
    }
    names.iter().find_map(|name| config.auths.get(name)).and_then(login_of)
}

/// What a registry may be called in a file.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}"), format!("http://{registry}")];
    if registry == "docker.io" {
        names.extend(DOCKER_HUB.map(str::to_owned));
    }
    names
}

fn login_of(entry: &Entry) -> Option<Login> {
    let decoded = entry.auth.as_ref().and_then(|text| Base64::decode_vec(text).ok());
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_ref().and_then(|text| text.split_once(':'));
    let user = entry.username.clone().or_else(|| pair.map(|(user, _)| user.to_owned()))?;
    if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Some(Login { user, secret: Secret::IdentityToken(Sensitive::new(token.clone())) });
    }
    let password = entry.password.clone().or_else(|| pair.map(|(_, password)| password.to_owned()))?;
    Some(Login { user, secret: Secret::Password(Sensitive::new(password)) })
}

/// Asks a program `docker-credential-NAME get`, which reads the registry and answers with JSON.
async fn ask_helper(name: &str, registry: &str) -> io::Result<Option<Login>> {
    // Part of a program's name, and no way to another one.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(None);
    }
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(registry.as_bytes()).await?;
    }
    let output = tokio::time::timeout(HELPER, child.wait_with_output()).await.map_err(io::Error::other)??;
    if !output.status.success() {
        return Ok(None);
    }
    let helped: Helped = serde_json::from_slice(&output.stdout)?;
    let secret = Sensitive::new(helped.secret);
    let secret =
        if helped.username == TOKEN_USER { Secret::IdentityToken(secret) } else { Secret::Password(secret) };
    Ok(Some(Login { user: helped.username, secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(login: Option<Login>) -> Option<(String, String)> {
        let Login { user, secret } = login?;
        match secret {
            Secret::Password(password) => Some((user, password.expose().clone())),
            Secret::IdentityToken(_) => None,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn files_of_both_engines_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (docker, podman) = (directory.path().join("config.json"), directory.path().join("auth.json"));
        // ann:secret and bob:p:w
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "YW5uOnNlY3JldA=="},
                                 "ghcr.io": {"auth": "YW5uOg==", "identitytoken": "refresh"}}, "other": 1}"#;
        std::fs::write(&docker, text).unwrap();
        std::fs::write(&podman, r#"{"auths": {"127.0.0.1:5000": {"auth": "Ym9iOnA6dw=="}}}"#).unwrap();
        let logins = Logins::in_files(vec![docker, podman, directory.path().join("missing")]);
        assert_eq!(password(logins.get("docker.io").await), Some(("ann".into(), "secret".into())));
        assert_eq!(password(logins.get("127.0.0.1:5000").await), Some(("bob".into(), "p:w".into())));
        let token = logins.get("ghcr.io").await.unwrap();
        assert!(matches!(token.secret, Secret::IdentityToken(token) if token.expose() == "refresh"));
        assert_eq!(logins.get("quay.io").await, None);
    }
}
