//! `plimsoll load`, `status`, `unload` and `programs`: the text of a program in, a public id, a token and an address out.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_api::{Program, ProgramCopy, ProgramEnd, ProgramState};
use plimsoll_model::id::{ObjectName, ProjectName, RuntimeName, TargetName};
use plimsoll_model::quantity::{Bytes, Cpu, Span};
use serde_json::{Value, json};

use crate::Ended;
use crate::client::Client;
use crate::follow::talk;
use crate::place::Where;
use crate::table::{ago, state_name, table};

/// Pause between two looks at a program.
const LOOK: Duration = Duration::from_millis(200);

/// How long the address of a program may take to be decided before it is not waited for any more.
const ADDRESS_WITHIN: Duration = Duration::from_secs(10);

/// What runs a file if nothing is said, by the end of its name.
const RUNTIMES: [(&str, &str); 6] =
    [("py", "python"), ("js", "node"), ("sh", "bash"), ("rb", "ruby"), ("php", "php"), ("ol", "jolie")];

/// Run a program from its text: prints its public id, the token that owns it, and its address
#[derive(Args)]
pub(crate) struct LoadCommand {
    /// The file, - for standard input
    file: PathBuf,
    /// Which of the target's runtimes runs it [default: by the end of the file's name]
    #[arg(long)]
    runtime: Option<RuntimeName>,
    /// A port that it listens to, as often as it has ports
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// Copies; each gets the program by itself when it starts
    #[arg(long, default_value = "1", value_name = "N")]
    replicas: u32,
    /// It answers `GET /health` on port 4001 with `true` while it is well, and is started again when it does not
    #[arg(long)]
    health: bool,
    /// The limit of CPU time of each copy, which must be free [default: 100m]
    #[arg(long)]
    cpu: Option<Cpu>,
    /// The limit of memory of each copy, which must be free [default: 128Mi]
    #[arg(long)]
    memory: Option<Bytes>,
    /// A host of the router that leads to the first port, such as hello.localhost
    #[arg(long)]
    host: Option<String>,
    /// Where it runs [default: the project's default target]
    #[arg(long)]
    target: Option<TargetName>,
    #[command(flatten)]
    waiting: Waiting,
    /// Check everything, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Print id, project, token and addresses as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

/// Whether to wait, and how long
#[derive(Args)]
struct Waiting {
    /// Wait until all copies are ready; fails when that cannot be
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; exit code 124
    #[arg(long, default_value = "2m")]
    timeout: Span,
}

/// A program, and who asks for it
#[derive(Args)]
pub(crate) struct OfProgram {
    /// Its public id
    id: ObjectName,
    /// The file with the token that owns it [default: `PLIMSOLL_PROGRAM_TOKEN`; members of its project need none]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// Print what has become of a program
#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    of: OfProgram,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// End a program
#[derive(Args)]
pub(crate) struct Unload {
    #[command(flatten)]
    of: OfProgram,
    /// How long its copies may take to end before they are killed [default: 10s]
    #[arg(long, value_name = "TIME")]
    grace: Option<Span>,
    /// Return at once instead of waiting until nothing is left
    #[arg(long)]
    no_wait: bool,
}

/// List the programs of a project that were loaded
#[derive(Args)]
pub(crate) struct Programs {
    #[command(flatten)]
    place: Where,
}

impl LoadCommand {
    #[expect(clippy::print_stdout, reason = "id, token and address are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (client, project) = (self.place.client()?, self.place.project());
        let body = self.body()?;
        let mut made = client.load(&project, &body, self.dry_run)?;
        if made["checked"] == false {
            talk("its syntax was not checked: its runtime has no tool for that here");
        }
        if self.dry_run {
            talk("it would be loaded");
            return Ok(Ended::Done);
        }
        let id: ObjectName = serde_json::from_value(made["id"].take())?;
        // Before anything else is asked: it is shown this once, whatever fails from here on.
        if !self.json {
            println!("program  {id}");
            println!("token    {}", made["token"].as_str().unwrap_or_default());
            std::io::stdout().flush()?;
        }
        let seen = self.with_address(&client, &project, &id);
        let addresses = seen.as_ref().map(addresses).unwrap_or_default();
        if self.json {
            println!(
                "{}",
                json!({"id": id, "project": project, "token": made["token"], "addresses": addresses})
            );
        } else {
            for address in addresses {
                println!("address  {address}");
            }
        }
        talk("the token is shown this once: keep it to see the program's status and to unload it");
        if self.waiting.wait { self.wait(&client, seen?) } else { Ok(Ended::Done) }
    }

