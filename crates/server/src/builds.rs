//! Who builds sources here: the local node's engines, from what git fetches or people have uploaded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_agent::Agent;
use plimsoll_build::git::Login;
use plimsoll_build::{ArchiveError, Context, Fetch, GitError, Limits, PackError, Packer, archive, recipe};
use plimsoll_container::{BuildError, Building, Engine};
use plimsoll_engine::Fut;
use plimsoll_model::id::{CommitId, Digest, KeyName, ObjectName, ProjectName};
use plimsoll_model::kind::BuildFault;
use plimsoll_model::revision::Listing;
use plimsoll_model::secret::Sensitive;
use plimsoll_model::source::{Source, is_dockerfile};
use plimsoll_model::words::in_words;
use plimsoll_model::{ObjectKey, Secret};
use plimsoll_reconcile::{Builder, Opener, Order, Unbuilt};
use plimsoll_store::{Scope, Store};

/// Bytes of a log that are kept.
const LONGEST_LOG: u64 = 8 << 20;

/// Lines of a log that a failure tells.
const LAST_LINES: usize = 20;

/// Bytes of a line that has no end yet; half of them are kept when there are more.
const LONGEST_LINE: usize = 8 << 10;

/// Bytes of the largest listing of a tree.
const LARGEST_LISTING: u64 = 64 << 20;

/// The keys of a Secret that opens a repository, as Kubernetes names them.
const USER: &str = "username";
const PASSWORD: &str = "password";
const SSH_KEY: &str = "ssh-privatekey";
const KNOWN_HOSTS: &str = "known_hosts";

/// Builders of the local node.
pub(crate) struct Builders {
    pub(crate) store: Store,
    pub(crate) opener: Arc<dyn Opener>,
    pub(crate) agent: Option<Agent>,
    /// Where uploaded content lies.
    pub(crate) content: PathBuf,
    /// Where logs are kept.
    pub(crate) logs: PathBuf,
}

/// Where the log of a build lies.
pub(crate) fn log_of(logs: &Path, project: &ProjectName, build: &ObjectName) -> PathBuf {
    logs.join(format!("{project}.{build}.log"))
}

/// What a build says: in a file for people, the last of it for the record.
struct Words {
    file: File,
    written: u64,
    last: VecDeque<String>,
    line: String,
}

impl Words {
    fn begin(path: &Path) -> io::Result<Self> {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above)?;
        }
        // Whoever follows the one before has it open.
        std::fs::remove_file(path).ok();
        Ok(Self { file: File::create_new(path)?, written: 0, last: VecDeque::new(), line: String::new() })
    }

    fn say(&mut self, text: &str) {
        if self.written < LONGEST_LOG {
            // A disk that is full keeps nobody from building.
            self.file.write_all(text.as_bytes()).ok();
            self.written += text.len() as u64;
        }
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if piece.ends_with('\n') {
                self.end_line();
            } else if self.line.len() > LONGEST_LINE {
                // Nobody says that a line ever ends.
                let from = self.line.ceil_char_boundary(self.line.len() - LONGEST_LINE / 2);
                self.line.drain(..from);
            }
        }
    }

    fn end_line(&mut self) {
        let line = self.line.trim_end();
        let line = line.rsplit('\r').next().unwrap_or(line);
        let line: String = line.chars().take(1000).collect();
        self.line.clear();
        if !line.is_empty() {
            self.last.push_back(line);
            if self.last.len() > LAST_LINES {
                self.last.pop_front();
            }
        }
    }

    fn line(&mut self, text: &str) {
        self.say(&format!("{text}\n"));
    }
}

/// A failure, before its log is known.
struct Cause {
    why: String,
    fault: BuildFault,
}

impl Cause {
    fn source(why: impl Into<String>) -> Self {
        Self { why: why.into(), fault: BuildFault::Source }
    }

    fn around(why: impl Into<String>) -> Self {
        Self { why: why.into(), fault: BuildFault::Surroundings }
    }

    fn unlogged(self) -> Unbuilt {
        Unbuilt { why: self.why, fault: self.fault, log: Vec::new() }
    }
}

impl From<PackError> for Cause {
    fn from(error: PackError) -> Self {
        let fault =
            if matches!(error, PackError::Io(_)) { BuildFault::Surroundings } else { BuildFault::Source };
        Self { why: in_words(&error), fault }
    }
}

