//! Tokens: made once, shown once, known by their hash.

use std::io;
use std::net::IpAddr;

use plimsoll_model::access::{Restriction, Verb};
use plimsoll_model::audit::{Action, Actor, AuditEntry, AuditResult};
use plimsoll_model::id::{Digest, ObjectName, UserName};
use plimsoll_model::kind::TokenSpec;
use plimsoll_model::object::Timestamp;
use plimsoll_model::quantity::Span;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{Attached, Kind as _, Object, ObjectKey, Token};
use plimsoll_store::{Batch, New, Query, Scope, StoreError};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::access::{AccessError, Caller};
use crate::apply::{ApplyError, Terms};
use crate::data::{random_name, random_text};
use crate::receipt::Named;

/// What a token begins with, so that tools that look for lost secrets know it.
pub const TOKEN_PREFIX: &str = "plim_";

/// How long the token of a login lives.
const LOGIN_LIVES: Span = Span::seconds(12 * 3600);

/// A token that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// Its name, for lists and to revoke it.
    pub name: ObjectName,
    /// Whom it speaks for; whoever asks if nobody is named.
    #[serde(default)]
    pub user: Option<UserName>,
    /// Whether it speaks for an administrator of the platform.
    #[serde(default)]
    pub admin: bool,
    /// What it is restricted to.
    #[serde(default)]
    pub only: Restriction,
    /// When it ends.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// Why a token was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The caller may not.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// The caller's own token has ended.
    #[error("the token has ended or was revoked")]
    Ended,
    /// There is one of this name.
    #[error("there is a token {0} already: choose another name, or delete that one first")]
    Exists(ObjectName),
    /// It would have ended before it was made.
    #[error("the token would have ended already at {0}")]
    Past(Timestamp),
    /// The store refused or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random numbers.
    #[error("the operating system refused")]
    System(#[from] io::Error),
}

/// The name of the token that owns a program. It is made of its hash, which tells nothing of the token.
pub(crate) fn owner_name(hash: Digest) -> ObjectName {
    format!("owner-{}", &hash.to_string()[..32]).parse().expect("a word and digits form a name")
}

/// Whether a text has the form of a UUID, as tokens of owners have.
fn is_uuid(text: &str) -> bool {
    let is_part = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_part)
}

/// The name of a token by its text.
pub(crate) fn name_of(text: &str) -> Option<ObjectName> {
    if is_uuid(text) {
        return Some(owner_name(Digest::of_bytes(text.as_bytes())));
    }
    let (name, _) = text.strip_prefix(TOKEN_PREFIX)?.rsplit_once('_')?;
    name.parse().ok()
}

impl Server {
    /// Makes a token and returns its text, which nobody can read again.
    ///
    /// # Errors
    /// [`TokenError`]; then none was made.
    pub async fn create_token(
        &self,
        caller: &Caller,
        new: NewToken,
        named: Option<&Named>,
    ) -> Result<Sensitive<String>, TokenError> {
        // It may have ended while the body of this request was on its way.
        let caller = &caller.renewed(self.store(), self.now()).await?.ok_or(TokenError::Ended)?;
        let user = new.user.clone().unwrap_or_else(|| caller.user().clone());
        let key = ObjectKey::of_installation(new.name.clone());
        if let Err(error) = self.may_give(caller, &user, &new).await {
            let error = ApplyError::Access(error);
            self.note_refusal(caller, Action::Create, Token::PLURAL, &key, &error).await;
            return Err(error.into());
        }
        let now = self.now();
        if let Some(end) = new.expires.filter(|end| *end <= now) {
            return Err(TokenError::Past(end));
        }
        let name = new.name.clone();
        let (token, text) = made(new, user, now)?;
        let batch = Batch::new().create(token).audited(entry(caller, Action::Create, &key, now));
        // Without the text, which is shown once.
        let batch = named.iter().fold(batch, |batch, named| named.receipt(batch, "", now));
        match self.store().commit(&Scope::All, batch).await {
            Err(StoreError::Conflict { .. }) => Err(TokenError::Exists(name)),
            result => Ok(result.map(|()| text)?),
        }
    }

    /// A token for somebody who has proved who they are, its name and its end.
    ///
    /// # Errors
    /// [`TokenError`]; then none was made.
    pub async fn log_in(
        &self,
        user: &UserName,
        is_administrator: bool,
        from: Option<IpAddr>,
    ) -> Result<(ObjectName, Sensitive<String>, Timestamp), TokenError> {
        let now = self.now();
        let expires = Timestamp(now.0 + LOGIN_LIVES.millis);
        let name: ObjectName = format!("login-{}", random_name()?).parse().map_err(io::Error::other)?;
        let new = NewToken {
            name: name.clone(),
            user: None,
            admin: is_administrator,
            only: Restriction::default(),
            expires: Some(expires),
            description: "made by a login".into(),
        };
        let (token, text) = made(new, user.clone(), now)?;
        let actor = Actor { user: user.clone(), token: None, from };
        let (kind, object) = (Token::PLURAL.to_owned(), token.key.clone());
        let entry =
            AuditEntry { at: now, actor, action: Action::LogIn, kind, object, result: AuditResult::Done };
        self.store().commit(&Scope::All, Batch::new().create(token).audited(entry)).await?;
        Ok((name, text, expires))
    }

