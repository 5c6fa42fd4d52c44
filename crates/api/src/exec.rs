//! A command beside a copy's program, over a WebSocket.
//!
//! Messages are those of Kubernetes (`v5.channel.k8s.io`): binary, the first byte says the channel.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::SinkExt as _;
use futures::stream::{SplitSink, SplitStream, StreamExt as _};
use plimsoll_agent::Beside;
use plimsoll_container::{Attached, Command as InContainer, Output};
use plimsoll_model::access::Verb;
use plimsoll_model::id::{ComponentName, InstanceId, ObjectName, ProjectName};
use plimsoll_model::status::{InstanceState, InstanceStatus};
use plimsoll_model::{App, ObjectKey};
use plimsoll_server::{Caller, Server};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::derived::INSTANCES;
use crate::limit::Limits;
use crate::listen::{Ending, until_end};
use crate::problem::Problem;
use crate::request::{Asked, At};

/// Bytes of output that are sent at once.
const PIECE: usize = 32 << 10;

/// Pieces that wait at most.
const WAITING: usize = 16;

/// How long the output of a terminal may still come after its command has ended.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How often is asked whether whoever runs a command still may.
const RENEWAL: Duration = Duration::from_secs(30);

/// Bytes of the largest message from a client.
const LARGEST: usize = 1 << 20;

/// What a message is about: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// Standard input.
    In = 0,
    /// Standard output, and both outputs of a terminal.
    Out = 1,
    /// Standard error.
    Err = 2,
    /// How it ended: an [`ExecEnd`] as JSON.
    Ended = 3,
    /// The size of the terminal: `{"Width": 80, "Height": 24}`.
    Size = 4,
    /// The end of the channel that the next byte names.
    Close = 255,
}

impl Channel {
    /// The name of this form of messages.
    pub const PROTOCOL: &'static str = "v5.channel.k8s.io";

    /// A message.
    pub fn message(self, content: &[u8]) -> Vec<u8> {
        [&[self as u8], content].concat()
    }

    /// The channel of a message, and its content.
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = message.split_first()?;
        let all = [Self::In, Self::Out, Self::Err, Self::Ended, Self::Size, Self::Close];
        all.into_iter().find(|it| *it as u8 == *first).map(|it| (it, rest))
    }
}

/// How a command ended, as Kubernetes says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cause {
    reason: String,
    message: String,
}

impl ExecEnd {
    fn of(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        // As shells say it: 128 and the signal.
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Self::with(code.into(), &status)
    }

    fn with(code: i64, said: &dyn std::fmt::Display) -> Self {
        if code == 0 {
            return Self { status: "Success".into(), message: None, details: None };
        }
        let cause = Cause { reason: "ExitCode".into(), message: code.to_string() };
        let details = Some(Details { causes: vec![cause] });
        Self { status: "Failure".into(), message: Some(format!("the command ended with {said}")), details }
    }

    fn failed(message: String) -> Self {
        Self { status: "Failure".into(), message: Some(message), details: None }
    }

    /// The exit code, or why there is none.
    ///
    /// # Errors
    /// What kept the command from running to its end.
    pub fn code(self) -> Result<u8, String> {
        if self.status == "Success" {
            return Ok(0);
        }
        let causes = self.details.into_iter().flat_map(|it| it.causes);
        let code = causes.filter(|it| it.reason == "ExitCode").find_map(|it| it.message.parse().ok());
        code.ok_or_else(|| self.message.unwrap_or_else(|| "the command failed".into()))
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExecQuery {
    /// The command line, as a JSON list.
    #[serde(default)]
    command: String,
    component: Option<ComponentName>,
    instance: Option<InstanceId>,
    #[serde(default)]
    stdin: bool,
    #[serde(default)]
    tty: bool,
}

pub(crate) async fn exec(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, name)): At<(ProjectName, ObjectName)>,
    Asked(query): Asked<ExecQuery>,
    (Extension(limits), Extension(ending)): (Extension<Limits>, Extension<Ending>),
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let scope = caller.within(server.store(), &project, Verb::Write).await?;
    let argv: Vec<String> = serde_json::from_str(&query.command)
        .map_err(|error| Problem::bad(format!("command is no JSON list of texts: {error}")))?;
    if argv.is_empty() {
        return Err(Problem::bad("command is empty"));
    }
    let key = ObjectKey::in_project(project, name);
    let app = server.store().get::<App>(&scope, &key).await?;
    let app = app.ok_or_else(|| Problem::not_found(format!("app {key}")))?;
    let copies = app.status.iter().flat_map(|status| &status.value.components);
    let wanted = copies.filter(|(name, _)| query.component.as_ref().is_none_or(|it| it == *name));
    let mut copies: Vec<_> = wanted.flat_map(|(_, component)| &component.instances).collect();
    let is_meant = |copy: &InstanceStatus| match &query.instance {
        Some(instance) => *instance == copy.id,
        None => copy.hook.is_none(),
    };
    copies.retain(|copy| is_meant(copy));
    // One that is ready, if there is a choice.
    copies.sort_by_key(|copy| copy.state != InstanceState::Ready);
    let copy = copies.first().ok_or_else(|| Problem::not_found(format!("such copy of app {key}")))?;
    let command = server.beside(&copy.id, &argv, query.tty);
    let command = command.ok_or_else(|| Problem::not_found(format!("instance {} here", copy.id)))?;
    let upgrade = upgrade.map_err(|error| Problem::bad(error.body_text()))?;
    let streaming = limits.stream(caller.user())?;
    server
        .note_exec(&caller, INSTANCES, &key.sibling(copy.id.as_str().parse().map_err(Problem::bad)?))
        .await?;
    let permission = Permission { server, caller, project: key.project.clone() };
    let upgrade = upgrade.protocols([Channel::PROTOCOL]).max_message_size(LARGEST);
    Ok(upgrade.on_upgrade(async move |socket| {
        let _streaming = streaming;
        run(socket, command, &query, &permission, ending).await;
    }))
}

