//! `plimsoll why`: who or what something waits for.

use std::collections::BTreeSet;

use anyhow::bail;
use clap::Args;
use plimsoll_api::{INSTANCES, Instance};
use plimsoll_model::wait::{Owner, Reason};
use plimsoll_model::{App, Kind as _, Object, ObjectKey};

use crate::Ended;
use crate::client::Client;
use crate::follow::{Course, course};
use crate::place::Where;
use crate::table::{ago, outcome};
use crate::what::What;

/// Say why something is not where it should be, down to whoever can do something about it
#[derive(Args)]
pub(crate) struct Why {
    /// The App or copy: `app/NAME`, `NAME` or `instance/NAME`
    what: What,
    #[command(flatten)]
    place: Where,
}

impl Why {
    #[expect(clippy::print_stdout, reason = "the answer is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let What { resource, name } = self.what;
        let answer = match resource.plural {
            App::PLURAL => {
                chain(&client, &client.app(&self.place.app(&name.parse()?))?, &mut BTreeSet::new())?
            }
            INSTANCES => {
                let instance = client.instance(&self.place.project(), &name)?;
                of_instance(&client, &self.place, &instance)?
            }
            other => bail!("`why` knows apps and instances; {other} wait for nothing"),
        };
        print!("{answer}");
        Ok(Ended::Done)
    }
}

/// Why a copy is as it is.
pub(crate) fn of_instance(client: &Client, place: &Where, it: &Instance) -> anyhow::Result<String> {
    if it.orphan {
        return Ok(format!(
            "instance {}: no App owns it: app {} is not declared, or is another one of that name now\n  \
             it is ended and removed ten minutes after it was first seen; the move is Plimsoll's\n",
            it.id, it.app
        ));
    }
    chain(client, &client.app(&place.app(&it.app))?, &mut BTreeSet::new())
}

/// Every wait of an App with its owner, its deadline and what to do; then those of the Apps it waits for.
pub(crate) fn chain(
    client: &Client,
    app: &Object<App>,
    seen: &mut BTreeSet<ObjectKey>,
) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let mut out = String::new();
    if !seen.insert(app.meta.key.clone()) {
        return Ok(out);
    }
    let outcome = outcome(app);
    let waits = outcome.map(|it| &it.waits[..]).unwrap_or_default();
    if waits.is_empty() {
        // Writing to a String cannot fail.
        let answer = if course(app) == Course::Settled { "it is as declared" } else { "steps are under way" };
        writeln!(out, "app {}: {answer}", app.meta.key.name).ok();
    }
    let mut others = Vec::new();
    for waited in waits {
        let wait = &waited.wait;
        let component = wait.component().map(|it| format!("/{it}")).unwrap_or_default();
        writeln!(out, "app {}{component}: {}", app.meta.key.name, wait.reason()).ok();
        let (since, deadline) = (ago(waited.since.0), wait.deadline());
        let owner = owner_name(&wait.owner());
        writeln!(out, "  for {since}, fine for {deadline}; the move is {owner}'s").ok();
        writeln!(out, "  next: {}", wait.reason().next_step()).ok();
        if let Reason::ProviderNotReady { from } = wait.reason() {
            others.extend(from.app.clone());
        }
    }
    for name in others {
        let key = app.meta.key.sibling(name);
        match client.find_app(&key)? {
            Some(app) => out.push_str(&chain(client, &app, seen)?),
            None => {
                writeln!(out, "app {}: it is not declared", key.name).ok();
            }
        }
    }
    Ok(out)
}

fn owner_name(owner: &Owner) -> String {
    match owner {
        Owner::Program => "the program".into(),
        Owner::Person => "a person".into(),
        Owner::Provider { from } => format!("its provider {from}"),
        Owner::Driver { scope } => scope.to_string(),
        Owner::Registry { registry } => format!("registry {registry}"),
        Owner::Source { source } => format!("source {source}"),
        Owner::Measurer => "whoever measures".into(),
        Owner::Authority => "the certificate authority".into(),
        Owner::Plimsoll => "Plimsoll".into(),
    }
}
