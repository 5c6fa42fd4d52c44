//! Images that an engine builds from what it is sent.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::BuildImageOptionsBuilder;
use futures::StreamExt as _;
use plimsoll_model::id::Digest;

use crate::engine::{Engine, INSTALLATION};
use crate::error::EngineError;

/// How long an engine may take for the beginning of its answer: it takes in what it is sent before.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long a build may take.
const LONGEST: Duration = Duration::from_mins(20);

/// Bytes that a step's commands may use, memory and swap together, so that one build does not push out what runs beside it.
const MEMORY: i32 = 2047 << 20;

/// Microseconds of a processor's time in each period: two processors.
const CPU_PERIOD: i32 = 100_000;
const CPU_QUOTA: i32 = 2 * CPU_PERIOD;

/// Bytes of a piece of what is sent.
const PIECE: usize = 64 << 10;

/// What is built.
#[derive(Debug)]
pub struct Building {
    /// Everything that the build sees, as an archive of tar, from its beginning.
    pub context: std::fs::File,
    /// The file in it that says how.
    pub dockerfile: String,
    /// What the image is called.
    pub name: String,
}

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step of it failed, or cannot be understood.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("it took longer than {} min", .0.as_secs() / 60)]
    TooLong(Duration),
    /// The engine cannot say.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Engine {
    /// Builds an image, without any login, and says its id. `tell` hears what the build says.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn build(&self, building: Building, tell: impl FnMut(&str)) -> Result<Digest, BuildError> {
        let built = tokio::time::timeout(LONGEST, self.build_now(building, tell)).await;
        built.unwrap_or(Err(BuildError::TooLong(LONGEST)))
    }

    async fn build_now(&self, building: Building, mut tell: impl FnMut(&str)) -> Result<Digest, BuildError> {
        let Building { context, dockerfile, name } = building;
        let labels = HashMap::from([(INSTALLATION, self.inner.installation.as_str())]);
        // What its steps were made in goes, whether or not they were right.
        let options = BuildImageOptionsBuilder::new().dockerfile(&dockerfile).t(&name).rm(true).forcerm(true);
        let options = options.memory(MEMORY).memswap(MEMORY).cpuperiod(CPU_PERIOD).cpuquota(CPU_QUOTA);
        let options = options.labels(&labels).build();
        let body = bollard::body_try_stream(pieces(context));
        // Without any header Podman would use the logins of whoever it runs as.
        let no_logins = Some(HashMap::new());
        let docker = self.inner.docker.clone().with_timeout(PATIENCE);
        let mut words = std::pin::pin!(docker.build_image(options, no_logins, Some(body)));
        while let Some(word) = words.next().await {
            let word = match word {
                Ok(word) => word,
                // The engine's words about the build, not about itself.
                Err(error) => match EngineError::from(error) {
                    EngineError::Refused(said)
                    | EngineError::NotFound(said)
                    | EngineError::Conflict(said) => {
                        return Err(failed(&said));
                    }
                    away => return Err(away.into()),
                },
            };
            if let Some(text) = word.stream.as_deref().or(word.status.as_deref()) {
                tell(text);
            }
            if let Some(detail) = word.error_detail {
                return Err(failed(&detail.message.unwrap_or_default()));
            }
        }
        let id = self.image_id(&name).await?;
        id.ok_or_else(|| EngineError::Away(format!("it has built {name}, and does not have it")).into())
    }
}

/// What the engine could not do for want of something else is nobody's fault who wrote the source.
fn failed(said: &str) -> BuildError {
    let lower = said.to_lowercase();
    // A command may say what it likes, and is the source's own.
    let is_command = ["the command ", "building at step"].iter().any(|it| lower.trim_start().starts_with(it));
    let away = [
        "no space left",
        "connection refused",
        "no such host",
        "i/o timeout",
        "toomanyrequests",
        "tls handshake timeout",
        "temporary failure in name resolution",
    ];
    if !is_command && away.iter().any(|word| lower.contains(word)) {
        EngineError::Away(said.trim().to_owned()).into()
    } else {
        BuildError::Failed(said.trim().to_owned())
    }
}

/// A file, piece by piece.
fn pieces(
    file: std::fs::File,
) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    futures::stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let length = std::io::Read::read(&mut file, &mut piece);
            length.map(|length| {
                piece.truncate(length);
                (piece, file)
            })
        });
        match read.await.map_err(std::io::Error::other).flatten() {
            Ok((piece, _)) if piece.is_empty() => None,
            Ok((piece, file)) => Some((Ok(piece.into()), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_says_is_the_sources_own() {
        for (said, is_its_own) in [
            ("The command '/bin/sh -c echo connection refused; false' returned a non-zero code: 1", true),
            ("building at STEP \"RUN no such host\": while running runtime: exit status 1", true),
            ("dial tcp: lookup registry: no such host", false),
            ("unknown instruction: FORM", true),
        ] {
            assert_eq!(matches!(failed(said), BuildError::Failed(_)), is_its_own, "{said}");
        }
    }
}
