//! Deploying: somebody, most often a pipeline, says which bytes the images of Apps stand for.
//!
//! The declaration stays as it is: what is written is one of the operations, and a declaration of another image ends it.

use std::collections::BTreeSet;

use plimsoll_model::access::Verb;
use plimsoll_model::audit::Action;
use plimsoll_model::id::{CommitId, ComponentName, ObjectName, ProjectName};
use plimsoll_model::image::{ImageRef, Repository, Sought};
use plimsoll_model::operations::{Commit, Deploy};
use plimsoll_model::update::Follow;
use plimsoll_model::{App, Component, Kind as _, Object, ObjectKey};
use plimsoll_reconcile::{Look, Push, Unsaid, repository_of};
use plimsoll_store::{Query, Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::access::{AccessError, Caller, name_of_project};
use crate::apply::{ApplyError, Terms};

/// Times an App is read anew when somebody else writes it meanwhile.
const ATTEMPTS: u32 = 20;

/// Milliseconds by which the clock of whoever commits may be ahead of ours.
const AHEAD: u64 = 15 * 60 * 1000;

/// What somebody wants deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// The image, by its digest. Components that declare an image of the same repository are meant.
    pub image: ImageRef,
    /// Only those of this App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<ObjectName>,
    /// Only this component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// What it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// Deploy it though something newer was deployed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
}

/// A component to which something was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployed {
    /// The App.
    pub app: ObjectName,
    /// The component.
    pub component: ComponentName,
    /// Whether something else was deployed before.
    pub changed: bool,
}

