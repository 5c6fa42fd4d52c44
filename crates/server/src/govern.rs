//! What each kind asks of a change before it is written, and of a deletion.

use plimsoll_model::id::{ProjectName, TargetName};
use plimsoll_model::kind::{ProjectSpec, SecretSpec, TargetSpec, Tombstone, Usage};
use plimsoll_model::operations::Operations;
use plimsoll_model::{App, AppSpec, Kind, Object, ObjectKey, Project, Secret, Target};
use plimsoll_store::{Batch, Query, Scope, Store, StoreError};

use crate::access::{AccessError, name_of_project};
use crate::apply::{ApplyError, Governed, Writer};
use crate::quota::{self, Admission};

/// What a failure of the store means for an object.
fn failed<K: Kind>(key: &ObjectKey) -> impl Fn(StoreError) -> ApplyError {
    move |source| ApplyError::Store { kind: K::NAME, key: key.clone(), source }
}

fn needed<K: Kind>(key: &ObjectKey, why: String) -> ApplyError {
    ApplyError::Needed { kind: K::NAME, key: key.clone(), why }
}

/// One object of a list is enough to know that there are some.
fn first() -> Query {
    Query { limit: 1, ..Query::default() }
}

/// Reads what another object needs. If it is there and stays, the batch holds only while it is as it was read.
pub(crate) async fn require<K: Kind>(
    store: &Store,
    batch: Batch,
    key: &ObjectKey,
) -> Result<(Batch, Option<Object<K>>), StoreError> {
    let found = store.get::<K>(&Scope::All, key).await?.filter(|it| it.meta.deleting.is_none());
    Ok(match &found {
        Some(object) => (batch.require(key, Some(object)), found),
        None => (batch, None),
    })
}

/// A target that is named must be there, and stays while it is.
async fn require_target(writer: &Writer<'_>, batch: Batch, name: &TargetName) -> Result<Batch, ApplyError> {
    let key = ObjectKey::of_installation(name.as_str().parse().expect("a target's name is an object's"));
    let found = require::<Target>(writer.server.store(), batch, &key).await;
    match found.map_err(failed::<Target>(&key))? {
        (batch, Some(_)) => Ok(batch),
        (_, None) => Err(ApplyError::Absent { kind: Target::NAME, key }),
    }
}

impl Governed for App {
    fn settle(spec: &AppSpec, operations: &mut Operations) {
        operations.end_deploys(spec);
    }

    /// Keeps the quota of its project, which must be there as its target must.
    async fn admit(
        writer: &Writer<'_>,
        batch: Batch,
        key: &ObjectKey,
        old: Option<&Object<Self>>,
        new: (&AppSpec, &Operations),
    ) -> Result<Batch, ApplyError> {
        let Some(project) = &key.project else { return Ok(batch) };
        let (store, now) = (writer.server.store(), writer.server.now());
        let batch = match &new.0.target {
            Some(target) if old.is_none_or(|old| old.spec.target.as_ref() != Some(target)) => {
                require_target(writer, batch, target).await?
            }
            _ => batch,
        };
        match quota::admit(store, project, batch, old, new, now).await.map_err(failed::<Self>(key))? {
            Admission::Admitted(batch) => Ok(batch),
            Admission::Refused(excess) => Err(ApplyError::Quota { key: key.clone(), excess }),
            Admission::NoProject => Err(AccessError::NoProject(project.clone()).into()),
        }
    }

    /// Its reconciler takes it apart, and then deletes it.
    async fn end(writer: &Writer<'_>, old: &Object<Self>) -> Result<Batch, ApplyError> {
        Ok(Batch::new().mark_deleting(old, writer.server.now()))
    }
}

impl Governed for Secret {
    /// Its project must be there.
    async fn admit(
        writer: &Writer<'_>,
        batch: Batch,
        key: &ObjectKey,
        _: Option<&Object<Self>>,
        (_, ()): (&SecretSpec, &()),
    ) -> Result<Batch, ApplyError> {
        let Some(project) = &key.project else { return Ok(batch) };
        let place = ObjectKey::of_installation(name_of_project(project));
        let found = require::<Project>(writer.server.store(), batch, &place).await;
        match found.map_err(failed::<Self>(key))? {
            (batch, Some(_)) => Ok(batch),
            (_, None) => Err(AccessError::NoProject(project.clone()).into()),
        }
    }

    async fn end(_: &Writer<'_>, old: &Object<Self>) -> Result<Batch, ApplyError> {
        Ok(Batch::new().delete(old))
    }
}

