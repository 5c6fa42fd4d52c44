//! A store that goes away and comes back.

use std::time::Duration;

use futures::StreamExt as _;
use plimsoll_model::Project;
use plimsoll_store::{Batch, Query, Scope, Store, StoreError};
use plimsoll_store_sql::Sql;
use plimsoll_testkit::Postgres;

use crate::{installation, new, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_fails_requests_and_serves_again_when_it_is_back() {
    let mut server = Postgres::start();
    let store = Store::new(Sql::postgres(&server.database("one"), &installation(), true).await.unwrap());
    store.commit(&Scope::All, Batch::new().create(new("before"))).await.unwrap();
    let mut watch = store.watch::<Project>(&Scope::All, None).unwrap();
    server.kill();
    let batch = Batch::new().create(new("meanwhile-a")).create(new("meanwhile-b"));
    let refused = store.commit(&Scope::All, batch).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    assert!(matches!(
        store.list::<Project>(&Scope::All, &Query::default()).await,
        Err(StoreError::Unavailable(_))
    ));
    server.resume();
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.commit(&Scope::All, Batch::new().create(new("after"))).await {
        assert!(error.is_retryable() && tokio::time::Instant::now() < give_up, "{error}");
    }
    assert!(read(&store, "before").await.is_some() && read(&store, "meanwhile-a").await.is_none());
    // The watch goes on as if nothing had been.
    loop {
        let change = watch.next().await.unwrap().unwrap();
        if change.key.name.as_str() == "after" {
            break;
        }
    }
}
