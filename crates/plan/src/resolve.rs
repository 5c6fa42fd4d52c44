//! From a declaration to revisions: what each component's copies are to run.

use std::collections::BTreeMap;

use plimsoll_model::AppSpec;
use plimsoll_model::app::{Component, Program};
use plimsoll_model::id::{ComponentName, RevisionNo, TargetName};
use plimsoll_model::image::ImageRef;
use plimsoll_model::kind::{Programs, TargetSpec};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, ComponentRevision, Content, PinnedImage};
use plimsoll_model::update::Follow;
use plimsoll_model::wait::{Reason, Wait};

use crate::input::{ImageView, Input};

/// How long a person may take to complete a declaration before the App counts as stalled.
pub(crate) const PERSON_DEADLINE: Span = Span::seconds(60);

/// Images by their references, for each component that runs in one.
type Images = BTreeMap<ComponentName, ImageRef>;

/// What tags lead to: now, and when the App was last resolved.
#[derive(Debug, Clone, Copy)]
pub struct Tags<'a> {
    /// Now.
    pub now: &'a BTreeMap<ImageRef, ImageView>,
    /// The latest App revision.
    pub last: Option<&'a AppRevision>,
}

/// Nothing is known of any tag.
impl Default for Tags<'_> {
    fn default() -> Self {
        static NONE: BTreeMap<ImageRef, ImageView> = BTreeMap::new();
        Self { now: &NONE, last: None }
    }
}

/// Resolves every component of a declaration on a target, or says what is missing.
///
/// # Errors
/// The waits that keep it from being resolved: no such target, no such runtime, an image nobody knows yet.
pub fn resolve(
    spec: &AppSpec,
    target: &TargetName,
    target_spec: Option<&TargetSpec>,
    tags: Tags<'_>,
) -> Result<(BTreeMap<ComponentName, ComponentRevision>, Images), Vec<Wait>> {
    let Some(target_spec) = target_spec else {
        let reason = Reason::TargetMissing { target: target.clone() };
        return Err(vec![Wait::new(None, reason, PERSON_DEADLINE)]);
    };
    let (mut revisions, mut images) = (BTreeMap::new(), Images::new());
    let mut waits = Vec::new();
    for (name, component) in &spec.components {
        let resolved = image_of(component, target, target_spec).and_then(|image| {
            let pinned = image.map(|image| pin(name, image, component, tags)).transpose()?;
            let revision = component_revision(component, target, target_spec, pinned)?;
            Ok((revision, image))
        });
        match resolved {
            Ok((revision, image)) => {
                images.extend(image.map(|image| (name.clone(), image.clone())));
                revisions.insert(name.clone(), revision);
            }
            Err(reason) => waits.push(Wait::new(Some(name.clone()), reason, PERSON_DEADLINE)),
        }
    }
    if waits.is_empty() { Ok((revisions, images)) } else { Err(waits) }
}

/// The images that a declaration needs on a target, whether or not they can be had.
pub fn images<'a>(spec: &'a AppSpec, target: &'a TargetSpec) -> impl Iterator<Item = &'a ImageRef> {
    spec.components.values().filter_map(|component| wanted_image(component, target))
}

fn wanted_image<'a>(component: &'a Component, target: &'a TargetSpec) -> Option<&'a ImageRef> {
    component.image.as_ref().or_else(|| match target.programs {
        Programs::Process => None,
        Programs::Container => {
            let runtime = component.program.as_ref().and_then(|it| it.runtime.as_ref())?;
            target.runtimes.get(runtime)?.image.as_ref()
        }
    })
}

/// The image a component runs in; `None` for a process.
fn image_of<'a>(
    component: &'a Component,
    target: &TargetName,
    target_spec: &'a TargetSpec,
) -> Result<Option<&'a ImageRef>, Reason> {
    match (wanted_image(component, target_spec), target_spec.programs) {
        (Some(image), _) => Ok(Some(image)),
        (None, Programs::Process) => Ok(None),
        (None, Programs::Container) => Err(Reason::NoImage { target: target.clone() }),
    }
}

/// Which bytes an image's reference stands for. What was pinned stays, unless the reference changed or the component
/// follows its tag; a registry that says nothing changes nothing.
fn pin(
    name: &ComponentName,
    image: &ImageRef,
    component: &Component,
    tags: Tags<'_>,
) -> Result<PinnedImage, Reason> {
    let before = tags.last.filter(|last| last.images.get(name) == Some(image));
    let before = before.and_then(|last| last.components.get(name)?.image.as_ref()).map(|it| it.digest);
    let view = tags.now.get(image);
    let now = view.and_then(|view| view.digest);
    let digest = image.digest().or_else(|| match component.update.image.follow {
        Follow::None => before.or(now),
        Follow::Digest => now.or(before),
    });
    let unresolved = || Reason::ImageUnresolved {
        image: Box::new(image.clone()),
        why: view.and_then(|view| view.problem.clone()),
    };
    Ok(PinnedImage { repository: image.repository().clone(), digest: digest.ok_or_else(unresolved)? })
}

fn component_revision(
    component: &Component,
    target: &TargetName,
    target_spec: &TargetSpec,
    image: Option<PinnedImage>,
) -> Result<ComponentRevision, Reason> {
    let mut argv =
        match (&component.command[..], component.program.as_ref().and_then(|it| it.runtime.as_ref())) {
            ([], Some(runtime)) => {
                let missing = || Reason::RuntimeMissing { target: target.clone(), runtime: runtime.clone() };
                target_spec.runtimes.get(runtime).ok_or_else(missing)?.command.clone()
            }
            (command, _) => command.to_vec(),
        };
    // An image's entry point takes arguments of its own where no command takes its place.
    let args = if component.is_image_alone() {
        component.args.clone()
    } else {
        argv.extend(component.args.iter().cloned());
        Vec::new()
    };
    Ok(ComponentRevision {
        image,
        content: component.program.as_ref().and_then(content),
        argv,
        args,
        workdir: component.workdir.clone(),
        ports: component.ports.clone(),
        env: component.env.clone(),
        files: component.files.clone(),
        volumes: component.volumes.clone(),
        resources: component.resources,
        security: component.security.clone(),
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
        let tags = Tags { now: &context.images, last: last.and_then(|no| context.revisions.get(&no)) };
        let resolved = resolve(&input.spec, &context.target, context.target_spec.as_ref(), tags);
        let (components, images) = match resolved {
            Ok(resolved) => resolved,
            Err(waits) => return Self { number: last, waits, ..Self::default() },
        };
        let hashes: BTreeMap<_, _> = components.iter().map(|(name, it)| (name.clone(), it.hash())).collect();
        if tags.last.is_some_and(|stored| stored.hashes() == hashes && stored.images == images) {
            return Self { components, number: last, ..Self::default() };
        }
        let number = last.unwrap_or_default().next();
        let new = AppRevision {
            number,
            app: input.uid.clone(),
            declaration: input.spec.clone(),
            components: components.clone(),
            images,
        };
        Self { components, number: Some(number), new: Some(new), waits: Vec::new() }
    }
}
