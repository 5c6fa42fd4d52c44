//! The gate before a store: reads always pass, writes only while it is open.

use std::sync::Arc;

use plimsoll_model::ObjectKey;
use plimsoll_model::audit::AuditRecord;
use plimsoll_store::{
    Backend, Batch, Fut, KindName, Moment, Page, Query, ResumeToken, Row, Scope, StoreError, Watch,
};
use tokio::sync::RwLock;

/// The gate of a server's store. Clones are the same gate.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    /// Why it is closed, if it is.
    closed: Arc<RwLock<Option<&'static str>>>,
}

impl Gate {
    /// Waits for the writes under way and lets no other one begin.
    pub(crate) async fn close(&self, why: &'static str) {
        *self.closed.write().await = Some(why);
    }

    /// Lets writes begin.
    pub(crate) async fn open(&self) {
        *self.closed.write().await = None;
    }
}

/// A store behind a gate.
pub(crate) struct Gated<B> {
    pub(crate) inner: B,
    pub(crate) gate: Gate,
}

impl<B: Backend> Backend for Gated<B> {
    fn get<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        key: &'a ObjectKey,
    ) -> Fut<'a, Result<Option<Row>, StoreError>> {
        self.inner.get(scope, kind, key)
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        query: &'a Query,
    ) -> Fut<'a, Result<Page, StoreError>> {
        self.inner.list(scope, kind, query)
    }

    fn commit<'a>(&'a self, scope: &'a Scope, batch: Batch) -> Fut<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let closed = self.gate.closed.read().await;
            match *closed {
                Some(why) => Err(StoreError::ReadOnly(why)),
                None => self.inner.commit(scope, batch).await,
            }
        })
    }

    fn audit<'a>(
        &'a self,
        scope: &'a Scope,
        after: u64,
        limit: usize,
    ) -> Fut<'a, Result<Vec<AuditRecord>, StoreError>> {
        self.inner.audit(scope, after, limit)
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.inner.watch(scope, kind, from)
    }

    fn position(&self) -> ResumeToken {
        self.inner.position()
    }

    fn moment(&self) -> Fut<'_, Result<Box<dyn Moment>, StoreError>> {
        self.inner.moment()
    }
}
