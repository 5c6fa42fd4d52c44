//! Admission: what the Apps of a project declare together stays within its quota, however many declare at once.
//!
//! A project with a quota has a sum, kept by whoever admits and written in the transaction of the App that it counts. What
//! changes an amount without admission (an App that is gone) drops the sum, and the next admission adds it up again. Every
//! batch requires the project and the sum to be as they were read.

use plimsoll_model::access::Demand;
use plimsoll_model::id::ProjectName;
use plimsoll_model::kind::{Usage, UsageSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::{App, AppSpec, Attached, Object, ObjectKey, Project};
use plimsoll_store::{Batch, New, Query, Scope, Store, StoreError};

use crate::access::name_of_project;
use crate::govern::require;

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
    let (batch, object) = require::<Project>(store, batch, &key).await?;
    let Some(object) = object else { return Ok(Admission::NoProject) };
    let usage = store.get::<Usage>(&Scope::All, &key).await?;
    let before = old.map(|old| Demand::of(&old.spec, &old.operations)).unwrap_or_default();
    let wanted = Demand::of(spec, operations);
    if object.spec.quota.is_empty() || before == wanted {
        // Nobody keeps the sum of a project without a quota: one that is left over is wrong from now on.
        return Ok(Admission::Admitted(match usage {
            Some(usage) if before != wanted && usage.spec.sum.is_some() => {
                let spec = UsageSpec { sum: None, ..usage.spec };
                batch.declare(&usage, spec, ())
            }
            _ => batch,
        }));
    }
    let others = match usage.as_ref().and_then(|usage| usage.spec.sum) {
        Some(sum) => sum.minus(before),
        None => add_up(store, project, old).await?,
    };
    let now = others.plus(wanted);
    let refused = now.above(&object.spec.quota, &others.plus(before));
    if !refused.is_empty() {
        return Ok(Admission::Refused(refused));
    }
    Ok(Admission::Admitted(match &usage {
        Some(usage) => {
            let spec = UsageSpec { sum: Some(now), ..usage.spec };
            batch.require(&key, Some(usage)).declare(usage, spec, ())
        }
        None => batch.create(New::<Usage> {
            uid: format!("usage-{project}").parse().unwrap_or_else(|_| object.meta.uid.clone()),
            key,
            owner: None,
            at,
            attached: Attached::default(),
            spec: UsageSpec { sum: Some(now), gone: 0 },
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
