//! The router's end of the control socket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use plimsoll_driver::DriverError;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::state::State;
use crate::tcp::Listeners;
use crate::wire::{Answer, LONGEST, Request, SOCKET};

/// What a control connection works on.
pub(crate) struct Control {
    pub(crate) state: Arc<State>,
    pub(crate) listeners: Listeners,
    pub(crate) address: SocketAddr,
    pub(crate) end: Notify,
}

/// Binds the socket; whoever may use it is decided by the directory's permissions.
pub(crate) fn bind(directory: &Path) -> std::io::Result<UnixListener> {
    let path = directory.join(SOCKET);
    // Ours to remove: we hold the directory's lock.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
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
}
