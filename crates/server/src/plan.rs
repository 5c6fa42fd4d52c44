//! What applying documents would do, without doing it.

use plimsoll_manifest::{Declared, Document, SecretDeclared};
use plimsoll_model::id::{Digest, PathHash, ProjectName};
use plimsoll_model::object::{Generation, Metadata, Revision};
use plimsoll_model::{App, Object, ObjectKey, Secret};
use plimsoll_plan::{Path, SecretView, path};
use plimsoll_store::{Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::apply::key_of;

/// The way of one App to what documents declare of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// The App.
    pub key: ObjectKey,
    /// Its way, from what is there now to the settled end.
    pub path: Path,
}

/// Plans what documents declare, App by App.
///
/// # Errors
/// When the store does not answer. What a driver does not answer is part of the plan, as a wait.
pub async fn plan(
    server: &Server,
    documents: &[Document],
    project: &ProjectName,
) -> Result<Vec<Planned>, StoreError> {
    let mut planned = Vec::new();
    for document in documents {
        let Document::App(app) = document else { continue };
        let key = key_of::<App>(&app.metadata, project);
        let object = as_applied(server, app, &key).await?;
        let mut input = server.reconciler().read(&object).await?;
        for document in documents {
            match document {
                Document::Secret(secret) => {
                    let name = key_of::<Secret>(&secret.metadata, project);
                    if name.project == key.project {
                        let view = secret_as_applied(server, secret, &name).await?;
                        input.context.secrets.insert(name.name, view);
                    }
                }
                Document::Target(it) if it.metadata.name.as_str() == input.context.target.as_str() => {
                    input.context.target_spec = Some(it.spec.clone());
                }
                _ => {}
            }
        }
        planned.push(Planned { key, path: path(&input) });
    }
    Ok(planned)
}

/// Identity of everything that documents would do: that of the one App, or of all together.
pub fn identity(planned: &[Planned]) -> PathHash {
    match planned {
        [one] => one.path.hash,
        all => PathHash(Digest::of_json(&all.iter().map(|it| (&it.key, it.path.hash)).collect::<Vec<_>>())),
    }
}

/// The App as it would be stored.
async fn as_applied(
    server: &Server,
    app: &Declared<App>,
    key: &ObjectKey,
) -> Result<Object<App>, StoreError> {
    let spec = app.spec.clone();
    let Some(mut object) = server.store().get::<App>(&Scope::All, key).await? else {
        let meta = Metadata {
            // Nothing that is compared depends on it; a created App has another one.
            uid: "planned".parse().expect("a valid uid"),
            key: key.clone(),
            owner: None,
            labels: std::collections::BTreeMap::new(),
            created: server.now(),
            deleting: None,
            revision: Revision(0),
            generation: Generation(1),
        };
        let operations = app.operations.clone().unwrap_or_default();
        return Ok(Object { meta, spec, operations, status: None });
    };
    let operations = app.operations.clone().unwrap_or_else(|| object.operations.clone());
    if object.spec != spec || object.operations != operations {
        object.meta.generation = Generation(object.meta.generation.0 + 1);
        (object.spec, object.operations) = (spec, operations);
    }
    Ok(object)
}

async fn secret_as_applied(
    server: &Server,
    secret: &SecretDeclared,
    key: &ObjectKey,
) -> Result<SecretView, StoreError> {
    let keys = secret.data.keys().cloned().collect();
    let old = server.store().get::<Secret>(&Scope::All, key).await?;
    let version = match old {
        None => Generation(1),
        Some(old) if crate::apply::is_same(server.key(), &old, secret) => old.meta.generation,
        Some(old) => Generation(old.meta.generation.0 + 1),
    };
    Ok(SecretView { version, keys })
}
