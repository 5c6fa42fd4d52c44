//! The kinds of the model on top of a backend.

use std::sync::Arc;

use plimsoll_model::audit::AuditRecord;
use plimsoll_model::{Kind, Object, ObjectKey};
use serde::de::DeserializeOwned;

use crate::backend::{Backend, KindName, Moment, Page, Query, ResumeToken, Row, Watch};
use crate::batch::Batch;
use crate::error::StoreError;
use crate::scope::Scope;

/// Times an update is tried when somebody else writes the same object.
const ATTEMPTS: u32 = 10;

/// A store of typed objects. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl Store {
    /// Typed access to a backend.
    pub fn new(backend: impl Backend) -> Self {
        Self { backend: Arc::new(backend) }
    }

    /// One object by name.
    pub async fn get<K: Kind>(
        &self,
        scope: &Scope,
        key: &ObjectKey,
    ) -> Result<Option<Object<K>>, StoreError> {
        self.backend.get(scope, KindName(K::PLURAL), key).await?.map(decode).transpose()
    }

    /// All objects that a query admits, in order of project and name.
    pub async fn list<K: Kind>(&self, scope: &Scope, query: &Query) -> Result<Vec<Object<K>>, StoreError> {
        Ok(self.page(scope, query).await?.0)
    }

    /// One page of objects, whether more follow, and where a watch continues from.
    pub async fn page<K: Kind>(
        &self,
        scope: &Scope,
        query: &Query,
    ) -> Result<(Vec<Object<K>>, bool, ResumeToken), StoreError> {
        let page = self.backend.list(scope, KindName(K::PLURAL), query).await?;
        let objects = page.rows.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok((objects, page.more, page.token))
    }

    /// One row by name, of whatever kind.
    pub async fn row(
        &self,
        scope: &Scope,
        kind: KindName,
        key: &ObjectKey,
    ) -> Result<Option<Row>, StoreError> {
        self.backend.get(scope, kind, key).await
    }

    /// Rows of whatever kind, by query.
    pub async fn rows(&self, scope: &Scope, kind: KindName, query: &Query) -> Result<Page, StoreError> {
        self.backend.list(scope, kind, query).await
    }

    /// Changes of whatever kind, as [`Backend::watch`].
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the changes since the token are not kept any more.
    pub fn changes(
        &self,
        scope: &Scope,
        kind: KindName,
        from: Option<ResumeToken>,
    ) -> Result<Watch, StoreError> {
        self.backend.watch(scope, kind, from)
    }

    /// Where watches are: every change up to here has been told to them, or can be had from them at once.
    pub fn position(&self) -> ResumeToken {
        self.backend.position()
    }

    /// Everything as it is now, as [`Backend::moment`].
    pub async fn moment(&self) -> Result<Box<dyn Moment>, StoreError> {
        self.backend.moment().await
    }

    /// Writes a whole batch or nothing of it.
    pub async fn commit(&self, scope: &Scope, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() { Ok(()) } else { self.backend.commit(scope, batch).await }
    }

    /// Reads an object and writes what `change` makes of it; begins again, some times, when somebody else wrote in
    /// between. The inner error is that of `change`, and nothing was written then.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else was first every time.
    pub async fn update<K: Kind, T, E>(
        &self,
        scope: &Scope,
        key: &ObjectKey,
        change: impl Fn(Option<Object<K>>) -> Result<(Batch, T), E>,
    ) -> Result<Result<T, E>, StoreError> {
        let mut attempt = 1;
        loop {
            let (batch, made) = match change(self.get::<K>(scope, key).await?) {
                Ok(changed) => changed,
                Err(error) => return Ok(Err(error)),
            };
            match self.commit(scope, batch).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result.map(|()| Ok(made)),
            }
        }
    }

    /// Records of the audit log within a scope, from the one that follows a number, in order.
    pub async fn audit(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.backend.audit(scope, after, limit).await
    }

    /// Changes of a kind in commit order.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the changes since the token are not kept any more.
    pub fn watch<K: Kind>(&self, scope: &Scope, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.backend.watch(scope, KindName(K::PLURAL), from)
    }
}

/// The typed object of a row, as a change brings it.
///
/// # Errors
/// [`StoreError::Corrupt`] when it cannot be understood.
pub fn decode<K: Kind>(row: Row) -> Result<Object<K>, StoreError> {
    let corrupt =
        |source| StoreError::Corrupt { kind: KindName(K::PLURAL), key: row.meta.key.clone(), source };
    Ok(Object {
        spec: json(&row.spec).map_err(corrupt)?,
        operations: json(&row.operations).map_err(corrupt)?,
        status: row.status.as_deref().map(json).transpose().map_err(corrupt)?,
        meta: row.meta,
    })
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}
