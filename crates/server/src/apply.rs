//! From the documents of a file to the store.

use std::collections::BTreeMap;
use std::io;

use plimsoll_manifest::{Declared, Document, Metadata, SecretDeclared};
use plimsoll_model::id::{KeyName, ProjectName};
use plimsoll_model::kind::SecretSpec;
use plimsoll_model::object::{KindScope, Timestamp};
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{App, Kind, Object, ObjectKey, Secret};
use plimsoll_reconcile::Opener as _;
use plimsoll_store::{Batch, New, Scope, Store, StoreError};

use crate::data::random_name;
use crate::seal::Key;

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

/// Why documents could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
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
    /// The object of this name is being deleted.
    #[error("{kind} {key} is being deleted: apply again when it is gone")]
    Deleting {
        /// Its kind.
        kind: &'static str,
        /// The object.
        key: ObjectKey,
    },
    /// A secret could not be sealed, or no random number was to be had.
    #[error("the operating system refused")]
    System(#[from] io::Error),
}

impl ApplyError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_retryable(),
            Self::Deleting { .. } => true,
            Self::System(_) => false,
        }
    }
}

/// Writes one document.
///
/// # Errors
/// [`ApplyError`]; then nothing of this document was written.
pub(crate) async fn one(
    store: &Store,
    key: &Key,
    document: &Document,
    project: &ProjectName,
    at: Timestamp,
) -> Result<Applied, ApplyError> {
    match document {
        Document::App(app) => declare(store, app, project, at).await,
        Document::Project(it) => declare(store, it, project, at).await,
        Document::Target(it) => declare(store, it, project, at).await,
        Document::Secret(secret) => seal(store, key, secret, project, at).await,
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

async fn declare<K: Kind>(
    store: &Store,
    declared: &Declared<K>,
    project: &ProjectName,
    at: Timestamp,
) -> Result<Applied, ApplyError> {
    let key = key_of::<K>(&declared.metadata, project);
    let operations = |old: Option<&Object<K>>| {
        declared.operations.clone().or_else(|| old.map(|old| old.operations.clone())).unwrap_or_default()
    };
    let labels = &declared.metadata.labels;
    put::<K>(store, &key, labels, at, |old| (declared.spec.clone(), operations(old))).await
}

/// A secret whose values are the same is not written: its version stays, and no consumer is rolled.
async fn seal(
    store: &Store,
    key: &Key,
    secret: &SecretDeclared,
    project: &ProjectName,
    at: Timestamp,
) -> Result<Applied, ApplyError> {
    let name = key_of::<Secret>(&secret.metadata, project);
    let mut data = BTreeMap::new();
    for (part, value) in &secret.data {
        data.insert(part.clone(), key.seal(value)?);
    }
    put::<Secret>(store, &name, &secret.metadata.labels, at, |old| {
        match old.filter(|old| is_same(key, old, secret)) {
            Some(old) => (old.spec.clone(), ()),
            None => (SecretSpec { data: data.clone() }, ()),
        }
    })
    .await
}

/// Whether a Secret has these values already.
pub(crate) fn is_same(key: &Key, old: &Object<Secret>, secret: &SecretDeclared) -> bool {
    let open = |sealed| key.open(sealed).map(|it| it.expose().clone());
    let same = |part, value: &Sensitive<String>| {
        old.spec.data.get(part).and_then(open).as_ref() == Some(value.expose())
    };
    old.spec.data.len() == secret.data.len() && secret.data.iter().all(|(part, value)| same(part, value))
}

/// Creates or changes an object to what `wanted` makes of it.
async fn put<K: Kind>(
    store: &Store,
    key: &ObjectKey,
    labels: &BTreeMap<KeyName, String>,
    at: Timestamp,
    wanted: impl Fn(Option<&Object<K>>) -> (K::Spec, K::Operations),
) -> Result<Applied, ApplyError> {
    let applied = |change| Applied { kind: K::NAME, key: key.clone(), change };
    let failed = |source| ApplyError::Store { kind: K::NAME, key: key.clone(), source };
    let change = |old: Option<Object<K>>| {
        let (spec, operations) = wanted(old.as_ref());
        Ok(match old {
            Some(old) if old.meta.deleting.is_some() => {
                return Err(ApplyError::Deleting { kind: K::NAME, key: key.clone() });
            }
            Some(old) => {
                let batch = Batch::new().declare_labelled(&old, labels.clone(), spec, operations);
                let change = if batch.is_empty() { Change::Unchanged } else { Change::Changed };
                (batch, change)
            }
            None => {
                let uid = format!("{}-{}", K::NAME.to_lowercase(), random_name()?);
                let uid = uid.parse().map_err(io::Error::other)?;
                let new = New::<K> {
                    uid,
                    key: key.clone(),
                    owner: None,
                    at,
                    labels: labels.clone(),
                    spec,
                    operations,
                };
                (Batch::new().create(new), Change::Created)
            }
        })
    };
    let change = store.update(&Scope::All, key, change).await.map_err(failed)??;
    Ok(applied(change))
}

/// Writes the documents of a file: what others depend on first.
///
/// # Errors
/// The first document that could not be written; those before it are.
pub async fn apply(
    server: &crate::Server,
    documents: &[Document],
    project: &ProjectName,
) -> Result<Vec<Applied>, ApplyError> {
    let rank = |document: &Document| match document {
        Document::Project(_) => 0,
        Document::Target(_) => 1,
        Document::Secret(_) => 2,
        Document::App(_) => 3,
    };
    let mut ordered: Vec<&Document> = documents.iter().collect();
    ordered.sort_by_key(|document| rank(document));
    let mut done = Vec::new();
    for document in ordered {
        done.push(one(server.store(), server.key(), document, project, server.now()).await?);
    }
    Ok(done)
}

/// Changes what a person says of an App beside its spec; false if there is no such App.
pub(crate) async fn operate(
    store: &Store,
    key: &ObjectKey,
    change: impl Fn(&mut plimsoll_model::operations::Operations),
) -> Result<bool, ApplyError> {
    let declared = |old: Option<Object<App>>| {
        let Some(old) = old else { return Ok((Batch::new(), false)) };
        let mut operations = old.operations.clone();
        change(&mut operations);
        Ok((Batch::new().declare(&old, old.spec.clone(), operations), true))
    };
    let failed = |source| ApplyError::Store { kind: App::NAME, key: key.clone(), source };
    store.update(&Scope::All, key, declared).await.map_err(failed)?
}
