//! Images by digest, from their registries to the engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::auth::DockerCredentials;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt as _;
use plimsoll_model::revision::PinnedImage;
use plimsoll_registry::{Login, Secret};

use crate::engine::Engine;
use crate::error::EngineError;

/// How long a failure is the answer to everybody who asks for the same image: the first, which doubles with each in a
/// row, and the longest.
const REMEMBERED_FIRST: Duration = Duration::from_secs(2);
const REMEMBERED_LONGEST: Duration = Duration::from_mins(1);

/// Time between two words about a pull's progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// Why an image could not be pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The registry does not have it, or says so to those who may not have it.
    #[error("there is no such image: {0}")]
    Missing(String),
    /// The registry wants a login, or another one.
    #[error("the registry refuses it: {0}")]
    Forbidden(String),
    /// The registry does not answer, or wants to be asked later.
    #[error("the registry does not answer: {0}")]
    Registry(String),
    /// There is no room for it.
    #[error("there is no room for it: {0}")]
    Disk(String),
    /// The engine does not answer.
    #[error("{0}")]
    Engine(String),
}

/// Pulls under way: many copies want the same image at the same time.
#[derive(Default)]
pub(crate) struct Pulls {
    by_image: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Failure>>>>>,
}

struct Failure {
    until: Instant,
    remembered: Duration,
    error: PullError,
}

impl Engine {
    /// Pulls an image, unless somebody else just did. `tell` hears of its progress every few seconds.
    ///
    /// # Errors
    /// Why it is not there now.
    pub async fn pull(
        &self,
        image: &PinnedImage,
        login: Option<&Login>,
        tell: impl FnMut(&str),
    ) -> Result<(), PullError> {
        let name = image.to_string();
        let turn = {
            let mut pulls = self.inner.pulls.by_image.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.entry(name.clone()).or_default().clone()
        };
        let mut failure = turn.lock().await;
        if let Some(Failure { error, .. }) = failure.as_ref().filter(|it| Instant::now() < it.until) {
            return Err(error.clone());
        }
        // Whoever had its turn before has brought it.
        let has = self.image_id(&name).await.map_err(|error| PullError::Engine(error.to_string()))?;
        let pulled = if has.is_some() { Ok(()) } else { self.pull_now(image, login, tell).await };
        let last = failure.as_ref().map_or(REMEMBERED_FIRST / 2, |failure| failure.remembered);
        *failure = pulled.as_ref().err().map(|error| {
            let remembered = (last * 2).min(REMEMBERED_LONGEST);
            Failure { until: Instant::now() + remembered, remembered, error: error.clone() }
        });
        if pulled.is_ok() {
            self.inner.pulls.by_image.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
        pulled
    }

    async fn pull_now(
        &self,
        image: &PinnedImage,
        login: Option<&Login>,
        mut tell: impl FnMut(&str),
    ) -> Result<(), PullError> {
        let options = CreateImageOptionsBuilder::new()
            .from_image(&image.repository.to_string())
            .tag(&format!("sha256:{}", image.digest))
            .build();
        let credentials = login.map(|login| credentials(login, image.repository.registry()));
        let mut steps = std::pin::pin!(self.inner.docker.create_image(Some(options), None, credentials));
        let (mut layers, mut told) = (HashMap::new(), Instant::now());
        tell(&format!("pulling {image}"));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| sorted(error.into()))?;
            if let (Some(layer), Some(detail)) = (step.id, step.progress_detail)
                && let (Some(done), Some(of)) = (detail.current, detail.total)
            {
                layers.insert(layer, (done.min(of), of));
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let sum = |part: fn(&(i64, i64)) -> i64| layers.values().map(part).sum::<i64>() >> 20;
                tell(&format!("pulling {image}: {} of {} MiB", sum(|it| it.0), sum(|it| it.1)));
            }
        }
        tell(&format!("pulled {image}"));
        Ok(())
    }
}

fn credentials(login: &Login, registry: &str) -> DockerCredentials {
    let (password, token) = match &login.secret {
        Secret::Password(password) => (Some(password.expose().to_owned()), None),
        Secret::IdentityToken(token) => (None, Some(token.expose().to_owned())),
    };
    DockerCredentials {
        username: Some(login.user.clone()),
        password,
        identitytoken: token,
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    }
}

/// What an engine's words mean: it passes on those of registries, and has no codes for them.
fn sorted(error: EngineError) -> PullError {
    let said = match error {
        EngineError::Away(said) | EngineError::Missing(said) => return PullError::Engine(said),
        EngineError::NotFound(said) | EngineError::Conflict(said) | EngineError::Refused(said) => said,
    };
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["no space left", "disk quota"]) {
        PullError::Disk(said)
    } else if has(&["unauthorized", "denied", "authentication required", "no basic auth", "forbidden"]) {
        PullError::Forbidden(said)
    } else if has(&["manifest unknown", "name unknown", "not found", "does not exist", "no such image"])
        && !has(&["no such host", "dial tcp"])
    {
        PullError::Missing(said)
    } else {
        PullError::Registry(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_is_told_apart() {
        let sort = |text: &str| sorted(EngineError::Refused(text.to_owned()));
        for (text, kind) in [
            ("manifest for r/a@sha256:1 not found: manifest unknown: manifest unknown", "missing"),
            (
                "initializing source docker://r/a: reading manifest: name unknown: repository name not known",
                "missing",
            ),
            ("Head \"https://r/v2/a\": unauthorized: authentication required", "forbidden"),
            (
                "pull access denied for a, repository does not exist or may require 'docker login'",
                "forbidden",
            ),
            ("Get \"https://r/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused", "registry"),
            ("dial tcp: lookup r.example: no such host", "registry"),
            ("toomanyrequests: You have reached your pull rate limit", "registry"),
            ("write /var/lib/docker/tmp/x: no space left on device", "disk"),
        ] {
            let sorted = match sort(text) {
                PullError::Missing(_) => "missing",
                PullError::Forbidden(_) => "forbidden",
                PullError::Registry(_) => "registry",
                PullError::Disk(_) => "disk",
                PullError::Engine(_) => "engine",
            };
            assert_eq!(sorted, kind, "{text}");
        }
    }
}
