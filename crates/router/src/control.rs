//! The router's end of the control socket.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_driver::DriverError;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::certificates::Certificates;
use crate::state::State;
use crate::tcp::Listeners;
use crate::wire::{Answer, LONGEST, Request, SOCKET};

/// How long it is waited for news: less than a control plane waits for an answer.
const WOKEN: Duration = Duration::from_secs(10);

/// What a control connection works on.
pub(crate) struct Control {
    pub(crate) state: Arc<State>,
    pub(crate) listeners: Listeners,
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: SocketAddr,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) end: Notify,
}

/// Binds the socket; whoever may use it is decided by the directory's permissions.
pub(crate) fn bind(directory: &Path) -> io::Result<UnixListener> {
    let path = directory.join(SOCKET);
    // Ours to remove: we hold the directory's lock.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Answers control planes until it is dropped.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream, control.clone()));
        }
    }
}

async fn talk(stream: UnixStream, control: Arc<Control>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
        match (&mut reader).take(limit).read_until(b'\n', &mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => control.answer(request).await,
            Err(error) => Answer::Failed(DriverError::Terminal(error.to_string()).into()),
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        text.push(b'\n');
        if writer.write_all(&text).await.is_err() {
            return;
        }
    }
}

impl Control {
    async fn answer(self: &Arc<Self>, request: Request) -> Answer {
        match request {
            Request::Observe(app) => Answer::View(self.state.view(&app)),
            Request::Address => Answer::Address(self.address),
            Request::TlsAddress => Answer::Address(self.tls_address),
            Request::Woken { heard } => {
                let woken = tokio::time::timeout(WOKEN, self.state.holding.woken(heard)).await;
                let (heard, apps) = woken.unwrap_or_else(|_| (heard, BTreeSet::new()));
                Answer::Woken { heard, apps }
            }
            Request::Certificates => Answer::Certificates(self.certificates.held()),
            Request::Certify { host, certificate } => {
                self.kept(move |it| it.keep(host, certificate.map(|it| *it))).await
            }
            Request::Show { host, proof } => self.kept(move |it| it.show(host, proof)).await,
            Request::End if self.state.is_idle() => {
                self.end.notify_one();
                Answer::Done
            }
            Request::End => Answer::Failed(DriverError::Transient("Apps still have members".into()).into()),
            Request::Execute { step, fence } => {
                let (control, runtime) = (self.clone(), tokio::runtime::Handle::current());
                let executed = tokio::task::spawn_blocking(move || {
                    let listen = |wanted: &_| control.listeners.serve(&control.state, &runtime, wanted);
                    control.state.execute(&step, &fence, listen)
                });
                match executed.await {
                    Ok(Ok(())) => Answer::Done,
                    Ok(Err(error)) => Answer::Failed(error.into()),
                    Err(error) => Answer::Failed(DriverError::Transient(error.to_string()).into()),
                }
            }
        }
    }

    /// Changes something about certificates, which is written to disk.
    async fn kept(&self, change: impl FnOnce(&Certificates) -> io::Result<()> + Send + 'static) -> Answer {
        let certificates = self.certificates.clone();
        match tokio::task::spawn_blocking(move || change(&certificates)).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(error)) => Answer::Failed(
                DriverError::Transient(format!("the certificate cannot be kept: {error}")).into(),
            ),
            Err(error) => Answer::Failed(DriverError::Transient(error.to_string()).into()),
        }
    }
}
