//! A control plane as tests have one: a server of their own, asked over HTTP and by commands.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use plimsoll_testkit::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::up::until;

/// Below it lies everything but the health checks.
pub(crate) const BASE: &str = "/apis/plimsoll.dev/v1";

/// A control plane of a test's own.
pub(crate) struct Plane {
    pub(crate) directory: TempDir,
    /// Options of the server beside its data directory.
    pub(crate) options: Vec<String>,
    /// Variables of the server's environment beside the usual ones.
    pub(crate) env: Vec<(String, String)>,
    server: Option<Child>,
    pub(crate) url: String,
    pub(crate) admin: String,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) etag: Option<String>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

impl Plane {
    pub(crate) fn new() -> Self {
        Self::within(super::agent::scratch())
    }

    /// A plane in a directory that was made for it.
    pub(crate) fn within(directory: TempDir) -> Self {
        Self::surrounded(directory, Vec::new())
    }

    /// A plane whose images run in an engine.
    pub(crate) fn on(engine: &Engine) -> Self {
        Self::surrounded(super::agent::scratch(), vec![("DOCKER_HOST".to_owned(), engine.address())])
    }

    fn surrounded(directory: TempDir, env: Vec<(String, String)>) -> Self {
        let (options, server) = (Vec::new(), None);
        let mut plane = Self { directory, options, env, server, url: String::new(), admin: String::new() };
        plane.start();
        plane
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.arg("server").args(&self.options).env("PLIMSOLL_DATA_DIR", self.data());
        command.envs(self.env.iter().cloned());
        if !self.data().exists() {
            command.args(["--http-port", "0"]);
        }
        std::fs::remove_file(self.data().join("api.json")).ok();
        self.server = Some(command.stderr(Stdio::null()).spawn().unwrap());
        let data = self.data();
        let file = |name: &str| std::fs::read_to_string(data.join(name)).unwrap_or_default();
        until("the API", || file("api.json"), |text| text.ends_with('}'));
        let api: Value = serde_json::from_str(&file("api.json")).unwrap();
        self.url = format!("http://{}", api["address"].as_str().unwrap());
        file("admin.token").trim().clone_into(&mut self.admin);
        until("ready", || self.ask("", "GET", "/readyz", None).status, |status| *status == 200);
    }

    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        super::agent::signal(i32::try_from(server.id()).unwrap(), rustix::process::Signal::TERM);
        server.wait().unwrap();
    }

    /// Ends the server as the kernel does when memory is short.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// A request, as whoever has the token.
    pub(crate) fn ask(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        // RFC 7396 has a media type of its own.
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.ask_as(token, method, path, &[("Content-Type", media)], body)
    }

    pub(crate) fn ask_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent = ureq::Agent::from(config);
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(|body| serde_json::to_vec(body).unwrap()).unwrap_or_default();
        let Ok(mut answer) = agent.run(request.body(&body[..]).unwrap()) else {
            return Answer { status: 0, text: String::new(), etag: None };
        };
        let etag = answer.headers().get("etag").map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        Answer { status, text: answer.body_mut().read_to_string().unwrap_or_default(), etag }
    }

    /// A request of the administrator that must succeed.
    pub(crate) fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(&self.admin, method, &format!("{BASE}{path}"), Some(body));
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
        answer.json()
    }

    pub(crate) fn project(&self, name: &str, members: &Value) {
        self.must("PUT", &format!("/projects/{name}"), &json!({"spec": {"members": members}}));
    }

    pub(crate) fn token(&self, name: &str, user: &str) -> String {
        let made = self.must("POST", "/tokens", &json!({"name": name, "user": user}));
        made["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env("PLIMSOLL_DATA_DIR", self.data()).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn carry_out(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail, and returns what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().ok();
            server.wait().ok();
        }
        super::agent::end_all_in(self.directory.path());
        super::agent::take_network_down(&self.data().join("node"));
    }
}

/// An App of one sleeping program.
pub(crate) fn sleeper(replicas: u32) -> Value {
    json!({"spec": {"components": {"main": {"command": ["sleep", "1000"], "replicas": replicas, "update": {"soak": "1ms"}}}}})
}
