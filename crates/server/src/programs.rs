//! Programs by token: the text of a program comes in, and becomes an App of one component under a name that is public, and a token
//! that owns it.
//!
//! There is no second path: what is made here (`declare`) is what somebody could have declared, beside the token.

mod declare;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use plimsoll_model::access::{Restriction, Verb};
use plimsoll_model::audit::Action;
use plimsoll_model::id::{Digest, InstanceId, ObjectName, ProjectName, RuntimeName, TargetName, Uid};
use plimsoll_model::kind::{ClaimSpec, TokenSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::quantity::Span;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{
    App, AppSpec, Attached, Kind as _, Object, ObjectKey, Project, Target, Token, validate,
};
use plimsoll_reconcile::DEFAULT_TARGET;
use plimsoll_store::{Batch, New, Query, Scope, StoreError};

use crate::access::{AccessError, Caller, name_of_project};
use crate::apply::{ApplyError, Governed as _, Terms, Writer};
use crate::capacity;
use crate::data::random_name;
use crate::receipt::Named;
use crate::syntax::{self, Checked};
use crate::tokens::owner_name;
use crate::{Server, content};

pub use declare::{Fault, HEALTH_PORT, LARGEST_PROGRAM, Load, USER_ANNOTATION};

/// The label of every App that was loaded; its runtime.
pub const PROGRAM_LABEL: &str = "plimsoll.dev/program";

/// Times a load is tried when somebody else writes what it depends on.
const ATTEMPTS: u32 = 20;

/// How long copies may take to end at most.
const LONGEST_GRACE: Span = Span::seconds(3600);

/// How long the token of a program that is gone is still known, in milliseconds.
const REMEMBERED: u64 = 24 * 3600 * 1000;

/// A program that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Its public id: the name of its App.
    pub id: ObjectName,
    /// What owns it; nobody can read it again.
    pub token: Sensitive<String>,
    /// Whether its syntax was checked: not every runtime has a tool for it.
    pub checked: bool,
}

/// Why a program was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its fields are wrong, or its text is.
    #[error("{}", .0.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    /// The target has no room for all of its copies now.
    #[error("target {target} has no room for all copies: {}", excess.join(", "))]
    NoRoom {
        /// The target.
        target: ObjectName,
        /// What of it is too much.
        excess: Vec<String>,
    },
    /// It could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Apply(error.into())
    }
}

/// A random UUID, see RFC 9562.
fn uuid() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Ok(parts.join("-"))
}

/// Whether an App was loaded.
pub fn is_program(app: &Object<App>) -> bool {
    app.meta.attached.labels.keys().any(|label| label.as_str() == PROGRAM_LABEL)
}

impl Server {
    /// Loads a program into a project, for whoever may write there.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is made then. The text may stay for a while where nothing names it.
    pub async fn load(
        &self,
        caller: &Caller,
        project: &ProjectName,
        load: &Load,
        (named, dry_run): (Option<&Named>, bool),
    ) -> Result<Loaded, LoadError> {
        let faults = load.faults();
        if !faults.is_empty() {
            return Err(LoadError::Invalid(faults));
        }
        let target = self.target_of(project, load.target.as_ref()).await?;
        let checked = self.check(load, &target).await?;
        let digest = Digest::of_bytes(load.program.as_bytes());
        let spec = load.spec(digest);
        let violations = validate::app(&spec);
        if !violations.is_empty() {
            let fault = |it: validate::Violation| Fault { pointer: String::new(), message: it.to_string() };
            return Err(LoadError::Invalid(violations.into_iter().map(fault).collect()));
        }
        let id: ObjectName = format!("program-{}", random_name()?).parse().map_err(io::Error::other)?;
        let token = Sensitive::new(uuid()?);
        let loaded = Loaded { id, token, checked };
        let key = ObjectKey::in_project(project.clone(), loaded.id.clone());
        // One after the other: each would find out at its end that another one was quicker.
        let _turn = self.loading.lock().await;
        let (mut attempt, mut is_saved) = (1, false);
        loop {
            let batch = self.begin_load(caller, &key, load, (&spec, &loaded)).await?;
            let target = self.target_of(project, load.target.as_ref()).await?;
            let room = capacity::admit(self.store(), batch, &target, &spec, self.now()).await;
            let batch = match room.map_err(failed(&key))? {
                Ok(batch) => batch,
                Err(excess) => return Err(LoadError::NoRoom { target: target.meta.key.name, excess }),
            };
            if dry_run {
                return Ok(loaded);
            }
            if !is_saved {
                // Before anything names it, and only what is let in.
                let (directory, text) = (self.data().content(), load.program.clone());
                let saved =
                    tokio::task::spawn_blocking(move || content::save_content(&directory, text.as_bytes()));
                saved.await.map_err(io::Error::other)??;
                is_saved = true;
            }
            let batch = named.iter().fold(batch, |batch, named| named.receipt(batch, "", self.now()));
            match self.store().commit(&Scope::All, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result.map(|()| loaded).map_err(|error| failed(&key)(error).into()),
            }
        }
    }

