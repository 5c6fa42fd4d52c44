//! News of a collection: a watch on a thread of its own that wakes whoever waits.
//!
//! It is a hint and no more: whoever is woken looks anew, and looks now and then without being woken.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use plimsoll_model::id::ProjectName;

use crate::client::Client;

/// Pause before a watch that ended is begun again.
const AGAIN: Duration = Duration::from_secs(1);

/// Pause between two questions whether to go on waiting.
const ASK: Duration = Duration::from_millis(150);

/// How long nothing is looked at without news: a watch may have missed something.
const LOOK: Duration = Duration::from_secs(5);

/// Lines that come in pieces; whole ones are shown.
pub(crate) struct Lines<F> {
    begun: Vec<u8>,
    show: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Lines<F> {
    pub(crate) fn new(show: F) -> Self {
        Self { begun: Vec::new(), show }
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            (self.show)(&line[..end])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// News of one collection.
pub(crate) struct News {
    received: Receiver<()>,
}

impl News {
    /// Of a collection of a project, or of the installation.
    pub(crate) fn of(
        client: &Client,
        project: Option<&ProjectName>,
        plural: &'static str,
    ) -> anyhow::Result<Self> {
        let (sender, received) = sync_channel(1);
        let (client, project) = (client.again()?, project.cloned());
        std::thread::spawn(move || {
            while wake(&sender).is_ok() {
                let mut lines = Lines::new(|_: &[u8]| wake(&sender));
                // Whatever ends it: it is begun again, and until then somebody looks without being woken.
                let from = client.version_of(project.as_ref(), plural);
                let watched =
                    from.and_then(|from| client.watch(project.as_ref(), plural, "", Some(&from), &mut lines));
                drop(watched);
                std::thread::park_timeout(AGAIN);
            }
        });
        Ok(Self { received })
    }

    /// Waits until there is news, or until it is time to look without any, or until `stop` says so.
    pub(crate) fn wait(&self, stop: impl Fn() -> bool) {
        let until = Instant::now() + LOOK;
        // Where much changes, one look is for all of it.
        std::thread::park_timeout(ASK);
        while !stop() && Instant::now() < until {
            match self.received.recv_timeout(ASK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) => return,
                Err(RecvTimeoutError::Disconnected) => return std::thread::park_timeout(ASK),
            }
        }
    }
}

/// Waits until an object is gone; false if `stop` says so before.
pub(crate) fn until_gone(
    client: &Client,
    project: Option<&ProjectName>,
    plural: &'static str,
    name: &str,
    stop: impl Fn() -> bool,
) -> anyhow::Result<bool> {
    let mut news = None;
    while client.find(project, plural, name)?.is_some() {
        if stop() {
            return Ok(false);
        }
        if news.is_none() {
            news = Some(News::of(client, project, plural)?);
        }
        if let Some(news) = &news {
            news.wait(&stop);
        }
    }
    Ok(true)
}

/// Wakes whoever waits; an error when nobody does any more.
fn wake(sender: &SyncSender<()>) -> io::Result<()> {
    match sender.try_send(()) {
        Ok(()) | Err(TrySendError::Full(())) => Ok(()),
        Err(TrySendError::Disconnected(())) => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_when_they_are_whole() {
        let mut shown = Vec::new();
        let mut lines = Lines::new(|line: &[u8]| {
            shown.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        });
        for piece in ["a", "b\nc\n", "", "d"] {
            lines.write_all(piece.as_bytes()).unwrap();
        }
        assert_eq!(shown, ["ab", "c"]);
    }
}