/// Whoever runs a command, and where.
struct Permission {
    server: Arc<Server>,
    caller: Caller,
    project: Option<ProjectName>,
}

impl Permission {
    /// Whether they still may.
    async fn is_good(&self) -> bool {
        let store = self.server.store();
        let Ok(Some(now)) = self.caller.renewed(store, self.server.now()).await else { return false };
        match &self.project {
            Some(project) => now.within(store, project, Verb::Write).await.is_ok(),
            None => false,
        }
    }
}

/// The output and the input of a running command.
struct Running {
    what: Started,
    input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    said: mpsc::Receiver<Vec<u8>>,
}

/// A running command.
enum Started {
    Process {
        child: Child,
        terminal: Option<OwnedFd>,
        ended: Option<std::io::Result<std::process::ExitStatus>>,
    },
    Container(InContainer),
}

impl Started {
    /// Its end, where its terminal may be kept open by what it left behind: then nobody else would tell.
    async fn ended_early(&mut self) {
        match self {
            Self::Process { child, terminal: Some(_), ended } => *ended = Some(child.wait().await),
            _ => std::future::pending().await,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Process { ended: Some(_), .. })
    }

    /// How it ended, once nothing more is said.
    async fn outcome(self) -> ExecEnd {
        match self {
            Self::Process { ended: Some(ended), .. } => said_of(ended),
            Self::Process { mut child, .. } => said_of(child.wait().await),
            Self::Container(command) => match command.outcome().await {
                Ok(code) => ExecEnd::with(code, &format!("exit code {code}")),
                Err(error) => ExecEnd::failed(error.to_string()),
            },
        }
    }

    /// A handle on its terminal's size.
    fn terminal(&self, has_terminal: bool) -> Option<Terminal> {
        match self {
            Self::Process { terminal, .. } => terminal.as_ref()?.try_clone().ok().map(Terminal::Node),
            Self::Container(command) => has_terminal.then(|| Terminal::Container(command.clone())),
        }
    }

    /// Ends it, as with a terminal that is closed.
    async fn end(self) {
        match self {
            Self::Process { mut child, .. } => {
                if let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                    kill_process_group(group, Signal::HUP).ok();
                    kill_process_group(group, Signal::KILL).ok();
                }
                // It may not have a group of its own yet.
                child.start_kill().ok();
                child.wait().await.ok();
            }
            Self::Container(command) => command.kill().await,
        }
    }
}

/// A terminal whose size may change.
enum Terminal {
    Node(OwnedFd),
    Container(InContainer),
}

impl Terminal {
    async fn resize(&self, text: &[u8]) {
        let Ok(size) = serde_json::from_slice::<Size>(text) else { return };
        match self {
            Self::Node(terminal) => {
                let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
                // A terminal without its program needs no size.
                tcsetwinsize(terminal, size).ok();
            }
            Self::Container(command) => command.resize(size.width, size.height).await,
        }
    }
}

async fn start(command: Beside, query: &ExecQuery) -> Result<Running, String> {
    match command {
        Beside::Process(command) => start_process(command.into(), query).map_err(|error| error.to_string()),
        Beside::Container { engine, container, argv } => {
            let attached = engine.attach(&container, &argv, query.stdin, query.tty).await;
            let Attached { command, mut output, input } = attached.map_err(|error| error.to_string())?;
            let (pieces, said) = mpsc::channel(WAITING);
            tokio::spawn(async move {
                while let Some(piece) = output.next().await {
                    let message = match piece {
                        Output::Out(text) => Channel::Out.message(&text),
                        Output::Err(text) => Channel::Err.message(&text),
                    };
                    if pieces.send(message).await.is_err() {
                        return;
                    }
                }
            });
            let input = query.stdin.then(|| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>);
            Ok(Running { what: Started::Container(command), input, said })
        }
    }
}

