//! A real PostgreSQL server.

use std::sync::atomic::{AtomicU32, Ordering};

use plimsoll_store::{Batch, Scope, Store, contract};
use plimsoll_store_sql::{OpenError, Sql};
use plimsoll_testkit::Postgres;

use crate::{installation, new, read};

/// Every transaction as strict as the database knows: it refuses what `CockroachDB` would refuse.
pub(crate) const SERIALIZABLE: &str = "&options=-c%20default_transaction_isolation%3Dserializable";

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_keeps_the_contract_at_either_isolation() {
    let server = Postgres::start();
    let number = AtomicU32::new(0);
    for isolation in ["", SERIALIZABLE] {
        contract::every(async || {
            let name = format!("d{}", number.fetch_add(1, Ordering::Relaxed));
            let url = server.database(&name) + isolation;
            Store::new(Sql::postgres(&url, &installation(), true).await.unwrap())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_installation_or_a_later_version_is_refused() {
    let server = Postgres::start();
    let url = server.database("one");
    let store = Store::new(Sql::postgres(&url, &installation(), true).await.unwrap());
    store.commit(&Scope::All, Batch::new().create(new("a"))).await.unwrap();
    let refused = Sql::postgres(&url, &"i-2".parse().unwrap(), true).await;
    assert!(matches!(refused, Err(OpenError::Foreign { owner, .. }) if owner == "i-1"));
    assert!(read(&store, "a").await.is_some());
    let empty = Sql::postgres(&server.database("empty"), &installation(), false).await;
    assert!(matches!(empty, Err(OpenError::Empty)), "an installation that has a store takes no empty one");
    server.sql("one", "insert into _sqlx_migrations values (9999, 'later', now(), true, ''::bytea, 0)");
    assert!(matches!(Sql::postgres(&url, &installation(), true).await, Err(OpenError::Later)));
    assert!(matches!(
        Sql::postgres("postgres://nobody@127.0.0.1:1/x", &installation(), true).await,
        Err(OpenError::Open(_))
    ));
}
