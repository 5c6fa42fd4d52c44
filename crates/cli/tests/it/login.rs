//! People log in by a provider; what the provider did not say, nobody is.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};

use plimsoll_testkit::Oidc;
use serde_json::{Value, json};

use super::plane::{BASE, Plane};

const ADA: &str = r#"{"sub": "ada", "email": "ada@example.org", "email_verified": true}"#;
const BOB: &str = r#"{"sub": "bob", "email": "bob@example.org", "email_verified": true}"#;
const EVE: &str = r#"{"sub": "eve", "email": "ada@example.org", "email_verified": false}"#;

impl Plane {
    /// A plane with logins by a provider; its administrator is Ada.
    fn with_logins(provider: &Oidc, client: &str) -> Self {
        let mut plane = Self::new();
        plane.stop();
        let secret = plane.directory.path().join("oidc-secret");
        std::fs::write(&secret, "s3cret\n").unwrap();
        let (secret, issuer) = (secret.display().to_string(), provider.issuer());
        let options = [
            &["--oidc-issuer", &issuer, "--oidc-client-id", client][..],
            &["--oidc-client-secret-file", &secret, "--oidc-admins", "ada@example.org"],
        ];
        let options = options.concat();
        plane.options = options.iter().map(|it| (*it).to_owned()).collect();
        plane.start();
        plane
    }

    /// A command of somebody with settings of their own.
    fn theirs(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env("PLIMSOLL_CONFIG", self.directory.path().join("config.toml"));
        command.env_remove("PLIMSOLL_DATA_DIR").stdin(Stdio::null());
        command
    }

    /// What comes of a login in which somebody presses a button.
    fn log_in(&self, sub: &str) -> (i32, String) {
        let mut login = self.theirs(&["login", "--server", &self.url, "--as", "there", "--no-browser"]);
        let mut login = login.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(login.stderr.take().unwrap());
        let mut page = String::new();
        while !page.trim().starts_with("http") {
            page.clear();
            assert!(said.read_line(&mut page).unwrap() > 0, "no page is named");
        }
        let back = press(page.trim(), sub);
        // An answer to another question is not listened to.
        let strange = back.replace("state=", "state=x");
        let agent = agent();
        if sub != "nobody" {
            agent.get(&strange).call().ok();
        }
        let mut answer = agent.get(&back).call().unwrap();
        let shown = answer.body_mut().read_to_string().unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        (login.wait().unwrap().code().unwrap(), rest + &shown)
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().max_redirects(0).http_status_as_error(false).build().into()
}

/// Presses the provider's button, and returns where the browser is sent.
fn press(page: &str, sub: &str) -> String {
    let form = if sub == "nobody" { ("action", "deny") } else { ("sub", sub) };
    let answer = agent().post(page).send_form([form]).unwrap();
    answer.headers().get("location").unwrap().to_str().unwrap().to_owned()
}

/// An ID token of a provider, for a client, made for a nonce.
fn id_token(provider: &Oidc, client: &str, sub: &str, nonce: &str) -> String {
    let (back, issuer) = ("http://127.0.0.1:9/", provider.issuer());
    let page = format!(
        "{issuer}/oauth2/authorize?response_type=code&client_id={client}&redirect_uri={back}&scope=openid+email&state=s&nonce={nonce}"
    );
    let location = press(&page, sub);
    let code = location.split("code=").nth(1).unwrap().split('&').next().unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", back),
        ("client_id", client),
        ("client_secret", "s"),
    ];
    let mut answer = agent().post(format!("{issuer}/oauth2/token")).send_form(form).unwrap();
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    answer["id_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn ended(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn who_proves_who_they_are_has_their_rights_until_they_log_out() {
    let provider = Oidc::start(&[ADA, BOB, EVE], 3600);
    let plane = Plane::with_logins(&provider, "plimsoll");
    plane.project("shop", &json!({"bob@example.org": "viewer"}));
    let (code, said) = plane.log_in("bob");
    assert!(
        code == 0 && said.contains("you are bob@example.org until") && said.contains("can be closed"),
        "{said}"
    );
    let token = plane.directory.path().join("tokens/there");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&token.metadata().unwrap()) & 0o777, 0o600);
    let can =
        |verb: &str| plane.theirs(&["auth", "can-i", verb, "--project", "shop"]).status().unwrap().success();
    assert!(can("read") && !can("write"));
    let whoami = ended(&plane.theirs(&["auth", "whoami"]).output().unwrap());
    assert!(whoami.contains("bob@example.org"), "{whoami}");
    assert!(plane.carry_out(&["audit"]).contains("log in"));
    let out = plane.theirs(&["logout"]).output().unwrap();
    assert!(out.status.success(), "{}", ended(&out));
    let after = plane.theirs(&["auth", "whoami"]).output().unwrap();
    assert!(!after.status.success(), "{}", ended(&after));

    let (code, said) = plane.log_in("ada");
    assert_eq!(code, 0, "{said}");
    assert!(
        plane.theirs(&["project", "create", "more"]).status().unwrap().success(),
        "she administrates the platform"
    );
    let (code, said) = plane.log_in("eve");
    assert!(code == 1 && said.contains("has not verified this address"), "{said}");
    let (code, said) = plane.log_in("nobody");
    assert!(code == 1 && said.contains("the provider refused"), "{said}");
}