impl From<ArchiveError> for Cause {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Pack(error) => error.into(),
            error => Self::source(error.to_string()),
        }
    }
}

impl From<GitError> for Cause {
    fn from(error: GitError) -> Self {
        let fault = if error.is_final() { BuildFault::Source } else { BuildFault::Surroundings };
        Self { why: in_words(&error), fault }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::around(in_words(&error))
    }
}

impl Builders {
    fn engine(&self, order: &Order) -> Result<Engine, Cause> {
        let agent =
            self.agent.as_ref().ok_or_else(|| Cause::around("there is no node here that could build it"))?;
        agent.engine(order.engine.as_ref()).map_err(|error| Cause::around(error.to_string()))
    }

    /// What opens an order's repository, if it names a Secret.
    async fn login(&self, order: &Order) -> Result<Option<Login>, Cause> {
        let Some(name) = &order.source.secret else { return Ok(None) };
        let key = ObjectKey::in_project(order.project.clone(), name.clone());
        let secret = self.store.get::<Secret>(&Scope::All, &key).await;
        let secret = secret.map_err(|error| Cause::around(error.to_string()))?;
        let secret = secret.ok_or_else(|| Cause::source(format!("there is no Secret {name}")))?;
        let part = |key: &str| -> Option<Sensitive<String>> {
            let key: KeyName = key.parse().ok()?;
            self.opener.open(secret.spec.data.get(&key)?)
        };
        if let Some(key) = part(SSH_KEY) {
            let known_hosts = part(KNOWN_HOSTS).ok_or_else(|| {
                Cause::source(format!("Secret {name} has no {KNOWN_HOSTS}, so nobody knows whom to trust"))
            })?;
            return Ok(Some(Login::Key { key, known_hosts: known_hosts.expose().clone() }));
        }
        let password = part(PASSWORD)
            .ok_or_else(|| Cause::source(format!("Secret {name} has neither {PASSWORD} nor {SSH_KEY}")))?;
        // Forges do not care who shows a token.
        let user = part(USER).map_or_else(|| "git".to_owned(), |user| user.expose().clone());
        Ok(Some(Login::Password { user, password }))
    }

    async fn fetch(&self, order: &Order) -> Result<Option<Fetch>, Cause> {
        let Some(address) = &order.source.git else { return Ok(None) };
        Ok(Some(Fetch::new(address, self.login(order).await?.as_ref())?))
    }

    async fn found(&self, order: &Order) -> Result<Option<CommitId>, Cause> {
        match self.fetch(order).await? {
            Some(fetch) => Ok(Some(fetch.commit(order.source.reference.as_deref()).await?)),
            None => Ok(None),
        }
    }

    /// Everything that a build of an order sees.
    async fn context(&self, order: &Order, commit: Option<&CommitId>) -> Result<Context, Cause> {
        let (source, content) = (order.source.clone(), self.content.clone());
        let fetched = match (self.fetch(order).await?, commit) {
            (Some(fetch), Some(commit)) => Some(fetch.archive(commit).await?),
            _ => None,
        };
        let packed = tokio::task::spawn_blocking(move || pack(&source, fetched, &content));
        packed.await.map_err(io::Error::other)?
    }

