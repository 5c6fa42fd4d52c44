//! Commands about people: projects and their members, tokens, who may do what, and who did it.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use plimsoll_api::{NewToken, Resource};
use plimsoll_model::access::{Restriction, Role, Verb};
use plimsoll_model::audit::{AuditEntry, AuditRecord, AuditResult};
use plimsoll_model::id::{Digest, ObjectName, ProjectName, UserName};
use plimsoll_model::kind::{ProjectSpec, TokenSpec};
use plimsoll_model::object::{KindScope, Timestamp};
use plimsoll_model::quantity::{Bytes, Cpu, Span};
use plimsoll_model::{Kind as _, ObjectKey, Project, Token};
use serde_json::{Value, json};

use crate::Ended;
use crate::client::Client;
use crate::follow::talk;
use crate::place::Where;
use crate::table::{ago, now, table, text};

/// A project's object.
fn key_of(project: &ProjectName) -> anyhow::Result<ObjectKey> {
    Ok(ObjectKey::of_installation(project.as_str().parse()?))
}

/// What is declared of a project.
fn project(client: &Client, name: &ProjectName) -> anyhow::Result<ProjectSpec> {
    let found = client.object(&key_of(name)?, Project::PLURAL)?;
    Ok(serde_json::from_value(found["spec"].clone())?)
}

/// Projects: who may do what in them, and how much
#[derive(Subcommand)]
pub(crate) enum ProjectCommand {
    /// Make a project
    Create {
        /// Its name
        name: ProjectName,
        /// For people
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        place: Where,
    },
    /// List its members, or make somebody a member
    Member {
        /// The project
        name: ProjectName,
        /// The person or program
        user: Option<UserName>,
        /// What they are there: viewer, deployer or admin
        #[arg(long, value_parser = role, requires = "user")]
        role: Option<Role>,
        /// They are no member any more
        #[arg(long, requires = "user", conflicts_with = "role")]
        remove: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Print how much its Apps may declare together, or change it
    Quota {
        /// The project
        name: ProjectName,
        #[command(flatten)]
        change: Box<QuotaChange>,
        #[command(flatten)]
        place: Where,
    },
}

/// New limits of a project; `none` lifts one
#[derive(Args)]
pub(crate) struct QuotaChange {
    /// Copies
    #[arg(long)]
    instances: Option<String>,
    /// The sum of the copies' limits of CPU, such as `4` or `500m`
    #[arg(long)]
    cpu: Option<String>,
    /// The sum of the copies' limits of memory, such as `8Gi`
    #[arg(long)]
    memory: Option<String>,
    /// Volumes
    #[arg(long)]
    volumes: Option<String>,
    /// Routes
    #[arg(long)]
    routes: Option<String>,
}

fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(json!(text)).map_err(|_| "choose viewer, deployer or admin".to_owned())
}

impl ProjectCommand {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Create { name, description, place } => {
                let spec = ProjectSpec { description, ..ProjectSpec::default() };
                let client = place.client()?;
                if client.find(None, Project::PLURAL, name.as_str())?.is_some() {
                    bail!("there is a project {name} already");
                }
                client.put(&key_of(&name)?, Project::PLURAL, &json!({"spec": spec}))?;
                talk(&format!(
                    "project {name} made; `plimsoll project member {name} USER --role deployer` lets others in"
                ));
            }
            Self::Member { name, user: None, place, .. } => members(&place.client()?, &name)?,
            Self::Member { name, user: Some(user), role, remove, place } => {
                let role = match (role, remove) {
                    (None, false) => {
                        bail!("say what {user} is there: --role viewer, deployer or admin, or --remove")
                    }
                    (role, _) => role,
                };
                let patch = json!({"spec": {"members": {user.as_str(): role}}});
                place.client()?.merge(&key_of(&name)?, Project::PLURAL, &patch)?;
                let said = role.map_or_else(|| "no member".to_owned(), |role| role.to_string());
                talk(&format!("{user} is {said} in project {name} now"));
            }
            Self::Quota { name, change, place } => change.run(&place.client()?, &name)?,
        }
        Ok(Ended::Done)
    }
}

#[expect(clippy::print_stdout, reason = "the list is this command's data")]
fn members(client: &Client, name: &ProjectName) -> anyhow::Result<()> {
    let members = project(client, name)?.members;
    let rows: Vec<_> = members.iter().map(|(user, role)| vec![user.to_string(), role.to_string()]).collect();
    print!("{}", table(&["USER", "ROLE"], &rows));
    Ok(())
}

/// How the text of a limit is read.
type Read<'a> = &'a dyn Fn(&str) -> anyhow::Result<Value>;

