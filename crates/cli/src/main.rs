//! The `plimsoll` command: arguments in, text out.
//!
//! Data goes to standard output, talk to standard error. Exit codes: 0 done, 1 failed, 2 changes found (only
//! with `--exit-code`), 64 wrong usage, 124 a wait that timed out. What the commands do lives in the other crates.

mod backup;
mod builds;
mod bundle;
mod ci;
mod client;
mod compat;
mod complete;
mod config;
mod delete;
mod describe;
mod diff;
mod doctor;
mod exec;
mod explain;
mod follow;
mod get;
mod host;
mod images;
mod install;
mod key;
mod login;
mod logs;
mod news;
mod patch;
mod people;
mod place;
mod plan;
mod programs;
mod rollout;
mod showing;
mod sim;
mod source;
mod table;
mod top;
mod transport;
mod up;
mod verbs;
mod what;
mod why;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use plimsoll_model::operations::Power;

/// Plans, deploys, heals, rolls back and explains.
#[derive(Parser)]
#[command(name = "plimsoll", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the Path: every step from what is there to what a file declares
    Plan(plan::Plan),
    /// Run the whole control plane under simulated faults
    Sim(sim::Sim),
    /// Run what a file declares on this machine, and keep it running
    Up(up::Up),
    /// Run the control plane of this machine, and its local node
    Server(host::ServerCommand),
    /// Bring what a file declares into the control plane
    Apply(verbs::Apply),
    /// Show how a file differs from what is declared
    Diff(diff::Diff),
    /// Edit what is declared of an object, in $VISUAL or $EDITOR
    Edit(diff::Edit),
    /// Change a part of an object
    Patch(patch::Patch),
    /// List objects, or print one
    Get(get::Get),
    /// Print everything about an object that a person may want to know
    Describe(describe::Describe),
    /// Say why something is not where it should be, down to whoever can do something about it
    Why(why::Why),
    /// Print what was decided and done for an App, the oldest first
    Events(describe::Events),
    /// Print what an App's copies said
    Logs(logs::Logs),
    /// Run a command beside the program of a copy
    Exec(exec::Exec),
    /// Copy files from and to a copy's directory
    Cp(exec::Cp),
    /// Print how much CPU and memory copies use now
    Top(top::Top),
    /// Run a program from its text, under a token that owns it
    Load(programs::LoadCommand),
    /// Print what has become of a program that was loaded
    Status(programs::Status),
    /// End a program that was loaded
    Unload(programs::Unload),
    /// List the programs that were loaded
    Programs(programs::Programs),
    /// Print which bytes the images of Apps stood for, since when and why
    Images(images::Images),
    /// Print what sources were built to, and what building them has said
    Builds(builds::Builds),
    /// Show how a source would be built
    Build(builds::BuildCommand),
    /// What pipelines say: deploy what was built
    #[command(subcommand)]
    Ci(ci::Ci),
    /// Wait until an App runs as declared
    Wait(verbs::WaitCommand),
    /// Run so many copies of a component, whatever its declaration says
    Scale(verbs::Scale),
    /// End an App's copies; volumes and addresses stay
    Stop(verbs::OfApp),
    /// Let a stopped App run again
    Start(verbs::OfApp),
    /// Try again what was rejected
    Retry(verbs::Retry),
    /// Follow, list, undo, pause, resume or restart a rollout
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Set the values of a Secret
    #[command(subcommand)]
    Secret(verbs::SecretCommand),
    /// Delete an App with everything of it, or a Secret
    Delete(delete::Delete),
    /// Projects: who may do what in them, and how much
    #[command(subcommand)]
    Project(people::ProjectCommand),
    /// Tokens for people and programs
    #[command(subcommand)]
    Token(people::TokenCommand),
    /// Log in by the provider of a control plane, and keep the token in your settings
    Login(login::Login),
    /// End the token of the current context, and forget it
    Logout(login::Logout),
    /// Who you are and what you may do
    #[command(subcommand)]
    Auth(people::Auth),
    /// Print who changed what, the oldest first
    Audit(people::Audit),
    /// Backups: everything of an installation in one encrypted file
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Keys: what opens the secrets of an installation
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Move everything from the file in the data directory to a PostgreSQL database
    Migrate(backup::Migrate),
    /// Look for what keeps this machine from its work
    Doctor(doctor::Doctor),
    /// Write what somebody else needs to find out what is wrong, without anything secret
    SupportBundle(doctor::SupportBundle),
    /// List the kinds of objects
    ApiResources,
    /// Say what a field of a document is for: app, app.spec.components.update
    Explain(explain::Explain),
    /// Your own settings: contexts, and which one commands mean
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print what a shell needs to complete commands and names: `source <(plimsoll completion bash)`
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for man(1), into a directory
    Man {
        /// The directory, such as /usr/local/share/man/man1
        directory: std::path::PathBuf,
    },
    /// Print the version of this program, and of the control plane if one answers
    Version(people::Version),
    /// Lead traffic to what is ready; the server starts it
    #[command(hide = true)]
    Router {
        /// Where its tables are kept
        directory: std::path::PathBuf,
        /// The installation it serves
        installation: plimsoll_model::id::InstallationId,
        /// The port where routes are served
        port: Option<u16>,
        /// The address where they are served
        #[arg(long)]
        address: Option<std::net::IpAddr>,
        /// The port where they are served encrypted
        #[arg(long)]
        https_port: Option<u16>,
    },
    /// Supervise one instance; the agent starts it
    #[command(hide = true)]
    Shim {
        /// The instance's directory
        directory: std::path::PathBuf,
        /// Its standard input is a terminal of its own
        #[arg(long)]
        terminal: bool,
        /// Become this command beside the program that runs there
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// How a command ended, where that is not a failure.
enum Ended {
    Done,
    /// Another process does it already; the code says which kind.
    Locked(u8),
    /// A command that was run somewhere ended with this exit code.
    Code(u8),
    /// The answer is no.
    No,
    /// Changes were found and `--exit-code` asks to be told.
    Changes,
    /// A wait took longer than it was given.
    TimedOut,
}

#[expect(clippy::print_stderr, reason = "this is the command line")]
fn main() -> ExitCode {
    complete::answer();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed terminal is no reason to fail differently.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    match carry_out(arguments.command) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Locked(code)) => ExitCode::from(code),
        Ok(Ended::Code(code)) => ExitCode::from(code),
        Ok(Ended::No) => ExitCode::FAILURE,
        Ok(Ended::Changes) => ExitCode::from(2),
        Ok(Ended::TimedOut) => {
            eprintln!("error: it takes longer than it was given; it goes on without this command");
            ExitCode::from(124)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out a command.
#[expect(clippy::too_many_lines, reason = "one arm for each command")]
fn carry_out(command: Command) -> anyhow::Result<Ended> {
    match command {
        Command::Plan(plan) => plan.run(),
        Command::Sim(sim) => sim.run(),
        Command::Up(up) => up.run(),
        Command::Server(server) => server.run(),
        Command::Apply(apply) => apply.run(),
        Command::Patch(patch) => patch.run(),
        Command::Get(get) => get.run(),
        Command::Describe(describe) => describe.run(),
        Command::Why(why) => why.run(),
        Command::Events(events) => events.run(),
        Command::Logs(logs) => logs.run(),
        Command::Exec(exec) => exec.run(),
        Command::Cp(cp) => cp.run(),
        Command::Top(top) => top.run(),
        Command::Load(load) => load.run(),
        Command::Status(status) => status.run(),
        Command::Unload(unload) => unload.run(),
        Command::Programs(programs) => programs.run(),
        Command::Images(images) => images.run(),
        Command::Builds(builds) => builds.run(),
        Command::Build(build) => build.run(),
        Command::Ci(ci) => ci.run(),
        Command::Wait(wait) => wait.run(),
        Command::Scale(scale) => scale.run(),
        Command::Stop(of) => verbs::power(&of, Power::Off),
        Command::Start(of) => verbs::power(&of, Power::On),
        Command::Retry(retry) => retry.run(),
        Command::Rollout(rollout) => rollout.run(),
        Command::Secret(secret) => secret.run(),
        Command::Delete(delete) => delete.run(),
        Command::Project(project) => project.run(),
        Command::Token(token) => token.run(),
        Command::Login(login) => login.run(),
        Command::Logout(logout) => logout.run(),
        Command::Auth(auth) => auth.run(),
        Command::Audit(audit) => audit.run(),
        Command::Diff(diff) => diff.run(),
        Command::Edit(edit) => edit.run(),
        Command::Explain(explain) => explain.run(),
        Command::Config(config) => config.run(),
        Command::Backup(backup) => backup.run(),
        Command::Key(key) => key.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::SupportBundle(bundle) => bundle.run(),
        Command::ApiResources => Ok(people::api_resources()),
        Command::Completion { shell } => complete::script(shell).map(|()| Ended::Done),
        Command::Man { directory } => {
            std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(Arguments::command(), &directory))
                .with_context(|| format!("{} cannot be written", directory.display()))?;
            Ok(Ended::Done)
        }
        Command::Router { directory, installation, port, address, https_port } => {
            let ports = plimsoll_router::Ports { address, http: port, https: https_port };
            match plimsoll_router::run(&directory, installation, ports) {
                Ok(()) => Ok(Ended::Done),
                Err(error) if error.is_locked => Ok(Ended::Locked(plimsoll_router::LOCKED)),
                Err(error) => Err(error.into()),
            }
        }
        Command::Shim { directory, terminal, command } if !command.is_empty() => {
            Err(plimsoll_shim::exec(&directory, &command, terminal).into())
        }
        Command::Shim { directory, .. } => match plimsoll_shim::supervise(&directory) {
            Ok(()) => Ok(Ended::Done),
            Err(plimsoll_shim::ShimError::Locked) => Ok(Ended::Locked(plimsoll_shim::LOCKED)),
            Err(error) => Err(error.into()),
        },
        Command::Version(version) => Ok(version.run()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_options_of_a_command_are_called_the_same() {
        Arguments::command().debug_assert();
    }

    /// The reference in `docs/cli.md` is what the commands say of themselves.
    #[test]
    fn the_committed_reference_is_this_one() {
        let mut text = String::from(
            "# The commands\n\nWhat each command says of itself; `plimsoll help COMMAND` prints the same. Exit codes: 0 done, 1 failed, \
             2 changes found (with `--exit-code`), 64 wrong usage, 124 a wait that timed out; `exec` ends as its command did.\n",
        );
        let mut command = Arguments::command().term_width(110);
        command.build();
        describe(&mut command, "plimsoll", &mut text);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        if std::env::var_os("PLIMSOLL_WRITE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text, "run the tests with PLIMSOLL_WRITE=1 and commit docs/cli.md");
    }

    /// Every command that the documents speak of in passing is one, with the options that it has.
    #[test]
    fn documents_speak_of_commands_that_there_are() {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path());
        let mut seen = 0;
        for path in
            docs.chain([root.join("README.md")]).filter(|it| it.extension().is_some_and(|it| it == "md"))
        {
            let text = std::fs::read_to_string(&path).unwrap();
            for command in text.split('`').skip(1).step_by(2).filter_map(|it| it.strip_prefix("plimsoll ")) {
                seen += 1;
                let command = command.replace('\n', " ");
                assert!(is_known(&command), "{}: there is no `plimsoll {command}`", path.display());
            }
        }
        assert!(seen > 20, "{seen}");
    }

    fn is_known(line: &str) -> bool {
        let mut command = Arguments::command();
        command.build();
        let mut at = &command;
        let mut words = line.split_whitespace().take_while(|word| *word != "--");
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(option) => {
                    let (option, value) = option.split_once('=').unzip();
                    let option = option.unwrap_or(&word[2..]);
                    let known = at.get_arguments().find(|it| it.get_long() == Some(option));
                    let Some(known) = known else { return false };
                    if value.is_none() && known.get_action().takes_values() {
                        words.next();
                    }
                }
                None => match at.find_subcommand(word) {
                    Some(below) => at = below,
                    None if at.has_subcommands() && !at.get_positionals().any(|_| true) => {
                        return word.chars().all(char::is_uppercase);
                    }
                    None => {}
                },
            }
        }
        true
    }

    fn describe(command: &mut clap::Command, name: &str, text: &mut String) {
        use std::fmt::Write as _;
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
        for below in command.get_subcommands_mut().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
            let name = format!("{name} {}", below.get_name());
            describe(below, &name, text);
        }
    }
}
