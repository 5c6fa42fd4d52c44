//! Who knows what the tags of images lead to: their registries, or the node's own engine for what is on it only.

use plimsoll_agent::Agent;
use plimsoll_engine::Fut;
use plimsoll_model::id::Digest;
use plimsoll_model::image::ImageRef;
use plimsoll_reconcile::ImageSource;
use plimsoll_registry::{Logins, Registry};

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
}

impl ImageSource for Sources {
    fn digest<'a>(&'a self, image: &'a ImageRef) -> Fut<'a, Result<Digest, String>> {
        Box::pin(async move {
            if image.repository().is_of_this_machine() {
                let agent = self.agent.as_ref().ok_or("there is no node here that could have it")?;
                let found = agent.image(&image.tagged()).await?;
                return found.ok_or_else(|| format!("the engine has no image {}", image.tagged()));
            }
            let login = self.logins.get(image.repository().registry()).await;
            self.registry.digest(image, login.as_ref()).await.map_err(|error| error.to_string())
        })
    }
}
