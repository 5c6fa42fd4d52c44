//! Whether a program answers as its declaration says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use plimsoll_container::{Attached, Engine, EngineError, Output};
use plimsoll_model::health::{ExecProbe, Health, HttpProbe, Probe};
use plimsoll_model::id::PartName;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

/// Bytes of an answer that are read, and of a command's output that are kept.
const LARGEST: usize = 64 << 10;

/// Bytes of a complaint that are kept.
const LONGEST: usize = 400;

/// How a command is run where a program runs.
pub(crate) enum Way {
    /// By a command line that what is to be run is added to.
    Process(Vec<String>),
    /// By the engine that has this container.
    Container(Engine, String),
    /// Not now; why.
    Nowhere(String),
}

/// Probes once. The error says what was seen instead, cut to a few lines.
pub(crate) async fn once(
    health: &Health,
    endpoints: &BTreeMap<PartName, SocketAddr>,
    way: &Way,
) -> Result<(), String> {
    let at = |port: &PartName| endpoints.get(port).copied().ok_or_else(|| format!("it has no port {port}"));
    let probe = async {
        match health.probe() {
            None => Ok(()),
            Some(Probe::Http(probe)) => http(probe, at(&probe.port)?).await,
            Some(Probe::Tcp(probe)) => tcp(at(&probe.port)?).await,
            Some(Probe::Exec(probe)) => exec(probe, way).await,
        }
    };
    let limit = Duration::from_millis(health.timeout.millis);
    let answer = tokio::time::timeout(limit, probe).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {}", health.timeout))).map_err(|mut text| {
        text.truncate(text.floor_char_boundary(LONGEST));
        text
    })
}

async fn tcp(at: SocketAddr) -> Result<(), String> {
    TcpStream::connect(at).await.map(drop).map_err(|error| format!("{at}: {error}"))
}

async fn http(probe: &HttpProbe, at: SocketAddr) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("GET {} at {at}: {error}", probe.path);
    let stream = TcpStream::connect(at).await.map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    // It ends with this probe, whatever becomes of it.
    let mut background = JoinSet::new();
    background.spawn(connection);
    let request = Request::get(&probe.path)
        .header(header::HOST, at.to_string())
        .header(header::USER_AGENT, "plimsoll-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    let body = String::from_utf8_lossy(&body).trim_end().to_owned();
    if !status.is_success() {
        return Err(failed(&format!("{status} {body}")));
    }
    match &probe.body {
        Some(expected) if expected.trim_end() != body => {
            Err(failed(&format!("it answered {body:?} instead of {:?}", expected.trim_end())))
        }
        _ => Ok(()),
    }
}

async fn exec(probe: &ExecProbe, way: &Way) -> Result<(), String> {
    let name = probe.command.first().ok_or_else(|| "it has no command".to_owned())?;
    let beside = match way {
        Way::Process(beside) => beside,
        Way::Container(engine, container) => {
            return exec_in_container(engine, container, probe)
                .await
                .map_err(|error| format!("{name}: {error}"));
        }
        Way::Nowhere(why) => return Err(format!("{name}: {why}")),
    };
    let (shim, arguments) = beside.split_first().ok_or_else(|| "there is no supervisor".to_owned())?;
    let mut command = Command::new(shim);
    command.args(arguments).args(&probe.command).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let mut group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (_, _, status) =
        tokio::join!(beginning(out, &mut said), beginning(err, &mut complained), child.wait());
    let status = status.map_err(|error| format!("{name}: {error}"))?;
    // Its number is free for others from here on.
    group.0 = None;
    if status.success() {
        return Ok(());
    }
    complained.append(&mut said);
    Err(format!("{name}: {status}: {}", String::from_utf8_lossy(&complained).trim_end()))
}

async fn exec_in_container(engine: &Engine, container: &str, probe: &ExecProbe) -> Result<(), String> {
    let failed = |error: EngineError| error.to_string();
    let attached = engine.attach(container, &probe.command, false, false).await.map_err(failed)?;
    let Attached { command, mut output, input } = attached;
    let mut running = InContainer(Some(command));
    let mut said = Vec::new();
    while let Some(Output::Out(piece) | Output::Err(piece)) = output.next().await {
        let room = LARGEST.saturating_sub(said.len()).min(piece.len());
        said.extend_from_slice(&piece[..room]);
    }
    drop(input);
    let Some(command) = &running.0 else { return Ok(()) };
    let code = command.outcome().await.map_err(failed)?;
    running.0 = None;
    if code == 0 {
        return Ok(());
    }
    Err(format!("exit code {code}: {}", String::from_utf8_lossy(&said).trim_end()))
}

/// A command in a container, which ends with its probe.
struct InContainer(Option<plimsoll_container::Command>);

impl Drop for InContainer {
    fn drop(&mut self) {
        if let Some(command) = self.0.take() {
            tokio::spawn(async move { command.kill().await });
        }
    }
}

/// Keeps the beginning of an output, and lets the rest go by.
async fn beginning(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut output) = output else { return Ok(()) };
    (&mut output).take(LARGEST as u64).read_to_end(kept).await?;
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.map(drop)
}

/// A command's processes, which end with its probe.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}
