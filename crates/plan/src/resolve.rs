//! From a declaration to revisions: what each component's copies are to run.

use std::borrow::Cow;
use std::collections::BTreeMap;

use plimsoll_model::AppSpec;
use plimsoll_model::app::{Component, Program};
use plimsoll_model::hook::Task;
use plimsoll_model::id::{ComponentName, ObjectName, RevisionNo, TargetName};
use plimsoll_model::image::{ImageRef, Sought};
use plimsoll_model::kind::{BuildFault, Programs, TargetSpec};
use plimsoll_model::operations::Deploy;
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, Chosen, ComponentRevision, Content, PinnedImage};
use plimsoll_model::source::Source;
use plimsoll_model::update::Follow;
use plimsoll_model::wait::{Reason, Wait};

use crate::input::{BuildView, ImageView, Input, Lag};

/// How long a build may take before the App counts as stalled.
const BUILD_DEADLINE: Span = Span::seconds(1800);

/// How long a person may take to complete a declaration before the App counts as stalled.
pub(crate) const PERSON_DEADLINE: Span = Span::seconds(60);

/// What a declaration amounts to on a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// What each component runs.
    pub components: BTreeMap<ComponentName, ComponentRevision>,
    /// Images by their references, for each component that runs in one.
    pub images: BTreeMap<ComponentName, ImageRef>,
    /// How they were pinned, where the reference does not say it.
    pub chosen: BTreeMap<ComponentName, Chosen>,
    /// Sources that lead elsewhere by now, which is not built: what was built before runs meanwhile.
    pub lags: Vec<Wait>,
}

/// What tags lead to: now, and when the App was last resolved; and what was deployed instead.
#[derive(Debug, Clone, Copy)]
pub struct Tags<'a> {
    /// Now.
    pub now: &'a BTreeMap<Sought, ImageView>,
    /// What sources were built to, by component.
    pub builds: &'a BTreeMap<ComponentName, BuildView>,
    /// The latest App revision.
    pub last: Option<&'a AppRevision>,
    /// The bytes that somebody has named, by component.
    pub deploys: &'a BTreeMap<ComponentName, Deploy>,
}

/// Nothing is known of any tag.
impl Default for Tags<'_> {
    fn default() -> Self {
        static NOTHING_KNOWN: BTreeMap<Sought, ImageView> = BTreeMap::new();
        static NOTHING_BUILT: BTreeMap<ComponentName, BuildView> = BTreeMap::new();
        static NOTHING_DEPLOYED: BTreeMap<ComponentName, Deploy> = BTreeMap::new();
        Self { now: &NOTHING_KNOWN, builds: &NOTHING_BUILT, last: None, deploys: &NOTHING_DEPLOYED }
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
) -> Result<Resolved, Vec<Wait>> {
    let Some(target_spec) = target_spec else {
        let reason = Reason::TargetMissing { target: target.clone() };
        return Err(vec![Wait::new(None, reason, PERSON_DEADLINE)]);
    };
    let (mut all, mut waits) = (Resolved::default(), Vec::new());
    for (name, component) in &spec.components {
        let resolved = image_of(component, target, target_spec).and_then(|image| {
            let pinned = image.as_deref().map(|image| match &component.source {
                Some(source) => built(name, image, source, tags),
                None => pin(name, image, component, tags),
            });
            let pinned = pinned.transpose()?;
            let (pinned, chosen) = pinned.unzip();
            let revision = component_revision(component, target, target_spec, pinned)?;
            Ok((revision, image, chosen.flatten()))
        });
        match resolved {
            Ok((revision, image, chosen)) => {
                all.images.extend(image.map(|image| (name.clone(), image.into_owned())));
                let lag = component.source.as_ref().and_then(|source| lag(source, tags.builds.get(name)?));
                all.lags.extend(lag.map(|reason| Wait::new(Some(name.clone()), reason, BUILD_DEADLINE)));
                all.chosen.extend(chosen.map(|chosen| (name.clone(), chosen)));
                all.components.insert(name.clone(), revision);
            }
            Err(reason) => {
                let is_build = matches!(reason, Reason::Unbuilt { .. });
                let deadline = if is_build { BUILD_DEADLINE } else { PERSON_DEADLINE };
                waits.push(Wait::new(Some(name.clone()), reason, deadline));
            }
        }
    }
    if waits.is_empty() { Ok(all) } else { Err(waits) }
}

/// What a declaration needs to know of images on a target, whether or not that can be had.
pub fn sought<'a>(spec: &'a AppSpec, target: &'a TargetSpec) -> impl Iterator<Item = Sought> + 'a {
    let declared = spec.components.values().filter(|it| it.source.is_none());
    let images = declared.filter_map(|it| Some((it, wanted_image(it, target)?)));
    images
        .filter(|(_, image)| image.digest().is_none())
        .map(|(it, image)| Sought::by(&it.update.image, &image))
}