    /// What makes the App of a program and the token that owns it.
    async fn begin_load(
        &self,
        caller: &Caller,
        key: &ObjectKey,
        load: &Load,
        (spec, loaded): (&AppSpec, &Loaded),
    ) -> Result<Batch, ApplyError> {
        let uid: Uid = format!("app-{}", random_name()?).parse().map_err(io::Error::other)?;
        let (at, owns) = (self.now(), ClaimSpec { app: uid.clone(), key: key.clone() });
        let project = key.project.clone();
        let app = New::<App> {
            uid,
            key: key.clone(),
            owner: None,
            at,
            attached: load.attached(),
            spec: spec.clone(),
            operations: Operations::default(),
        };
        let hash = Digest::of_bytes(loaded.token.expose().as_bytes());
        let token = New::<Token> {
            uid: format!("token-{}", random_name()?).parse().map_err(io::Error::other)?,
            key: ObjectKey::of_installation(owner_name(hash)),
            owner: None,
            at,
            attached: Attached::default(),
            spec: TokenSpec {
                hash,
                // A name that is nobody's: the token speaks for whoever has it.
                user: loaded.id.as_str().parse().map_err(io::Error::other)?,
                admin: false,
                only: Restriction { projects: project.into_iter().collect(), ..Restriction::default() },
                expires: None,
                owns: Some(owns),
                description: format!("owns program {key}"),
            },
            operations: (),
        };
        let terms = Terms::default();
        let writer = Writer { server: self, caller, terms: &terms };
        let batch = Batch::new().create(app).create(token);
        let admitted = App::admit(&writer, batch, key, None, (spec, &Operations::default())).await;
        if let Err(error) = &admitted {
            self.note_refusal(caller, Action::Create, App::PLURAL, key, error).await;
        }
        Ok(admitted?.audited(self.entry(caller, Action::Create, App::PLURAL, key)))
    }

    /// The target that a program of a project runs on.
    async fn target_of(
        &self,
        project: &ProjectName,
        named: Option<&TargetName>,
    ) -> Result<Object<Target>, ApplyError> {
        let place = ObjectKey::of_installation(name_of_project(project));
        let found = self.store().get::<Project>(&Scope::All, &place).await.map_err(failed(&place))?;
        let usual = found.and_then(|project| project.spec.target);
        let name = named.or(usual.as_ref()).map_or(DEFAULT_TARGET, TargetName::as_str);
        let key = ObjectKey::of_installation(name.parse().expect("a target's name is an object's"));
        let target = self.store().get::<Target>(&Scope::All, &key).await.map_err(failed(&key))?;
        target
            .filter(|target| target.meta.deleting.is_none())
            .ok_or(ApplyError::Absent { kind: Target::NAME, key })
    }

    /// Whether a program's runtime is there, and its text a program of that; whether that could be said.
    async fn check(&self, load: &Load, target: &Object<Target>) -> Result<bool, LoadError> {
        let fault = |pointer: &str, message: String| {
            LoadError::Invalid(vec![Fault { pointer: pointer.to_owned(), message }])
        };
        let Some(runtime) = target.spec.runtimes.get(&load.runtime) else {
            let known: Vec<&str> = target.spec.runtimes.keys().map(RuntimeName::as_str).collect();
            let (name, known) = (&target.meta.key.name, known.join(", "));
            let message = format!("target {name} has no runtime {}; it has {known}", load.runtime);
            return Err(fault("/runtime", message));
        };
        match syntax::check(&runtime.check, load.file(), &load.program).await? {
            Checked::Passed => Ok(true),
            Checked::Unchecked => Ok(false),
            Checked::Failed(said) => {
                Err(fault("/program", format!("it is no program of {}: {said}", load.runtime)))
            }
        }
    }

