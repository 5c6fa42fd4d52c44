//! What every store must do, as a suite that each implementation runs.
//!
//! The functions panic with a sentence when the contract is broken; they are meant to be called from tests.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use plimsoll_model::audit::{Action, Actor, AuditEntry, AuditResult};
use plimsoll_model::id::{ProjectName, Uid};
use plimsoll_model::kind::{ProjectSpec, Target, TargetSpec};
use plimsoll_model::object::{Generation, Timestamp};
use plimsoll_model::operations::{Operations, Power};
use plimsoll_model::{App, AppSpec, Attached, Object, ObjectKey, Project};

use crate::{Batch, ChangeKind, New, Query, Scope, Store, StoreError};

/// Runs every check, each on a store of its own.
pub async fn every(make: impl AsyncFn() -> Store) {
    writes_have_preconditions(make().await).await;
    generations_follow_declarations(make().await).await;
    batches_are_whole(make().await).await;
    scopes_hide(make().await).await;
    lists_are_ordered_and_paged(make().await).await;
    watches_follow_commits(make().await).await;
    requirements_refuse_and_write_nothing(make().await).await;
    the_audit_log_is_written_with_its_change(make().await).await;
    a_moment_is_not_disturbed(make().await).await;
}

fn app_key(project: &str, name: &str) -> ObjectKey {
    let project: ProjectName = project.parse().expect("a valid project name");
    ObjectKey::in_project(project, name.parse().expect("a valid name"))
}

fn new_app(project: &str, name: &str) -> New<App> {
    New {
        uid: format!("uid-{project}-{name}").parse().expect("a valid uid"),
        key: app_key(project, name),
        owner: None,
        at: Timestamp(1),
        attached: labelled("team", "web"),
        spec: AppSpec::default(),
        operations: Operations::default(),
    }
}

fn labelled(name: &str, value: &str) -> Attached {
    let labels = BTreeMap::from([(name.parse().expect("a valid label"), value.to_owned())]);
    Attached { labels, ..Attached::default() }
}

async fn read(store: &Store, project: &str, name: &str) -> Object<App> {
    let found = store.get::<App>(&Scope::All, &app_key(project, name)).await.expect("a read");
    found.expect("the object was created")
}

fn stopped() -> Operations {
    Operations { power: Power::Off, ..Operations::default() }
}

async fn writes_have_preconditions(store: Store) {
    store.commit(&Scope::All, Batch::new().create(new_app("p", "a"))).await.expect("a first create");
    let again = store.commit(&Scope::All, Batch::new().create(new_app("p", "a"))).await;
    assert!(matches!(again, Err(StoreError::Conflict { .. })), "a second create must be refused: {again:?}");
    let old = read(&store, "p", "a").await;
    let change = |old: &Object<App>| Batch::new().declare(old, AppSpec::default(), stopped());
    store.commit(&Scope::All, change(&old)).await.expect("a change of what was read");
    let stale = store.commit(&Scope::All, change(&old)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "a change of an older read must be refused");
    let stale = store.commit(&Scope::All, Batch::new().delete(&old)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "a deletion of an older read must be refused");
    let now = read(&store, "p", "a").await;
    assert_eq!(now.operations, stopped(), "what was written is read");
    store.commit(&Scope::All, Batch::new().delete(&now)).await.expect("a deletion of what was read");
    let gone = store.get::<App>(&Scope::All, &app_key("p", "a")).await.expect("a read");
    assert!(gone.is_none(), "what was deleted is gone");
}

