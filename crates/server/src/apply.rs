//! From what somebody declares to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use plimsoll_manifest::{Declared, Document, Metadata, SecretDeclared};
use plimsoll_model::access::Verb;
use plimsoll_model::audit::{Action, AuditEntry, AuditResult};
use plimsoll_model::fields::{Conflict, Manager, Written};
use plimsoll_model::id::{ManagerName, ProjectName};
use plimsoll_model::kind::{Sealed, SecretSpec};
use plimsoll_model::object::{KindScope, Revision, Timestamp};
use plimsoll_model::operations::Operations;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{App, Attached, Kind, Object, ObjectKey, Project, Secret, Target};
use plimsoll_reconcile::Opener as _;
use plimsoll_store::{Batch, New, Scope, StoreError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Server;
use crate::access::{AccessError, Caller};
use crate::data::random_name;
use crate::keyring::Keyring;
use crate::receipt::Named;

/// Times a change is tried when somebody else writes the same object.
const ATTEMPTS: u32 = 20;

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its kind, as documents name it.
    pub kind: &'static str,
    /// The object.
    pub key: ObjectKey,
    /// What changed.
    pub change: Change,
}

/// What an apply did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// Its declaration is another one now.
    Changed,
    /// It was declared like this already.
    Unchanged,
}

/// Under which conditions something is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only if the object is at this version.
    pub at: Option<Revision>,
    /// Only if there is no such object.
    pub absent: bool,
    /// Only if there is such an object.
    pub present: bool,
    /// Check everything, and write nothing.
    pub dry_run: bool,
    /// Whose the fields are.
    pub by: By,
    /// The request's own name, and what it is answered when it is done.
    pub receipt: Option<(Named, String)>,
}

impl Terms {
    /// Whether an object is at the version that the caller believes.
    pub(crate) fn check_version<K: Kind>(&self, object: &Object<K>) -> Result<(), ApplyError> {
        let found = object.meta.revision;
        match self.at.filter(|at| *at != found) {
            None => Ok(()),
            Some(at) => {
                let now = format!("is at version {found}, not {at}");
                Err(ApplyError::Stale { kind: K::NAME, key: object.meta.key.clone(), now })
            }
        }
    }
}

/// Whose the fields are that are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// This manager's, as far as they change.
    Changed(ManagerName),
    /// This manager's, as many as it applies.
    Applied {
        /// Who.
        manager: ManagerName,
        /// Which.
        fields: BTreeSet<String>,
        /// Whether others lose those that they had set to something else.
        force: bool,
    },
}

impl Default for By {
    fn default() -> Self {
        Self::Changed("plimsoll".parse().expect("a valid manager's name"))
    }
}

impl By {
    /// Who owns what after a write.
    fn managers(
        &self,
        known: &[Manager],
        before: &Value,
        after: &Value,
        at: Timestamp,
    ) -> Result<Vec<Manager>, Vec<Conflict>> {
        match self {
            Self::Changed(manager) => Ok(Written { manager, before, after, at }.updated(known.to_vec())),
            Self::Applied { manager, fields, force } => {
                Written { manager, before, after, at }.applied(known, fields, *force)
            }
        }
    }
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The store refused or did not answer.
    #[error("{kind} {key} cannot be written")]
    Store {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The object is not as the caller believes.
    #[error("{kind} {key} {now}: read it again")]
    Stale {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
        /// What it is instead.
        now: String,
    },
    /// The object of this name is being deleted.
    #[error("{kind} {key} is being deleted: apply again when it is gone")]
    Deleting {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
    },
    /// There is no such object.
    #[error("there is no {kind} {key}")]
    Absent {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
    },
    /// Others have set some of its fields to something else.
    #[error("{kind} {key} has fields of others: {}", listed(conflicts))]
    Fields {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
        /// Which.
        conflicts: Vec<Conflict>,
    },
    /// The project would declare more than its quota.
    #[error("app {key} is more than the quota of its project: {}", excess.join(", "))]
    Quota {
        /// The App.
        key: ObjectKey,
        /// What of it.
        excess: Vec<String>,
    },
    /// Something else needs the object.
    #[error("{kind} {key} cannot be deleted: {why}")]
    Needed {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
        /// By whom, and what to do about it.
        why: String,
    },
    /// It cannot be given up: it can be deleted.
    #[error("every target of app {key} answers: delete it without giving it up")]
    Answers {
        /// The App.
        key: ObjectKey,
    },
    /// A secret could not be sealed, or no random number was to be had.
    #[error("the operating system refused")]
    System(#[from] io::Error),
}

fn listed(conflicts: &[Conflict]) -> String {
    let each = conflicts.iter().map(|it| format!("{} ({})", it.field, it.manager));
    each.collect::<Vec<_>>().join(", ")
}

/// The declared part of an object, as fields are found in it.
fn document(attached: &Attached, spec: &impl Serialize, operations: &impl Serialize) -> Value {
    json!({
        "metadata": {"labels": attached.labels, "annotations": attached.annotations},
        "spec": spec,
        "operations": operations,
    })
}

impl ApplyError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_retryable(),
            Self::Deleting { .. } => true,
            _ => false,
        }
    }
}

