//! `plimsoll login`: who somebody is, proved by an OpenID Connect provider, becomes a token in their settings.
//!
//! The authorization code flow for programs on one's own machine (RFC 8252) with PKCE (RFC 7636): the browser comes back to a
//! port of the loopback address that is open for this one answer.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use clap::Args;
use plimsoll_api::CameBack;
use sha2::{Digest as _, Sha256};

use crate::Ended;
use crate::config::Config;
use crate::follow::talk;
use crate::place::Where;

/// How long somebody may take to say who they are.
const PATIENCE: Duration = Duration::from_mins(5);

/// Bytes of what a browser asks for at most.
const LARGEST_REQUEST: u64 = 64 << 10;

/// What the browser shows at the end.
const DONE: &str = "You are logged in. This page can be closed.\n";

/// Log in by the provider of a control plane, and keep the token in your settings
#[derive(Args)]
pub(crate) struct Login {
    #[command(flatten)]
    place: Where,
    /// The context that keeps it [default: the current one, or the name of the control plane's host]
    #[arg(long, value_name = "NAME")]
    r#as: Option<String>,
    /// Only print the address of the page, and open no browser
    #[arg(long)]
    no_browser: bool,
}

/// End the token of the current context, and forget it
#[derive(Args)]
pub(crate) struct Logout {
    #[command(flatten)]
    place: Where,
}

/// What only this login knows.
struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

impl Attempt {
    fn new() -> anyhow::Result<Self> {
        let random = || plimsoll_server::random_text();
        Ok(Self { state: random()?, nonce: random()?, verifier: random()? + &random()? })
    }

    /// The page where somebody says who they are.
    fn page(&self, place: &plimsoll_api::LoginPlace, back: &str) -> String {
        let challenge = Base64UrlUnpadded::encode_string(&Sha256::digest(self.verifier.as_bytes()));
        let joint = if place.authorization_endpoint.contains('?') { '&' } else { '?' };
        let parameters = [
            ("response_type", "code"),
            ("client_id", &place.client_id),
            ("redirect_uri", back),
            ("scope", &place.scope),
            ("state", &self.state),
            ("nonce", &self.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        format!("{}{joint}{query}", place.authorization_endpoint)
    }
}

impl Login {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.stranger()?;
        let place: plimsoll_api::LoginPlace = serde_json::from_value(client.login_place()?)?;
        let attempt = Attempt::new()?;
        let listener = TcpListener::bind("127.0.0.1:0").context("no port of this machine can be opened")?;
        let back = format!("http://{}/", listener.local_addr()?);
        let page = attempt.page(&place, &back);
        talk(&format!("say who you are at\n\n  {page}\n"));
        if !self.no_browser && std::io::stderr().is_terminal() {
            // Where there is none, the address above does.
            let browser =
                Command::new("xdg-open").arg(&page).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            drop(browser);
        }
        let code = wait_for_code(&listener, &attempt.state)?;
        let Attempt { nonce, verifier: code_verifier, .. } = attempt;
        let done = client.log_in(&CameBack { code, code_verifier, redirect_uri: back, nonce })?;
        let (name, file) = Config::keep(&self.place, self.r#as.as_deref(), &done.token)?;
        talk(&format!("you are {} until {}", done.user, done.expires));
        talk(&format!("context {name} has the token, which is in {}", file.display()));
        Ok(Ended::Done)
    }
}

impl Logout {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let client = self.place.client()?;
        let Some(token) = client.whoami()?.token else {
            bail!("this is the token of the data directory, which belongs to the machine");
        };
        let key = plimsoll_model::ObjectKey::of_installation(token.clone());
        client.delete(&key, <plimsoll_model::Token as plimsoll_model::Kind>::PLURAL, false)?;
        talk(&format!("token {token} is good for nothing any more"));
        Ok(Ended::Done)
    }
}

/// The code with which the browser comes back.
fn wait_for_code(listener: &TcpListener, state: &str) -> anyhow::Result<String> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(outcome) = came_back(stream, state) {
                    return outcome;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("nobody said who they are within {} minutes", PATIENCE.as_secs() / 60);
}

/// What the browser brings; nothing if it asks for something else, such as an icon.
fn came_back(mut stream: TcpStream, state: &str) -> Option<anyhow::Result<String>> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    // All of it is read: what is left unread would break off the answer.
    let head: Vec<String> = BufReader::new(&stream)
        .take(LARGEST_REQUEST)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let line = head.first()?;
    let query = line.split(' ').nth(1)?.split_once('?')?.1;
    let parameter = |name: &str| {
        let found = form_urlencoded::parse(query.as_bytes()).find(|(it, _)| it == name);
        found.map(|(_, value)| value.into_owned())
    };
    let is_ours = parameter("state").as_deref() == Some(state);
    let outcome = match (parameter("code"), parameter("error")) {
        (Some(code), _) if is_ours => Ok(code),
        // Some providers leave the state out here. Whoever else says so can only end this login, and gets nothing by it.
        (None, Some(error)) => {
            let why = parameter("error_description").unwrap_or(error);
            Err(anyhow::anyhow!("the provider refused: {why}"))
        }
        _ => return None,
    };
    let text = if outcome.is_ok() { DONE } else { "The login failed; the terminal says why.\n" };
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: ";
    // Whoever has closed the page knows.
    write!(stream, "{head}{}\r\n\r\n{text}", text.len()).ok();
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_was_meant_whatever_is_in_it() {
        let text = "a b+c/d=é&%";
        let attempt = Attempt { state: text.into(), nonce: "n".into(), verifier: "v".into() };
        let place = plimsoll_api::LoginPlace {
            issuer: "https://id".into(),
            client_id: text.into(),
            authorization_endpoint: "https://id/page?tenant=1".into(),
            scope: "openid email".into(),
        };
        let page = attempt.page(&place, "http://127.0.0.1:1/");
        let query = page.strip_prefix("https://id/page?tenant=1&").unwrap();
        let said: std::collections::BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
        assert_eq!((&*said["state"], &*said["client_id"]), (text, text));
        assert_eq!((&*said["redirect_uri"], &*said["scope"]), ("http://127.0.0.1:1/", "openid email"));
    }
}