async fn generations_follow_declarations(store: Store) {
    store.commit(&Scope::All, Batch::new().create(new_app("p", "a"))).await.expect("a create");
    let first = read(&store, "p", "a").await;
    assert_eq!(first.meta.generation, Generation(1), "a new object has generation 1");
    let status = Batch::new().report(&first, plimsoll_model::status::AppStatus::default(), Timestamp(2));
    store.commit(&Scope::All, status).await.expect("a status");
    let second = read(&store, "p", "a").await;
    assert_eq!(second.meta.generation, Generation(1), "a status leaves the generation alone");
    assert_ne!(second.meta.revision, first.meta.revision, "every write changes the revision");
    assert_eq!(
        second.status.as_ref().map(|it| it.of),
        Some(Generation(1)),
        "a status says what it speaks of"
    );
    store
        .commit(&Scope::All, Batch::new().declare(&second, AppSpec::default(), stopped()))
        .await
        .expect("a change");
    let third = read(&store, "p", "a").await;
    assert_eq!(third.meta.generation, Generation(2), "a change of the declaration raises the generation");
    assert!(third.status.is_some(), "a change of the declaration keeps the status");
    store
        .commit(&Scope::All, Batch::new().declare(&third, AppSpec::default(), stopped()))
        .await
        .expect("no change");
    assert_eq!(read(&store, "p", "a").await, third, "declaring the same writes nothing");
    let attached = labelled("tier", "front");
    let change = Batch::new().declare_with(&third, attached.clone(), AppSpec::default(), stopped());
    store.commit(&Scope::All, change).await.expect("other labels");
    let fourth = read(&store, "p", "a").await;
    assert_eq!(
        (&fourth.meta.attached, fourth.meta.generation),
        (&attached, Generation(2)),
        "labels are no declaration"
    );

    store.commit(&Scope::All, Batch::new().mark_deleting(&fourth, Timestamp(9))).await.expect("a mark");
    let marked = read(&store, "p", "a").await;
    assert_eq!((marked.meta.deleting, marked.meta.generation), (Some(Timestamp(9)), Generation(3)));
}

async fn batches_are_whole(store: Store) {
    store.commit(&Scope::All, Batch::new().create(new_app("p", "a"))).await.expect("a create");
    let batch = Batch::new().create(new_app("p", "b")).create(new_app("p", "a"));
    assert!(store.commit(&Scope::All, batch).await.is_err(), "one refused write refuses the batch");
    let none = store.get::<App>(&Scope::All, &app_key("p", "b")).await.expect("a read");
    assert!(none.is_none(), "nothing of a refused batch is written");
}

async fn scopes_hide(store: Store) {
    let batch = Batch::new().create(new_app("p", "a")).create(new_app("q", "a"));
    store.commit(&Scope::All, batch).await.expect("a create");
    let only_p = Scope::project("p".parse().expect("a valid project name"));
    assert!(store.get::<App>(&only_p, &app_key("p", "a")).await.expect("a read").is_some());
    assert!(store.get::<App>(&only_p, &app_key("q", "a")).await.expect("a read").is_none());
    let seen = store.list::<App>(&only_p, &Query::default()).await.expect("a list");
    assert_eq!(seen.len(), 1, "a list shows the scope's objects only");
    let foreign = store.commit(&only_p, Batch::new().create(new_app("q", "b"))).await;
    assert!(matches!(foreign, Err(StoreError::OutOfScope { .. })), "a write out of scope is refused");
    let nothing = Scope::Projects(std::collections::BTreeSet::new());
    assert!(store.list::<App>(&nothing, &Query::default()).await.expect("a list").is_empty());
    let target = New::<Target> {
        uid: "t".parse().expect("a valid uid"),
        key: ObjectKey::of_installation("local".parse().expect("a valid name")),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: TargetSpec::local(),
        operations: (),
    };
    store.commit(&Scope::All, Batch::new().create(target)).await.expect("a create");
    assert!(store.list::<Target>(&only_p, &Query::default()).await.expect("a list").is_empty());
    assert_eq!(store.list::<Target>(&Scope::All, &Query::default()).await.expect("a list").len(), 1);
}

