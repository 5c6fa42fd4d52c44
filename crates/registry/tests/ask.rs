//! The client against scripted registries: what real ones answer, and what they should not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_model::id::Digest;
use plimsoll_model::image::ImageRef;
use plimsoll_model::secret::Sensitive;
use plimsoll_registry::{Login, Registry, RegistryError, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What was asked: the first line of a request and its `authorization` header.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A registry that answers as a script says, given what is asked, whose authorization, and its own host.
async fn registry(script: impl Fn(&str, &str, &str) -> String + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (asked, own) = (Asked::default(), host.clone());
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).await.is_err() {
                    break;
                }
                text.push(byte[0]);
            }
            let text = String::from_utf8(text).unwrap();
            let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
            let authorization = text.lines().find_map(|line| line.strip_prefix("authorization: "));
            let authorization = authorization.unwrap_or_default().to_owned();
            let answer = script(&line, &authorization, &own);
            log.lock().unwrap().push((line, authorization));
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (host, asked)
}

fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers = headers.iter().fold(String::new(), |text, header| text + header + "\r\n");
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn image(host: &str) -> ImageRef {
    format!("{host}/team/app:1").parse().unwrap()
}

fn found(digest: Digest) -> String {
    answer("200 OK", &[&format!("docker-content-digest: sha256:{digest}")], "")
}

fn password() -> Login {
    Login { user: "ann".into(), secret: Secret::Password(Sensitive::new("pass".into())) }
}

#[tokio::test]
async fn a_registry_without_a_challenge_is_asked_by_head_alone() {
    let digest = Digest::of_bytes(b"manifest");
    let (host, asked) = registry(move |_, _, _| found(digest)).await;
    assert_eq!(Registry::new().digest(&image(&host), None).await, Ok(digest));
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [("HEAD /v2/team/app/manifests/1".to_owned(), String::new())]);
}

/// A challenge is answered by a token, which is used again as long as it holds.
#[tokio::test]
async fn a_token_is_got_once_with_a_password_or_without() {
    let digest = Digest::of_bytes(b"manifest");
    let script = move |line: &str, authorization: &str, host: &str| match line {
        line if line.starts_with("GET /token?") => {
            answer("200 OK", &[], r#"{"access_token": "t0", "expires_in": 300}"#)
        }
        _ if authorization == "Bearer t0" => found(digest),
        _ => {
            let scope = "repository:team/app:pull";
            let challenge = format!(
                "www-authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"{scope}\""
            );
            answer("401 Unauthorized", &[&challenge], "{}")
        }
    };
    for login in [None, Some(password())] {
        let (host, asked) = registry(script).await;
        let client = Registry::new();
        assert_eq!(client.digest(&image(&host), login.as_ref()).await, Ok(digest));
        assert_eq!(client.digest(&image(&host), login.as_ref()).await, Ok(digest));
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 4, "the second question needs no other token: {asked:?}");
        let (line, authorization) = &asked[1];
        assert_eq!(line, "GET /token?scope=repository%3Ateam%2Fapp%3Apull&service=s");
        assert_eq!(authorization, if login.is_some() { "Basic YW5uOnBhc3M=" } else { "" });
    }
}

