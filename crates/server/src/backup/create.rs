//! Taking a backup while everything goes on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use plimsoll_model::id::Digest;
use plimsoll_model::kind::AppRevisions;
use plimsoll_model::{App, Kind as _};
use plimsoll_store::{KindName, Row, decode};
use tokio::runtime::Handle;

use super::archive::{End, Head, Pages, Tally, Writer};
use super::{BackupError, Recipients};
use crate::Server;
use crate::content::with_listed;

impl Server {
    /// Writes a backup of this moment. To be called where blocking is fine, outside of the runtime's own tasks.
    ///
    /// # Errors
    /// [`BackupError`]; what was written until then is no backup.
    pub fn back_up(&self, recipients: &Recipients, out: impl Write) -> Result<End, BackupError> {
        let runtime = Handle::current();
        // What the moment names must not be tidied away before it was read.
        let _tidying = runtime.block_on(self.tidying.lock());
        let moment = runtime.block_on(self.store().moment())?;
        let data = self.data();
        let (id, epoch) = (data.installation().clone(), data.epoch());
        let head = Head::new(id, epoch, self.now(), moment.revision());
        let writer = Writer::begin(out, &recipients.keys()?, &head, &data.keyring().all().plain()?)?;
        write(&runtime, Pages::of(moment), writer, &data.content())
    }
}

/// Waits for the store only between writes: `out` may wait for the runtime itself.
fn write<W: Write>(
    runtime: &Handle,
    mut pages: Pages,
    mut writer: Writer<W>,
    content: &Path,
) -> Result<End, BackupError> {
    let (mut tally, mut named) = (Tally::default(), BTreeSet::new());
    loop {
        let (mut lines, rows) = (String::new(), runtime.block_on(pages.rows())?);
        if rows.is_empty() {
            break;
        }
        for (kind, row) in rows {
            lines.push_str(&tally.row(kind, &row)?);
            named.extend(content_of(kind, row)?);
        }
        writer.rows(&lines)?;
    }
    loop {
        let records = runtime.block_on(pages.records())?;
        if records.is_empty() {
            break;
        }
        let lines: Result<String, BackupError> = records.iter().map(|record| tally.record(record)).collect();
        writer.audit(&lines?)?;
    }
    let mut programs = 0;
    for digest in with_listed(content, named)? {
        match File::open(content.join(digest.to_string())) {
            Ok(mut file) => writer.content(digest, &mut file)?,
            // Declared and never uploaded: its App waits for it here, and will wait where it is restored.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        }
        programs += 1;
    }
    let end = tally.end(programs);
    writer.finish(&end)?.flush()?;
    Ok(end)
}

/// What of the content store a row names.
pub(super) fn content_of(kind: KindName, row: Row) -> Result<Vec<Digest>, BackupError> {
    Ok(match kind.0 {
        App::PLURAL => decode::<App>(row)?.spec.content().collect(),
        AppRevisions::PLURAL => decode::<AppRevisions>(row)?.spec.content().collect(),
        _ => Vec::new(),
    })
}
