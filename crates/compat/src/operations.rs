//! The deployer's operations, carried out by the control plane that everybody else uses.

use std::fmt::Write as _;
use std::net::IpAddr;

use plimsoll_api::{Program, ProgramState};
use plimsoll_model::app::Reserve;
use plimsoll_model::id::RuntimeName;
use plimsoll_model::quantity::{Bytes, Cpu, Span};
use plimsoll_model::status::InstanceState;
use plimsoll_model::{App, ObjectKey};
use plimsoll_server::{Caller, HEALTH_PORT, Load, LoadError, USER_ANNOTATION};
use plimsoll_store::Query;
use serde_json::{Value, json};

use crate::serve::Compat;
use crate::wire::{Fault, Fields, bare, string};

/// What `health` says.
const ALIVE: &str = "Service alive and reachable";

/// The ports that the deployer's own parts had in each pod.
const RESERVED: [i64; 2] = [8000, HEALTH_PORT as i64];

/// Characters of a user's name at most.
const LONGEST_USER: usize = 253;

/// Seconds that a program may ask for to end.
const LONGEST_GRACE: i64 = 3600;

/// All fields of `load`, in the order in which one that is missing is named.
const LOAD: [&str; 10] = [
    "user",
    "name",
    "healthcheck",
    "program",
    "replicas",
    "ports",
    "cpu_min",
    "cpu_max",
    "mem_min",
    "mem_max",
];

impl Compat {
    /// Carries out an operation for somebody.
    pub(crate) async fn carry_out(
        &self,
        operation: &str,
        message: &Value,
        from: IpAddr,
    ) -> Result<Value, Fault> {
        match operation {
            "load" => self.load(message, from).await,
            "unload" => self.unload(message, from).await,
            "statusUserPrograms" => self.status(&string(message, "#Message")?).await,
            "getProgram" => self.program(message, from).await,
            "health" => Ok(bare(ALIVE)),
            _ => Err(Fault::Io(format!("Invalid operation: {operation}"))),
        }
    }

    async fn load(&self, message: &Value, from: IpAddr) -> Result<Value, Fault> {
        let load = wanted(&Fields::of(message, &LOAD, &[])?, &self.settings.runtime)?;
        let caller = Caller::compatible(&self.settings.project, Some(from));
        match self.server.load(&caller, &self.settings.project, &load, (None, false)).await {
            Ok(loaded) => Ok(json!({"status": 0, "token": loaded.token.expose()})),
            Err(LoadError::NoRoom { .. }) => Ok(json!({"status": -1})),
            Err(error @ LoadError::Invalid(_)) => Err(Fault::TypeMismatch(format!("#Message: {error}"))),
            // The one reason that their clients know: too much is wanted.
            Err(LoadError::Apply(plimsoll_server::ApplyError::Quota { .. })) => Ok(json!({"status": -1})),
            Err(error) => Err(Fault::Io(error.to_string())),
        }
    }

    /// Nothing is said of what was not there, as ever.
    async fn unload(&self, message: &Value, from: IpAddr) -> Result<Value, Fault> {
        let fields = Fields::of(message, &["user", "token", "gracePeriod"], &["ip"])?;
        let (token, grace) = (fields.string("token")?, fields.integer("gracePeriod")?);
        fields.string("user")?;
        let grace = u64::try_from(grace.clamp(0, LONGEST_GRACE)).unwrap_or_default();
        let grace = Some(Span::seconds(grace));
        if let Some((caller, key)) = self.owner(&token, from).await? {
            match self.server.unload(&caller, &key, grace, false).await {
                Ok(()) | Err(plimsoll_server::ApplyError::Absent { .. }) => {}
                Err(error) => return Err(Fault::Io(error.to_string())),
            }
        }
        Ok(json!({}))
    }

    /// Whoever has a token that owns a program of the project, and the program.
    pub(crate) async fn owner(
        &self,
        token: &str,
        from: IpAddr,
    ) -> Result<Option<(Caller, ObjectKey)>, Fault> {
        let (store, now) = (self.server.store(), self.server.now());
        let found = Caller::of_token(store, token, Some(from), now).await;
        let found = found.map_err(|error| Fault::Io(error.to_string()))?;
        let owned = |caller: Caller| caller.owns.clone().map(|owned| (caller, owned.key));
        Ok(found.and_then(owned).filter(|(_, key)| key.project.as_ref() == Some(&self.settings.project)))
    }