#[tokio::test]
async fn a_refresh_token_is_posted() {
    let digest = Digest::of_bytes(b"manifest");
    let (host, asked) = registry(move |line, authorization, host| match line {
        "POST /token" => answer("200 OK", &[], r#"{"token": "t1"}"#),
        _ if authorization == "Bearer t1" => found(digest),
        _ => {
            answer("401 Unauthorized", &[&format!("www-authenticate: Bearer realm=http://{host}/token")], "")
        }
    })
    .await;
    let secret = Secret::IdentityToken(Sensitive::new("refresh".into()));
    let login = Login { user: "ann".into(), secret };
    assert_eq!(Registry::new().digest(&image(&host), Some(&login)).await, Ok(digest));
    assert!(asked.lock().unwrap().iter().any(|(line, _)| line == "POST /token"));
}

#[tokio::test]
async fn a_password_is_given_to_a_registry_that_wants_one_each_time() {
    let digest = Digest::of_bytes(b"manifest");
    let (host, _) = registry(move |_, authorization, _| match authorization {
        "Basic YW5uOnBhc3M=" => found(digest),
        _ => answer("401 Unauthorized", &["www-authenticate: Basic realm=\"r\""], ""),
    })
    .await;
    assert_eq!(Registry::new().digest(&image(&host), Some(&password())).await, Ok(digest));
    let refused = Registry::new().digest(&image(&host), None).await;
    assert_eq!(refused, Err(RegistryError::Forbidden(host)));
}

/// Without the header the digest is that of the bytes; what is no manifest has none.
#[tokio::test]
async fn bytes_are_hashed_where_the_header_is_missing() {
    let manifest = r#"{"schemaVersion": 2, "manifests": []}"#;
    let (host, asked) = registry(move |line, _, _| match line {
        line if line.starts_with("HEAD") => answer("200 OK", &[], ""),
        _ => answer("200 OK", &[], manifest),
    })
    .await;
    let digest = Registry::new().digest(&image(&host), None).await;
    assert_eq!(digest, Ok(Digest::of_bytes(manifest.as_bytes())));
    assert_eq!(asked.lock().unwrap().len(), 2);
    let page = |line: &str, _: &str, _: &str| match line {
        line if line.starts_with("HEAD") => answer("200 OK", &[], ""),
        _ => answer("200 OK", &["content-type: text/html"], "<html>Log in first</html>"),
    };
    let (host, _) = registry(page).await;
    let strange = Registry::new().digest(&image(&host), None).await;
    assert!(matches!(strange, Err(RegistryError::Strange { .. })), "{strange:?}");
}

type IsExpected = fn(&RegistryError) -> bool;

#[tokio::test]
async fn refusals_are_told_apart() {
    let cases: [(&str, IsExpected); 4] = [
        ("404 Not Found", |it| matches!(it, RegistryError::Missing(_))),
        ("403 Forbidden", |it| matches!(it, RegistryError::Forbidden(_))),
        ("500 Internal Server Error", |it| matches!(it, RegistryError::Away { .. }) && it.is_retryable()),
        ("302 Found", |it| matches!(it, RegistryError::Strange { .. }) && !it.is_retryable()),
    ];
    for (status, is_expected) in cases {
        let (host, _) = registry(move |_, _, _| answer(status, &["location: http://elsewhere/"], "")).await;
        let refused = Registry::new().digest(&image(&host), None).await.unwrap_err();
        assert!(is_expected(&refused), "{status}: {refused:?}");
    }
    // A body that breaks off is no manifest.
    let cut = |line: &str, _: &str, _: &str| match line {
        line if line.starts_with("HEAD") => answer("200 OK", &[], ""),
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"schemaVersion\"".to_owned(),
    };
    let (host, _) = registry(cut).await;
    let refused = Registry::new().digest(&image(&host), None).await;
    assert!(matches!(refused, Err(RegistryError::Away { .. })), "{refused:?}");
    // Nobody listens there.
    let refused = Registry::new().digest(&image("127.0.0.1:1"), None).await;
    assert!(matches!(refused, Err(RegistryError::Away { .. })), "{refused:?}");
}

/// A registry that wants to be left alone is, for all images, and is not asked meanwhile.
#[tokio::test]
async fn a_registry_is_left_alone_as_long_as_it_asks_for() {
    let (host, asked) = registry(|_, _, _| answer("429 Too Many Requests", &["retry-after: 120"], "")).await;
    let client = Registry::new();
    for _ in 0..3 {
        let later = client.digest(&image(&host), None).await.unwrap_err();
        let RegistryError::Later { after, .. } = &later else { panic!("{later:?}") };
        assert!(*after > Duration::from_secs(100) && later.is_retryable());
        // A port may have these digits too.
        let said = later.to_string().replace(&host, "");
        assert!(!said.contains("120"), "the sentence stays the same: {later}");
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// Tokens are not fetched from elsewhere without encryption, with somebody's password.
#[tokio::test]
async fn a_password_is_not_carried_about_in_the_clear() {
    let challenge = "www-authenticate: Bearer realm=\"http://elsewhere.example/token\"";
    let (host, asked) = registry(move |_, _, _| answer("401 Unauthorized", &[challenge], "")).await;
    let refused = Registry::new().digest(&image(&host), Some(&password())).await;
    assert!(matches!(refused, Err(RegistryError::Strange { .. })), "{refused:?}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// Tags come in pages; the newest version among all of them counts, and its digest is asked for like any other.
#[tokio::test]
async fn the_newest_version_is_found_on_any_page() {
    let digest = Digest::of_bytes(b"manifest");
    let script = move |line: &str, _: &str, _: &str| match line {
        "GET /v2/team/app/tags/list?n=1000" => {
            let next = "link: </v2/team/app/tags/list?token=b64%3D&n=1000>; rel=\"next\"";
            answer("200 OK", &[next], r#"{"name": "team/app", "tags": ["1.10.0", "1.2.0"]}"#)
        }
        "GET /v2/team/app/tags/list?token=b64%3D&n=1000" => {
            answer("200 OK", &[], r#"{"name": "team/app", "tags": ["1.11.0", "2.0.0", "latest"]}"#)
        }
        "HEAD /v2/team/app/manifests/1.11.0" => found(digest),
        _ => answer("404 Not Found", &[], ""),
    };
    let (host, _) = registry(script).await;
    let image: ImageRef = format!("{host}/team/app").parse().unwrap();
    let newest = |range: &'static str| {
        let image = image.clone();
        async move { Registry::new().newest(&image, &range.parse().unwrap(), None).await }
    };
    assert_eq!(newest("^1").await, Ok(Some(("1.11.0".to_owned(), digest))));
    assert_eq!(newest("^3").await, Ok(None));
}

/// A registry that sends the same page for ever is not asked for ever.
#[tokio::test]
async fn a_page_without_an_end_ends() {
    let next = "link: </v2/team/app/tags/list?last=1.0.0&n=1000>; rel=\"next\"";
    let script =
        move |_: &str, _: &str, _: &str| answer("200 OK", &[next], r#"{"name": "x", "tags": ["1.0.0"]}"#);
    let (host, asked) = registry(script).await;
    let image: ImageRef = format!("{host}/team/app").parse().unwrap();
    assert_eq!(Registry::new().newest(&image, &"^2".parse().unwrap(), None).await, Ok(None));
    assert_eq!(asked.lock().unwrap().len(), 2);
    // An empty repository says `null`.
    let (host, _) = registry(|_, _, _| answer("200 OK", &[], r#"{"name": "x", "tags": null}"#)).await;
    let image: ImageRef = format!("{host}/team/app").parse().unwrap();
    assert_eq!(Registry::new().newest(&image, &"^2".parse().unwrap(), None).await, Ok(None));
}