    /// Whether a caller may give out a token: an administrator any; everybody one for themselves; an admin of projects one for
    /// anybody that is restricted to those. None may do more, or live longer, than the one that is shown.
    async fn may_give(&self, caller: &Caller, user: &UserName, new: &NewToken) -> Result<(), AccessError> {
        if caller.owns.is_some() {
            return Err(AccessError::Owner);
        }
        if new.admin {
            caller.platform("give out tokens of administrators")?;
        }
        if !caller.only.covers(&new.only) {
            return Err(AccessError::Platform(
                "give out a token that may do more than the one that is shown",
            ));
        }
        if caller.expires.is_some_and(|own| new.expires.is_none_or(|end| end > own)) {
            return Err(AccessError::Platform(
                "give out a token that lives longer than the one that is shown",
            ));
        }
        if caller.is_platform() || user == caller.user() {
            return Ok(());
        }
        if new.only.projects.is_empty() {
            return Err(AccessError::Platform("give out tokens for others that no project restricts"));
        }
        for project in &new.only.projects {
            caller.within(self.store(), project, Verb::Manage).await?;
        }
        Ok(())
    }

    /// Whether a caller sees and may revoke a token: their own, those that are restricted to projects that they administrate,
    /// and administrators all.
    async fn administrates(&self, caller: &Caller, token: &Object<Token>) -> Result<bool, StoreError> {
        if caller.is_platform() {
            return Ok(true);
        }
        if caller.owns.is_some() {
            return Ok(false);
        }
        if token.spec.admin || !caller.only.covers(&token.spec.only) {
            return Ok(false);
        }
        if token.spec.user == *caller.user() {
            return Ok(true);
        }
        if token.spec.only.projects.is_empty() {
            return Ok(false);
        }
        for project in &token.spec.only.projects {
            match caller.within(self.store(), project, Verb::Manage).await {
                Ok(_) => {}
                Err(AccessError::Store(error)) => return Err(error),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The tokens that a caller may revoke.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn tokens(&self, caller: &Caller) -> Result<Vec<Object<Token>>, StoreError> {
        let mut seen = Vec::new();
        for token in self.store().list::<Token>(&Scope::All, &Query::default()).await? {
            if self.administrates(caller, &token).await? {
                seen.push(token);
            }
        }
        Ok(seen)
    }

    /// Ends a token at once; false if the caller sees none of that name.
    ///
    /// # Errors
    /// When it is another one than the terms say, or the store does not answer.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        name: &ObjectName,
        terms: &Terms,
    ) -> Result<bool, ApplyError> {
        let key = ObjectKey::of_installation(name.clone());
        let failed = |source| ApplyError::Store { kind: Token::NAME, key: key.clone(), source };
        let token = self.store().get::<Token>(&Scope::All, &key).await.map_err(failed)?;
        let Some(token) = token else { return Ok(false) };
        if !self.administrates(caller, &token).await.map_err(failed)? {
            return Ok(false);
        }
        terms.check_version(&token)?;
        if !terms.dry_run {
            let entry = entry(caller, Action::Delete, &key, self.now());
            let batch = Batch::new().delete(&token).audited(entry);
            self.store().commit(&Scope::All, batch).await.map_err(failed)?;
        }
        Ok(true)
    }
}

/// A token as it is to be stored, and its text.
fn made(new: NewToken, user: UserName, now: Timestamp) -> io::Result<(New<Token>, Sensitive<String>)> {
    let text = format!("{TOKEN_PREFIX}{}_{}", new.name, random_text()?);
    let spec = TokenSpec {
        hash: Digest::of_bytes(text.as_bytes()),
        user,
        admin: new.admin,
        only: new.only,
        expires: new.expires,
        owns: None,
        description: new.description,
    };
    let token = New::<Token> {
        uid: format!("token-{}", random_name()?).parse().map_err(io::Error::other)?,
        key: ObjectKey::of_installation(new.name),
        owner: None,
        at: now,
        attached: Attached::default(),
        spec,
        operations: (),
    };
    Ok((token, Sensitive::new(text)))
}

fn entry(caller: &Caller, action: Action, key: &ObjectKey, at: Timestamp) -> AuditEntry {
    let (actor, kind) = (caller.actor.clone(), Token::PLURAL.to_owned());
    AuditEntry { at, actor, action, kind, object: key.clone(), result: AuditResult::Done }
}
