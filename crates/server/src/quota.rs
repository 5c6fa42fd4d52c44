//! Admission: what the Apps of a project declare together stays within its quota, however many declare at once.
//!
//! A project with a quota has a sum, kept by whoever admits and written in the transaction of the App that it counts. What
//! changes an amount without admission (an App that is gone) drops the sum, and the next admission adds it up again. Every
//! batch requires the project and the sum to be as they were read.

use plimsoll_model::access::Demand;
use plimsoll_model::id::ProjectName;
use plimsoll_model::kind::Usage;
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::{App, AppSpec, Object, ObjectKey, Project};
use plimsoll_store::{Batch, New, Query, Scope, Store, StoreError};

use crate::access::name_of_project;

/// What an admission found.
pub(crate) enum Admission {
    /// The batch may be committed, with these conditions and sums added.
    Admitted(Batch),
    /// It would be too much; what of it, as sentence parts.
    Refused(Vec<String>),
    /// There is no such project.
    NoProject,
}

/// Adds to the batch that writes an App what keeps its project's quota.
pub(crate) async fn admit(
    store: &Store,
    project: &ProjectName,
    batch: Batch,
    old: Option<&Object<App>>,
    (spec, operations): (&AppSpec, &Operations),
    at: Timestamp,
) -> Result<Admission, StoreError> {
    let key = ObjectKey::of_installation(name_of_project(project));
    let object = store.get::<Project>(&Scope::All, &key).await?;
    let Some(object) = object.filter(|it| it.meta.deleting.is_none()) else {
        return Ok(Admission::NoProject);
    };
    let batch = batch.require(&key, Some(&object));
    let sum = store.get::<Usage>(&Scope::All, &key).await?;
    let before = old.map(|old| Demand::of(&old.spec, &old.operations)).unwrap_or_default();
    let wanted = Demand::of(spec, operations);
    if object.spec.quota.is_empty() || before == wanted {
        // Nobody keeps the sum of a project without a quota; one that is left over is wrong from now on.
        return Ok(Admission::Admitted(match sum {
            Some(sum) if before != wanted => batch.delete(&sum),
            _ => batch,
        }));
    }
    let others = match &sum {
        Some(sum) => sum.spec.minus(before),
        None => add_up(store, project, old).await?,
    };
    let now = others.plus(wanted);
    let refused = now.above(&object.spec.quota, &others.plus(before));
    if !refused.is_empty() {
        return Ok(Admission::Refused(refused));
    }
    Ok(Admission::Admitted(match &sum {
        Some(sum) => batch.declare(sum, now, ()),
        None => batch.create(New::<Usage> {
            uid: format!("usage-{project}").parse().unwrap_or_else(|_| object.meta.uid.clone()),
            key,
            owner: Some(object.meta.uid.clone()),
            at,
            labels: std::collections::BTreeMap::new(),
            spec: now,
            operations: (),
        }),
    }))
}

/// What all Apps of a project declare together, one apart.
async fn add_up(
    store: &Store,
    project: &ProjectName,
    but: Option<&Object<App>>,
) -> Result<Demand, StoreError> {
    let apps = store.list::<App>(&Scope::project(project.clone()), &Query::default()).await?;
    let others = apps.iter().filter(|app| but.is_none_or(|but| but.meta.uid != app.meta.uid));
    Ok(others.fold(Demand::default(), |sum, app| sum.plus(Demand::of(&app.spec, &app.operations))))
}
