//! Rows that were read or written lately, of a database that only this process writes.
//!
//! Whoever asks gets what the last commit left. While the writer commits, the objects concerned are unknown here: some readers
//! of the database may already see the new rows, and nobody who read after them may be told of the old ones. What a reader
//! brings is kept only if nobody wrote the object since the reader began.
//!
//! That an object is absent is kept too. Room is counted in bytes, and what nobody asked for the longest goes first, roughly:
//! there are two halves, and when the younger one is full it becomes the older one, whose rest is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_model::ObjectKey;
use plimsoll_store::{KindName, Row};

/// Bytes of one half.
const HALF: usize = 16 << 20;

/// What an entry takes beside its texts, roughly.
const OVERHEAD: usize = 512;

/// The cache. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Cache {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    young: Half,
    old: Half,
    /// Objects that are being written, by whom their rows are told afterwards.
    writing: Entries<()>,
    /// Readers so far, to number them.
    readers: u64,
}

#[derive(Default)]
struct Half {
    entries: Entries<Entry>,
    bytes: usize,
}

type Entries<T> = HashMap<KindName, HashMap<ObjectKey, T>>;

enum Entry {
    /// The row, or that there is none.
    Known(Option<Arc<Row>>),
    /// A reader is on the way to the database.
    Sought(u64),
}

impl Entry {
    fn bytes(&self) -> usize {
        let Self::Known(Some(row)) = self else { return OVERHEAD };
        OVERHEAD + row.spec.len() + row.operations.len() + row.status.as_ref().map_or(0, |it| it.len())
    }
}

/// What the cache knows of an object.
pub(crate) enum Looked {
    /// Its row, or that there is none.
    Known(Option<Arc<Row>>),
    /// Nothing: whoever asked may tell, with this.
    Unknown(Reader),
}

/// Somebody who reads the database because the cache did not know; `None` where the answer must not be kept.
#[derive(Clone, Copy)]
pub(crate) struct Reader(Option<u64>);

impl Half {
    fn get(&self, kind: KindName, key: &ObjectKey) -> Option<&Entry> {
        self.entries.get(&kind)?.get(key)
    }

    fn put(&mut self, kind: KindName, key: ObjectKey, entry: Entry) {
        self.bytes += entry.bytes();
        let old = self.entries.entry(kind).or_default().insert(key, entry);
        self.bytes -= old.map_or(0, |old| old.bytes());
    }

    fn take(&mut self, kind: KindName, key: &ObjectKey) -> Option<(ObjectKey, Entry)> {
        let taken = self.entries.get_mut(&kind)?.remove_entry(key)?;
        self.bytes -= taken.1.bytes();
        Some(taken)
    }
}

impl State {
    fn put(&mut self, kind: KindName, key: ObjectKey, entry: Entry) {
        self.old.take(kind, &key);
        self.young.put(kind, key, entry);
        if self.young.bytes > HALF {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// An entry, which is young from now on.
    fn get(&mut self, kind: KindName, key: &ObjectKey) -> Option<&Entry> {
        if let Some((key, entry)) = self.old.take(kind, key) {
            self.put(kind, key, entry);
        }
        self.young.get(kind, key).or_else(|| self.old.get(kind, key))
    }
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves fewer entries, and no wrong ones.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of an object.
    pub(crate) fn look(&self, kind: KindName, key: &ObjectKey) -> Looked {
        let mut state = self.lock();
        if let Some(Entry::Known(row)) = state.get(kind, key) {
            return Looked::Known(row.clone());
        }
        if state.writing.get(&kind).is_some_and(|it| it.contains_key(key)) {
            return Looked::Unknown(Reader(None));
        }
        state.readers += 1;
        let reader = state.readers;
        state.put(kind, key.clone(), Entry::Sought(reader));
        Looked::Unknown(Reader(Some(reader)))
    }

    /// Keeps what a reader found in the database.
    pub(crate) fn found(&self, reader: Reader, kind: KindName, key: &ObjectKey, row: Option<&Row>) {
        let mut state = self.lock();
        let is_current = match (state.get(kind, key), reader.0) {
            (Some(Entry::Sought(last)), Some(reader)) => *last == reader,
            _ => false,
        };
        if is_current {
            state.put(kind, key.clone(), Entry::Known(row.cloned().map(Arc::new)));
        }
    }

    /// Forgets objects whose new rows are about to be committed, until they are [`Cache::written`].
    pub(crate) fn writing<'a>(&self, objects: impl Iterator<Item = (KindName, &'a ObjectKey)>) {
        let mut state = self.lock();
        for (kind, key) in objects {
            state.young.take(kind, key);
            state.old.take(kind, key);
            state.writing.entry(kind).or_default().insert(key.clone(), ());
        }
    }