    /// A program is given to the copy that shows the credential it was started with, and to nobody else.
    async fn program(&self, message: &Value, from: IpAddr) -> Result<Value, Fault> {
        let credential = string(message, "#Message")?;
        let found = self.server.fetch_program(credential.trim(), from).await;
        let found = found.map_err(|error| Fault::Io(error.to_string()))?;
        let missing = || Fault::TypeMismatch("Invalid native type for node #Message: expected STRING".into());
        found.map(|text| bare(&String::from_utf8_lossy(&text))).ok_or_else(missing)
    }

    /// What has become of a user's programs, as text for people.
    async fn status(&self, user: &str) -> Result<Value, Fault> {
        let failed = |error: plimsoll_store::StoreError| Fault::Io(error.to_string());
        let scope = plimsoll_store::Scope::project(self.settings.project.clone());
        let apps = self.server.store().list::<App>(&scope, &Query::default()).await.map_err(failed)?;
        let mut text = String::new();
        for app in apps {
            let annotations = &app.meta.attached.annotations;
            let is_theirs =
                annotations.iter().any(|(name, value)| name.as_str() == USER_ANNOTATION && value == user);
            if is_theirs && let Some(program) = plimsoll_api::program_seen(&self.server, &app).await {
                text += &described(&program);
            }
        }
        Ok(bare(&text))
    }
}

/// What `load` wants.
fn wanted(fields: &Fields<'_>, runtime: &RuntimeName) -> Result<Load, Fault> {
    let refuse = |name: &str, why: &str| Fault::TypeMismatch(format!("#Message.{name}: {why}"));
    let user = fields.string("user")?;
    if user.chars().count() > LONGEST_USER {
        return Err(refuse("user", &format!("a name has {LONGEST_USER} characters at most")));
    }
    fields.string("name")?;
    let cpu = |name: &str| {
        let millicores = u64::try_from(fields.integer(name)?).ok().filter(|it| (1..=1_024_000).contains(it));
        millicores.map(|millicores| Cpu { millicores }).ok_or_else(|| refuse(name, "1 to 1024000 millicores"))
    };
    let memory = |name: &str| {
        let mebi = u64::try_from(fields.integer(name)?).ok().filter(|it| (1..=1 << 24).contains(it));
        mebi.map(|mebi| Bytes { bytes: mebi << 20 }).ok_or_else(|| refuse(name, "1 to 16777216 MiB"))
    };
    let mut ports = Vec::new();
    for port in fields.integers("ports")? {
        if RESERVED.contains(&port) {
            return Err(refuse("ports", &format!("port {port} is the deployer's own")));
        }
        ports.push(u16::try_from(port).map_err(|_| refuse("ports", "a port number is 1 to 65535"))?);
    }
    let replicas = u32::try_from(fields.integer("replicas")?);
    Ok(Load {
        program: fields.string("program")?,
        runtime: runtime.clone(),
        file: Some("program.ol".to_owned()),
        ports,
        replicas: replicas.map_err(|_| refuse("replicas", "1 to 1000 copies can run"))?,
        health: fields.truth("healthcheck")?,
        cpu: Some(cpu("cpu_max")?),
        memory: Some(memory("mem_max")?),
        reserve: Reserve { cpu: Some(cpu("cpu_min")?), memory: Some(memory("mem_min")?) },
        host: None,
        target: None,
        user: Some(user),
    })
}

/// A program in their words. Its public id stands where the token was: this is told to whoever knows the name of a user.
fn described(program: &Program) -> String {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("-1").to_owned();
    let mut text = format!("Deployment: {}\n", program.id);
    for copy in &program.copies {
        let is_ready = copy.state == InstanceState::Ready;
        let status = match copy.state {
            InstanceState::Ready | InstanceState::Unready => "Running",
            InstanceState::Backoff => "CrashLoopBackOff",
            InstanceState::Stopping => "Terminating",
            InstanceState::Stopped | InstanceState::Done => "Completed",
            InstanceState::Blocked => "Pending",
            InstanceState::Unknown => "Unknown",
        };
        // Writing to a String cannot fail.
        writeln!(text, "\tPod: Ready: {}/1, Status: {status}", u8::from(is_ready)).ok();
        if let Some(end) = &copy.end {
            writeln!(text, "\tLast end: {}, restarts: {}", end.how, copy.restarts).ok();
        }
        writeln!(text, "\tAvailable processors: {processors}, System load average: {load}").ok();
    }
    if program.state == ProgramState::Failed {
        for failure in &program.failures {
            writeln!(text, "\tFailed: {}", failure.verdict).ok();
        }
    }
    text + &"-".repeat(38) + "\n"
}