/// Why something was not deployed. Nothing was written then, unless it is [`DeployError::Apply`]: Apps are written one by
/// one, and the same wish, sent again, goes on.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A hook that is for other Apps.
    #[error("this hook may not deploy to app {0}")]
    NotOfHook(ObjectName),
    /// A tag may lead elsewhere by now.
    #[error("{0} has no digest: deploy what was built, as REPOSITORY@sha256:…")]
    NoDigest(Box<ImageRef>),
    /// An image that exists on one machine only has no digest of a manifest.
    #[error("{0} is on this machine only: push it to a registry, or declare it")]
    OfThisMachine(Box<ImageRef>),
    /// Everything that comes after it would be refused.
    #[error("commit {} is of {}, which is still to come: look at the clock of whoever committed it", .0.id, .0.at)]
    Future(Commit),
    /// There is no such App.
    #[error("there is no app {0}")]
    NoApp(ObjectKey),
    /// No component declares an image of this repository.
    #[error("{}", nothing(repository, scope, declared))]
    Nothing {
        /// Which.
        repository: Repository,
        /// Where it was looked for.
        scope: String,
        /// The repositories that are declared there.
        declared: BTreeSet<Repository>,
    },
    /// The registry has no such image.
    #[error("there is no image {0} in its registry")]
    Missing(Box<ImageRef>),
    /// The registry does not say whether it has the image.
    #[error("whether there is {image}, is not known")]
    Unsaid {
        /// Which.
        image: Box<ImageRef>,
        /// Why.
        source: Unsaid,
    },
    /// Something newer was deployed already.
    #[error(
        "{app}/{component} has commit {had} of {} already, which is newer than {commit}: deploy it as a rollback if it is meant",
        had_at
    )]
    Older {
        /// The App.
        app: ObjectName,
        /// The component.
        component: ComponentName,
        /// What was to be deployed.
        commit: CommitId,
        /// What was deployed before.
        had: CommitId,
        /// When that was committed.
        had_at: plimsoll_model::object::Timestamp,
    },
    /// An App could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeployError {
    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unsaid { source, .. } => matches!(source, Unsaid::Away(_)),
            Self::Apply(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

fn nothing(repository: &Repository, scope: &str, declared: &BTreeSet<Repository>) -> String {
    let declared: Vec<String> = declared.iter().map(ToString::to_string).collect();
    let there = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
    format!("no component of {scope} declares an image of {repository}; declared there: {there}")
}

/// The part of a wish that one App is about, and what it may touch.
struct Matched {
    app: Object<App>,
    components: Vec<ComponentName>,
}

impl Server {
    /// Deploys what is wished, to every component that it is about. All of them are checked before the first is written.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn deploy(
        &self,
        caller: &Caller,
        project: &ProjectName,
        wish: &Wish,
        dry_run: bool,
    ) -> Result<Vec<Deployed>, DeployError> {
        let done = self.try_deploy(caller, project, wish, dry_run).await;
        if let (Err(error), false) = (&done, dry_run) {
            let name = wish.app.clone().unwrap_or_else(|| name_of_project(project));
            let key = ObjectKey::in_project(project.clone(), name);
            // What did not get as far as an App is not in the log otherwise.
            if !error.is_retryable() && !matches!(error, DeployError::Access(AccessError::NoProject(_))) {
                self.record_refusal(caller, Action::Deploy, App::PLURAL, &key, error.to_string()).await;
            }
        }
        done
    }

    async fn try_deploy(
        &self,
        caller: &Caller,
        project: &ProjectName,
        wish: &Wish,
        dry_run: bool,
    ) -> Result<Vec<Deployed>, DeployError> {
        let scope = caller.within(self.store(), project, Verb::Deploy).await?;
        if wish.image.digest().is_none() {
            return Err(DeployError::NoDigest(Box::new(wish.image.clone())));
        }
        if wish.image.repository().is_of_this_machine() {
            return Err(DeployError::OfThisMachine(Box::new(wish.image.clone())));
        }
        let latest = self.now().0 + AHEAD;
        if let Some(commit) = wish.commit.as_ref().filter(|commit| commit.at.0 > latest) {
            return Err(DeployError::Future(commit.clone()));
        }
        let matched = self.matching(caller, project, &scope, wish).await?;
        for Matched { app, components } in &matched {
            for component in components {
                in_order(app, component, wish)?;
            }
        }
        match self.image_source().has(&wish.image).await {
            Ok(true) => {}
            Ok(false) => return Err(DeployError::Missing(Box::new(wish.image.clone()))),
            Err(source) => return Err(DeployError::Unsaid { image: Box::new(wish.image.clone()), source }),
        }
        let mut done = Vec::new();
        for Matched { app, .. } in matched {
            done.extend(self.deploy_to(caller, &app.meta.key, wish, dry_run).await?);
        }
        Ok(done)
    }

    /// The Apps that a wish is about, with the components of each.
    async fn matching(
        &self,
        caller: &Caller,
        project: &ProjectName,
        scope: &Scope,
        wish: &Wish,
    ) -> Result<Vec<Matched>, DeployError> {
        let apps = match &wish.app {
            Some(name) => {
                let key = ObjectKey::in_project(project.clone(), name.clone());
                let app = self.store().get::<App>(scope, &key).await?;
                vec![app.ok_or(DeployError::NoApp(key))?]
            }
            None => self.store().list::<App>(scope, &Query::default()).await?,
        };
        let mut declared = BTreeSet::new();
        let mut matched = Vec::new();
        for app in apps.into_iter().filter(|app| app.meta.deleting.is_none()) {
            if !caller.apps.is_empty() && !caller.apps.contains(&app.meta.key.name) {
                if wish.app.is_some() {
                    return Err(DeployError::NotOfHook(app.meta.key.name));
                }
                continue;
            }
            let images = app.spec.components.values().filter_map(|it| it.image.as_ref());
            declared.extend(images.map(|image| image.repository().clone()));
            let components: Vec<ComponentName> = meant(&app, wish).map(|(name, ..)| name.clone()).collect();
            if !components.is_empty() {
                matched.push(Matched { app, components });
            }
        }
        if matched.is_empty() {
            let scope = match (&wish.app, &wish.component) {
                (None, None) => format!("project {project}"),
                (None, Some(component)) => format!("project {project} called {component}"),
                (Some(app), None) => format!("app {app}"),
                (Some(app), Some(component)) => format!("app {app} called {component}"),
            };
            let repository = wish.image.repository().clone();
            return Err(DeployError::Nothing { repository, scope, declared });
        }
        Ok(matched)
    }

    /// Writes what is deployed to one App, whoever else writes it meanwhile.
    async fn deploy_to(
        &self,
        caller: &Caller,
        key: &ObjectKey,
        wish: &Wish,
        dry_run: bool,
    ) -> Result<Vec<Deployed>, DeployError> {
        let mut attempt = 1;
        loop {
            let app = self.store().get::<App>(&Scope::All, key).await?;
            let app = app.ok_or_else(|| DeployError::NoApp(key.clone()))?;
            let (mut deploys, mut done) = (app.operations.deploys.clone(), Vec::new());
            for (name, component, image) in meant(&app, wish) {
                in_order(&app, name, wish)?;
                let before = deploys.get(name).filter(|it| it.image.repository() == image.repository());
                let deploy = Deploy {
                    of: Some(image.clone()),
                    over: self.last_moved(key, component, image).await?,
                    image: wish.image.clone(),
                    // Whoever does not say it does not make older ones newer.
                    commit: wish.commit.clone().or_else(|| before.and_then(|it| it.commit.clone())),
                };
                let changed = deploys.get(name) != Some(&deploy);
                deploys.insert(name.clone(), deploy);
                done.push(Deployed { app: key.name.clone(), component: name.clone(), changed });
            }
            let terms = Terms { at: Some(app.meta.revision), dry_run, ..Terms::default() };
            let written = self.operate(caller, &app, Action::Deploy, &terms, |operations| {
                operations.deploys.clone_from(&deploys);
            });
            match written.await {
                Err(ApplyError::Stale { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => {
                    result?;
                    return Ok(done);
                }
            }
        }
    }

    /// When the tag that a component follows was seen to move last.
    async fn last_moved(
        &self,
        app: &ObjectKey,
        component: &Component,
        image: &ImageRef,
    ) -> Result<Option<plimsoll_model::object::Timestamp>, StoreError> {
        if component.update.image.follow == Follow::None {
            return Ok(None);
        }
        let sought = Sought::by(&component.update.image, image);
        let known = plimsoll_reconcile::known_image(self.store(), app, &sought).await?;
        Ok(known.and_then(|image| image.since))
    }

    /// Has images looked at because somebody says that they have moved, in the projects where the caller may deploy.
    /// `false` if so many are to be looked at that these are left to the usual round.
    ///
    /// # Errors
    /// [`AccessError`], when the caller may deploy nowhere.
    pub async fn look(
        &self,
        caller: &Caller,
        images: impl IntoIterator<Item = (Option<String>, String)>,
    ) -> Result<bool, AccessError> {
        let projects = self.hearing(caller).await?;
        let looks = images
            .into_iter()
            .map(|(registry, path)| self.looks().ask(Look { registry, path, projects: projects.clone() }));
        Ok(looks.fold(true, |all, one| all & one))
    }

    /// Has a repository looked at because somebody says that it has moved, in the projects where the caller may deploy.
    /// `false` if so many are to be looked at that this one is left to the usual round.
    ///
    /// # Errors
    /// [`AccessError`], when the caller may deploy nowhere.
    pub async fn hear_of_push(&self, caller: &Caller, repository: &str) -> Result<bool, AccessError> {
        let (repository, projects) = (repository_of(repository), self.hearing(caller).await?);
        Ok(self.pushes().tell(Push::Repository { repository, projects }))
    }

    /// The projects that may hear what a caller says; all of them for whoever may everything.
    async fn hearing(&self, caller: &Caller) -> Result<Option<BTreeSet<ProjectName>>, AccessError> {
        if caller.is_platform() {
            return Ok(None);
        }
        let projects = caller.projects_for(self.store(), Verb::Deploy).await?;
        if projects.is_empty() {
            return Err(AccessError::Nowhere { user: caller.user().clone(), verb: Verb::Deploy });
        }
        Ok(Some(projects))
    }
}

/// The components of an App that a wish is about, with the images that they declare.
fn meant<'a>(
    app: &'a Object<App>,
    wish: &'a Wish,
) -> impl Iterator<Item = (&'a ComponentName, &'a Component, &'a ImageRef)> {
    let all = app.spec.components.iter().filter_map(|(name, it)| Some((name, it, it.image.as_ref()?)));
    all.filter(|(name, _, image)| {
        image.repository() == wish.image.repository() && wish.component.as_ref().is_none_or(|it| it == *name)
    })
}

/// Refuses what is older than what was deployed to a component before.
fn in_order(app: &Object<App>, component: &ComponentName, wish: &Wish) -> Result<(), DeployError> {
    let before = app.operations.deploys.get(component);
    // Commits of different repositories have no order.
    let before = before.filter(|it| it.image.repository() == wish.image.repository());
    let before = before.and_then(|deploy| deploy.commit.as_ref());
    match (before, &wish.commit) {
        (Some(had), Some(new)) if new.at < had.at && new.id != had.id && !wish.rollback => {
            Err(DeployError::Older {
                app: app.meta.key.name.clone(),
                component: component.clone(),
                commit: new.id.clone(),
                had: had.id.clone(),
                had_at: had.at,
            })
        }
        _ => Ok(()),
    }
}
