//! Receipts: what was answered to a request that may come again, because its answer was lost on the way.
//!
//! Whoever sends a request may name it by a key of their own (`Idempotency-Key`). The receipt is written in the transaction of
//! what was asked for, so that the same request, sent again, finds either both or nothing.

use plimsoll_model::id::{Digest, UserName};
use plimsoll_model::kind::{Receipt, ReceiptSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::{Attached, ObjectKey};
use plimsoll_store::{Batch, New, Query, Scope, Store, StoreError};

use crate::Server;

/// How long receipts are kept, in milliseconds.
const KEPT: u64 = 24 * 3600 * 1000;

/// Receipts that are removed at once.
const TOGETHER: usize = 100;

/// A request that has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    place: ObjectKey,
    request: Digest,
}

/// What is known of a request by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is new.
    New,
    /// It was carried out, and this was the answer.
    Done(String),
    /// Another request had this name.
    Another,
}

impl Named {
    /// A request of a user to a place, by the name that the user gave it. Names of different users never meet.
    pub fn new(user: &UserName, place: &str, name: &str, body: &[u8]) -> Self {
        let digest = Digest::of_json(&(user, name)).to_string();
        let key = format!("receipt.{}", &digest[..40]).parse().expect("a word and digits form a name");
        let request = Digest::of_json(&(place, Digest::of_bytes(body)));
        Self { place: ObjectKey::of_installation(key), request }
    }

    /// Adds the receipt to the transaction of what was asked for.
    pub(crate) fn receipt(&self, batch: Batch, answer: &str, at: Timestamp) -> Batch {
        batch.create(New::<Receipt> {
            uid: self.place.name.as_str().replace('.', "-").parse().expect("a word and digits form a uid"),
            key: self.place.clone(),
            owner: None,
            at,
            attached: Attached::default(),
            spec: ReceiptSpec { request: self.request, answer: answer.to_owned() },
            operations: (),
        })
    }
}

impl Server {
    /// What is known of a request.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn known(&self, named: &Named) -> Result<Known, StoreError> {
        let found = self.store().get::<Receipt>(&Scope::All, &named.place).await?;
        Ok(match found {
            None => Known::New,
            Some(receipt) if receipt.spec.request == named.request => Known::Done(receipt.spec.answer),
            Some(_) => Known::Another,
        })
    }

    /// Keeps a receipt of what was done by several transactions, each of which can be done again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn keep_receipt(&self, named: &Named, answer: &str) -> Result<(), StoreError> {
        let batch = named.receipt(Batch::new(), answer, self.now());
        match self.store().commit(&Scope::All, batch).await {
            // The same request came twice at once, and both did the same.
            Err(StoreError::Conflict { .. }) => Ok(()),
            result => result,
        }
    }
}

/// Removes receipts of requests that nobody will send again.
pub(crate) async fn collect(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let mut query = Query { limit: TOGETHER, ..Query::default() };
    loop {
        let (receipts, is_more, _) = store.page::<Receipt>(&Scope::All, &query).await?;
        let old = receipts.iter().filter(|it| now.0.saturating_sub(it.meta.created.0) > KEPT);
        let batch = old.fold(Batch::new(), Batch::delete);
        store.commit(&Scope::All, batch).await?;
        query.after = receipts.into_iter().next_back().map(|it| it.meta.key);
        if !is_more {
            return Ok(());
        }
    }
}
