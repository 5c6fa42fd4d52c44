//! The control plane as commands reach it: over the API of a data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::Response;
use hyper::body::Bytes;
use plimsoll_api::{
    CameBack, Deployed, Deployments, Endpoint, INSTANCES, Instance, LogEntry, LoggedIn, NewToken, Operation,
    Planned, Program, Usage, WhoAmI, Wish,
};
use plimsoll_manifest::Document;
use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{Digest, ObjectName, PathHash, ProjectName};
use plimsoll_model::kind::TombstoneSpec;
use plimsoll_model::object::{Metadata, Observed};
use plimsoll_model::quantity::Span;
use plimsoll_model::{App, Kind, Object, ObjectKey};
use plimsoll_server::{Migrated, OnHold, Rotated};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::transport::{Transport, Trust};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_mins(1);

/// Times something is read when the server says that it is to be asked again.
const ATTEMPTS: u32 = 4;

/// How long it may ask to wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Below it lies everything but the health checks.
const BASE: &str = "apis/plimsoll.dev/v1";

/// A client of one control plane.
pub(crate) struct Client {
    pub(crate) transport: Transport,
    token: String,
}

/// What became of one document.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Applied {
    pub(crate) kind: String,
    pub(crate) project: Option<ProjectName>,
    pub(crate) name: ObjectName,
    pub(crate) change: String,
}

/// Where routes are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterPlace {
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: Option<SocketAddr>,
    /// The file with the certificate of the installation's own authority, for those who may read it.
    pub(crate) authority: Option<PathBuf>,
}

/// An App as the API sends it.
#[derive(Deserialize)]
#[serde(bound = "")]
struct Sent<K: Kind> {
    metadata: Metadata,
    spec: K::Spec,
    operations: K::Operations,
    status: Value,
}

impl<K: Kind> TryFrom<Sent<K>> for Object<K> {
    type Error = serde_json::Error;

    fn try_from(sent: Sent<K>) -> Result<Self, Self::Error> {
        // What nobody has observed yet has conditions only.
        let is_observed = sent.status.get("observedGeneration").is_some();
        let status =
            is_observed.then(|| serde_json::from_value::<Observed<K::Status>>(sent.status)).transpose()?;
        Ok(Self { meta: sent.metadata, spec: sent.spec, operations: sent.operations, status })
    }
}

