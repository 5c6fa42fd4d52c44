//! Who is asking, and what of the store that lets them see and change.
//!
//! Every request reads the token and the project anew: whoever was shut out a moment ago is out now.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plimsoll_model::access::{Restriction, Role, Verb};
use plimsoll_model::audit::Actor;
use plimsoll_model::id::{Digest, ObjectName, ProjectName, UserName};
use plimsoll_model::kind::{ClaimSpec, TokenSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::{ObjectKey, Project, Token};
use plimsoll_store::{Query, Scope, Store, StoreError};

use crate::tokens::name_of;

/// The user of the data directory's own token.
pub const ADMINISTRATOR: &str = "admin";

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the audit log knows them.
    pub actor: Actor,
    /// Whether they administrate the platform.
    pub is_administrator: bool,
    /// What their token is restricted to.
    pub only: Restriction,
    /// When their token ends.
    pub expires: Option<Timestamp>,
    /// The Apps that they may deploy to; all without any.
    pub(crate) apps: BTreeSet<ObjectName>,
    /// The program that they own: they may see and end that one, and nothing else.
    pub owns: Option<ClaimSpec>,
    /// The hash of their token, if it is one that can be revoked.
    hash: Option<Digest>,
}

/// Why somebody may not do what they asked for.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// They see no such project; whether there is one is not said.
    #[error("there is no project {0}")]
    NoProject(ProjectName),
    /// They see it, and may not do that.
    #[error("{user} may not {verb} in project {project}: {reason}")]
    Denied {
        /// Who.
        user: UserName,
        /// What.
        verb: Verb,
        /// Where.
        project: ProjectName,
        /// Why not, and who can change that.
        reason: String,
    },
    /// There is no project in which they may do that.
    #[error("there is no project in which {user} may {verb}")]
    Nowhere {
        /// Who.
        user: UserName,
        /// What.
        verb: Verb,
    },
    /// Only administrators of the platform may.
    #[error("only an administrator of the platform may {0}")]
    Platform(&'static str),
    /// They own a program, and this is something else.
    #[error(
        "the token of a program's owner shows the status of that program and unloads it, and does nothing else"
    )]
    Owner,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Caller {
    /// Whoever can read the data directory.
    pub fn administrator(from: Option<IpAddr>) -> Self {
        let user = ADMINISTRATOR.parse().expect("a valid user name");
        Self::restricted(Actor { user, token: None, from })
    }

    /// Somebody whom nothing keeps from anything, until they are restricted.
    pub(crate) fn restricted(actor: Actor) -> Self {
        let (only, apps) = (Restriction::default(), BTreeSet::new());
        Self { actor, is_administrator: true, only, expires: None, apps, owns: None, hash: None }
    }

    /// Somebody without a token whom their address has let in, to load programs into a project.
    pub fn compatible(project: &ProjectName, from: Option<IpAddr>) -> Self {
        let user = "compat".parse().expect("a valid user name");
        let only = Restriction { projects: [project.clone()].into(), verbs: [Verb::Write].into() };
        Self { only, ..Self::restricted(Actor { user, token: None, from }) }
    }

    /// Whoever shows a token; `None` if it is none of ours, or has ended.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_token(
        store: &Store,
        text: &str,
        from: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Option<Self>, StoreError> {
        let Some(name) = name_of(text) else { return Ok(None) };
        // Compared by hash, so that time tells nothing of the token itself.
        Self::of_hash(store, name, Digest::of_bytes(text.as_bytes()), from, now).await
    }

    /// The same caller later; `None` if their token has ended since.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn renewed(&self, store: &Store, now: Timestamp) -> Result<Option<Self>, StoreError> {
        match (&self.actor.token, self.hash) {
            (Some(name), Some(hash)) => Self::of_hash(store, name.clone(), hash, self.actor.from, now).await,
            _ => Ok(Some(self.clone())),
        }
    }

    async fn of_hash(
        store: &Store,
        name: ObjectName,
        hash: Digest,
        from: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Option<Self>, StoreError> {
        let token = store.get::<Token>(&Scope::All, &ObjectKey::of_installation(name.clone())).await?;
        let Some(token) = token.filter(|it| it.spec.hash == hash && is_valid(&it.spec, now)) else {
            return Ok(None);
        };
        let TokenSpec { user, admin, only, expires, owns, .. } = token.spec;
        let actor = Actor { user, token: Some(name), from };
        let apps = BTreeSet::new();
        Ok(Some(Self { actor, is_administrator: admin, only, expires, apps, owns, hash: Some(hash) }))
    }

    /// The user.
    pub fn user(&self) -> &UserName {
        &self.actor.user
    }

    /// The part of the store in which they may do something with the objects of a project.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn within(
        &self,
        store: &Store,
        project: &ProjectName,
        verb: Verb,
    ) -> Result<Scope, AccessError> {
        if self.owns.is_some() {
            return Err(AccessError::Owner);
        }
        let unseen = || AccessError::NoProject(project.clone());
        let key = ObjectKey::of_installation(name_of_project(project));
        let object = store.get::<Project>(&Scope::All, &key).await?.ok_or_else(unseen)?;
        let role = if self.is_administrator {
            Role::Admin
        } else {
            object.spec.members.get(self.user()).copied().ok_or_else(unseen)?
        };
        if !self.only.admits(project, Verb::Read) && !self.only.admits(project, verb) {
            return Err(unseen());
        }
        let denied = |reason: String| {
            let (user, project) = (self.user().clone(), project.clone());
            AccessError::Denied { user, verb, project, reason }
        };
        if !role.allows(verb) {
            return Err(denied(format!("the role there is {role}; an admin of the project can change it")));
        }
        if !self.only.admits(project, verb) {
            return Err(denied("the token is restricted; use another one".into()));
        }
        Ok(Scope::project(project.clone()))
    }

    /// The projects that they see, as a part of the store.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn everywhere(&self, store: &Store) -> Result<Scope, StoreError> {
        if self.is_platform() {
            return Ok(Scope::All);
        }
        Ok(Scope::Projects(self.projects_for(store, Verb::Read).await?))
    }

    /// The projects in which they may do something.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn projects_for(&self, store: &Store, verb: Verb) -> Result<BTreeSet<ProjectName>, StoreError> {
        let mut found = BTreeSet::new();
        if self.owns.is_some() {
            return Ok(found);
        }
        for project in store.list::<Project>(&Scope::All, &Query::default()).await? {
            let Ok(name) = project.meta.key.name.as_str().parse::<ProjectName>() else { continue };
            let role = project.spec.members.get(self.user());
            let is_allowed = self.is_administrator || role.is_some_and(|role| role.allows(verb));
            if is_allowed && self.only.admits(&name, verb) {
                found.insert(name);
            }
        }
        Ok(found)
    }

    /// Whether they may do everything.
    pub fn is_platform(&self) -> bool {
        self.is_administrator && self.only.projects.is_empty() && self.only.verbs.is_empty()
    }

    /// Refuses whoever may not do everything.
    ///
    /// # Errors
    /// [`AccessError::Platform`].
    pub fn platform(&self, what: &'static str) -> Result<(), AccessError> {
        if self.is_platform() { Ok(()) } else { Err(AccessError::Platform(what)) }
    }
}

/// A project's name as that of the object that declares it.
pub fn name_of_project(project: &ProjectName) -> ObjectName {
    project.as_str().parse().expect("the name of a project is one of an object too")
}

fn is_valid(token: &TokenSpec, now: Timestamp) -> bool {
    token.expires.is_none_or(|end| now < end)
}