/// Where an object of a kind belongs.
pub(crate) fn key_of<K: Kind>(metadata: &Metadata, project: &ProjectName) -> ObjectKey {
    match K::SCOPE {
        KindScope::Installation => ObjectKey::of_installation(metadata.name.clone()),
        KindScope::Project => {
            let project = metadata.project.clone().unwrap_or_else(|| project.clone());
            ObjectKey::in_project(project, metadata.name.clone())
        }
    }
}

/// Writes the documents of a file: what others depend on first.
///
/// # Errors
/// Nothing was written if the caller may not write one of them. Otherwise the first document that could not be written;
/// those before it are.
pub async fn apply(
    server: &Server,
    caller: &Caller,
    documents: &[Document],
    project: &ProjectName,
    terms: &Terms,
) -> Result<Vec<Applied>, ApplyError> {
    let rank = |document: &Document| match document {
        Document::Project(_) => 0,
        Document::Target(_) => 1,
        Document::Secret(_) => 2,
        Document::App(_) => 3,
    };
    let mut ordered: Vec<&Document> = documents.iter().collect();
    ordered.sort_by_key(|document| rank(document));
    let made: Vec<&str> = ordered
        .iter()
        .filter(|it| matches!(it, Document::Project(_)))
        .map(|it| it.metadata().name.as_str())
        .collect();
    let writer = Writer { server, caller, terms };
    for document in &ordered {
        if let Err(error) = permit(server, caller, document, project, &made).await {
            return Err(writer.refused(document, project, error).await);
        }
    }
    let mut done = Vec::new();
    for document in ordered {
        let written = match document {
            Document::App(app) => writer.app(app, project).await,
            Document::Project(it) => writer.declare(it, project).await,
            Document::Target(it) => writer.declare(it, project).await,
            Document::Secret(secret) => writer.secret(secret, project).await,
        };
        match written {
            Ok(applied) => done.push(applied),
            Err(error) => return Err(writer.refused(document, project, error).await),
        }
    }
    Ok(done)
}

/// Whether a caller may write a document at all.
async fn permit(
    server: &Server,
    caller: &Caller,
    document: &Document,
    project: &ProjectName,
    made: &[&str],
) -> Result<(), ApplyError> {
    match document {
        Document::App(_) | Document::Secret(_) => {
            let within = document.metadata().project.as_ref().unwrap_or(project);
            // An administrator may declare the project in the same file.
            if !(caller.is_platform() && made.contains(&within.as_str())) {
                caller.within(server.store(), within, Verb::Write).await?;
            }
        }
        Document::Project(it) => {
            if let (false, Ok(name)) = (caller.is_platform(), it.metadata.name.as_str().parse()) {
                match caller.within(server.store(), &name, Verb::Manage).await {
                    Err(AccessError::NoProject(_)) => caller.platform("make a project")?,
                    result => drop(result?),
                }
            }
        }
        Document::Target(_) => caller.platform("change a target")?,
    }
    Ok(())
}

/// What a kind asks of a change before it is written.
pub(crate) trait Governed: Kind {
    /// Adds to a batch that writes an object what must hold with it, or refuses it.
    fn admit(
        writer: &Writer<'_>,
        batch: Batch,
        key: &ObjectKey,
        old: Option<&Object<Self>>,
        new: (&Self::Spec, &Self::Operations),
    ) -> impl Future<Output = Result<Batch, ApplyError>> + Send;

    /// Brings operations in line with the declaration that they are beside from now on.
    fn settle(_: &Self::Spec, _: &mut Self::Operations) {}

    /// The next step of an object's deletion, or why others need it.
    fn end(writer: &Writer<'_>, old: &Object<Self>)
    -> impl Future<Output = Result<Batch, ApplyError>> + Send;
}

/// Writes on behalf of somebody.
pub(crate) struct Writer<'a> {
    pub(crate) server: &'a Server,
    pub(crate) caller: &'a Caller,
    pub(crate) terms: &'a Terms,
}

