//! The control plane's end: a driver that talks to the router process, and starts it when there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_certificate::{Pair, Proof, Prover};
use plimsoll_driver::{Driver, DriverError, Fut, Marked, SecretValues, Sighting};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::{TargetName, Uid};
use plimsoll_model::kind::HeldCertificate;
use plimsoll_model::step::{Fence, Scope, Step};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::certificates::{Kept, Shown};
use crate::wire::{Answer, Request, SOCKET};

/// How long a router may take to start.
const START: Duration = Duration::from_secs(10);

/// Pause between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(15);

/// Pause between two attempts to start a router that does not come up.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Pause before another attempt when a router is there that does not answer.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// Exit code of a router that found another one in its directory.
pub const LOCKED: u8 = 75;

/// The file with what the latest router said on its way up.
const SAID: &str = "said";

/// Connections kept between calls.
const MOST_IDLE: usize = 8;

/// A router process as a driver. Clones share it.
#[derive(Clone)]
pub struct RouterDriver {
    shared: Arc<Shared>,
}

struct Shared {
    target: TargetName,
    directory: PathBuf,
    /// The command line that starts a router for this directory.
    command: Vec<String>,
    idle: std::sync::Mutex<Vec<BufReader<UnixStream>>>,
    /// When it was last started; held while it is.
    started: Mutex<Option<Instant>>,
    /// Its end is wanted.
    ending: AtomicBool,
}