/// A deployment for a component that still holds: its declaration names the same image, and if it follows that, nothing
/// else was found since.
fn holding<'a>(
    deploy: Option<&'a Deploy>,
    component: &Component,
    image: &ImageRef,
    view: Option<&ImageView>,
) -> Option<&'a Deploy> {
    let found = view.and_then(|view| view.since);
    // The first finding after it is none that the tag has moved.
    let is_first = |deploy: &Deploy| deploy.over.is_none() && view.is_some_and(|view| view.is_first);
    let has_moved = |deploy: &Deploy| deploy.over != found && !is_first(deploy);
    let is_over = |deploy: &Deploy| component.update.image.follow != Follow::None && has_moved(deploy);
    deploy.filter(|deploy| deploy.of.as_ref() == Some(image) && !is_over(deploy))
}

fn wanted_image<'a>(component: &'a Component, target: &'a TargetSpec) -> Option<Cow<'a, ImageRef>> {
    if let Some(source) = &component.source {
        return Some(Cow::Owned(source.image()));
    }
    let image = component.image.as_ref().or_else(|| match target.programs {
        Programs::Process => None,
        Programs::Container => {
            let runtime = component.program.as_ref().and_then(|it| it.runtime.as_ref())?;
            target.runtimes.get(runtime)?.image.as_ref()
        }
    });
    image.map(Cow::Borrowed)
}

/// The image a component runs in; `None` for a process.
fn image_of<'a>(
    component: &'a Component,
    target: &TargetName,
    target_spec: &'a TargetSpec,
) -> Result<Option<Cow<'a, ImageRef>>, Reason> {
    match (wanted_image(component, target_spec), target_spec.programs) {
        (Some(image), _) => Ok(Some(image)),
        (None, Programs::Process) => Ok(None),
        (None, Programs::Container) => Err(Reason::NoImage { target: target.clone() }),
    }
}

/// Which bytes an image's reference stands for: what was deployed, or what is written. What was pinned stays otherwise,
/// unless the reference changed or the component follows its tag; a registry that says nothing changes nothing.
fn pin(
    name: &ComponentName,
    image: &ImageRef,
    component: &Component,
    tags: Tags<'_>,
) -> Result<(PinnedImage, Option<Chosen>), Reason> {
    let last = tags.last.filter(|last| last.images.get(name) == Some(image));
    let before = last.and_then(|last| last.components.get(name)?.image.as_ref()).map(|it| it.digest);
    let before = before.map(|digest| (digest, last.and_then(|last| last.chosen.get(name).cloned())));
    let view = tags.now.get(&Sought::by(&component.update.image, image));
    let version = view.and_then(|view| view.tag.clone()).map(|tag| Chosen::Version { tag });
    let now = view.and_then(|view| view.digest).map(|digest| (digest, version));
    let deployed = holding(tags.deploys.get(name), component, image, view).and_then(|it| {
        let commit = it.commit.as_ref().map(|commit| commit.id.clone());
        Some((it.image.digest()?, Some(Chosen::Deployed { commit })))
    });
    let written = || image.digest().map(|digest| (digest, None));
    let pinned = deployed.or_else(written).or_else(|| match component.update.image.follow {
        Follow::None => before.or(now),
        Follow::Digest | Follow::Semver(_) => now.or(before),
    });
    let unresolved = || Reason::ImageUnresolved {
        image: Box::new(image.clone()),
        why: view.and_then(|view| view.problem.clone()),
    };
    let (digest, chosen) = pinned.ok_or_else(unresolved)?;
    Ok((PinnedImage { repository: image.repository().clone(), digest }, chosen))
}

/// The image that a source was built to: the newest one, or the one that was pinned before.
fn built(
    name: &ComponentName,
    image: &ImageRef,
    source: &Source,
    tags: Tags<'_>,
) -> Result<(PinnedImage, Option<Chosen>), Reason> {
    let view = tags.builds.get(name);
    let now = view.and_then(|view| view.built.clone());
    let now = now.map(|(digest, commit)| (digest, Some(Chosen::Built { commit })));
    let pinned = now.or_else(|| {
        let last = tags.last.filter(|last| last.images.get(name) == Some(image))?;
        let digest = last.components.get(name)?.image.as_ref()?.digest;
        Some((digest, last.chosen.get(name).cloned()))
    });
    let unbuilt = || {
        let known = view.and_then(|view| lag(source, view));
        known.unwrap_or_else(|| Reason::Unbuilt {
            source: source.to_string(),
            build: view.map_or_else(|| unnamed(name), |view| view.build.clone()),
            why: None,
            fault: BuildFault::Surroundings,
        })
    };
    let (digest, chosen) = pinned.ok_or_else(unbuilt)?;
    Ok((PinnedImage { repository: image.repository().clone(), digest }, chosen))
}

