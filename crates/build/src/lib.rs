//! From a source to what an engine builds.
//!
//! Engines build what they are sent as one tar archive, the *context*. Whatever a source is, a tree that was uploaded, an archive or
//! a repository, its files come into a context through one [`Packer`], which lets in plain files, directories and links within it,
//! and neither too much nor too many of them. Where nobody has written a `Dockerfile`, a [`recipe`] does. Either is read by [`dockerfile`] before it is sent.
//!
//! [`git`] fetches repositories by git's own command, with an environment that has nothing of ours in it but what opens the
//! repository.
//!
//! Deliberately absent: engines (`container`), what is cached and when something is built (`reconcile`), and where content is kept
//! (`server`).

pub mod archive;
mod context;
pub mod dockerfile;
pub mod git;
pub mod recipe;

pub use archive::ArchiveError;
pub use context::{Context, Limits, PackError, Packer};
pub use git::{Fetch, GitError};
pub use recipe::{NoRecipe, Recipe, Root};
