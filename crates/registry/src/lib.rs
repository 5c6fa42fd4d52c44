//! Image registries: which bytes a tag leads to, and which is the newest version, by the OCI distribution API.
//!
//! A [`Registry`] client asks with `HEAD`, so that a question costs nobody's pull limit, learns from the challenge how to
//! log in, and holds back from a registry that asked it to. [`Logins`] reads what `docker login` and `podman login` wrote,
//! credential helpers included. The digest is that of the manifest or index as the registry serves it: whoever pulls by it
//! gets those bytes or none.
//!
//! Deliberately absent: pulling, which is the engine's, pushing, and any opinion on what a moved tag means.

mod ask;
mod challenge;
mod logins;

pub use ask::{Registry, RegistryError};
pub use logins::{Login, Logins, Secret};
