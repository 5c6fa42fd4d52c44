//! Many writers: what is committed is told in commit order, whoever committed it.

use futures::StreamExt as _;
use plimsoll_model::object::Revision;
use plimsoll_model::{App, Project};
use plimsoll_store::{Batch, ChangeKind, ResumeToken, Scope, Store, StoreError};
use plimsoll_store_sql::Sql;
use plimsoll_testkit::Postgres;

use crate::postgres::SERIALIZABLE;
use crate::{installation, new, read, saying};

/// Writers at the same time.
const WRITERS: usize = 32;
/// Writes of each to an object of its own, and as many to one that all of them share.
const EACH: usize = 10;

/// Lets many write by turns through several stores of one database, and checks what a watch of each store tells.
async fn many_writers(stores: Vec<Store>) {
    let first = &stores[0];
    first.commit(&Scope::All, Batch::new().create(new("shared"))).await.unwrap();
    let start = ResumeToken(read(first, "shared").await.unwrap().meta.revision.0);
    let writers = (0..WRITERS).map(|writer| {
        let store = stores[writer % stores.len()].clone();
        tokio::spawn(async move {
            let own = format!("own-{writer}");
            store.commit(&Scope::All, Batch::new().create(new(&own))).await.unwrap();
            for number in 0..EACH {
                let object = read(&store, &own).await.unwrap();
                store.commit(&Scope::All, Batch::new().declare(&object, saying(number), ())).await.unwrap();
                add_one(&store).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let shared = read(first, "shared").await.unwrap();
    assert_eq!(
        shared.spec.description.as_deref(),
        Some(&*(WRITERS * EACH).to_string()),
        "no addition was lost"
    );
    let last = shared.meta.revision;
    for store in &stores {
        // Nothing of another kind is told, and a watch from anywhere leads to the same end.
        assert!(store.watch::<App>(&Scope::All, Some(start)).is_ok());
        for from in [start.0, start.0 + 7, u64::midpoint(start.0, last.0)] {
            let told = told(store, from, last).await;
            assert!(told.is_sorted_by(|a, b| a < b), "changes come in commit order: {told:?}");
            assert!(told[0] > from);
        }
    }
}

/// Adds one to the number that all writers share, however often others are first.
async fn add_one(store: &Store) {
    loop {
        let shared = read(store, "shared").await.unwrap();
        let number = shared.spec.description.as_ref().map_or(0, |text| text.parse().unwrap());
        let batch = Batch::new().declare(&shared, saying(number + 1), ());
        match store.commit(&Scope::All, batch).await {
            Ok(()) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

/// The revisions that a watch tells up to a last one.
async fn told(store: &Store, from: u64, last: Revision) -> Vec<u64> {
    let mut watch = store.watch::<Project>(&Scope::All, Some(ResumeToken(from))).unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&last.0) {
        let change = watch.next().await.unwrap().unwrap();
        if let ChangeKind::Created(row) | ChangeKind::Changed(row) = &change.kind {
            assert_eq!(row.meta.revision.0, change.token.0);
        }
        told.push(change.token.0);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(Sql::sqlite(&directory.path().join("plimsoll.db")).await.unwrap());
    many_writers(vec![store.clone()]).await;
    let all = told(&store, 0, read(&store, "shared").await.unwrap().meta.revision).await;
    assert_eq!(
        all,
        (1..=*all.last().unwrap()).collect::<Vec<_>>(),
        "the writer's own process is told of all"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_database_that_two_servers_share() {
    let server = Postgres::start();
    for isolation in ["", SERIALIZABLE] {
        let url = server.database(if isolation.is_empty() { "one" } else { "two" }) + isolation;
        let mut stores = Vec::new();
        for _ in 0..2 {
            stores.push(Store::new(Sql::postgres(&url, &installation(), true).await.unwrap()));
        }
        many_writers(stores).await;
    }
}
