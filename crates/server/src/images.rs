//! Who knows what the tags of images lead to: their registries, or the node's own engine for what is on it only.

use plimsoll_agent::Agent;
use plimsoll_engine::Fut;
use plimsoll_model::id::Digest;
use plimsoll_model::image::{ImageRef, Sought};
use plimsoll_reconcile::{Found, ImageSource, Unsaid};
use plimsoll_registry::{Logins, Registry, RegistryError};

/// Registries, with the logins of whoever runs the server, and the local node.
pub(crate) struct Sources {
    registry: Registry,
    logins: Logins,
    agent: Option<Agent>,
}

impl Sources {
    pub(crate) fn new(agent: Option<Agent>) -> Self {
        Self { registry: Registry::new(), logins: Logins::of_this_user(), agent }
    }

    /// The id of an image that is on this machine only.
    async fn here(&self, image: &ImageRef) -> Result<Option<Digest>, String> {
        let agent = self.agent.as_ref().ok_or("there is no node here that could have it")?;
        agent.image(&image.tagged()).await
    }
}

impl ImageSource for Sources {
    fn find<'a>(&'a self, sought: &'a Sought) -> Fut<'a, Result<Found, String>> {
        Box::pin(async move {
            let Sought { image, range } = sought;
            if image.repository().is_of_this_machine() {
                let digest = self.here(image).await?;
                let digest = digest.ok_or_else(|| format!("the engine has no image {}", image.tagged()))?;
                return Ok(Found { tag: None, digest });
            }
            let login = self.logins.get(image.repository().registry()).await;
            let Some(range) = range else {
                let digest = self.registry.digest(image, login.as_ref()).await;
                return digest.map(|digest| Found { tag: None, digest }).map_err(|error| error.to_string());
            };
            let newest = self.registry.newest(image, range, login.as_ref()).await;
            let newest = newest.map_err(|error| error.to_string())?;
            let none = || format!("{} has no version {range}", image.repository());
            newest.map(|(tag, digest)| Found { tag: Some(tag), digest }).ok_or_else(none)
        })
    }

    fn has<'a>(&'a self, image: &'a ImageRef) -> Fut<'a, Result<bool, Unsaid>> {
        Box::pin(async move {
            let login = self.logins.get(image.repository().registry()).await;
            match self.registry.digest(image, login.as_ref()).await {
                Ok(digest) => Ok(image.digest().is_none_or(|wanted| wanted == digest)),
                Err(RegistryError::Missing(_)) => Ok(false),
                Err(error) if error.is_retryable() => Err(Unsaid::Away(error.to_string())),
                Err(error) => Err(Unsaid::Never(error.to_string())),
            }
        })
    }
}
