//! Completion with live names: the shell asks this program, and this program asks the control plane.
//!
//! What is asked for follows from the name of the argument and the command that it belongs to. Without an answer within a
//! second nothing is offered: a key that hangs is worse than one that does nothing.

use std::ffi::{OsStr, OsString};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use plimsoll_api::{INSTANCES, Resource};
use plimsoll_model::kind::Build;
use plimsoll_model::{App, Kind as _, Project, Secret, Token};
use serde_json::Value;

use crate::Arguments;
use crate::config::Config;
use crate::place::Where;
use crate::what::{project_of, resource};

/// By this variable a shell says that it asks, and which one it is.
const VARIABLE: &str = "PLIMSOLL_COMPLETE";

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(1);

/// Answers a shell and ends, if it is one that asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| live(Arguments::command(), "")).var(VARIABLE).complete();
}

/// Prints what a shell needs to know to ask.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn script(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).context("this shell is not known")?;
    let name = "plimsoll";
    Ok(shell.write_registration(VARIABLE, name, name, name, &mut std::io::stdout())?)
}

/// The names that an argument may have.
#[derive(Clone, Copy)]
enum Names {
    /// Objects of a collection.
    Of(&'static str),
    /// Objects of the collection that the argument before names.
    OfKind,
    /// Collections.
    Kinds,
    /// `KIND/NAME`, or the name of an App.
    What,
    /// Components of the App that an argument before names.
    Components,
    /// Contexts of the settings.
    Contexts,
}

/// A command whose arguments know the names that they may have.
fn live(command: Command, within: &str) -> Command {
    let here = command.get_name().to_owned();
    let complete = |arg: clap::Arg| {
        let names = match (arg.get_id().as_str(), within, &*here) {
            ("app", _, _) => Names::Of(App::PLURAL),
            ("component", _, _) => Names::Components,
            ("instance", _, _) => Names::Of(INSTANCES),
            ("build", "builds", _) => Names::Of(Build::PLURAL),
            ("what", _, _) => Names::What,
            ("kind", _, "get") => Names::Kinds,
            ("name", _, "get") => Names::OfKind,
            ("name", "project", _) | ("project" | "only_projects", _, _) => Names::Of(Project::PLURAL),
            ("name", "token", "revoke") => Names::Of(Token::PLURAL),
            ("name", "secret", _) => Names::Of(Secret::PLURAL),
            ("context", _, _) | ("name", "config", _) => Names::Contexts,
            _ => return arg,
        };
        arg.add(ArgValueCompleter::new(move |current: &OsStr| offered(names, current)))
    };
    command.mut_args(complete).mut_subcommands(|below| live(below, &here))
}

fn offered(names: Names, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str().map(str::to_owned) else { return Vec::new() };
    let (answer, answered) = channel();
    std::thread::spawn(move || answer.send(found(names).unwrap_or_default()));
    let mut found = answered.recv_timeout(WITHIN).unwrap_or_default();
    found.retain(|name| name.starts_with(&current));
    found.into_iter().map(CompletionCandidate::new).collect()
}

fn found(names: Names) -> anyhow::Result<Vec<String>> {
    let words = Words::read()?;
    Ok(match names {
        Names::Of(plural) => words.names(&resource(plural)?)?,
        Names::OfKind => words.names(&resource(&words.text("kind").context("which kind?")?)?)?,
        Names::Kinds => Resource::ALL.iter().map(|it| it.plural.to_owned()).collect(),
        Names::What => {
            let mut found = words.names(&resource(App::PLURAL)?)?;
            for kind in Resource::ALL {
                // A collection that may not be seen has no names to offer.
                let names = words.names(&kind).unwrap_or_default();
                found.extend(names.iter().map(|name| format!("{}/{name}", kind.kind.to_lowercase())));
            }
            found
        }
        Names::Components => {
            let app = words.text("app").context("of which App?")?;
            let app = words.place.client()?.app(&words.place.app(&app.parse()?))?;
            app.spec.components.keys().map(ToString::to_string).collect()
        }
        Names::Contexts => Config::names()?,
    })
}

/// What is on the command line so far.
struct Words {
    matches: ArgMatches,
    place: Where,
}

impl Words {
    fn read() -> anyhow::Result<Self> {
        let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
        let command = Arguments::command().ignore_errors(true);
        let mut matches = command.try_get_matches_from(words)?;
        while let Some((_, below)) = matches.remove_subcommand() {
            matches = below;
        }
        // A command without a place of its own asks the usual one.
        let place = Where::from_arg_matches(&matches).unwrap_or_default();
        Ok(Self { matches, place })
    }

    /// The text of an argument.
    fn text(&self, argument: &str) -> Option<String> {
        let mut values = self.matches.try_get_raw(argument).ok()??;
        Some(values.next()?.to_str()?.to_owned())
    }

    fn names(&self, resource: &Resource) -> anyhow::Result<Vec<String>> {
        let project = self.place.project();
        let items = self.place.client()?.list(project_of(resource, &project), resource.plural)?;
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        Ok(items.iter().filter_map(name).collect())
    }
}