impl QuotaChange {
    #[expect(clippy::print_stdout, reason = "the quota is this command's data")]
    fn run(&self, client: &Client, name: &ProjectName) -> anyhow::Result<()> {
        let count = |text: &str| Ok(json!(text.parse::<u64>().context("write a number, or none")?));
        let cpu = |text: &str| Ok(json!(text.parse::<Cpu>()?));
        let memory = |text: &str| Ok(json!(text.parse::<Bytes>()?));
        let wanted: [(&str, &Option<String>, Read<'_>); 5] = [
            ("instances", &self.instances, &count),
            ("cpu", &self.cpu, &cpu),
            ("memory", &self.memory, &memory),
            ("volumes", &self.volumes, &count),
            ("routes", &self.routes, &count),
        ];
        let mut patch = serde_json::Map::new();
        for (field, text, read) in wanted {
            match text.as_deref() {
                None => {}
                Some("none") => drop(patch.insert(field.into(), Value::Null)),
                Some(text) => {
                    drop(patch.insert(field.into(), read(text).with_context(|| format!("--{field}"))?));
                }
            }
        }
        if !patch.is_empty() {
            client.merge(&key_of(name)?, Project::PLURAL, &json!({"spec": {"quota": patch}}))?;
        }
        let quota = serde_json::to_value(project(client, name)?.quota)?;
        let limits = quota.as_object().into_iter().flatten();
        let rows: Vec<_> =
            limits.map(|(what, limit)| vec![what.clone(), limit.to_string().replace('"', "")]).collect();
        if rows.is_empty() {
            talk(&format!("project {name} has no quota"));
        } else {
            print!("{}", table(&["WHAT", "AT MOST"], &rows));
        }
        Ok(())
    }
}

/// Tokens for people and programs
#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Its name, to revoke it
        name: ObjectName,
        /// Whom it speaks for [default: whoever makes it]
        #[arg(long)]
        user: Option<UserName>,
        /// It may do everything
        #[arg(long)]
        admin: bool,
        /// It is good for these projects only
        #[arg(long, value_name = "PROJECT", value_delimiter = ',')]
        only_projects: Vec<ProjectName>,
        /// It is good for this only: read, deploy, write, manage
        #[arg(long, value_name = "VERB", value_delimiter = ',', value_parser = verb)]
        only_verbs: Vec<Verb>,
        /// It ends after this time; `never` for one that does not
        #[arg(long, default_value = "90d", value_parser = lifetime)]
        expires: Lifetime,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        place: Where,
    },
    /// List the tokens that you may revoke
    List {
        #[command(flatten)]
        place: Where,
    },
    /// End a token at once
    Revoke {
        /// Its name
        name: ObjectName,
        #[command(flatten)]
        place: Where,
    },
}

/// How long a token lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime(Option<Span>);

fn verb(text: &str) -> Result<Verb, String> {
    serde_json::from_value(json!(text)).map_err(|_| "choose read, deploy, write or manage".to_owned())
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    text.parse()
        .map(|span| Lifetime(Some(span)))
        .map_err(|error: plimsoll_model::quantity::InvalidQuantity| error.to_string())
}

impl TokenCommand {
    #[expect(clippy::print_stdout, reason = "the token is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Create { name, user, admin, only_projects, only_verbs, expires, description, place } => {
                let only = Restriction {
                    projects: only_projects.into_iter().collect(),
                    verbs: only_verbs.into_iter().collect::<BTreeSet<_>>(),
                };
                let expires = expires.0.map(|span| Timestamp(now().saturating_add(span.millis)));
                let new = NewToken { name, user, admin, only, expires, description };
                println!("{}", place.client()?.create_token(&new)?);
                talk("keep it now: nobody can read it again");
            }
            Self::List { place } => list(&place.client()?)?,
            Self::Revoke { name, place } => {
                place.client()?.delete(&ObjectKey::of_installation(name.clone()), Token::PLURAL, false)?;
                talk(&format!("token {name} is good for nothing any more"));
            }
        }
        Ok(Ended::Done)
    }
}

#[expect(clippy::print_stdout, reason = "the list is this command's data")]
fn list(client: &Client) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for mut token in client.list(None, Token::PLURAL)? {
        // The hash is not sent; everything else is as it is stored.
        token["spec"]["hash"] = json!(Digest::of_bytes(b""));
        let spec: TokenSpec = serde_json::from_value(token["spec"].clone())?;
        let join = |all: Vec<String>| if all.is_empty() { "-".to_owned() } else { all.join(",") };
        rows.push(vec![
            text(&token["metadata"]["name"]).to_owned(),
            spec.user.to_string(),
            if spec.admin { "yes" } else { "no" }.to_owned(),
            join(spec.only.projects.iter().map(ToString::to_string).collect()),
            join(spec.only.verbs.iter().map(ToString::to_string).collect()),
            spec.expires.map_or_else(|| "never".to_owned(), |end| end.to_string()),
        ]);
    }
    print!("{}", table(&["NAME", "USER", "ADMIN", "ONLY PROJECTS", "ONLY VERBS", "ENDS"], &rows));
    Ok(())
}

/// Who you are and what you may do
#[derive(Subcommand)]
pub(crate) enum Auth {
    /// Print who you are, and your role in each project that you see
    Whoami {
        #[command(flatten)]
        place: Where,
    },
    /// Say whether you may do something in the project; exit code 1 if not
    CanI {
        /// What: read, write or manage
        #[arg(value_parser = verb)]
        verb: Verb,
        #[command(flatten)]
        place: Where,
    },
}