impl Writer<'_> {
    async fn app(&self, app: &Declared<App>, project: &ProjectName) -> Result<Applied, ApplyError> {
        let key = key_of::<App>(&app.metadata, project);
        let wanted = |old: Option<&Object<App>>| {
            let kept = || old.map(|old| old.operations.clone()).unwrap_or_default();
            (app.spec.clone(), app.operations.clone().unwrap_or_else(kept))
        };
        self.put::<App>(&key, Some(app.metadata.attached()), Action::Change, wanted).await
    }

    async fn declare<K: Governed<Operations = ()>>(
        &self,
        it: &Declared<K>,
        project: &ProjectName,
    ) -> Result<Applied, ApplyError> {
        let key = key_of::<K>(&it.metadata, project);
        self.put::<K>(&key, Some(it.metadata.attached()), Action::Change, |_| (it.spec.clone(), ())).await
    }

    /// A failure, which the audit log keeps if it is one of rights.
    async fn refused(&self, document: &Document, project: &ProjectName, error: ApplyError) -> ApplyError {
        if !self.terms.dry_run {
            let metadata = document.metadata();
            let (plural, key) = match document {
                Document::App(_) => (App::PLURAL, key_of::<App>(metadata, project)),
                Document::Project(_) => (Project::PLURAL, key_of::<Project>(metadata, project)),
                Document::Target(_) => (Target::PLURAL, key_of::<Target>(metadata, project)),
                Document::Secret(_) => (Secret::PLURAL, key_of::<Secret>(metadata, project)),
            };
            self.server.note_refusal(self.caller, Action::Change, plural, &key, &error).await;
        }
        error
    }

    /// A secret whose values are the same is not written: its version stays, and no consumer is rolled.
    async fn secret(&self, secret: &SecretDeclared, project: &ProjectName) -> Result<Applied, ApplyError> {
        let (name, key) = (key_of::<Secret>(&secret.metadata, project), self.server.keyring());
        let _sealing = key.sealing().await;
        let mut data = BTreeMap::new();
        for (part, value) in &secret.data {
            data.insert(part.clone(), key.seal(value)?);
        }
        let wanted = |old: Option<&Object<Secret>>| {
            let mut data = data.clone();
            // What is the same stays sealed as it is: a value is changed by whoever changes it, and by nobody else.
            for (part, sealed) in old.into_iter().flat_map(|old| &old.spec.data) {
                if opens_to(key, sealed, secret.data.get(part)) {
                    data.insert(part.clone(), sealed.clone());
                }
            }
            (SecretSpec { data }, ())
        };
        self.put::<Secret>(&name, Some(secret.metadata.attached()), Action::Change, wanted).await
    }

    /// Creates or changes an object to what `wanted` makes of it, if `admit` agrees.
    async fn put<K: Governed>(
        &self,
        key: &ObjectKey,
        attached: Option<Attached>,
        action: Action,
        wanted: impl Fn(Option<&Object<K>>) -> (K::Spec, K::Operations) + Send,
    ) -> Result<Applied, ApplyError> {
        let failed = |source| ApplyError::Store { kind: K::NAME, key: key.clone(), source };
        let mut attempt = 1;
        loop {
            let old = self.server.store().get::<K>(&Scope::All, key).await.map_err(failed)?;
            self.check_terms::<K>(key, old.as_ref())?;
            let (spec, mut operations) = wanted(old.as_ref());
            K::settle(&spec, &mut operations);
            let attached = self.attached(key, old.as_ref(), attached.clone(), &spec, &operations)?;
            let (batch, change) = match &old {
                Some(old) => {
                    let batch = Batch::new().declare_with(old, attached, spec.clone(), operations.clone());
                    let change = if batch.is_empty() { Change::Unchanged } else { Change::Changed };
                    (batch, change)
                }
                None => {
                    (Batch::new().create(self.made::<K>(key, attached, &spec, &operations)?), Change::Created)
                }
            };
            let applied = Applied { kind: K::NAME, key: key.clone(), change };
            if change == Change::Unchanged {
                return Ok(applied);
            }
            let batch = K::admit(self, batch, key, old.as_ref(), (&spec, &operations)).await?;
            if self.terms.dry_run {
                return Ok(applied);
            }
            let action = if old.is_some() { action } else { Action::Create };
            let batch = batch.audited(self.server.entry(self.caller, action, K::PLURAL, key));
            let batch = match &self.terms.receipt {
                Some((named, answer)) => named.receipt(batch, answer, self.server.now()),
                None => batch,
            };
            match self.server.store().commit(&Scope::All, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result.map(|()| applied).map_err(failed),
            }
        }
    }

    /// What is attached after a write: what it says, or what was there, and whose the fields are.
    fn attached<K: Kind>(
        &self,
        key: &ObjectKey,
        old: Option<&Object<K>>,
        said: Option<Attached>,
        spec: &K::Spec,
        operations: &K::Operations,
    ) -> Result<Attached, ApplyError> {
        let kept = old.map(|old| old.meta.attached.clone()).unwrap_or_default();
        let known = kept.managers.clone();
        let mut attached = said.unwrap_or(kept);
        if known.is_empty() && matches!(self.terms.by, By::Changed(_)) {
            return Ok(attached);
        }
        let before = old.map(|old| document(&old.meta.attached, &old.spec, &old.operations));
        let after = document(&attached, spec, operations);
        let managers = self.terms.by.managers(&known, &before.unwrap_or_default(), &after, self.server.now());
        attached.managers = managers.map_err(|conflicts| ApplyError::Fields {
            kind: K::NAME,
            key: key.clone(),
            conflicts,
        })?;
        Ok(attached)
    }

    fn made<K: Kind>(
        &self,
        key: &ObjectKey,
        attached: Attached,
        spec: &K::Spec,
        operations: &K::Operations,
    ) -> io::Result<New<K>> {
        let uid = format!("{}-{}", K::NAME.to_lowercase(), random_name()?);
        Ok(New {
            uid: uid.parse().map_err(io::Error::other)?,
            key: key.clone(),
            owner: None,
            at: self.server.now(),
            attached,
            spec: spec.clone(),
            operations: operations.clone(),
        })
    }

    /// Whether the object is as the caller believes.
    fn check_terms<K: Kind>(&self, key: &ObjectKey, old: Option<&Object<K>>) -> Result<(), ApplyError> {
        let stale = |now: String| Err(ApplyError::Stale { kind: K::NAME, key: key.clone(), now });
        if let Some(old) = old.filter(|_| !self.terms.absent) {
            self.terms.check_version(old)?;
        }
        match (old, self.terms.at) {
            (Some(old), _) if self.terms.absent => {
                stale(format!("is there, at version {}", old.meta.revision))
            }
            (None, Some(_)) => stale("is not there".into()),
            (None, None) if self.terms.present => Err(ApplyError::Absent { kind: K::NAME, key: key.clone() }),
            (Some(old), _) if old.meta.deleting.is_some() => {
                Err(ApplyError::Deleting { kind: K::NAME, key: key.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a Secret has these values already.
pub(crate) fn is_same(key: &Keyring, old: &Object<Secret>, secret: &SecretDeclared) -> bool {
    let same = |(part, sealed)| opens_to(key, sealed, secret.data.get(part));
    old.spec.data.len() == secret.data.len() && old.spec.data.iter().all(same)
}

/// Whether a sealed value is this one.
fn opens_to(key: &Keyring, sealed: &Sealed, value: Option<&Sensitive<String>>) -> bool {
    let opened = key.open(sealed);
    opened.is_some_and(|opened| value.is_some_and(|value| opened.expose() == value.expose()))
}

impl Server {
    /// What the audit log says of something that was done.
    pub(crate) fn entry(
        &self,
        caller: &Caller,
        action: Action,
        kind: &str,
        object: &ObjectKey,
    ) -> AuditEntry {
        let (at, actor) = (self.now(), caller.actor.clone());
        AuditEntry { at, actor, action, kind: kind.into(), object: object.clone(), result: AuditResult::Done }
    }

    /// Records a failure in the audit log if it is one of rights. Without an answer of the store it stands all the same.
    pub async fn note_refusal(
        &self,
        caller: &Caller,
        action: Action,
        kind: &str,
        object: &ObjectKey,
        error: &ApplyError,
    ) {
        let is_one = matches!(
            error,
            ApplyError::Quota { .. }
                | ApplyError::Access(
                    AccessError::Denied { .. } | AccessError::Platform(_) | AccessError::Owner
                )
        );
        if is_one {
            self.record_refusal(caller, action, kind, object, error.to_string()).await;
        }
    }

    /// The part of the store in which a caller may do something about an App, or a refusal that is recorded.
    ///
    /// # Errors
    /// [`ApplyError::Access`].
    pub async fn permit(
        &self,
        caller: &Caller,
        (verb, action): (Verb, Action),
        app: &ObjectKey,
        dry_run: bool,
    ) -> Result<Scope, ApplyError> {
        let project = app.project.as_ref().expect("an App is part of a project");
        match caller.within(self.store(), project, verb).await {
            Ok(scope) => Ok(scope),
            Err(error) => {
                let error = ApplyError::Access(error);
                if !dry_run {
                    self.note_refusal(caller, action, App::PLURAL, app, &error).await;
                }
                Err(error)
            }
        }
    }

    /// Records in the audit log that something was refused. Without an answer of the store it stands all the same.
    pub(crate) async fn record_refusal(
        &self,
        caller: &Caller,
        action: Action,
        kind: &str,
        object: &ObjectKey,
        why: String,
    ) {
        let result = AuditResult::Refused(why);
        let entry = AuditEntry { result, ..self.entry(caller, action, kind, object) };
        self.store().commit(&Scope::All, Batch::new().audited(entry)).await.ok();
    }

    /// The values of a stored Secret, as somebody would declare them; for whoever changes a part of them.
    ///
    /// # Errors
    /// [`ApplyError::System`], when they cannot be opened.
    pub fn reveal(&self, row: &plimsoll_store::Row) -> Result<Value, ApplyError> {
        let secret = plimsoll_store::decode::<Secret>(row.clone());
        let secret = secret.map_err(io::Error::other)?;
        let mut data = serde_json::Map::new();
        for (part, sealed) in &secret.spec.data {
            let value =
                self.keyring().open(sealed).ok_or_else(|| io::Error::other("a value cannot be opened"))?;
            data.insert(part.to_string(), Value::String(value.expose().clone()));
        }
        Ok(data.into())
    }

    /// Changes a person's standing instructions for an App.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn operate(
        &self,
        caller: &Caller,
        app: &Object<App>,
        action: Action,
        terms: &Terms,
        change: impl Fn(&mut Operations) + Sync,
    ) -> Result<(), ApplyError> {
        let key = &app.meta.key;
        let wanted = |old: Option<&Object<App>>| {
            let old = old.unwrap_or(app);
            let mut operations = old.operations.clone();
            change(&mut operations);
            (old.spec.clone(), operations)
        };
        // It must still be there: what is deleted meanwhile is not made again.
        let terms = &Terms { present: true, ..terms.clone() };
        let done = Writer { server: self, caller, terms }.put::<App>(key, None, action, wanted).await;
        if let (Err(error), false) = (&done, terms.dry_run) {
            self.note_refusal(caller, action, App::PLURAL, key, error).await;
        }
        done.map(drop)
    }

    /// Deletes an object: marks an App for deletion, and takes what nothing runs for away at once.
    ///
    /// # Errors
    /// [`ApplyError`]; what others need is not deleted.
    pub async fn delete(
        &self,
        caller: &Caller,
        plural: &str,
        key: &ObjectKey,
        terms: &Terms,
    ) -> Result<(), ApplyError> {
        let writer = Writer { server: self, caller, terms };
        let done = match plural {
            App::PLURAL => writer.delete::<App>(key).await,
            Secret::PLURAL => writer.delete::<Secret>(key).await,
            Project::PLURAL => writer.delete::<Project>(key).await,
            _ => writer.delete::<Target>(key).await,
        };
        if let (Err(error), false) = (&done, terms.dry_run) {
            self.note_refusal(caller, Action::Delete, plural, key, error).await;
        }
        done
    }
}

impl Writer<'_> {
    async fn delete<K: Governed>(&self, key: &ObjectKey) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Store { kind: K::NAME, key: key.clone(), source };
        let mut attempt = 1;
        let mut has_begun = false;
        loop {
            let old = self.server.store().get::<K>(&Scope::All, key).await.map_err(failed)?;
            let Some(old) = old.filter(|old| !(has_begun && old.meta.deleting.is_none())) else {
                // Gone by now, or even made anew.
                let absent = ApplyError::Absent { kind: K::NAME, key: key.clone() };
                return if has_begun { Ok(()) } else { Err(absent) };
            };
            match self.check_terms::<K>(key, Some(&old)) {
                Err(ApplyError::Stale { .. }) if has_begun => {}
                Err(ApplyError::Deleting { .. }) => {}
                result => result?,
            }
            let batch = K::end(self, &old).await?;
            if self.terms.dry_run || batch.is_empty() {
                return Ok(());
            }
            let entry = self.server.entry(self.caller, Action::Delete, K::PLURAL, key);
            let batch = if has_begun { batch } else { batch.audited(entry) };
            match self.server.store().commit(&Scope::All, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                // Its reconciler takes it apart first.
                Ok(()) if K::PLURAL == App::PLURAL => return Ok(()),
                Ok(()) => has_begun = true,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}
