//! Many writers: what is committed is told in commit order, whoever committed it.

use futures::StreamExt as _;
use plimsoll_model::object::Revision;
use plimsoll_model::{App, Object, Project};
use plimsoll_store::{Batch, ChangeKind, Query, ResumeToken, Scope, Store, StoreError};
use plimsoll_store_sql::Sql;
use plimsoll_testkit::Postgres;

use crate::postgres::SERIALIZABLE;
use crate::{installation, key, new, read, saying};

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
        let batch = Batch::new().declare(&shared, saying(number(&shared) + 1), ());
        match store.commit(&Scope::All, batch).await {
            Ok(()) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

/// Two objects are written together again and again: whoever has read the second as it is now, be it by name or in a list,
/// never finds an older first one afterwards.
async fn readers_never_go_back(store: &Store) {
    let begin = Batch::new().create(new("left")).create(new("right"));
    store.commit(&Scope::All, begin).await.unwrap();
    let readers = (0..4).map(|reader| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut seen = 0;
            while seen < LAST {
                let newest = if reader % 2 == 0 {
                    number(&read(&store, "right").await.unwrap())
                } else {
                    let all = store.list::<Project>(&Scope::All, &Query::default()).await.unwrap();
                    number(all.iter().find(|it| it.meta.key == key("right")).unwrap())
                };
                let first = number(&read(&store, "left").await.unwrap());
                assert!(first >= newest && newest >= seen, "{first} after {newest}, and {seen} before");
                seen = newest;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for next in 1..=LAST {
        let (left, right) = (read(store, "left").await.unwrap(), read(store, "right").await.unwrap());
        assert_eq!((number(&left), number(&right)), (next - 1, next - 1), "whoever wrote reads it");
        let batch = Batch::new().declare(&left, saying(next), ()).declare(&right, saying(next), ());
        store.commit(&Scope::All, batch).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Writes while others read.
const LAST: usize = 500;

/// What an object says.
fn number(object: &Object<Project>) -> usize {
    object.spec.description.as_ref().map_or(0, |text| text.parse().unwrap())
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
    readers_never_go_back(&store).await;
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