#[test]
fn a_token_that_was_not_made_for_this_login_is_nobody() {
    let provider = Oidc::start(&[ADA], 3600);
    let plane = Plane::with_logins(&provider, "plimsoll");
    let login = |token: &str, nonce: &str| {
        let body = json!({"idToken": token, "nonce": nonce});
        let answer = plane.ask("", "POST", &format!("{BASE}/login"), Some(&body));
        (answer.status, answer.text)
    };
    let right = id_token(&provider, "plimsoll", "ada", "n1");
    assert_eq!(login(&right, "n1").0, 201);
    assert_eq!(login(&right, "n2").0, 403, "it was made for another login");
    assert_eq!(login(&id_token(&provider, "other", "ada", "n1"), "n1").0, 403, "for another client");
    let parts: Vec<&str> = right.split('.').collect();
    let forged = base64(&json!({"alg": "none"}).to_string());
    assert_eq!(login(&format!("{forged}.{}.", parts[1]), "n1").0, 403, "not signed");
    let shared = base64(&json!({"alg": "HS256", "typ": "JWT"}).to_string());
    assert_eq!(
        login(&format!("{shared}.{}.{}", parts[1], parts[2]), "n1").0,
        403,
        "signed with what everybody knows"
    );
    let claims = base64(&json!({"iss": provider.issuer(), "aud": "plimsoll", "sub": "ada", "email": "root@example.org", "exp": 4_000_000_000u64, "nonce": "n1"}).to_string());
    assert_eq!(login(&format!("{}.{claims}.{}", parts[0], parts[2]), "n1").0, 403, "altered");
    // Another provider, which has other keys, and says that it is the same.
    let other = Oidc::start(&[ADA], 3600);
    assert_eq!(login(&id_token(&other, "plimsoll", "ada", "n1"), "n1").0, 403);
    for nonsense in ["", "a.b.c", "…"] {
        assert_eq!(login(nonsense, "n1").0, 403, "{nonsense}");
    }
    drop(provider);
    // Its keys are known by now; whoever has a right token gets in without asking it again.
    assert_eq!(login(&right, "n1").0, 201);
    let plain = Plane::new();
    assert_eq!(plain.ask("", "GET", &format!("{BASE}/login"), None).status, 404);
}

#[test]
fn a_token_that_has_ended_or_a_provider_that_is_gone_lets_nobody_in() {
    let provider = Oidc::start(&[ADA], 1);
    let plane = Plane::with_logins(&provider, "plimsoll");
    let token = id_token(&provider, "plimsoll", "ada", "n1");
    let login =
        || plane.ask("", "POST", &format!("{BASE}/login"), Some(&json!({"idToken": token, "nonce": "n1"})));
    drop(provider);
    let silent = login();
    assert_eq!(silent.status, 503, "{}", silent.text);
    assert_eq!(plane.ask("", "GET", &format!("{BASE}/login"), None).status, 503);
}

fn base64(text: &str) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().chain(&[0, 0]).take(3).fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
        for place in 0..=chunk.len() {
            out.push(char::from(digits[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}