    /// Keeps rows that were committed; without any, nobody knows whether they were.
    pub(crate) fn written<'a>(
        &self,
        rows: impl Iterator<Item = (KindName, &'a ObjectKey, Option<Arc<Row>>)>,
    ) {
        let mut state = self.lock();
        state.writing.clear();
        for (kind, key, row) in rows {
            state.put(kind, key.clone(), Entry::Known(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::object::{Generation, Metadata, Timestamp};
    use plimsoll_model::{Attached, Revision};

    use super::*;

    const KIND: KindName = KindName("apps");

    fn key(name: &str) -> ObjectKey {
        ObjectKey::of_installation(name.parse().unwrap())
    }

    fn row(name: &str, revision: u64, size: usize) -> Row {
        let meta = Metadata {
            uid: "u".parse().unwrap(),
            key: key(name),
            owner: None,
            attached: Attached::default(),
            created: Timestamp(0),
            deleting: None,
            revision: Revision(revision),
            generation: Generation(1),
        };
        Row { meta, spec: "x".repeat(size).into(), operations: "null".into(), status: None }
    }

    /// The revision that is known: `Some(0)` if it is known that there is none.
    fn known(cache: &Cache, name: &str) -> Option<u64> {
        match cache.look(KIND, &key(name)) {
            Looked::Known(row) => Some(row.map_or(0, |row| row.meta.revision.0)),
            Looked::Unknown(_) => None,
        }
    }

    fn reader(cache: &Cache, name: &str) -> Reader {
        match cache.look(KIND, &key(name)) {
            Looked::Unknown(reader) => reader,
            Looked::Known(_) => panic!("{name} is known"),
        }
    }

    fn write(cache: &Cache, name: &str, row: Option<Row>) {
        cache.writing([(KIND, &key(name))].into_iter());
        cache.written([(KIND, &key(name), row.map(Arc::new))].into_iter());
    }

    #[test]
    fn what_was_read_and_what_was_written_is_known() {
        let cache = Cache::default();
        let first = reader(&cache, "a");
        cache.found(first, KIND, &key("a"), None);
        assert_eq!(known(&cache, "a"), Some(0), "absence is known too");
        write(&cache, "a", Some(row("a", 1, 10)));
        assert_eq!(known(&cache, "a"), Some(1));
        write(&cache, "a", None);
        assert_eq!(known(&cache, "a"), Some(0));
    }

    #[test]
    fn a_reader_that_was_overtaken_by_a_writer_tells_nothing() {
        let cache = Cache::default();
        // Read before the commit, told after it.
        let early = reader(&cache, "a");
        write(&cache, "a", Some(row("a", 2, 10)));
        cache.found(early, KIND, &key("a"), Some(&row("a", 1, 10)));
        assert_eq!(known(&cache, "a"), Some(2));
        // Told while the commit is under way: others may have seen its rows.
        let early = reader(&cache, "b");
        cache.writing([(KIND, &key("b"))].into_iter());
        cache.found(early, KIND, &key("b"), Some(&row("b", 1, 10)));
        assert_eq!(known(&cache, "b"), None);
        let during = reader(&cache, "b");
        cache.found(during, KIND, &key("b"), Some(&row("b", 1, 10)));
        assert_eq!(known(&cache, "b"), None);
        // A commit that failed leaves nothing behind, and readers are heard again.
        let during = reader(&cache, "b");
        cache.written(std::iter::empty());
        cache.found(during, KIND, &key("b"), Some(&row("b", 1, 10)));
        assert_eq!(known(&cache, "b"), None);
        let after = reader(&cache, "b");
        cache.found(after, KIND, &key("b"), Some(&row("b", 1, 10)));
        assert_eq!(known(&cache, "b"), Some(1));
    }

    #[test]
    fn room_is_limited_and_what_is_asked_for_stays() {
        let cache = Cache::default();
        write(&cache, "often", Some(row("often", 1, 10)));
        let many = 4 * HALF / (1 << 20);
        for number in 0..many {
            let name = format!("n{number}");
            write(&cache, &name, Some(row(&name, 1, 1 << 20)));
            assert_eq!(known(&cache, "often"), Some(1));
        }
        let kept = (0..many).filter(|number| known(&cache, &format!("n{number}")).is_some()).count();
        assert!((HALF >> 21..=HALF >> 19).contains(&kept), "{kept}");
        let state = cache.lock();
        let count =
            |half: &Half| half.entries.values().flat_map(HashMap::values).map(Entry::bytes).sum::<usize>();
        assert_eq!((state.young.bytes, state.old.bytes), (count(&state.young), count(&state.old)));
    }
}