impl Auth {
    #[expect(clippy::print_stdout, reason = "the answer is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::Whoami { place } => {
                let me = place.client()?.whoami()?;
                let rank = if me.administrator { ", who administrates the platform" } else { "" };
                println!("{}{rank}", me.user);
                let rows: Vec<_> =
                    me.projects.iter().map(|(name, role)| vec![name.to_string(), role.to_string()]).collect();
                print!("{}", table(&["PROJECT", "ROLE"], &rows));
                Ok(Ended::Done)
            }
            Self::CanI { verb, place } => {
                let me = place.client()?.whoami()?;
                let project = place.project();
                let role = me.projects.get(&project);
                let may = role.is_some_and(|role| role.allows(verb)) && me.only.admits(&project, verb);
                println!("{}", if may { "yes" } else { "no" });
                Ok(if may { Ended::Done } else { Ended::No })
            }
        }
    }
}

/// Who changed what, the oldest first
#[derive(Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    place: Where,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check that nothing of the log was altered or left out, and print the hash of its end
    Verify {
        /// The hash that an earlier check printed: it must still be in the log
        #[arg(long, value_name = "HASH")]
        head: Option<Digest>,
    },
}

impl Audit {
    #[expect(clippy::print_stdout, reason = "the log is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let records = records(&self.place.client()?)?;
        if let Some(AuditCommand::Verify { head }) = self.command {
            return verify(&records, head);
        }
        let mut rows = Vec::new();
        for record in &records {
            let entry: AuditEntry = serde_json::from_str(&record.entry)?;
            let from = entry.actor.from.map_or_else(|| "-".to_owned(), |it| it.to_string());
            let token = entry.actor.token.map(|it| format!(" ({it})")).unwrap_or_default();
            rows.push(vec![
                record.number.to_string(),
                ago(entry.at.0),
                format!("{}{token}", entry.actor.user),
                from,
                entry.action.to_string(),
                format!("{}/{}", entry.kind, entry.object),
                match entry.result {
                    AuditResult::Done => "done".to_owned(),
                    AuditResult::Refused(why) => format!("refused: {why}"),
                },
            ]);
        }
        print!("{}", table(&["NUMBER", "AGE", "WHO", "FROM", "WHAT", "OBJECT", "RESULT"], &rows));
        Ok(Ended::Done)
    }
}

/// All records that the caller sees.
fn records(client: &Client) -> anyhow::Result<Vec<AuditRecord>> {
    let mut all: Vec<AuditRecord> = Vec::new();
    loop {
        let page = client.audit(all.last().map_or(0, |it| it.number))?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

#[expect(clippy::print_stdout, reason = "the hash is this command's data")]
fn verify(records: &[AuditRecord], head: Option<Digest>) -> anyhow::Result<Ended> {
    let mut previous = None;
    for record in records {
        if !record.follows(previous) {
            let number = previous.map_or(0, |it: &AuditRecord| it.number) + 1;
            bail!(
                "the log is broken at number {number}: something was altered or left out there, \
                 or you do not see all of it"
            );
        }
        previous = Some(record);
    }
    if let Some(head) = head.filter(|head| !records.iter().any(|it| it.hash == *head)) {
        bail!("{head} is not in the log: its end was cut off, or all of it was made anew");
    }
    if let Some(last) = previous {
        println!("{}", last.hash);
    }
    talk(&format!("{} records, each follows the one before", records.len()));
    Ok(Ended::Done)
}

/// List the kinds of objects
#[expect(clippy::print_stdout, reason = "the list is this command's data")]
pub(crate) fn api_resources() -> Ended {
    let row = |it: &Resource| {
        let place = if it.scope == KindScope::Project { "project" } else { "installation" };
        vec![it.plural.to_owned(), it.short.join(","), it.kind.to_owned(), place.to_owned()]
    };
    let rows: Vec<_> = Resource::ALL.iter().map(row).collect();
    print!("{}", table(&["NAME", "ALSO", "KIND", "BELONGS TO"], &rows));
    Ended::Done
}

/// Print the version of this program, and of the control plane if one answers
#[derive(Args)]
pub(crate) struct Version {
    #[command(flatten)]
    place: Where,
    /// Print JSON
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json", "text"], default_value = "text")]
    output: String,
}

impl Version {
    #[expect(clippy::print_stdout, reason = "the versions are this command's data")]
    pub(crate) fn run(self) -> Ended {
        let own = env!("CARGO_PKG_VERSION");
        // Without an answer there is one version to tell.
        let server = self.place.find_client().ok().flatten().and_then(|client| client.get("version").ok());
        let server = server.and_then(|answer| answer["version"].as_str().map(str::to_owned));
        if self.output == "json" {
            println!("{}", serde_json::json!({"client": own, "server": server}));
            return Ended::Done;
        }
        println!("plimsoll {own}");
        if let Some(server) = server {
            println!("server   {server}");
        }
        Ended::Done
    }
}