    /// A program that a caller may do something with: its owner, or a member of its project.
    ///
    /// # Errors
    /// [`ApplyError`]; what is no program is as absent.
    pub async fn program(
        &self,
        caller: &Caller,
        (verb, action): (Verb, Action),
        key: &ObjectKey,
        dry_run: bool,
    ) -> Result<Object<App>, ApplyError> {
        let absent = || ApplyError::Absent { kind: "program", key: key.clone() };
        let scope = match &caller.owns {
            Some(owned) if owned.key == *key => Scope::All,
            Some(_) => return Err(AccessError::Owner.into()),
            None => self.permit(caller, (verb, action), key, dry_run).await?,
        };
        let app = self.store().get::<App>(&scope, key).await.map_err(failed(key))?;
        let is_meant = |app: &Object<App>| caller.owns.as_ref().is_none_or(|owned| owned.app == app.meta.uid);
        app.filter(|app| is_program(app) && is_meant(app)).ok_or_else(absent)
    }

    /// Ends a program. Its copies have so long to end, an hour at most; as long as is declared if nothing is said. Of one that is
    /// ending already, only a shorter time is news.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn unload(
        &self,
        caller: &Caller,
        key: &ObjectKey,
        grace: Option<Span>,
        dry_run: bool,
    ) -> Result<(), ApplyError> {
        let mut attempt = 1;
        let grace = grace.map(|grace| grace.min(LONGEST_GRACE));
        loop {
            let mut app = self.program(caller, (Verb::Write, Action::Delete), key, dry_run).await?;
            let is_shorter = |had: Option<Span>| grace.is_some_and(|grace| had.is_none_or(|had| grace < had));
            let is_news = app.spec.components.values().any(|component| is_shorter(component.grace));
            if dry_run || (app.meta.deleting.is_some() && !is_news) {
                return Ok(());
            }
            let mut spec = app.spec.clone();
            for component in spec.components.values_mut() {
                component.grace = grace.or(component.grace);
            }
            let batch = if app.meta.deleting.is_some() {
                Batch::new().declare(&app, spec, app.operations.clone())
            } else {
                app.spec = spec;
                Batch::new().mark_deleting(&app, self.now())
            };
            let batch = batch.audited(self.entry(caller, Action::Delete, App::PLURAL, key));
            match self.store().commit(&Scope::All, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result.map_err(failed(key)),
            }
        }
    }

    /// The program of the copy that shows a credential, from where it asks; nothing if it is good for none.
    ///
    /// # Errors
    /// When the disk does not give it.
    pub async fn fetch_program(&self, credential: &str, from: IpAddr) -> io::Result<Option<Vec<u8>>> {
        let Some(agent) = self.agent() else { return Ok(None) };
        let Some(fetched) = agent.fetched(credential, from) else { return Ok(None) };
        tokio::fs::read(self.data().content().join(fetched.digest.to_string())).await.map(Some)
    }
}

/// What a failure of the store means for an App.
fn failed(key: &ObjectKey) -> impl Fn(StoreError) -> ApplyError {
    move |source| ApplyError::Store { kind: App::NAME, key: key.clone(), source }
}

/// Removes tokens of programs that are gone, a day after that was seen: until then their owners are told.
pub(crate) async fn collect(server: &plimsoll_store::Store, now: Timestamp) -> Result<(), StoreError> {
    for token in server.list::<Token>(&Scope::All, &Query::default()).await? {
        let Some(owned) = &token.spec.owns else { continue };
        let app = server.get::<App>(&Scope::All, &owned.key).await?;
        let is_gone = app.is_none_or(|app| app.meta.uid != owned.app);
        let batch = match token.spec.expires {
            _ if !is_gone => continue,
            Some(end) if end <= now => Batch::new().delete(&token),
            Some(_) => continue,
            None => {
                let expires = Some(Timestamp(now.0 + REMEMBERED));
                let spec = TokenSpec { expires, ..token.spec.clone() };
                Batch::new().declare(&token, spec, ())
            }
        };
        server.commit(&Scope::All, batch).await?;
    }
    Ok(())
}

/// What is seen of the copies of an App on this machine.
impl Server {
    /// Each copy as its node sees it; nothing of those that run elsewhere.
    pub async fn copies(&self, app: &Uid) -> BTreeMap<InstanceId, plimsoll_model::world::Instance> {
        let Some(agent) = self.agent() else { return BTreeMap::new() };
        match plimsoll_driver::Driver::observe(agent, app).await {
            Ok(plimsoll_driver::Sighting::Node(view)) => view.instances,
            _ => BTreeMap::new(),
        }
    }

    /// When the last run of a copy that is over ended, if it is one of the local node.
    pub fn ended(&self, instance: &InstanceId) -> Option<Timestamp> {
        self.agent()?.ended(instance).map(Timestamp)
    }
}
