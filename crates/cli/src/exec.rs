//! `plimsoll exec` and `plimsoll cp`: a command beside a copy's program, over a WebSocket as Kubernetes speaks it.
//!
//! Binary messages begin with the number of a channel (`v5.channel.k8s.io`): 0 standard input, 1 standard output, 2 standard
//! error, 3 how it ended, 4 the size of the terminal, 255 the end of a channel.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{Sink, SinkExt as _, StreamExt as _};
use plimsoll_api::{Channel, ExecEnd};
use plimsoll_model::id::{ComponentName, InstanceId, ObjectName};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::Ended;
use crate::client::Client;
use crate::follow::talk;
use crate::get::encoded;
use crate::place::Where;

/// Bytes of input that are sent at once.
const PIECE: usize = 32 << 10;

/// Pieces of input that wait at most.
const WAITING: usize = 16;

/// Run a command beside the program of a copy: as its user, in its directory, with its environment and its network
#[derive(Args)]
pub(crate) struct Exec {
    /// The App
    app: ObjectName,
    /// A copy of this component [default: of any]
    #[arg(short, long)]
    component: Option<ComponentName>,
    /// This copy [default: one that is ready]
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<InstanceId>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    #[command(flatten)]
    place: Where,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        if self.tty && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            bail!("--tty needs a terminal here: leave it out");
        }
        let session = Session {
            app: self.app,
            component: self.component,
            instance: self.instance,
            terminal: self.tty,
            command: self.command,
        };
        let _raw = if self.tty { Some(Raw::begin()?) } else { None };
        let input: Option<Box<dyn Read + Send>> =
            if self.stdin || self.tty { Some(Box::new(std::io::stdin())) } else { None };
        let client = self.place.client()?;
        match session.run(&client, &self.place, input, &mut std::io::stdout())? {
            0 => Ok(Ended::Done),
            code => Ok(Ended::Code(code)),
        }
    }
}

/// Copy files from and to a copy's directory, by its machine's `tar`
#[derive(Args)]
pub(crate) struct Cp {
    /// `APP:PATH`, `INSTANCE@APP:PATH`, or a path here
    from: String,
    /// The same, where the other one is not: a directory
    to: String,
    #[command(flatten)]
    place: Where,
}

