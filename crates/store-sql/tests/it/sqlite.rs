//! One file: its contract, its restart, its versions.

use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt as _;
use plimsoll_model::Project;
use plimsoll_store::{Batch, Query, ResumeToken, Scope, Store, contract};
use plimsoll_store_sql::{OpenError, Sql};
use sqlx::Connection as _;

use crate::{new, read, saying};

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let number = AtomicU32::new(0);
    let make = async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        Store::new(Sql::sqlite(&directory.path().join(format!("{number}.db"))).await.unwrap())
    };
    contract::every(make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_restart_from_any_token() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plimsoll.db");
    {
        let store = Store::new(Sql::sqlite(&file).await.unwrap());
        for name in ["a", "b", "c"] {
            store.commit(&Scope::All, Batch::new().create(new(name))).await.unwrap();
        }
        let b = read(&store, "b").await.unwrap();
        store.commit(&Scope::All, Batch::new().delete(&b)).await.unwrap();
        let c = read(&store, "c").await.unwrap();
        store.commit(&Scope::All, Batch::new().declare(&c, saying(1), ())).await.unwrap();
    }
    let store = Store::new(Sql::sqlite(&file).await.unwrap());
    let (all, _, token) = store.page::<Project>(&Scope::All, &Query::default()).await.unwrap();
    assert_eq!((all.len(), token), (2, ResumeToken(5)));
    // b's creation and c's were overtaken; what they became is still told.
    for (from, expected) in [(0, vec!["a", "b", "c"]), (1, vec!["b", "c"]), (4, vec!["c"]), (5, vec![])] {
        let watch = store.watch::<Project>(&Scope::All, Some(ResumeToken(from))).unwrap();
        let seen: Vec<_> =
            watch.take(expected.len()).map(|it| it.unwrap().key.name.to_string()).collect().await;
        assert_eq!(seen, expected, "from {from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_earlier_version_is_brought_to_this_one_and_a_later_one_is_refused() {
    let migrations = std::fs::read_dir("migrations/sqlite").unwrap().flatten().map(|it| it.path());
    let mut migrations: Vec<_> = migrations.collect();
    migrations.sort();
    for version in 1..migrations.len() {
        let directory = tempfile::tempdir().unwrap();
        let (file, earlier) = (directory.path().join("plimsoll.db"), directory.path().join("migrations"));
        std::fs::create_dir(&earlier).unwrap();
        for migration in &migrations[..version] {
            std::fs::copy(migration, earlier.join(migration.file_name().unwrap())).unwrap();
        }
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let mut old = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::migrate::Migrator::new(earlier).await.unwrap().run(&mut old).await.unwrap();
        let row = "insert into rows values ('projects', '', 'a', null, 1, \
            '{\"uid\":\"uid-a\",\"project\":null,\"name\":\"a\",\"created\":1,\"revision\":1,\"generation\":1}', \
            '{}', 'null', null)";
        sqlx::query(row).execute(&mut old).await.unwrap();
        sqlx::query("update newest set revision = 1").execute(&mut old).await.unwrap();
        old.close().await.unwrap();

        let store = Store::new(Sql::sqlite(&file).await.unwrap());
        assert!(read(&store, "a").await.is_some(), "from version {version}");
        store.commit(&Scope::All, Batch::new().create(new("b"))).await.unwrap();
        assert!(store.watch::<Project>(&Scope::All, Some(ResumeToken(1))).is_ok());
        drop(store);

        let mut later = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let claim = "insert into _sqlx_migrations values (9999, 'later', 0, true, x'00', 0)";
        sqlx::query(claim).execute(&mut later).await.unwrap();
        later.close().await.unwrap();
        assert!(matches!(Sql::sqlite(&file).await, Err(OpenError::Later)));
    }
}