async fn lists_are_ordered_and_paged(store: Store) {
    let owner: Uid = "owner".parse().expect("a valid uid");
    for (project, name) in [("q", "a"), ("p", "c"), ("p", "a"), ("p", "b")] {
        let mut new = new_app(project, name);
        new.owner = (name != "c").then(|| owner.clone());
        store.commit(&Scope::All, Batch::new().create(new)).await.expect("a create");
    }
    let names = |objects: &[Object<App>]| -> Vec<String> {
        objects.iter().map(|object| object.meta.key.to_string()).collect()
    };
    let all = store.list::<App>(&Scope::All, &Query::default()).await.expect("a list");
    assert_eq!(names(&all), ["p/a", "p/b", "p/c", "q/a"], "lists are ordered by project and name");
    let owned = store.list::<App>(&Scope::All, &Query::owned_by(owner)).await.expect("a list");
    assert_eq!(names(&owned), ["p/a", "p/b", "q/a"], "lists can be restricted to an owner's records");
    let mut query = Query { limit: 3, ..Query::default() };
    let (page, more, _) = store.page::<App>(&Scope::All, &query).await.expect("a page");
    assert_eq!((names(&page).len(), more), (3, true));
    query.after = page.last().map(|object| object.meta.key.clone());
    let (page, more, _) = store.page::<App>(&Scope::All, &query).await.expect("a page");
    assert_eq!(
        (names(&page), more),
        (vec!["q/a".to_owned()], false),
        "the next page goes on where one ended"
    );
    let labelled =
        Query { labels: BTreeMap::from([("x".parse().expect("a key"), "y".into())]), ..Query::default() };
    assert!(store.list::<App>(&Scope::All, &labelled).await.expect("a list").is_empty());
}

async fn watches_follow_commits(store: Store) {
    let (_, _, token) = store.page::<App>(&Scope::All, &Query::default()).await.expect("a page");
    let only_p = Scope::project("p".parse().expect("a valid project name"));
    let mut early = store.watch::<App>(&only_p, Some(token)).expect("a watch");
    let project = New::<Project> {
        uid: "project".parse().expect("a valid uid"),
        key: ObjectKey::of_installation("p".parse().expect("a valid name")),
        owner: None,
        at: Timestamp(1),
        attached: Attached::default(),
        spec: ProjectSpec::default(),
        operations: (),
    };
    let a = async || read(&store, "p", "a").await;
    let mut resume = None;
    // Each is awaited before the next one is made, which could otherwise overtake it.
    for expected in ["created", "changed", "deleted"] {
        let batch = match expected {
            "deleted" => Batch::new().delete(&a().await),
            "changed" => Batch::new().declare(&a().await, AppSpec::default(), stopped()),
            _ => {
                let others = Batch::new().create(project.clone()).create(new_app("q", "a"));
                store.commit(&Scope::All, others).await.expect("a create");
                Batch::new().create(new_app("p", "a"))
            }
        };
        store.commit(&Scope::All, batch).await.expect("a change");
        let change = early.next().await.expect("a watch does not end").expect("a change");
        assert_eq!(change.key, app_key("p", "a"), "a watch shows its kind and scope only");
        let kind = match change.kind {
            ChangeKind::Created(_) => "created",
            ChangeKind::Changed(_) => "changed",
            ChangeKind::Deleted(_) => "deleted",
        };
        assert_eq!(kind, expected, "changes come in commit order");
        resume.get_or_insert(change.token);
    }
    let mut late = store.watch::<App>(&only_p, resume).expect("a watch");
    let change = late.next().await.expect("a watch does not end").expect("a change");
    assert!(Some(change.token) > resume, "a resumed watch goes on after its token");
    assert!(
        match change.kind {
            ChangeKind::Changed(row) => row.meta.generation == Generation(2),
            ChangeKind::Deleted(_) => true,
            ChangeKind::Created(_) => false,
        },
        "what follows is the next change, or one of the same object that overtook it"
    );
}

