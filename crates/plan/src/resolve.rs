//! From a declaration to revisions: what each component's copies are to run.

use std::collections::BTreeMap;

use plimsoll_model::AppSpec;
use plimsoll_model::app::{Component, Program};
use plimsoll_model::id::{ComponentName, RevisionNo, TargetName};
use plimsoll_model::kind::TargetSpec;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, ComponentRevision, Content};
use plimsoll_model::wait::{Reason, Wait};

use crate::input::Input;

/// How long a person may take to complete a declaration before the App counts as stalled.
pub(crate) const PERSON_DEADLINE: Span = Span::seconds(60);

/// Resolves every component of a declaration on a target, or says what is missing.
///
/// # Errors
/// The waits that keep it from being resolved: no such target, no such runtime.
pub fn resolve(
    spec: &AppSpec,
    target: &TargetName,
    target_spec: Option<&TargetSpec>,
) -> Result<BTreeMap<ComponentName, ComponentRevision>, Vec<Wait>> {
    let Some(target_spec) = target_spec else {
        let reason = Reason::TargetMissing { target: target.clone() };
        return Err(vec![Wait::new(None, reason, PERSON_DEADLINE)]);
    };
    let mut revisions = BTreeMap::new();
    let mut waits = Vec::new();
    for (name, component) in &spec.components {
        match component_revision(component, target, target_spec) {
            Ok(revision) => {
                revisions.insert(name.clone(), revision);
            }
            Err(reason) => waits.push(Wait::new(Some(name.clone()), reason, PERSON_DEADLINE)),
        }
    }
    if waits.is_empty() { Ok(revisions) } else { Err(waits) }
}

fn component_revision(
    component: &Component,
    target: &TargetName,
    target_spec: &TargetSpec,
) -> Result<ComponentRevision, Reason> {
    let mut argv =
        match (&component.command[..], component.program.as_ref().and_then(|it| it.runtime.as_ref())) {
            ([], Some(runtime)) => {
                let missing = || Reason::RuntimeMissing { target: target.clone(), runtime: runtime.clone() };
                target_spec.runtimes.get(runtime).ok_or_else(missing)?.command.clone()
            }
            (command, _) => command.to_vec(),
        };
    argv.extend(component.args.iter().cloned());
    Ok(ComponentRevision {
        content: component.program.as_ref().and_then(content),
        argv,
        workdir: component.workdir.clone(),
        ports: component.ports.clone(),
        env: component.env.clone(),
        files: component.files.clone(),
        volumes: component.volumes.clone(),
        resources: component.resources,
        health: component.health.clone(),
        grace: component.grace(),
    })
}

/// The content a program names. Validation has made sure that exactly one form is there, and admission that
/// files and directories carry a digest.
fn content(program: &Program) -> Option<Content> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    match (program.digest, &program.file, &program.directory, &program.inline) {
        (Some(digest), Some(file), _, _) => Some(Content::File { name: base(file), digest }),
        (Some(digest), _, Some(_), _) => Some(Content::Tree { digest, entry: program.entry.clone() }),
        (_, _, _, Some(text)) => Some(Content::Inline { name: "program".into(), text: text.clone() }),
        _ => None,
    }
}

/// What a declaration amounts to, numbered within its App.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// What each component would run; empty when something is missing.
    pub(crate) components: BTreeMap<ComponentName, ComponentRevision>,
    /// The App revision this is.
    pub(crate) number: Option<RevisionNo>,
    /// That revision, if it differs from the last one.
    pub(crate) new: Option<AppRevision>,
    /// What is missing.
    pub(crate) waits: Vec<Wait>,
}

impl Resolution {
    pub(crate) fn of(input: &Input) -> Self {
        let last = input.status.revision;
        if input.deleting {
            return Self { number: last, ..Self::default() };
        }
        let context = &input.context;
        let components = match resolve(&input.spec, &context.target, context.target_spec.as_ref()) {
            Ok(components) => components,
            Err(waits) => return Self { number: last, waits, ..Self::default() },
        };
        let hashes: BTreeMap<_, _> = components.iter().map(|(name, it)| (name.clone(), it.hash())).collect();
        let stored = last.and_then(|no| context.revisions.get(&no));
        if stored.is_some_and(|stored| stored.hashes() == hashes) {
            return Self { components, number: last, ..Self::default() };
        }
        let number = last.unwrap_or_default().next();
        let new = AppRevision {
            number,
            app: input.uid.clone(),
            declaration: input.spec.clone(),
            components: components.clone(),
        };
        Self { components, number: Some(number), new: Some(new), waits: Vec::new() }
    }
}
