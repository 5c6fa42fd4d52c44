//! Hooks: other systems that announce images, known by what they sign with.
//!
//! A delivery is signed as Standard Webhooks says (<https://www.standardwebhooks.com>): HMAC with SHA-256 over
//! `ID.TIMESTAMP.BODY`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64ct::{Base64, Encoding as _};
use plimsoll_model::access::{Restriction, Verb};
use plimsoll_model::audit::{Action, Actor};
use plimsoll_model::id::{PartName, ProjectName};
use plimsoll_model::kind::Hook;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{ObjectKey, Project, Secret};
use plimsoll_reconcile::Opener as _;
use plimsoll_store::{Scope, StoreError};
use ring::hmac;

use crate::Server;
use crate::access::{Caller, name_of_project};

/// Seconds by which the clock of whoever signs may differ from ours.
const WINDOW: u64 = 300;

/// What secrets begin with whose rest is base64.
const PREFIX: &str = "whsec_";

/// Bytes that a secret has at least.
const SHORTEST: usize = 16;

/// One delivery, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Its name: the same one when it is sent again.
    pub id: &'a str,
    /// When it was signed, in seconds since 1970 UTC.
    pub timestamp: &'a str,
    /// `v1,` and the signature in base64; several with spaces between them.
    pub signature: &'a str,
    /// What it says.
    pub body: &'a [u8],
}

/// Why a delivery is not taken.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no such hook, or the signature is another one's. Which of both is not said.
    #[error("there is no such hook, or the signature is not that of its secret")]
    Unknown,
    /// The same for whoever asks; the project's own people find the reason in the audit log.
    #[error("there is no such hook, or the signature is not that of its secret")]
    Refused {
        /// Whoever it would have been.
        caller: Box<Caller>,
        /// The reason.
        why: String,
    },
    /// It was signed too long ago, or in the future.
    #[error(
        "it was signed more than {WINDOW} s before or after now: sign it when it is sent, and look at the clock"
    )]
    Time,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Server {
    /// Whoever signed a delivery to a hook.
    ///
    /// # Errors
    /// [`HookError`].
    pub async fn open_hook(
        &self,
        project: &ProjectName,
        name: &PartName,
        delivery: Delivery<'_>,
        from: Option<IpAddr>,
    ) -> Result<Caller, HookError> {
        let key = ObjectKey::of_installation(name_of_project(project));
        let declared = self.store().get::<Project>(&Scope::All, &key).await?;
        let hook = declared.and_then(|it| it.spec.hooks.get(name).cloned()).ok_or(HookError::Unknown)?;
        let caller = Caller::hook(project, name, &hook, from);
        let refused = match self.secret_of(project, &hook).await? {
            None => Some(format!("its Secret {} is not there", hook.secret)),
            Some(secret) => match signing_key(&secret) {
                None => Some(format!(
                    "its Secret {} has less than {SHORTEST} bytes, or is no base64",
                    hook.secret
                )),
                Some(signing) => {
                    (!is_signed(&signing, delivery)).then(|| "the signature is wrong".to_owned())
                }
            },
        };
        if let Some(why) = refused {
            return Err(HookError::Refused { caller: Box::new(caller), why });
        }
        let now = self.now().0 / 1000;
        let signed_at: Option<u64> = delivery.timestamp.parse().ok();
        if signed_at.is_none_or(|at| now.abs_diff(at) > WINDOW) {
            return Err(HookError::Time);
        }
        Ok(caller)
    }

    /// Records that a delivery to a hook was refused.
    pub async fn note_delivery(&self, caller: &Caller, project: &ProjectName, name: &PartName, why: String) {
        let name = name.as_str().parse().expect("the name of a part is one of an object too");
        let place = ObjectKey::in_project(project.clone(), name);
        self.record_refusal(caller, Action::Deploy, HOOKS, &place, why).await;
    }

    /// What both sides know.
    async fn secret_of(
        &self,
        project: &ProjectName,
        hook: &Hook,
    ) -> Result<Option<Sensitive<String>>, StoreError> {
        let key = ObjectKey::in_project(project.clone(), hook.secret.name.clone());
        let secret = self.store().get::<Secret>(&Scope::All, &key).await?;
        Ok(secret.and_then(|secret| self.keyring().open(secret.spec.data.get(&hook.secret.key)?)))
    }
}

/// What the audit log calls the collection that hooks would be.
const HOOKS: &str = "hooks";

impl Caller {
    /// Another system, which may deploy in its project and nothing else.
    fn hook(project: &ProjectName, name: &PartName, hook: &Hook, from: Option<IpAddr>) -> Self {
        let user = format!("hook.{name}@{project}").parse().expect("words, a name and a project form a user");
        let only = Restriction {
            projects: BTreeSet::from([project.clone()]),
            verbs: BTreeSet::from([Verb::Deploy]),
        };
        let mut caller = Self::restricted(Actor { user, token: None, from });
        (caller.only, caller.apps) = (only, hook.apps.clone());
        caller
    }
}

/// What signatures are made with: the bytes after the prefix, or the secret as it is.
fn signing_key(secret: &Sensitive<String>) -> Option<hmac::Key> {
    let text = secret.expose().trim();
    let bytes = match text.strip_prefix(PREFIX) {
        Some(encoded) => Base64::decode_vec(encoded).ok()?,
        None => text.as_bytes().to_vec(),
    };
    (bytes.len() >= SHORTEST).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn is_signed(key: &hmac::Key, Delivery { id, timestamp, signature, body }: Delivery<'_>) -> bool {
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(body);
    let signatures = signature.split(' ').filter_map(|it| it.strip_prefix("v1,"));
    let mut decoded = signatures.filter_map(|it| Base64::decode_vec(it).ok());
    // Compared in a time that tells nothing.
    decoded.any(|it| hmac::verify(key, &signed, &it).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference implementations.
    #[test]
    fn the_example_of_the_specification_is_signed() {
        let secret = Sensitive::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let key = signing_key(&secret).unwrap();
        let delivery = Delivery {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            body: br#"{"test": 2432232314}"#,
        };
        assert!(is_signed(&key, delivery));
        let several = format!("v1a,x v1,AAAA {}", delivery.signature);
        assert!(is_signed(&key, Delivery { signature: &several, ..delivery }));
        assert!(!is_signed(&key, Delivery { timestamp: "1614265331", ..delivery }));
        assert!(!is_signed(&key, Delivery { id: "msg", ..delivery }));
        assert!(!is_signed(&key, Delivery { body: b"{}", ..delivery }));
        assert!(!is_signed(&key, Delivery { signature: "", ..delivery }));
    }

    #[test]
    fn secrets_are_long_enough_or_none() {
        let key = |text: &str| signing_key(&Sensitive::new(text.to_owned()));
        assert!(key("0123456789abcdef").is_some() && key("0123456789abcde").is_none());
        assert!(key("whsec_AAAA").is_none() && key("whsec_!").is_none());
    }
}
