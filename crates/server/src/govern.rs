//! What each kind asks of a change before it is written, and of a deletion.

use plimsoll_model::id::ProjectName;
use plimsoll_model::kind::{ProjectSpec, SecretSpec, TargetSpec, Usage};
use plimsoll_model::operations::Operations;
use plimsoll_model::{App, AppSpec, Kind, Object, ObjectKey, Project, Secret, Target};
use plimsoll_store::{Batch, Query, Scope, StoreError};

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

impl Governed for App {
    /// Keeps the quota of its project, which must be there.
    async fn admit(
        writer: &Writer<'_>,
        batch: Batch,
        key: &ObjectKey,
        old: Option<&Object<Self>>,
        new: (&AppSpec, &Operations),
    ) -> Result<Batch, ApplyError> {
        let Some(project) = &key.project else { return Ok(batch) };
        let (store, now) = (writer.server.store(), writer.server.now());
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
        let found = writer.server.store().get::<Project>(&Scope::All, &place).await;
        match found.map_err(failed::<Self>(key))?.filter(|it| it.meta.deleting.is_none()) {
            Some(found) => Ok(batch.require(&place, Some(&found))),
            None => Err(AccessError::NoProject(project.clone()).into()),
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

    /// Nothing may run there.
    async fn end(writer: &Writer<'_>, old: &Object<Self>) -> Result<Batch, ApplyError> {
        let key = &old.meta.key;
        if key.name.as_str() == plimsoll_reconcile::DEFAULT_TARGET {
            return Err(needed::<Self>(key, "it is this machine".into()));
        }
        let apps = writer.server.store().list::<App>(&Scope::All, &Query::default()).await;
        let apps = apps.map_err(failed::<Self>(key))?;
        let runs_there = |app: &&Object<App>| {
            app.spec.target.as_ref().is_some_and(|target| target.as_str() == key.name.as_str())
        };
        match apps.iter().find(runs_there) {
            Some(app) => {
                Err(needed::<Self>(key, format!("app {} runs there: move or delete it first", app.meta.key)))
            }
            None => Ok(Batch::new().delete(old)),
        }
    }
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
        Ok(batch)
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
        let Some(found) = app.or_else(|| secrets.first().map(|it| format!("secret {}", it.meta.key))) else {
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
