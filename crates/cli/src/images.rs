//! `plimsoll images`: which bytes an App's images stood for, since when, and why.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use plimsoll_model::id::{CommitId, ComponentHash, ComponentName, ObjectName};
use plimsoll_model::kind::AppRevisions;
use plimsoll_model::object::Timestamp;
use plimsoll_model::revision::{AppRevision, Chosen, ComponentRevision, PinnedImage};
use plimsoll_model::{App, Kind as _, Object};
use serde_json::Value;

use crate::Ended;
use crate::client::app_of;
use crate::place::Where;
use crate::table::{ago, table};

/// Print which bytes the images of Apps stood for, since when and why, the oldest first
#[derive(Args)]
pub(crate) struct Images {
    /// Only this App
    app: Option<ObjectName>,
    #[command(flatten)]
    place: Where,
}

impl Images {
    #[expect(clippy::print_stdout, reason = "the table is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let project = self.place.project();
        let mut rows = Vec::new();
        let apps = if let Some(name) = &self.app {
            vec![client.app(&self.place.app(name))?]
        } else {
            let all = client.list(Some(&project), App::PLURAL)?;
            all.into_iter().map(app_of).collect::<Result<Vec<_>, _>>()?
        };
        let all = client.list(Some(&project), AppRevisions::PLURAL)?;
        for app in apps {
            let own = all.iter().filter(|it| it["metadata"]["owner"] == app.meta.uid.as_str());
            let mut own = own.map(revision).collect::<Result<Vec<_>, _>>()?;
            own.sort_by_key(|(_, revision)| revision.number);
            rows.extend(ledger(&app, &own));
        }
        let headings = ["APP", "COMPONENT", "REVISION", "AGE", "IMAGE", "DIGEST", "WHY", "STATE"];
        print!("{}", table(&headings, &rows));
        Ok(Ended::Done)
    }
}

/// A revision, and when it was made.
fn revision(stored: &Value) -> Result<(Timestamp, AppRevision), serde_json::Error> {
    let made = serde_json::from_value(stored["metadata"]["creationTimestamp"].clone())?;
    Ok((made, serde_json::from_value(stored["spec"].clone())?))
}

/// A row for each time that other bytes were meant.
fn ledger(app: &Object<App>, revisions: &[(Timestamp, AppRevision)]) -> Vec<Vec<String>> {
    let mut last: BTreeMap<&ComponentName, &AppRevision> = BTreeMap::new();
    let mut rows = Vec::new();
    for (made, revision) in revisions {
        for (name, component) in &revision.components {
            let (Some(pinned), Some(image)) = (&component.image, revision.images.get(name)) else { continue };
            let before = last.insert(name, revision);
            let known = before.and_then(|before| before.components.get(name)?.image.as_ref());
            if known == Some(pinned) {
                continue;
            }
            let named = before.and_then(|before| before.images.get(name));
            let why = match (revision.chosen.get(name), named) {
                (Some(Chosen::Deployed { commit: Some(commit) }), _) => format!("commit {}", short(commit)),
                (Some(Chosen::Deployed { commit: None }), _) => "deployed".to_owned(),
                (Some(Chosen::Built { commit: Some(commit) }), _) => format!("built from {}", short(commit)),
                (Some(Chosen::Built { commit: None }), _) => "built".to_owned(),
                (Some(Chosen::Version { tag }), _) => format!("version {tag}"),
                (None, Some(named)) if named == image => "its tag moved".to_owned(),
                (None, _) => "declared".to_owned(),
            };
            rows.push(vec![
                app.meta.key.name.to_string(),
                name.to_string(),
                revision.number.to_string(),
                ago(made.0),
                image.to_string().split('@').next().unwrap_or_default().to_owned(),
                pinned.digest.short(),
                why,
                state(app, name, pinned, revisions),
            ]);
        }
    }
    rows
}

/// As much of a commit's name as people need.
fn short(commit: &CommitId) -> &str {
    commit.as_str().get(..12).unwrap_or(commit.as_str())
}

/// What became of the bytes that a revision of a component pinned: other revisions may have the same.
fn state(
    app: &Object<App>,
    name: &ComponentName,
    pinned: &PinnedImage,
    revisions: &[(Timestamp, AppRevision)],
) -> String {
    let with = revisions.iter().filter_map(|(_, revision)| revision.components.get(name));
    let with = with.filter(|component| component.image.as_ref() == Some(pinned));
    let hashes: BTreeSet<ComponentHash> = with.map(ComponentRevision::hash).collect();
    let Some(status) = app.status.as_ref().map(|status| &status.value) else { return "-".to_owned() };
    let copies = status.components.get(name).map(|it| &it.instances[..]).unwrap_or_default();
    match copies.iter().filter(|copy| hashes.contains(&copy.revision)).count() {
        0 if status.rejected.values().any(|it| it.component == *name && hashes.contains(&it.revision)) => {
            "rejected".to_owned()
        }
        0 => "replaced".to_owned(),
        1 => "1 copy runs it".to_owned(),
        runs => format!("{runs} copies run it"),
    }
}
