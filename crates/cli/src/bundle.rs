//! Everything that `-f` names: files, directories, addresses and standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use plimsoll_manifest::Document;
use plimsoll_model::AppSpec;
use plimsoll_model::id::{Digest, ProjectName};
use serde::Deserialize as _;
use serde_json::Value;
use walkdir::WalkDir;

use crate::source::Source;
use crate::transport::{Transport, Trust};

/// How long an address may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Where the declarations are
#[derive(Args, Clone)]
pub(crate) struct Files {
    /// A file, a directory of .yaml, .yml and .json files, or an http(s) address; `-` reads standard input
    #[arg(short, long = "filename", alias = "file", value_name = "FILE", required = true)]
    filename: Vec<String>,
    /// Directories with all that are in them
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// The documents of all files.
pub(crate) struct Bundle {
    parts: Vec<(Source, Vec<Document>)>,
}

impl Files {
    /// Reads everything, or says all that is wrong with the first file that is not right.
    pub(crate) fn read(&self) -> anyhow::Result<Bundle> {
        let mut sources = Vec::new();
        for name in &self.filename {
            if name.starts_with("http://") || name.starts_with("https://") {
                sources.push(fetched(name)?);
            } else if name != "-" && Path::new(name).is_dir() {
                for file in files_in(Path::new(name), self.recursive)? {
                    sources.push(Source::read(&file)?);
                }
            } else {
                sources.push(Source::read(name)?);
            }
        }
        Bundle::parse(sources)
    }
}

/// The files of declarations in a directory, in order of their names.
fn files_in(directory: &Path, recursive: bool) -> anyhow::Result<Vec<String>> {
    let depth = if recursive { usize::MAX } else { 1 };
    let mut found = Vec::new();
    for entry in WalkDir::new(directory).max_depth(depth).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{} cannot be read", directory.display()))?;
        let extension = entry.path().extension().and_then(|it| it.to_str());
        if entry.path().is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            let path: PathBuf = entry.into_path();
            let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            found.push(name.to_owned());
        }
    }
    if found.is_empty() {
        let hint = if recursive { "" } else { "; -R looks in what is below it too" };
        bail!("{} has no .yaml, .yml or .json file{hint}", directory.display());
    }
    Ok(found)
}

/// What an address answers. Programs that it names by file are looked for in this directory.
fn fetched(address: &str) -> anyhow::Result<Source> {
    let failed = || format!("{address} cannot be read");
    let transport = Transport::to(address, Trust::Machine)?;
    let answer = transport.ask("GET", "", &[], b"", Some(ANSWER)).with_context(failed)?;
    if !answer.status().is_success() {
        bail!("{address} cannot be read: the answer is {}", answer.status());
    }
    let text = answer.into_body().to_vec();
    if text.len() > plimsoll_manifest::LARGEST_FILE {
        bail!(
            "{address} has {} bytes, more than the {} allowed",
            text.len(),
            plimsoll_manifest::LARGEST_FILE
        );
    }
    Ok(Source::of(address, text))
}

impl Bundle {
    /// One file of declarations.
    pub(crate) fn file(name: &str) -> anyhow::Result<Self> {
        Self::parse(vec![Source::read(name)?])
    }

    fn parse(sources: Vec<Source>) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        for source in sources {
            let documents = plimsoll_manifest::parse(&source.name, &source.text)?;
            parts.push((source, documents));
        }
        Ok(Self { parts })
    }

    /// What messages call all of it.
    pub(crate) fn name(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|(source, _)| source.name.as_str()).collect();
        names.join(", ")
    }

    /// The documents with the digest of every program, as if all were uploaded.
    pub(crate) fn documents(self) -> anyhow::Result<Vec<Document>> {
        self.kept(|_, bytes| Ok(Digest::of_bytes(bytes)))
    }

    /// The documents with the digest of every program, after `keep` took its bytes for the App's project, if it names one.
    pub(crate) fn kept(
        self,
        keep: impl Fn(Option<&ProjectName>, &[u8]) -> anyhow::Result<Digest>,
    ) -> anyhow::Result<Vec<Document>> {
        let mut all = Vec::new();
        for (source, documents) in self.parts {
            for mut document in documents {
                if let Document::App(app) = &mut document {
                    let project = app.metadata.project.clone();
                    source.add_digests(&mut app.spec, |bytes| keep(project.as_ref(), bytes))?;
                }
                all.push(document);
            }
        }
        Ok(all)
    }

    /// The documents as they were written, in the order of [`Bundle::kept`]: what a file does not say is not in them.
    pub(crate) fn written(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        for (source, documents) in &self.parts {
            let values = yaml_serde::Deserializer::from_slice(&source.text).map(Value::deserialize);
            let values: Vec<Value> = values.collect::<Result<_, _>>().with_context(|| source.name.clone())?;
            let values: Vec<Value> = values.into_iter().filter(|it| !it.is_null()).collect();
            if values.len() != documents.len() {
                bail!("{}: write one YAML document after the other, or one JSON document", source.name);
            }
            all.extend(values);
        }
        Ok(all)
    }
}

/// Puts the digests of an App's programs and sources into the document that it was written as.
pub(crate) fn add_digests(written: &mut Value, spec: &AppSpec) {
    for (name, component) in &spec.components {
        let digests = [
            ("program", component.program.as_ref().and_then(|program| program.digest)),
            ("source", component.source.as_ref().and_then(|source| source.digest)),
        ];
        for (part, digest) in digests {
            let place = written.pointer_mut(&format!("/spec/components/{name}/{part}"));
            if let (Some(digest), Some(Value::Object(part))) = (digest, place) {
                part.insert("digest".into(), Value::String(digest.to_string()));
            }
        }
    }
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn text_of(file: &str) -> anyhow::Result<Vec<u8>> {
    if file == "-" {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).context("standard input cannot be read")?;
        return Ok(text);
    }
    std::fs::read(file).with_context(|| format!("{file} cannot be read"))
}