/// What a build is called of which nothing is known.
fn unnamed(component: &ComponentName) -> ObjectName {
    component.as_str().parse().expect("the name of a component is one of an object too")
}

/// Why what was built of a source last is not what it leads to now.
fn lag(source: &Source, view: &BuildView) -> Option<Reason> {
    let (why, fault) = match view.lag.clone()? {
        Lag::Building => (None, BuildFault::Surroundings),
        Lag::Failed { why, fault } => (Some(why), fault),
    };
    Some(Reason::Unbuilt { source: source.to_string(), build: view.build.clone(), why, fault })
}

fn component_revision(
    component: &Component,
    target: &TargetName,
    target_spec: &TargetSpec,
    image: Option<PinnedImage>,
) -> Result<ComponentRevision, Reason> {
    let command =
        match (&component.command[..], component.program.as_ref().and_then(|it| it.runtime.as_ref())) {
            ([], Some(runtime)) => {
                let missing = || Reason::RuntimeMissing { target: target.clone(), runtime: runtime.clone() };
                let known = target_spec.runtimes.get(runtime).ok_or_else(missing)?;
                let fetches =
                    component.program.as_ref().is_some_and(|it| it.fetch) && !known.fetch.is_empty();
                if fetches { known.fetch.clone() } else { known.command.clone() }
            }
            (command, _) => command.to_vec(),
        };
    let tasks = component.hooks.iter().map(|(point, hook)| {
        let own = if hook.command.is_empty() { &command } else { &hook.command };
        let (argv, args) = command_line(component, own, &hook.args);
        let resources = hook.resources.unwrap_or(component.resources);
        (point, Task { argv, args, env: hook.env.clone(), resources, deadline: hook.deadline() })
    });
    let tasks = tasks.collect();
    let (argv, args) = command_line(component, &command, &component.args);
    Ok(ComponentRevision {
        image,
        content: component.program.as_ref().and_then(|program| content(program, &argv)),
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
        tasks,
    })
}

/// A command with its arguments. Those of an image's own entry point are apart: no command takes its place then.
fn command_line(component: &Component, command: &[String], args: &[String]) -> (Vec<String>, Vec<String>) {
    if component.is_image_alone() {
        (command.to_vec(), args.to_vec())
    } else {
        ([command, args].concat(), Vec::new())
    }
}

