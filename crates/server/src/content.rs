//! Programs by digest: kept from their upload for as long as anything names them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use plimsoll_model::id::Digest;
use plimsoll_model::kind::AppRevisions;
use plimsoll_model::revision::Listing;
use plimsoll_model::{App, Kind, Object};
use plimsoll_store::{Query, Scope, Store, StoreError};

/// Held while content comes or goes: two uploads of the same bytes, or one and the look for what nobody names, would be in
/// each other's way.
static ALONE: Mutex<()> = Mutex::new(());

/// How long content stays after its upload though nothing names it: the declaration that does comes later.
const UNNAMED: Duration = Duration::from_hours(1);

/// Keeps the bytes of a program until an instance needs them.
///
/// # Errors
/// When the disk is full or broken; then nothing is kept.
pub fn save_content(content: &Path, bytes: &[u8]) -> io::Result<Digest> {
    let digest = Digest::of_bytes(bytes);
    let file = content.join(digest.to_string());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if file.exists() {
        // As good as new for those who look at its age.
        std::fs::File::open(&file)?.set_modified(now())?;
    } else {
        let draft = content.join(format!(".{digest}"));
        std::fs::write(&draft, bytes)?;
        std::fs::File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, file)?;
        std::fs::File::open(content)?.sync_all()?;
    }
    Ok(digest)
}

#[expect(clippy::disallowed_methods, reason = "ages of files are wall time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Objects read at once.
pub(crate) const PAGE: usize = 500;

/// Why content could not be collected; nothing that is named was touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    #[error("the content cannot be listed")]
    Disk(#[from] io::Error),
}

/// Removes content that no declaration and no revision names, and that was not uploaded lately.
pub(crate) async fn collect(store: &Store, content: &Path) -> Result<(), CollectError> {
    let mut named = BTreeSet::new();
    each::<App>(store, |app| named.extend(app.spec.content())).await?;
    each::<AppRevisions>(store, |kept| named.extend(kept.spec.content())).await?;
    let content = content.to_owned();
    let removed = tokio::task::spawn_blocking(move || remove_all_but(&content, named)).await;
    Ok(removed.map_err(io::Error::other)??)
}

/// Shows every object of a kind, a page at a time: there may be many.
pub(crate) async fn each<K: Kind>(
    store: &Store,
    mut show: impl FnMut(&Object<K>) + Send,
) -> Result<(), StoreError> {
    let mut query = Query { limit: PAGE, ..Query::default() };
    loop {
        let (objects, is_more, _) = store.page::<K>(&Scope::All, &query).await?;
        objects.iter().for_each(&mut show);
        query.after = objects.into_iter().next_back().map(|it| it.meta.key);
        if !is_more {
            return Ok(());
        }
    }
}

/// What is named, with what the listings among it name.
pub(crate) fn with_listed(content: &Path, mut named: BTreeSet<Digest>) -> io::Result<BTreeSet<Digest>> {
    for digest in named.clone() {
        match std::fs::read(content.join(digest.to_string())) {
            Ok(bytes) => named.extend(listed(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It may be a listing: whatever it names must stay.
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}

/// What content names, if it is the listing of a tree; whatever is none is a program.
pub(crate) fn listed(bytes: &[u8]) -> impl Iterator<Item = Digest> + use<> {
    let listing = serde_json::from_slice::<Listing>(bytes).ok();
    listing.into_iter().flat_map(|it| it.files.into_values()).map(|file| file.digest)
}

fn remove_all_but(content: &Path, named: BTreeSet<Digest>) -> io::Result<()> {
    let named = with_listed(content, named)?;
    for entry in std::fs::read_dir(content)? {
        let entry = entry?;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = entry.file_name().to_str().and_then(|name| name.trim_start_matches('.').parse().ok());
        let age = now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age >= UNNAMED && digest.is_none_or(|digest: Digest| !named.contains(&digest)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use plimsoll_model::revision::ListedFile;

    use super::*;

    #[test]
    fn what_is_named_or_new_stays() {
        let directory = tempfile::tempdir().unwrap();
        let content = directory.path();
        let keep = |bytes: &[u8]| save_content(content, bytes).unwrap();
        let (program, part, old, new) = (keep(b"program"), keep(b"part"), keep(b"old"), keep(b"new"));
        let file = ListedFile { digest: part, executable: false };
        let tree = Listing { files: [("a/part".to_owned(), file)].into() };
        let tree = keep(&serde_json::to_vec(&tree).unwrap());
        for digest in [program, part, old, tree] {
            let file = std::fs::File::open(content.join(digest.to_string())).unwrap();
            file.set_modified(now() - UNNAMED).unwrap();
        }
        remove_all_but(content, BTreeSet::from([program, tree])).unwrap();
        let is_there = |digest: Digest| content.join(digest.to_string()).exists();
        assert!(is_there(program) && is_there(tree) && is_there(part) && is_there(new));
        assert!(!is_there(old));
    }
}