    /// The program once it has an address, if that comes soon.
    fn with_address(
        &self,
        client: &Client,
        project: &ProjectName,
        id: &ObjectName,
    ) -> anyhow::Result<Program> {
        let began = Instant::now();
        loop {
            let program = client.program(project, id)?;
            if program.address.is_some() || self.ports.is_empty() || began.elapsed() >= ADDRESS_WITHIN {
                return Ok(program);
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn body(&self) -> anyhow::Result<Value> {
        let is_piped = self.file.as_os_str() == "-";
        let mut text = String::new();
        let read = if is_piped {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(&self.file).map(|read| text = read)
        };
        read.with_context(|| format!("{} cannot be read", self.file.display()))?;
        let name = self.file.file_name().and_then(|name| name.to_str()).filter(|_| !is_piped);
        let end = self.file.extension().and_then(|end| end.to_str());
        let usual = || RUNTIMES.iter().find(|(known, _)| Some(*known) == end).map(|(_, runtime)| *runtime);
        let runtime = match (&self.runtime, usual()) {
            (Some(runtime), _) => runtime.to_string(),
            (None, Some(runtime)) => runtime.to_owned(),
            (None, None) => bail!("nothing says what runs {}: give --runtime", self.file.display()),
        };
        let mut body = json!({
            "program": text, "runtime": runtime, "ports": self.ports, "replicas": self.replicas, "health": self.health,
        });
        let optional = [
            ("file", name.map(Value::from)),
            ("cpu", self.cpu.map(|it| it.to_string().into())),
            ("memory", self.memory.map(|it| it.to_string().into())),
            ("host", self.host.clone().map(Value::from)),
            ("target", self.target.as_ref().map(|it| it.as_str().into())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        Ok(body)
    }

    fn wait(&self, client: &Client, mut program: Program) -> anyhow::Result<Ended> {
        let began = Instant::now();
        let limit = Duration::from_millis(self.waiting.timeout.millis);
        loop {
            match program.state {
                ProgramState::Running => return Ok(Ended::Done),
                ProgramState::Failed | ProgramState::Unloading => {
                    let verdicts: Vec<&str> = program.failures.iter().map(|it| it.verdict.as_str()).collect();
                    bail!("program {} is {}: {}", program.id, word(program.state), verdicts.join("; "));
                }
                _ if began.elapsed() > limit => return Ok(Ended::TimedOut),
                _ => std::thread::park_timeout(LOOK),
            }
            program = client.program(&program.project, &program.id)?;
        }
    }
}

impl OfProgram {
    /// A client as whoever asks: the owner, or a member of the project.
    fn client(&self) -> anyhow::Result<Client> {
        let given = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                Some(text.with_context(|| format!("{} cannot be read", file.display()))?)
            }
            None => std::env::var("PLIMSOLL_PROGRAM_TOKEN").ok(),
        };
        match given {
            Some(token) => Ok(self.place.stranger()?.with_token(token.trim().to_owned())),
            None => self.place.client(),
        }
    }
}

impl Status {
    #[expect(clippy::print_stdout, reason = "the status is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let program = self.of.client()?.program(&self.of.place.project(), &self.of.id)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&program)?);
            return Ok(Ended::Done);
        }
        println!("program  {}/{}", program.project, program.id);
        println!("runtime  {}", program.runtime);
        println!("loaded   {} ago", ago(program.created.0));
        println!("state    {}, {} of {} copies ready", word(program.state), program.ready, program.desired);
        for address in addresses(&program) {
            println!("address  {address}");
        }
        if !program.copies.is_empty() {
            let rows: Vec<Vec<String>> = program.copies.iter().map(row).collect();
            print!(
                "\n{}",
                table(&["COPY", "TARGET", "STATE", "RESTARTS", "LAST END", "CPU", "MEMORY"], &rows)
            );
        }
        for failure in &program.failures {
            let end = failure.end.as_ref().map(|end| format!(" ({})", ended(end))).unwrap_or_default();
            println!("\nfailed {} ago: {}{end}", ago(failure.at.0), failure.verdict);
            for line in &failure.log {
                println!("  {line}");
            }
        }
        for wait in &program.waits {
            println!("\nwaits: {wait}");
        }
        Ok(Ended::Done)
    }
}

impl Unload {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let (client, project, id) = (self.of.client()?, self.of.place.project(), &self.of.id);
        client.unload(&project, id, self.grace)?;
        if !self.no_wait {
            while client.find_program(&project, id)?.is_some() {
                std::thread::park_timeout(LOOK);
            }
        }
        talk(&format!("program {id} {}", if self.no_wait { "is being unloaded" } else { "unloaded" }));
        Ok(Ended::Done)
    }
}

impl Programs {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let programs = self.place.client()?.programs(&self.place.project())?;
        let rows: Vec<Vec<String>> = programs
            .iter()
            .map(|it| {
                vec![
                    it.id.to_string(),
                    it.runtime.clone(),
                    word(it.state).to_owned(),
                    format!("{}/{}", it.ready, it.desired),
                    addresses(it).first().cloned().unwrap_or_else(|| "-".to_owned()),
                    ago(it.created.0),
                ]
            })
            .collect();
        print!("{}", table(&["PROGRAM", "RUNTIME", "STATE", "READY", "ADDRESS", "AGE"], &rows));
        Ok(Ended::Done)
    }
}

fn word(state: ProgramState) -> &'static str {
    match state {
        ProgramState::Starting => "starting",
        ProgramState::Running => "running",
        ProgramState::Ended => "ended",
        ProgramState::Failed => "failed",
        ProgramState::Unloading => "unloading",
    }
}

/// Where a program is reached.
fn addresses(program: &Program) -> Vec<String> {
    let at = program.address.into_iter();
    at.flat_map(|ip| program.ports.iter().map(move |port| format!("{ip}:{port}"))).collect()
}

fn ended(end: &ProgramEnd) -> String {
    match end.at {
        Some(at) => format!("{} at {at}", end.how),
        None => end.how.clone(),
    }
}

fn row(copy: &ProgramCopy) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        copy.id.to_string(),
        copy.target.to_string(),
        state_name(copy.state).to_owned(),
        copy.restarts.to_string(),
        or_dash(copy.end.as_ref().map(ended)),
        or_dash(copy.cpu_millis.map(|millis| format!("{}.{:03}s", millis / 1000, millis % 1000))),
        or_dash(copy.memory.map(|bytes| format!("{}Mi", bytes >> 20))),
    ]
}
