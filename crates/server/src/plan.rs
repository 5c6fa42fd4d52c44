//! What applying documents would do, without doing it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use plimsoll_manifest::{Declared, Document, SecretDeclared};
use plimsoll_model::id::{Digest, PathHash, ProjectName};
use plimsoll_model::image::{ImageRef, Sought};
use plimsoll_model::object::{Generation, Metadata, Revision};
use plimsoll_model::wait::Reason;
use plimsoll_model::{App, Object, ObjectKey, Secret};
use plimsoll_plan::resolve::{Tags, resolve, sought};
use plimsoll_plan::{
    CertificateView, Context, Difference, ImageView, Input, Outline, Path, SecretView, path,
};
use plimsoll_reconcile::encrypted_hosts;
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
        look_up_images(server, &mut input).await;
        // Who gets certificates does so once the App is declared; until then nothing speaks against it.
        for host in encrypted_hosts(&input.spec) {
            let hoped = || CertificateView { is_there: true, problem: None };
            input.context.certificates.entry(host.to_owned()).or_insert_with(hoped);
        }
        planned.push(Planned { key, path: path(&input) });
    }
    server.reviews.remember(&planned);
    Ok(planned)
}

/// Finds out what tags lead to that nobody had to know so far: what a plan shows is what is going to run.
async fn look_up_images(server: &Server, input: &mut Input) {
    let Context { target, target_spec, images, builds, revisions, .. } = &input.context;
    let last = input.status.revision.and_then(|number| revisions.get(&number));
    let tags = Tags { now: images, builds, last, deploys: &input.operations.deploys };
    let resolved = resolve(&input.spec, target, target_spec.as_ref(), tags);
    let reasons = resolved.err().into_iter().flatten().map(|wait| wait.reason().clone());
    let unknown: BTreeSet<ImageRef> = reasons
        .filter_map(|reason| match reason {
            Reason::ImageUnresolved { image, .. } => Some(*image),
            _ => None,
        })
        .collect();
    let all: BTreeSet<Sought> = target_spec.iter().flat_map(|it| sought(&input.spec, it)).collect();
    let answers = all.into_iter().filter(|it| unknown.contains(&it.image)).map(|sought| async move {
        let answer = server.image_source().find(&sought).await;
        (sought, answer)
    });
    for (sought, answer) in futures::future::join_all(answers).await {
        let view = match answer {
            Ok(found) => ImageView { digest: Some(found.digest), tag: found.tag, ..ImageView::default() },
            Err(problem) => ImageView { problem: Some(problem), ..ImageView::default() },
        };
        input.context.images.insert(sought, view);
    }
}

/// Plans that are remembered, so that a person can be told what has become different since.
const REMEMBERED: usize = 64;

/// The outlines of the latest plans that were shown. Losing them with the process loses an explanation, nothing more.
#[derive(Default)]
pub(crate) struct Reviews(Mutex<VecDeque<(PathHash, Outlines)>>);

type Outlines = BTreeMap<ObjectKey, Outline>;

impl Reviews {
    fn remember(&self, planned: &[Planned]) {
        let hash = identity(planned);
        let outlines: Outlines = planned.iter().map(|it| (it.key.clone(), it.path.outline.clone())).collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have been shown the same change of Apps of theirs.
        kept.retain(|(known, of)| *known != hash || !of.keys().eq(outlines.keys()));
        kept.push_back((hash, outlines));
        if kept.len() > REMEMBERED {
            kept.pop_front();
        }
    }

    fn recall(&self, hash: PathHash, apps: &BTreeSet<ObjectKey>) -> Option<Outlines> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |(known, of): &&(PathHash, Outlines)| *known == hash && of.keys().any(|key| apps.contains(key));
        kept.iter().find(is_it).map(|(_, outlines)| outlines.clone())
    }
}

/// A plan that is not the one that was reviewed.
#[derive(Debug)]
pub struct OtherPlan {
    /// Its identity.
    pub now: PathHash,
    /// How it differs, App by App; `None` if the reviewed plan is not remembered.
    pub differences: Option<Vec<(ObjectKey, Difference)>>,
}

/// Whether documents would do now what was reviewed.
///
/// # Errors
/// As [`plan`].
pub async fn review(
    server: &Server,
    documents: &[Document],
    project: &ProjectName,
    reviewed: PathHash,
) -> Result<Option<OtherPlan>, StoreError> {
    let apps = documents.iter().filter_map(|document| match document {
        Document::App(app) => Some(key_of::<App>(&app.metadata, project)),
        _ => None,
    });
    let before = server.reviews.recall(reviewed, &apps.collect());
    let planned = plan(server, documents, project).await?;
    let now = identity(&planned);
    if now == reviewed {
        return Ok(None);
    }
    let differences = before.map(|mut before| {
        let mut found = Vec::new();
        for Planned { key, path } in planned {
            let differences = before.remove(&key).unwrap_or_default().differences(&path.outline);
            found.extend(differences.into_iter().map(|difference| (key.clone(), difference)));
        }
        // What was reviewed and is not asked for any more.
        for (key, outline) in before {
            let differences = outline.differences(&Outline::default());
            found.extend(differences.into_iter().map(|difference| (key.clone(), difference)));
        }
        found
    });
    Ok(Some(OtherPlan { now, differences }))
}

/// Identity of everything that documents would do: that of the one App, or of all together.
pub fn identity(planned: &[Planned]) -> PathHash {
    match planned {
        [one] => one.path.hash,
        all => {
            PathHash(Digest::of_json(&all.iter().map(|it| (&it.key, it.path.hash)).collect::<BTreeSet<_>>()))
        }
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
            attached: app.metadata.attached(),
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
        Some(old) if crate::apply::is_same(server.keyring(), &old, secret) => old.meta.generation,
        Some(old) => Generation(old.meta.generation.0 + 1),
    };
    Ok(SecretView { version, keys })
}