async fn requirements_refuse_and_write_nothing(store: Store) {
    store.commit(&Scope::All, Batch::new().create(new_app("p", "a"))).await.expect("a create");
    let a = read(&store, "p", "a").await;
    let (here, there) = (app_key("p", "a"), app_key("p", "none"));
    let held = Batch::new().require(&here, Some(&a)).require::<App>(&there, None).create(new_app("p", "b"));
    store.commit(&Scope::All, held).await.expect("a create whose requirements hold");
    assert_eq!(read(&store, "p", "a").await, a, "what is only required is not written");
    let broken = Batch::new().require::<App>(&here, None).create(new_app("p", "c"));
    let refused = store.commit(&Scope::All, broken).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "a requirement that does not hold refuses");
    store
        .commit(&Scope::All, Batch::new().declare(&a, AppSpec::default(), stopped()))
        .await
        .expect("a change");
    let stale = Batch::new().require(&here, Some(&a)).create(new_app("p", "c"));
    let refused = store.commit(&Scope::All, stale).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "a requirement of an older read refuses");
    let none = store.get::<App>(&Scope::All, &app_key("p", "c")).await.expect("a read");
    assert!(none.is_none(), "nothing of a refused batch is written");
}

async fn the_audit_log_is_written_with_its_change(store: Store) {
    let entry = |project: &str, name: &str| AuditEntry {
        at: Timestamp(1),
        actor: Actor { user: "ada".parse().expect("a valid user name"), token: None, from: None },
        action: Action::Create,
        kind: "apps".into(),
        object: app_key(project, name),
        result: AuditResult::Done,
    };
    for (project, name) in [("p", "a"), ("q", "a"), ("p", "a"), ("p", "b")] {
        let batch = Batch::new().create(new_app(project, name)).audited(entry(project, name));
        // The third one is refused, and its entry with it.
        store.commit(&Scope::All, batch).await.ok();
    }
    store.commit(&Scope::All, Batch::new().audited(entry("p", "none"))).await.expect("an entry alone");
    let all = store.audit(&Scope::All, 0, 10).await.expect("a read");
    assert_eq!(all.iter().map(|it| it.number).collect::<Vec<_>>(), [1, 2, 3, 4], "numbers have no gaps");
    let mut previous = None;
    for record in &all {
        assert!(record.follows(previous), "each record carries on the chain");
        previous = Some(record);
    }
    let only_p = Scope::project("p".parse().expect("a valid project name"));
    let seen = store.audit(&only_p, 1, 1).await.expect("a read");
    assert_eq!(seen.iter().map(|it| it.number).collect::<Vec<_>>(), [3], "a scope sees its own records");
}

async fn a_moment_is_not_disturbed(store: Store) {
    for (project, name) in [("p", "b"), ("p", "a"), ("a", "z")] {
        store.commit(&Scope::All, Batch::new().create(new_app(project, name))).await.expect("a create");
    }
    let mut moment = store.moment().await.expect("a moment");
    let revision = read(&store, "a", "z").await.meta.revision;
    assert_eq!(moment.revision(), revision, "a moment knows the newest revision");
    store.commit(&Scope::All, Batch::new().create(new_app("p", "c"))).await.expect("a create");
    let gone = read(&store, "p", "a").await;
    store.commit(&Scope::All, Batch::new().delete(&gone)).await.expect("a deletion");

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = moment.rows(after.as_ref(), 2).await.expect("rows");
        let Some((kind, last)) = page.last() else { break };
        after = Some((*kind, last.meta.key.clone()));
        seen.extend(page.into_iter().map(|(_, row)| row));
    }
    let names: Vec<_> = seen.iter().map(|row| row.meta.key.to_string()).collect();
    assert_eq!(names, ["a/z", "p/a", "p/b"], "a moment has what there was, page by page, in order");
    assert_eq!(
        seen[1].meta, gone.meta,
        "a row of a moment is the row that was read, with its revision and identity"
    );
    assert!(moment.audit(0, 10).await.expect("the audit log").is_empty(), "nothing was audited");
}