/// One end of a copy.
enum End<'a> {
    Here(&'a Path),
    There { instance: Option<InstanceId>, app: ObjectName, path: &'a str },
}

impl<'a> End<'a> {
    fn parse(text: &'a str) -> anyhow::Result<Self> {
        let Some((of, path)) = text.split_once(':').filter(|(of, _)| !of.contains('/')) else {
            return Ok(Self::Here(Path::new(text)));
        };
        let (instance, app) = of.split_once('@').map_or((None, of), |(instance, app)| (Some(instance), app));
        Ok(Self::There { instance: instance.map(str::parse).transpose()?, app: app.parse()?, path })
    }
}

impl Cp {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        match (End::parse(&self.from)?, End::parse(&self.to)?) {
            (End::There { instance, app, path }, End::Here(to)) => {
                if path.is_empty() {
                    bail!("say which file: {app}:PATH");
                }
                let mut tar =
                    Command::new("tar").args(["-xf", "-", "-C"]).arg(to).stdin(Stdio::piped()).spawn()?;
                let mut sink = tar.stdin.take().context("tar takes no input")?;
                let (above, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or((".", path));
                let above = if above.is_empty() { "/" } else { above };
                let command = ["tar", "-cf", "-", "-C", above, "--", name].map(str::to_owned);
                let session = Session::of(app, instance, &command);
                let code = session.run(&client, &self.place, None, &mut sink)?;
                drop(sink);
                let status = tar.wait()?;
                if code != 0 || !status.success() {
                    bail!("not everything was copied");
                }
            }
            (End::Here(from), End::There { instance, app, path }) => {
                let name = from.file_name().context("say which file: the path has no name")?;
                let above = from.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let mut tar = Command::new("tar");
                tar.args(["-cf", "-", "-C"]).arg(above).arg("--").arg(name);
                let mut tar = tar.stdout(Stdio::piped()).spawn()?;
                let source = tar.stdout.take().context("tar gives no output")?;
                let to = if path.is_empty() { "." } else { path };
                let command = ["tar", "-xf", "-", "-C", to].map(str::to_owned);
                let session = Session::of(app, instance, &command);
                let code = session.run(&client, &self.place, Some(Box::new(source)), &mut std::io::sink())?;
                let status = tar.wait()?;
                if code != 0 || !status.success() {
                    bail!("not everything was copied");
                }
            }
            _ => bail!("one of the two is APP:PATH, and the other one a path here"),
        }
        talk("copied");
        Ok(Ended::Done)
    }
}

/// One command.
struct Session {
    app: ObjectName,
    component: Option<ComponentName>,
    instance: Option<InstanceId>,
    terminal: bool,
    command: Vec<String>,
}

impl Session {
    fn of(app: ObjectName, instance: Option<InstanceId>, command: &[String]) -> Self {
        Self { app, component: None, instance, terminal: false, command: command.to_vec() }
    }

    /// Runs it to its end and returns its exit code.
    fn run(
        &self,
        client: &Client,
        place: &Where,
        input: Option<Box<dyn Read + Send>>,
        out: &mut dyn Write,
    ) -> anyhow::Result<u8> {
        let command = serde_json::to_string(&self.command)?;
        let mut query =
            format!("command={}&stdin={}&tty={}", encoded(&command), input.is_some(), self.terminal);
        let component = self.component.iter().map(|it| format!("&component={it}"));
        let instance = self.instance.iter().map(|it| format!("&instance={it}"));
        query.extend(component.chain(instance));
        let path = format!("{}/exec?{query}", client.path_of_app(&place.app(&self.app)));
        client.transport.block_on(self.talk(client, &path, input, out))
    }

    async fn talk(
        &self,
        client: &Client,
        path: &str,
        input: Option<Box<dyn Read + Send>>,
        out: &mut dyn Write,
    ) -> anyhow::Result<u8> {
        let mut request = format!("ws://plimsoll/{path}").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("authorization", client.bearer().parse()?);
        headers.insert("sec-websocket-protocol", Channel::PROTOCOL.parse()?);
        let stream = client.transport.connect().await?;
        let socket = match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                let (head, body) = answer.into_parts();
                let answer = hyper::Response::from_parts(head, body.unwrap_or_default().into());
                crate::client::answer(&answer)?;
                bail!("the server does not let commands be run");
            }
            Err(error) => return Err(error.into()),
        };
        let (to, mut from) = socket.split();
        // Both ways go on whatever the other one waits for: a program that answers while it is still being told more
        // would otherwise wait for ever.
        let mut said = std::pin::pin!(self.say(to, input));
        loop {
            tokio::select! {
                message = from.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => match Channel::split(&bytes) {
                        Some((Channel::Out, text)) => {
                            out.write_all(text)?;
                            out.flush()?;
                        }
                        Some((Channel::Err, text)) => std::io::stderr().write_all(text)?,
                        Some((Channel::Ended, text)) => {
                            let end: ExecEnd = serde_json::from_slice(text)?;
                            return end.code().map_err(anyhow::Error::msg);
                        }
                        _ => {}
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_)) | None => bail!("the connection ended before the command did"),
                    Some(Err(error)) => return Err(error.into()),
                },
                Err(error) = &mut said => return Err(error),
            }
        }
    }

    /// Sends what is typed, and how large the terminal is, for as long as it is polled.
    async fn say(
        &self,
        mut to: impl Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
        input: Option<Box<dyn Read + Send>>,
    ) -> anyhow::Result<()> {
        let mut typed = input.map(reader);
        let mut resized = signal(SignalKind::window_change())?;
        if self.terminal {
            to.send(size()).await?;
        }
        loop {
            tokio::select! {
                piece = next(&mut typed) => {
                    let message = if let Some(piece) = piece {
                        Channel::In.message(&piece)
                    } else {
                        typed = None;
                        Channel::Close.message(&[Channel::In as u8])
                    };
                    to.send(message.into()).await?;
                }
                _ = resized.recv(), if self.terminal => to.send(size()).await?,
            }
        }
    }
}

/// The next piece of input; waits for ever where there is none.
async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads on a thread of its own, which the end of the process ends.
fn reader(mut input: Box<dyn Read + Send>) -> mpsc::Receiver<Vec<u8>> {
    let (pieces, read) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = input.read(&mut piece) {
            if pieces.blocking_send(piece[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    read
}

/// How large the terminal is.
fn size() -> Message {
    let size = tcgetwinsize(std::io::stdout()).map_or((80, 24), |it| (it.ws_col, it.ws_row));
    let text = serde_json::json!({"Width": size.0, "Height": size.1}).to_string();
    Channel::Size.message(text.as_bytes()).into()
}

/// A terminal that passes on every key; it is as before when this is dropped.
struct Raw {
    terminal: File,
    before: Termios,
}

impl Raw {
    fn begin() -> anyhow::Result<Self> {
        let terminal =
            File::options().read(true).write(true).open("/dev/tty").context("there is no terminal")?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back.
        tcsetattr(&self.terminal, OptionalActions::Now, &self.before).ok();
    }
}