    async fn built(
        &self,
        order: &Order,
        commit: Option<&CommitId>,
        words: &mut Words,
    ) -> Result<Digest, Cause> {
        let (source, engine) = (&order.source, self.engine(order)?);
        match commit {
            Some(commit) => words.line(&format!("fetching {source}, commit {commit}")),
            None => words.line(&format!("reading {source}")),
        }
        let mut context = self.context(order, commit).await?;
        let (dockerfile, written, base) = match &source.dockerfile {
            Some(dockerfile) => (dockerfile.clone(), None, None),
            None if source.language.is_none() && context.root.names.contains(DOCKERFILE) => {
                (DOCKERFILE.to_owned(), None, None)
            }
            None => {
                let recipe = recipe::write(&context.root, source.language, source.base.as_ref());
                let recipe = recipe.map_err(|error| Cause::source(error.to_string()))?;
                let base = engine.image_id(&recipe.base.tagged()).await;
                let base = base.map_err(|error| Cause::around(error.to_string()))?;
                words.line(&recipe.dockerfile);
                (recipe::NAME.to_owned(), Some(recipe.dockerfile), base)
            }
        };
        let text = match &written {
            Some(_) if context.root.names.contains(recipe::NAME) => {
                return Err(Cause::source(format!(
                    "{} is a name of ours: call that file otherwise",
                    recipe::NAME
                )));
            }
            Some(text) => text.clone(),
            None if !is_dockerfile(&dockerfile) => {
                return Err(Cause::source(format!("{dockerfile:?} cannot be the name of a Dockerfile")));
            }
            None => context.text(&dockerfile)?,
        };
        plimsoll_build::dockerfile::check(&text).map_err(|refused| Cause::source(refused.to_string()))?;
        // The same source, on the same base, by the same recipe, is the same image.
        let key = Digest::of_json(&(commit, source.digest, &source.directory, &dockerfile, &written, base))
            .to_string();
        let repository = source
            .image()
            .repository()
            .to_string()
            .replace("localhost/plimsoll/", &format!("localhost/plimsoll/{}/", order.project));
        let name = format!("{repository}:{}", &key[..16]);
        let known = engine.image_id(&name).await.map_err(|error| Cause::around(error.to_string()))?;
        if let Some(known) = known {
            words.line("the engine has built it before");
            return Ok(known);
        }
        let context = match &written {
            Some(text) => context.with_file(recipe::NAME, text)?,
            None => context,
        };
        let building = Building { context: context.tar, dockerfile, name };
        engine.build(building, |text| words.say(text)).await.map_err(|error| match error {
            BuildError::Failed(_) | BuildError::TooLong(_) => Cause::source(error.to_string()),
            BuildError::Engine(error) => Cause::around(error.to_string()),
        })
    }
}

/// The file that says how a source is built, where nobody names another one.
const DOCKERFILE: &str = "Dockerfile";

/// Takes a source's files into a context.
fn pack(source: &Source, fetched: Option<File>, content: &Path) -> Result<Context, Cause> {
    let directory = source.directory.as_deref();
    if let Some(files) = fetched {
        return Ok(archive::read(files, directory, Limits::USUAL)?);
    }
    let open = |digest: Digest| match File::open(content.join(digest.to_string())) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Cause::source("its content is not here any more: apply the file again"))
        }
        Err(error) => Err(error.into()),
    };
    let digest = source.digest.ok_or_else(|| Cause::source("its content was not uploaded"))?;
    if source.archive.is_some() {
        return Ok(archive::read(open(digest)?, directory, Limits::USUAL)?);
    }
    let mut text = Vec::new();
    open(digest)?.take(LARGEST_LISTING).read_to_end(&mut text)?;
    let listing: Listing = serde_json::from_slice(&text)
        .map_err(|error| Cause::source(format!("its content is no listing of a tree: {error}")))?;
    let mut packer = Packer::new(directory, Limits::USUAL)?;
    for (path, file) in listing.files {
        packer.file(&path, file.executable, open(file.digest)?)?;
    }
    Ok(packer.finish()?)
}

impl Builder for Builders {
    fn find<'a>(&'a self, order: &'a Order) -> Fut<'a, Result<Option<CommitId>, Unbuilt>> {
        Box::pin(async move { self.found(order).await.map_err(Cause::unlogged) })
    }

    fn has<'a>(&'a self, order: &'a Order, image: Digest) -> Fut<'a, Result<bool, Unbuilt>> {
        Box::pin(async move {
            let engine = self.engine(order).map_err(Cause::unlogged)?;
            let known = engine.image_id(&format!("sha256:{image}")).await;
            known.map(|known| known.is_some()).map_err(|error| Cause::around(error.to_string()).unlogged())
        })
    }

    fn build<'a>(
        &'a self,
        order: &'a Order,
        commit: Option<&'a CommitId>,
    ) -> Fut<'a, Result<Digest, Unbuilt>> {
        Box::pin(async move {
            let log = log_of(&self.logs, &order.project, &order.name());
            let mut words = Words::begin(&log).map_err(|error| Cause::from(error).unlogged())?;
            match self.built(order, commit, &mut words).await {
                Ok(image) => {
                    words.line(&format!("built image sha256:{image}"));
                    Ok(image)
                }
                Err(Cause { why, fault }) => {
                    words.line(&format!("not built: {why}"));
                    Err(Unbuilt { why, fault, log: words.last.into() })
                }
            }
        })
    }

    fn forget<'a>(&'a self, order: &'a Order) -> Fut<'a, ()> {
        Box::pin(async move {
            std::fs::remove_file(log_of(&self.logs, &order.project, &order.name())).ok();
        })
    }
}