impl Governed for Target {
    async fn admit(
        _: &Writer<'_>,
        batch: Batch,
        _: &ObjectKey,
        _: Option<&Object<Self>>,
        (_, ()): (&TargetSpec, &()),
    ) -> Result<Batch, ApplyError> {
        Ok(batch)
    }

    /// Nothing may run there. In two steps, as a project.
    async fn end(writer: &Writer<'_>, old: &Object<Self>) -> Result<Batch, ApplyError> {
        let (key, store) = (&old.meta.key, writer.server.store());
        if key.name.as_str() == plimsoll_reconcile::DEFAULT_TARGET {
            return Err(needed::<Self>(key, "it is this machine".into()));
        }
        let is_this = |target: &Option<TargetName>| {
            target.as_ref().is_some_and(|target| target.as_str() == key.name.as_str())
        };
        let projects =
            store.list::<Project>(&Scope::All, &Query::default()).await.map_err(failed::<Self>(key))?;
        let project = projects.iter().find(|it| is_this(&it.spec.target)).map(|it| &it.meta.key);
        let apps = store.list::<App>(&Scope::All, &Query::default()).await.map_err(failed::<Self>(key))?;
        let app = apps.iter().find(|it| is_this(&it.spec.target)).map(|it| &it.meta.key);
        let why = match (project, app) {
            (Some(project), _) => format!("it is where Apps of project {project} run by default"),
            (None, Some(app)) => format!("app {app} runs there: move or delete it first"),
            (None, None) if old.meta.deleting.is_some() => return Ok(Batch::new().delete(old)),
            (None, None) => return Ok(Batch::new().mark_deleting(old, writer.server.now())),
        };
        keep(store, old).await?;
        Err(needed::<Self>(key, why))
    }
}

/// Takes the mark for deletion off what turned out to be needed: somebody came in before it.
async fn keep<K: Kind>(store: &Store, old: &Object<K>) -> Result<(), ApplyError> {
    if old.meta.deleting.is_none() {
        return Ok(());
    }
    let kept = store.commit(&Scope::All, Batch::new().unmark_deleting(old)).await;
    kept.map_err(failed::<K>(&old.meta.key))
}

impl Governed for Project {
    /// Its quota is not its own admins' to change.
    async fn admit(
        writer: &Writer<'_>,
        batch: Batch,
        _: &ObjectKey,
        old: Option<&Object<Self>>,
        (spec, ()): (&ProjectSpec, &()),
    ) -> Result<Batch, ApplyError> {
        if old.map(|old| old.spec.quota).unwrap_or_default() != spec.quota {
            writer.caller.platform("change a quota")?;
        }
        let target = spec
            .target
            .as_ref()
            .filter(|target| old.is_none_or(|old| old.spec.target.as_ref() != Some(target)));
        match target {
            Some(target) => require_target(writer, batch, target).await,
            None => Ok(batch),
        }
    }

    /// In two steps: whoever writes into it requires it to be as they read it, so that nothing comes in after the mark.
    async fn end(writer: &Writer<'_>, old: &Object<Self>) -> Result<Batch, ApplyError> {
        writer.caller.platform("delete a project")?;
        let (key, store) = (&old.meta.key, writer.server.store());
        let Ok(name) = key.name.as_str().parse::<ProjectName>() else { return Ok(Batch::new().delete(old)) };
        if name.as_str() == "default" {
            return Err(needed::<Self>(key, "commands mean it when they name none".into()));
        }
        let scope = Scope::project(name);
        let apps = store.list::<App>(&scope, &first()).await.map_err(failed::<Self>(key))?;
        let secrets = store.list::<Secret>(&scope, &first()).await.map_err(failed::<Self>(key))?;
        let app = apps.first().map(|it| format!("app {}", it.meta.key));
        let stones = store.list::<Tombstone>(&scope, &first()).await.map_err(failed::<Self>(key))?;
        let other = secrets.first().map(|it| format!("secret {}", it.meta.key));
        let other = other.or_else(|| stones.first().map(|it| format!("tombstone {}", it.meta.key)));
        let Some(found) = app.or(other) else {
            if old.meta.deleting.is_none() {
                return Ok(Batch::new().mark_deleting(old, writer.server.now()));
            }
            let sum = store.get::<Usage>(&Scope::All, key).await.map_err(failed::<Self>(key))?;
            let batch = Batch::new().delete(old);
            return Ok(match sum {
                Some(sum) => batch.delete(&sum),
                None => batch,
            });
        };
        if old.meta.deleting.is_some() {
            // It came in before the mark.
            store
                .commit(&Scope::All, Batch::new().unmark_deleting(old))
                .await
                .map_err(failed::<Self>(key))?;
        }
        Err(needed::<Self>(key, format!("{found} is in it: delete what is in it first")))
    }
}