/// The content a program names. Validation has made sure that exactly one form is there, and admission that
/// files and directories carry a digest.
fn content(program: &Program, argv: &[String]) -> Option<Content> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let is_placed = argv.iter().any(|part| part.contains("{file}"));
    match (program.digest, &program.file, &program.directory, &program.inline) {
        (Some(digest), Some(_), _, _) if program.fetch && !is_placed => Some(Content::Fetched { digest }),
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
        let tags = Tags {
            now: &context.images,
            builds: &context.builds,
            last: last.and_then(|no| context.revisions.get(&no)),
            deploys: &input.operations.deploys,
        };
        let resolved = resolve(&input.spec, &context.target, context.target_spec.as_ref(), tags);
        let Resolved { components, images, chosen, lags } = match resolved {
            Ok(resolved) => resolved,
            Err(waits) => return Self { number: last, waits, ..Self::default() },
        };
        let hashes: BTreeMap<_, _> = components.iter().map(|(name, it)| (name.clone(), it.hash())).collect();
        if tags.last.is_some_and(|stored| stored.hashes() == hashes && stored.images == images) {
            return Self { components, number: last, new: None, waits: lags };
        }
        let number = last.unwrap_or_default().next();
        let new = AppRevision {
            number,
            app: input.uid.clone(),
            declaration: input.spec.clone(),
            components: components.clone(),
            images,
            chosen,
        };
        Self { components, number: Some(number), new: Some(new), waits: lags }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::id::Digest;
    use plimsoll_model::object::Timestamp;
    use plimsoll_model::operations::Commit;

    use super::*;

    fn digest(word: &str) -> Digest {
        Digest::of_bytes(word.as_bytes())
    }

    /// What `main` is pinned to: declared with an image and a way to follow it, found at some time, and deployed to.
    fn pinned(image: &str, follow: Follow, found: Option<(&str, u64)>, deploy: &Deploy) -> Option<Digest> {
        let image: ImageRef = image.parse().unwrap();
        let mut component = Component { image: Some(image.clone()), ..Component::default() };
        component.update.image.follow = follow;
        let view = found.map(|(word, since)| ImageView {
            digest: Some(digest(word)),
            since: Some(Timestamp(since)),
            is_first: true,
            ..ImageView::default()
        });
        let now = view.map(|view| (Sought::by(&component.update.image, &image), view)).into_iter().collect();
        let name: ComponentName = "main".parse().unwrap();
        let deploys = BTreeMap::from([(name.clone(), deploy.clone())]);
        let tags = Tags { now: &now, deploys: &deploys, ..Tags::default() };
        pin(&name, &image, &component, tags).ok().map(|(pinned, _)| pinned.digest)
    }

    #[test]
    fn what_was_deployed_holds_until_another_image_is_declared_or_the_followed_tag_moves() {
        let commit = Some(Commit { id: "c1".parse().unwrap(), at: Timestamp(1) });
        let of = "r.example/app:1".parse().ok();
        let image = format!("r.example/app@sha256:{}", digest("deployed")).parse().unwrap();
        let deploy = Deploy { of, over: Some(Timestamp(5)), image, commit };
        let (deployed, found) = (Some(digest("deployed")), Some(digest("found")));
        let tag = Some(("found", 5));
        assert_eq!(pinned("r.example/app:1", Follow::None, None, &deploy), deployed);
        assert_eq!(pinned("r.example/app:1", Follow::None, Some(("found", 9)), &deploy), deployed);
        assert_eq!(pinned("r.example/app:1", Follow::Digest, tag, &deploy), deployed);
        assert_eq!(pinned("r.example/app:1", Follow::Digest, Some(("found", 9)), &deploy), found);
        assert_eq!(pinned("r.example/app:2", Follow::None, tag, &deploy), found);
        assert_eq!(pinned("r.example/app:2", Follow::None, None, &deploy), None);
        let written = format!("r.example/app:1@sha256:{}", digest("written"));
        assert_eq!(pinned(&written, Follow::None, tag, &deploy), Some(digest("written")));
        let over = Deploy { of: written.parse().ok(), ..deploy.clone() };
        assert_eq!(pinned(&written, Follow::None, tag, &over), deployed);
        let early = Deploy { over: None, ..deploy.clone() };
        assert_eq!(pinned("r.example/app:1", Follow::Digest, tag, &early), deployed, "nothing has moved");
        let ended = Deploy { of: None, ..deploy };
        assert_eq!(pinned("r.example/app:1", Follow::None, tag, &ended), found);
    }

    #[test]
    fn what_was_built_runs_until_something_newer_is() {
        let source = Source { git: Some("https://example.org/app".to_owned()), ..Source::default() };
        let component = Component { source: Some(source.clone()), ..Component::default() };
        let name: ComponentName = "main".parse().unwrap();
        let spec = AppSpec { components: [(name.clone(), component)].into(), ..AppSpec::default() };
        let (target, local) = ("local".parse().unwrap(), TargetSpec::local());
        let view = |built: Option<&str>, lag| {
            let built = built.map(|word| (digest(word), Some("c1".parse().unwrap())));
            BTreeMap::from([(name.clone(), BuildView { build: "b".parse().unwrap(), built, lag })])
        };
        let failed = || Some(Lag::Failed { why: "no".to_owned(), fault: BuildFault::Source });
        let resolved = |builds: &BTreeMap<ComponentName, BuildView>, last| {
            resolve(&spec, &target, Some(&local), Tags { builds, last, ..Tags::default() })
        };
        for lag in [Some(Lag::Building), failed()] {
            let waits = resolved(&view(None, lag.clone()), None).unwrap_err();
            assert!(matches!(waits[0].reason(), Reason::Unbuilt { .. }), "{waits:?}");
            assert_eq!(waits[0].reason().is_stall(), lag == failed());
            // What was built of it before runs, and why that is not the newest is said.
            let found = resolved(&view(Some("old"), lag), None).unwrap();
            let pinned = found.components[&name].image.as_ref().unwrap();
            assert_eq!((pinned.digest, found.lags.len()), (digest("old"), 1));
            assert_eq!(pinned.repository, *source.image().repository());
        }
        let found = resolved(&view(Some("new"), None), None).unwrap();
        assert_eq!(found.lags, []);
        assert_eq!(found.chosen[&name], Chosen::Built { commit: "c1".parse().ok() });
        let last = AppRevision {
            number: RevisionNo::default().next(),
            app: "app".parse().unwrap(),
            declaration: spec.clone(),
            components: found.components,
            images: found.images,
            chosen: found.chosen,
        };
        // A record that was lost takes nothing away.
        let found = resolved(&view(None, Some(Lag::Building)), Some(&last)).unwrap();
        assert_eq!(found.components[&name].image.as_ref().unwrap().digest, digest("new"));
    }
}