impl RouterDriver {
    /// A driver for the router of a directory.
    pub fn new(target: TargetName, directory: PathBuf, command: Vec<String>) -> Self {
        let shared = Shared {
            target,
            directory,
            command,
            idle: std::sync::Mutex::default(),
            started: Mutex::new(None),
            ending: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where routes are served.
    ///
    /// # Errors
    /// When the router cannot be reached.
    pub async fn address(&self) -> Result<SocketAddr, DriverError> {
        match self.shared.ask(&Request::Address).await? {
            Answer::Address(address) => Ok(address),
            other => Err(unexpected(other)),
        }
    }

    /// Where routes are served that are encrypted.
    ///
    /// # Errors
    /// When the router cannot be reached.
    pub async fn tls_address(&self) -> Result<SocketAddr, DriverError> {
        match self.shared.ask(&Request::TlsAddress).await? {
            Answer::Address(address) => Ok(address),
            other => Err(unexpected(other)),
        }
    }

    /// Which certificates it serves hosts with.
    ///
    /// # Errors
    /// When the router cannot be reached, or is of a version that knows none.
    pub async fn certificates(&self) -> Result<BTreeMap<String, HeldCertificate>, DriverError> {
        match self.shared.ask(&Request::Certificates).await? {
            Answer::Certificates(held) => Ok(held),
            other => Err(unexpected(other)),
        }
    }

    /// Has a host served with another certificate from now on; with none, if there is none. Connections that are there go on.
    ///
    /// # Errors
    /// When the router cannot be reached, or cannot keep it.
    pub async fn certify(
        &self,
        host: &str,
        certificate: Option<(HeldCertificate, Pair)>,
    ) -> Result<(), DriverError> {
        let certificate = certificate.map(|(held, Pair { chain, key })| {
            // It leaves us for a file of the router's, which only its owner reads.
            Box::new(Kept { held, chain, key: key.expose().clone() })
        });
        self.tell(&Request::Certify { host: host.to_owned(), certificate }).await
    }

    /// Waits for Apps that are asked for and may be asleep, after what was heard before; nothing after a while without.
    ///
    /// # Errors
    /// When the router cannot be reached, or is of a version that wakes nobody.
    pub async fn woken(&self, heard: &mut u64) -> Result<BTreeSet<ObjectKey>, DriverError> {
        match self.shared.ask(&Request::Woken { heard: *heard }).await? {
            Answer::Woken { heard: now, apps } => {
                *heard = now;
                Ok(apps)
            }
            other => Err(unexpected(other)),
        }
    }

    async fn tell(&self, request: &Request) -> Result<(), DriverError> {
        match self.shared.ask(request).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Starts the router again at once whenever it ends, for as long as this is polled.
    pub async fn keep(&self) {
        while !self.shared.ending.load(Ordering::Acquire) {
            if let Ok(mut stream) = self.shared.connect().await {
                // Nothing is said on this connection: it is read to learn of its end.
                stream.read_u8().await.ok();
            }
        }
    }

    /// Ends the router if it has no traffic left; true if it does.
    ///
    /// # Errors
    /// When the router cannot be reached.
    pub async fn end(&self) -> Result<bool, DriverError> {
        self.shared.ending.store(true, Ordering::Release);
        match self.shared.ask(&Request::End).await? {
            Answer::Done => Ok(true),
            _ => Ok(false),
        }
    }
}

impl Prover for RouterDriver {
    fn show(
        &self,
        host: &str,
        proof: Option<Proof>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        let proof = proof.map(|proof| match proof {
            Proof::File { token, text } => Shown::File { token, text },
            Proof::Certificate(Pair { chain, key }) => {
                Shown::Certificate { chain, key: key.expose().clone() }
            }
        });
        let request = Request::Show { host: host.to_owned(), proof };
        Box::pin(async move { self.tell(&request).await.map_err(|error| error.to_string()) })
    }
}

fn unexpected(answer: Answer) -> DriverError {
    match answer {
        Answer::Failed(failure) => failure.into(),
        _ => DriverError::Terminal("the router answered something else".into()),
    }
}

fn transient(error: &dyn std::fmt::Display) -> DriverError {
    DriverError::Transient(format!("the router does not answer: {error}"))
}

impl Shared {
    async fn ask(&self, request: &Request) -> Result<Answer, DriverError> {
        let mut line =
            serde_json::to_vec(request).map_err(|error| DriverError::Terminal(error.to_string()))?;
        line.push(b'\n');
        let asked = tokio::time::timeout(ANSWER, async {
            // A kept connection may belong to a router that is gone.
            while let Some(mut kept) = self.kept() {
                if let Ok(answer) = exchange(&mut kept, &line).await {
                    self.keep(kept);
                    return Ok(answer);
                }
            }
            // One that was just killed takes connections until it is gone; its successor answers. Asking twice is safe:
            // every request is idempotent.
            let mut new = BufReader::new(self.connect().await?);
            let mut answer = exchange(&mut new, &line).await;
            if answer.is_err() {
                new = BufReader::new(self.connect().await?);
                answer = exchange(&mut new, &line).await;
            }
            let answer = answer.map_err(|error| transient(&error))?;
            self.keep(new);
            Ok(answer)
        });
        asked.await.unwrap_or_else(|_| Err(transient(&"it takes too long")))
    }

    fn kept(&self) -> Option<BufReader<UnixStream>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
    }

    fn keep(&self, connection: BufReader<UnixStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<UnixStream, DriverError> {
        let socket = self.directory.join(SOCKET);
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(stream);
        }
        let mut started = self.started.lock().await;
        // Somebody else may have started it while this one waited.
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(stream);
        }
        if let Some(at) = *started {
            tokio::time::sleep(START_PAUSE.saturating_sub(at.elapsed())).await;
        }
        *started = Some(Instant::now());
        let give_up = Instant::now() + START;
        let mut child = self.start()?;
        loop {
            let has_ended = child.is_finished();
            match UnixStream::connect(&socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= give_up => return Err(transient(&error)),
                Err(_) if !has_ended => tokio::time::sleep(LOOK).await,
                Err(_) if child.join().is_ok_and(|code| code == Some(i32::from(LOCKED))) => {
                    // Another one is just starting, or just ending.
                    tokio::time::sleep(LOCKED_PAUSE).await;
                    child = self.start()?;
                }
                Err(_) => return Err(transient(&self.last_words())),
            }
        }
    }

    /// What a router said that ended at its start.
    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.directory.join(SAID)).unwrap_or_default();
        let line = said.lines().last().unwrap_or("it has ended");
        line.trim_start_matches("error: ").to_owned()
    }

    /// Starts a router; the thread lasts as long as it does. If one runs already, the new one finds its lock taken and ends.
    fn start(&self) -> Result<JoinHandle<Option<i32>>, DriverError> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| DriverError::Terminal("no router is set up".into()))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| transient(&error))?;
        let said = File::create(self.directory.join(SAID)).map_err(|error| transient(&error))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let mut child = command.spawn().map_err(|error| transient(&error))?;
        Ok(std::thread::spawn(move || child.wait().ok()?.code()))
    }
}

async fn exchange(connection: &mut BufReader<UnixStream>, line: &[u8]) -> std::io::Result<Answer> {
    connection.write_all(line).await?;
    let mut answer = Vec::new();
    connection.read_until(b'\n', &mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

impl Driver for RouterDriver {
    fn scope(&self) -> Scope {
        Scope::Router(self.shared.target.clone())
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move {
            match self.shared.ask(&Request::Observe(app.clone())).await? {
                Answer::View(view) => Ok(Sighting::Router(view)),
                other => Err(unexpected(other)),
            }
        })
    }

    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>> {
        // Members are found through their App; a router holds no instances of its own.
        Box::pin(async move { Ok(Vec::new()) })
    }

    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        _: &'a SecretValues,
    ) -> Fut<'a, Result<(), DriverError>> {
        Box::pin(async move {
            let request = Request::Execute { step: Box::new(step.clone()), fence: fence.clone() };
            match self.shared.ask(&request).await? {
                Answer::Done => Ok(()),
                other => Err(unexpected(other)),
            }
        })
    }
}