impl Client {
    /// A client of the control plane that owns a data directory.
    pub(crate) fn of(data: &Path) -> anyhow::Result<Self> {
        let (endpoint, token) = match Endpoint::find(data) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no control plane has run in {}: start one with `plimsoll server`", data.display())
            }
            found => found.with_context(|| format!("{} cannot be read", data.display()))?,
        };
        let (scheme, trust) = match endpoint.fingerprint {
            Some(fingerprint) => ("https", Trust::Fingerprint(fingerprint)),
            None => ("http", Trust::default()),
        };
        let transport = Transport::to(&format!("{scheme}://{}", endpoint.address), trust)?;
        let client = Self { transport, token };
        client.get("version").with_context(|| {
            format!("no control plane runs in {}: start one with `plimsoll server`", data.display())
        })?;
        Ok(client)
    }

    /// A client of the control plane at an address.
    pub(crate) fn at(server: &str, token: String, trust: Trust) -> anyhow::Result<Self> {
        let client = Self { token, ..Self::without_token(server, trust)? };
        client.get("version").with_context(|| format!("no control plane answers at {server}"))?;
        Ok(client)
    }

    /// A client of the control plane at an address that nobody has a token for yet.
    pub(crate) fn without_token(server: &str, trust: Trust) -> anyhow::Result<Self> {
        let transport = Transport::to(server, trust)?;
        if !transport.is_encrypted() && !is_this_machine(server) {
            bail!("{server} is not encrypted, and the token is a secret: use https://");
        }
        Ok(Self { transport, token: String::new() })
    }

    /// Another client of the same control plane, for another thread.
    pub(crate) fn again(&self) -> anyhow::Result<Self> {
        Ok(Self { transport: self.transport.again()?, token: self.token.clone() })
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("GET", path, &[], b"", Some(ANSWER))
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        self.send_as(method, path, "application/json", body)
    }

    fn send_as(&self, method: &str, path: &str, media: &str, body: &[u8]) -> anyhow::Result<Value> {
        self.ask(method, path, &[("content-type", media)], body, Some(ANSWER))
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        within: Option<Duration>,
    ) -> anyhow::Result<Value> {
        let bearer = self.bearer();
        let headers = [headers, &[("authorization", &bearer)]].concat();
        let mut attempt = 1;
        loop {
            let got = self.transport.ask(method, path, &headers, body, within)?;
            let again = got.headers().get("retry-after").and_then(|it| it.to_str().ok()?.parse().ok());
            match again {
                // What only reads may be asked again; that is what the server says.
                Some(seconds) if method == "GET" && attempt < ATTEMPTS => {
                    std::thread::park_timeout(Duration::from_secs(seconds).min(LONGEST_PAUSE));
                    attempt += 1;
                }
                _ => return answer(&got),
            }
        }
    }

    /// An answer that is a text.
    pub(crate) fn read_text(&self, path: &str) -> anyhow::Result<String> {
        let bearer = self.bearer();
        let got = self.transport.ask("GET", path, &[("authorization", &bearer)], b"", Some(ANSWER))?;
        if !got.status().is_success() {
            answer(&got)?;
        }
        Ok(String::from_utf8_lossy(got.body()).into_owned())
    }

    /// What shows who asks.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Where a collection is: in a project, or in the installation and across all projects.
    fn collection(project: Option<&ProjectName>, plural: &str) -> String {
        match project {
            Some(project) => format!("{BASE}/projects/{project}/{plural}"),
            None => format!("{BASE}/{plural}"),
        }
    }

    fn place(key: &ObjectKey, plural: &str) -> String {
        format!("{}/{}", Self::collection(key.project.as_ref(), plural), key.name)
    }

    /// Changes a part of an object (RFC 7396).
    pub(crate) fn merge(&self, key: &ObjectKey, plural: &str, patch: &Value) -> anyhow::Result<Value> {
        self.patch(key, plural, "application/merge-patch+json", "", patch)
    }

    /// Changes a part of an object, as the media type says.
    pub(crate) fn patch(
        &self,
        key: &ObjectKey,
        plural: &str,
        media: &str,
        query: &str,
        patch: &Value,
    ) -> anyhow::Result<Value> {
        let path = format!("{}{query}", Self::place(key, plural));
        self.send_as("PATCH", &path, media, &serde_json::to_vec(patch)?)
    }

    /// Writes an object as it is to be; refused if it is another one by now and the document says which it was.
    pub(crate) fn put(&self, key: &ObjectKey, plural: &str, document: &Value) -> anyhow::Result<Value> {
        self.send("PUT", &Self::place(key, plural), &serde_json::to_vec(document)?)
    }

    /// Any object, as JSON.
    pub(crate) fn object(&self, key: &ObjectKey, plural: &str) -> anyhow::Result<Value> {
        self.get(&Self::place(key, plural))
    }

    /// Any collection, as JSON; of all projects without one.
    pub(crate) fn list(&self, project: Option<&ProjectName>, plural: &str) -> anyhow::Result<Vec<Value>> {
        self.select(project, plural, "")
    }

    /// What changes in a collection from a version on, line by line, until the server ends it; without a version also what
    /// is there.
    pub(crate) fn watch(
        &self,
        project: Option<&ProjectName>,
        plural: &str,
        query: &str,
        from: Option<&str>,
        out: &mut dyn std::io::Write,
    ) -> anyhow::Result<u64> {
        let from = from.map_or_else(String::new, |version| format!("&resourceVersion={version}"));
        let path = format!("{}?watch=true{from}{query}", Self::collection(project, plural));
        self.copy("GET", path.trim_start_matches(BASE).trim_start_matches('/'), b"", out)
    }

    /// The version of a collection, from which a watch goes on.
    pub(crate) fn version_of(&self, project: Option<&ProjectName>, plural: &str) -> anyhow::Result<String> {
        let page = self.get(&format!("{}?limit=1", Self::collection(project, plural)))?;
        Ok(page["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// What of a collection a query selects, page by page.
    pub(crate) fn select(
        &self,
        project: Option<&ProjectName>,
        plural: &str,
        query: &str,
    ) -> anyhow::Result<Vec<Value>> {
        Ok(self.select_at(project, plural, query)?.0)
    }

    /// The same, and the version from which a watch goes on.
    pub(crate) fn select_at(
        &self,
        project: Option<&ProjectName>,
        plural: &str,
        query: &str,
    ) -> anyhow::Result<(Vec<Value>, String)> {
        let path = Self::collection(project, plural);
        let (mut all, mut next, mut version) = (Vec::new(), String::new(), None);
        loop {
            let mut page = self.get(&format!("{path}?{query}{next}"))?;
            match page["items"].take() {
                Value::Array(items) => all.extend(items),
                _ => bail!("the server answered something else than a list"),
            }
            let read = page["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let version = version.get_or_insert_with(|| read.to_owned());
            match page["metadata"]["continue"].as_str() {
                Some(place) => next = format!("&continue={place}"),
                None => return Ok((all, std::mem::take(version))),
            }
        }
    }

    /// The object of a collection that has this name, if there is one.
    pub(crate) fn find(
        &self,
        project: Option<&ProjectName>,
        plural: &str,
        name: &str,
    ) -> anyhow::Result<Option<Value>> {
        let key = ObjectKey { project: project.cloned(), name: name.parse()? };
        match self.object(&key, plural) {
            // A project that is not there is another failure than an object that is not.
            Err(error)
                if is_missing(&error) && (project.is_none() || !error.to_string().contains("no project")) =>
            {
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    /// A copy of an App.
    pub(crate) fn instance(&self, project: &ProjectName, name: &str) -> anyhow::Result<Instance> {
        let found = self.find(Some(project), INSTANCES, name)?;
        let mut found =
            found.with_context(|| format!("there is no instance {name}; see `plimsoll get instances`"))?;
        Ok(serde_json::from_value(found["spec"].take())?)
    }

    /// An App, if there is one of that name.
    pub(crate) fn find_app(&self, key: &ObjectKey) -> anyhow::Result<Option<Object<App>>> {
        match self.app(key) {
            Err(error) if is_missing(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    /// An App.
    pub(crate) fn app(&self, key: &ObjectKey) -> anyhow::Result<Object<App>> {
        app_of(self.object(key, App::PLURAL)?)
    }

    /// Uploads a program for a project.
    pub(crate) fn upload(&self, project: &ProjectName, bytes: &[u8]) -> anyhow::Result<Digest> {
        let digest = Digest::of_bytes(bytes);
        self.send("PUT", &format!("{BASE}/projects/{project}/content/{digest}"), bytes)?;
        Ok(digest)
    }

    /// Applies documents whose programs are uploaded.
    pub(crate) fn apply(
        &self,
        documents: &[Document],
        project: &ProjectName,
        reviewed: Option<PathHash>,
    ) -> anyhow::Result<Vec<Applied>> {
        let reviewed = reviewed.map(|hash| format!("?path={}", hash.0)).unwrap_or_default();
        let path = format!("{BASE}/projects/{project}/apply{reviewed}");
        let mut answer = self.send("POST", &path, &Self::text(documents)?)?;
        Ok(serde_json::from_value(answer["applied"].take())?)
    }

    /// Checks documents as if they were applied.
    pub(crate) fn check(
        &self,
        documents: &[Document],
        project: &ProjectName,
    ) -> anyhow::Result<Vec<Applied>> {
        let path = format!("{BASE}/projects/{project}/apply?dryRun=All");
        let mut answer = self.send("POST", &path, &Self::text(documents)?)?;
        Ok(serde_json::from_value(answer["applied"].take())?)
    }

    /// What applying them would do.
    pub(crate) fn plan(&self, documents: &[Document], project: &ProjectName) -> anyhow::Result<Vec<Planned>> {
        let answer =
            self.send("POST", &format!("{BASE}/projects/{project}/plan"), &Self::text(documents)?)?;
        Ok(serde_json::from_value(answer)?)
    }

    fn text(documents: &[Document]) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        for document in documents {
            // A stream of YAML documents; each is JSON, which is YAML too.
            text.extend_from_slice(b"---\n");
            serde_json::to_writer(&mut text, &as_json(document)?)?;
            text.push(b'\n');
        }
        Ok(text)
    }

    /// Says which bytes the images of a repository stand for.
    pub(crate) fn deploy(
        &self,
        project: &ProjectName,
        wish: &Wish,
        dry_run: bool,
    ) -> anyhow::Result<Vec<Deployed>> {
        let query = if dry_run { "?dryRun=All" } else { "" };
        let path = format!("{BASE}/projects/{project}/deploy{query}");
        let answer = self.send("POST", &path, &serde_json::to_vec(wish)?)?;
        Ok(serde_json::from_value::<Deployments>(answer)?.deployed)
    }

    /// Carries out a verb.
    pub(crate) fn operate(&self, app: &ObjectKey, operation: &Operation) -> anyhow::Result<()> {
        let path = format!("{}/operations", Self::place(app, App::PLURAL));
        self.send("POST", &path, &serde_json::to_vec(operation)?).map(drop)
    }

    /// Asks for an object's deletion.
    pub(crate) fn delete(&self, key: &ObjectKey, plural: &str, dry_run: bool) -> anyhow::Result<()> {
        let query = if dry_run { "?dryRun=All" } else { "" };
        self.send("DELETE", &format!("{}{query}", Self::place(key, plural)), b"").map(drop)
    }

    /// The same control plane, asked by whoever has this token.
    pub(crate) fn with_token(self, token: String) -> Self {
        Self { token, ..self }
    }

    /// Loads a program, and returns what is said of it this once.
    pub(crate) fn load(&self, project: &ProjectName, body: &Value, dry_run: bool) -> anyhow::Result<Value> {
        let query = if dry_run { "?dryRun=All" } else { "" };
        self.send("POST", &format!("{BASE}/projects/{project}/programs{query}"), &serde_json::to_vec(body)?)
    }

    /// What has become of a program.
    pub(crate) fn program(&self, project: &ProjectName, id: &ObjectName) -> anyhow::Result<Program> {
        Ok(serde_json::from_value(self.get(&format!("{BASE}/projects/{project}/programs/{id}"))?)?)
    }

    /// The same, if there is one.
    pub(crate) fn find_program(
        &self,
        project: &ProjectName,
        id: &ObjectName,
    ) -> anyhow::Result<Option<Program>> {
        match self.program(project, id) {
            Err(error) if is_missing(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    /// The programs of a project.
    pub(crate) fn programs(&self, project: &ProjectName) -> anyhow::Result<Vec<Program>> {
        let mut found = self.get(&format!("{BASE}/projects/{project}/programs"))?;
        Ok(serde_json::from_value(found["items"].take())?)
    }

    /// Ends a program.
    pub(crate) fn unload(
        &self,
        project: &ProjectName,
        id: &ObjectName,
        grace: Option<Span>,
    ) -> anyhow::Result<()> {
        let query = grace.map_or_else(String::new, |grace| format!("?grace={grace}"));
        self.send("DELETE", &format!("{BASE}/projects/{project}/programs/{id}{query}"), b"").map(drop)
    }

    /// Gives an App up, and says what may be left of it.
    pub(crate) fn abandon(&self, key: &ObjectKey, dry_run: bool) -> anyhow::Result<TombstoneSpec> {
        let query = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{}?abandon=true{query}", Self::place(key, App::PLURAL));
        Ok(serde_json::from_value(self.send("DELETE", &path, b"")?["left"].take())?)
    }

    /// Makes a token and returns its text, which nobody can read again.
    pub(crate) fn create_token(&self, new: &NewToken) -> anyhow::Result<String> {
        let answer = self.send("POST", &format!("{BASE}/tokens"), &serde_json::to_vec(new)?)?;
        Ok(serde_json::from_value(answer["token"].clone())?)
    }

    /// Where people say who they are.
    pub(crate) fn login_place(&self) -> anyhow::Result<Value> {
        self.ask("GET", &format!("{BASE}/login"), &[], b"", Some(ANSWER))
    }

    /// A token for whoever proves who they are.
    pub(crate) fn log_in(&self, came: &CameBack) -> anyhow::Result<LoggedIn> {
        let body = serde_json::to_vec(came)?;
        Ok(serde_json::from_value(self.send("POST", &format!("{BASE}/login"), &body)?)?)
    }

    /// Who this client speaks for, and in which projects what.
    pub(crate) fn whoami(&self) -> anyhow::Result<WhoAmI> {
        Ok(serde_json::from_value(self.get(&format!("{BASE}/whoami"))?)?)
    }

    /// Sends a request whose answer is written somewhere as it comes, however long that takes.
    pub(crate) fn copy(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        out: &mut dyn std::io::Write,
    ) -> anyhow::Result<u64> {
        let bearer = self.bearer();
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        match self.transport.copy(method, &format!("{BASE}/{path}"), &headers, body, out)? {
            Ok(length) => Ok(length),
            Err(refused) => match answer(&refused) {
                Err(error) => Err(error),
                Ok(_) => bail!("the server answered with {}", refused.status()),
            },
        }
    }

    /// What the release of a restore would do, if there is one.
    pub(crate) fn hold(&self) -> anyhow::Result<Option<OnHold>> {
        Ok(serde_json::from_value(self.get(&format!("{BASE}/hold"))?)?)
    }

    /// Lets everything be done after a restore.
    pub(crate) fn release(&self) -> anyhow::Result<()> {
        self.send("DELETE", &format!("{BASE}/hold"), b"").map(drop)
    }

    /// Moves everything to a database.
    pub(crate) fn migrate(&self, to: &str) -> anyhow::Result<Migrated> {
        let body = serde_json::to_vec(&json!({"to": to}))?;
        let headers = [("content-type", "application/json")];
        Ok(serde_json::from_value(self.ask("POST", &format!("{BASE}/migrate"), &headers, &body, None)?)?)
    }

    /// Seals all secrets with a new data key.
    pub(crate) fn rotate_key(&self) -> anyhow::Result<Rotated> {
        Ok(serde_json::from_value(self.ask("POST", &format!("{BASE}/rotate-key"), &[], &[], None)?)?)
    }

    /// Records of the audit log after a number.
    pub(crate) fn audit(&self, after: u64) -> anyhow::Result<Vec<AuditRecord>> {
        Ok(serde_json::from_value(self.get(&format!("{BASE}/audit?after={after}"))?["items"].take())?)
    }

    /// What an App's copies said.
    pub(crate) fn logs(&self, app: &ObjectKey, query: &str) -> anyhow::Result<Vec<LogEntry>> {
        let path = format!("{}/logs?{query}", self.path_of_app(app));
        Ok(serde_json::from_value(self.get(&path)?)?)
    }

    /// Has a source built again.
    pub(crate) fn retry_build(&self, project: &ProjectName, build: &ObjectName) -> anyhow::Result<()> {
        let path = format!("{BASE}/projects/{project}/builds/{build}/retry");
        self.send("POST", &path, b"").map(drop)
    }

    /// What an App's copies said, and say from now on.
    pub(crate) fn follow_logs(
        &self,
        app: &ObjectKey,
        query: &str,
        out: &mut dyn std::io::Write,
    ) -> anyhow::Result<u64> {
        let path = format!("{}/logs?{query}&follow=true", self.path_of_app(app));
        self.copy("GET", path.trim_start_matches(BASE).trim_start_matches('/'), b"", out)
    }

    /// Where an App is asked for what is no part of it.
    #[expect(clippy::unused_self, reason = "it is this client's path")]
    pub(crate) fn path_of_app(&self, app: &ObjectKey) -> String {
        Self::place(app, App::PLURAL)
    }

    /// What a project's copies use.
    pub(crate) fn usage(
        &self,
        project: &ProjectName,
        app: Option<&ObjectName>,
    ) -> anyhow::Result<Vec<Usage>> {
        let only = app.map_or_else(String::new, |app| format!("?app={app}"));
        let mut answer = self.get(&format!("{BASE}/projects/{project}/usage{only}"))?;
        Ok(serde_json::from_value(answer["items"].take())?)
    }

    /// Where routes are served.
    pub(crate) fn router(&self) -> anyhow::Result<RouterPlace> {
        Ok(serde_json::from_value(self.get(&format!("{BASE}/router"))?)?)
    }
}

/// An App from its JSON.
pub(crate) fn app_of(value: Value) -> anyhow::Result<Object<App>> {
    Ok(serde_json::from_value::<Sent<App>>(value)?.try_into()?)
}

/// Whether an address is one of this machine, where nobody listens in.
fn is_this_machine(server: &str) -> bool {
    let host = server.parse::<hyper::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let host = host.unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The answer's JSON, or what the server has against the request.
pub(crate) fn answer(response: &Response<Bytes>) -> anyhow::Result<Value> {
    let (status, text) = (response.status(), response.body());
    if status.is_success() {
        return Ok(serde_json::from_slice(text).unwrap_or(Value::Null));
    }
    let problem: Value = serde_json::from_slice(text).unwrap_or(Value::Null);
    let errors = problem["errors"].as_array().into_iter().flatten();
    let line = |error: &Value| {
        let message = error["message"].as_str()?;
        let place = error["path"].as_str().or(error["pointer"].as_str()).filter(|place| !place.is_empty());
        Some(place.map_or_else(|| format!("\n  {message}"), |place| format!("\n  {place}: {message}")))
    };
    let lines: Vec<String> = errors.filter_map(line).collect();
    let detail = problem["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(Refused { status: status.as_u16(), text: format!("{detail}{}", lines.concat()) }.into())
}

/// Whether the server says that there is no such thing.
fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|it| it.status == 404)
}

/// What the server has against a request.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refused {
    status: u16,
    text: String,
}

/// A document as the server parses it.
pub(crate) fn as_json(document: &Document) -> anyhow::Result<Value> {
    let metadata = document.metadata();
    let mut value = json!({
        "apiVersion": "plimsoll.dev/v1",
        "kind": document.kind().name(),
        "metadata": {"name": metadata.name, "labels": metadata.labels, "annotations": metadata.annotations},
    });
    if let Some(project) = &metadata.project {
        value["metadata"]["project"] = json!(project);
    }
    match document {
        Document::App(it) => {
            value["spec"] = serde_json::to_value(&it.spec)?;
            if let Some(operations) = &it.operations {
                value["operations"] = serde_json::to_value(operations)?;
            }
        }
        Document::Project(it) => value["spec"] = serde_json::to_value(&it.spec)?,
        Document::Target(it) => value["spec"] = serde_json::to_value(&it.spec)?,
        Document::Secret(it) => {
            // The one place where values leave this process: to the control plane that seals them.
            let data = it.data.iter().map(|(key, value)| (key.to_string(), json!(value.expose())));
            value["spec"] = json!({"data": data.collect::<serde_json::Map<_, _>>()});
        }
    }
    Ok(value)
}