fn start_process(mut command: Command, query: &ExecQuery) -> std::io::Result<Running> {
    command.kill_on_drop(true);
    let (pieces, said) = mpsc::channel(WAITING);
    if !query.tty {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if query.stdin { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn()?;
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(pass_on(Channel::Out, Box::new(out), pieces.clone()));
            tokio::spawn(pass_on(Channel::Err, Box::new(err), pieces));
        }
        let input = child.stdin.take().map(|it| Box::new(it) as Box<dyn AsyncWrite + Send + Unpin>);
        return Ok(Running { what: Started::Process { child, terminal: None, ended: None }, input, said });
    }
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    // Not the server's own terminal, which would end it: that of the command, once it has a session.
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
    let theirs = options.open(name.to_string_lossy().as_ref())?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    let child = command.spawn()?;
    // Its copies of the far side must go, or ours would never see the end.
    drop(command);
    let output = tokio::fs::File::from_std(ours.try_clone()?.into());
    let input = tokio::fs::File::from_std(ours.try_clone()?.into());
    tokio::spawn(pass_on(Channel::Out, Box::new(output), pieces));
    Ok(Running {
        what: Started::Process { child, terminal: Some(ours), ended: None },
        input: Some(Box::new(input)),
        said,
    })
}

/// Carries a command to its end, or to that of its client.
async fn run(
    socket: WebSocket,
    command: Beside,
    query: &ExecQuery,
    permission: &Permission,
    mut ending: Ending,
) {
    let (mut to, from) = socket.split();
    let Running { mut what, input, mut said } = match start(command, query).await {
        Ok(running) => running,
        Err(error) => return end(&mut to, &ExecEnd::failed(format!("it cannot be started: {error}"))).await,
    };
    // Both ways go on whatever the other one waits for.
    let mut heard = std::pin::pin!(hear(from, input, what.terminal(query.tty)));
    let mut silent = Instant::now();
    let mut renewals = tokio::time::interval(RENEWAL);
    loop {
        let has_ended = what.has_ended();
        tokio::select! {
            piece = said.recv() => {
                let Some(piece) = piece else {
                    // Nothing more is said; what is left is how it ended.
                    return end(&mut to, &what.outcome().await).await;
                };
                silent = Instant::now();
                if to.send(Message::Binary(piece.into())).await.is_err() {
                    break;
                }
            }
            () = what.ended_early(), if !has_ended => {}
            () = tokio::time::sleep_until(silent + LAST_WORDS), if has_ended => {
                return end(&mut to, &what.outcome().await).await;
            }
            () = &mut heard => break,
            _ = renewals.tick() => {
                // Whoever may not any more ends here, and a client that is gone shows itself.
                let is_gone = to.send(Message::Ping(Bytes::new())).await.is_err();
                if is_gone || !permission.is_good().await {
                    break;
                }
            }
            () = until_end(&mut ending) => break,
        }
    }
    // Nobody hears it any more.
    what.end().await;
}

/// Passes on what the client sends, until it goes away.
async fn hear(
    mut from: SplitStream<WebSocket>,
    mut input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    terminal: Option<Terminal>,
) {
    while let Some(Ok(message)) = from.next().await {
        let Message::Binary(bytes) = message else { continue };
        match Channel::split(&bytes) {
            Some((Channel::In, text)) => {
                if let Some(pipe) = &mut input {
                    // A program that reads no more has said enough by that.
                    if pipe.write_all(text).await.is_err() || pipe.flush().await.is_err() {
                        close(&mut input).await;
                    }
                }
            }
            Some((Channel::Close, [0])) if terminal.is_none() => close(&mut input).await,
            Some((Channel::Size, text)) => {
                if let Some(terminal) = &terminal {
                    terminal.resize(text).await;
                }
            }
            _ => {}
        }
    }
}

/// Ends an input: an engine hears of it only if it is told.
async fn close(input: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    if let Some(mut input) = input.take() {
        input.shutdown().await.ok();
    }
}

async fn pass_on(
    channel: Channel,
    mut output: Box<dyn AsyncRead + Send + Unpin>,
    pieces: mpsc::Sender<Vec<u8>>,
) {
    let mut piece = vec![0; PIECE];
    // The far side of a terminal that is closed is an error, and the end.
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        if pieces.send(channel.message(&piece[..length])).await.is_err() {
            return;
        }
    }
}

fn said_of(ended: std::io::Result<std::process::ExitStatus>) -> ExecEnd {
    ended.map_or_else(|error| ExecEnd::failed(error.to_string()), ExecEnd::of)
}

async fn end(to: &mut SplitSink<WebSocket, Message>, end: &ExecEnd) {
    let text = serde_json::to_vec(end).unwrap_or_default();
    // Whoever has gone away needs not be told.
    to.send(Message::Binary(Channel::Ended.message(&text).into())).await.ok();
    to.close().await.ok();
}
