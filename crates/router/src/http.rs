//! Host and path routes: requests, each led to a ready member.

use std::convert::Infallible;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use plimsoll_model::quantity::Span;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::access::{self, AccessLog, Line};
use crate::certificates::{self, Certificates};
use crate::hold::{Held, Holding};
use crate::load::Load;
use crate::passing::{BrokenOff, LARGEST_REQUEST, Passing};
use crate::state::{Backend, InFlight, State};
use crate::upstream::{NoAnswer, Upstream};

/// Connections served at the same time.
const MOST_CONNECTIONS: usize = 8192;

/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(15);

/// Bytes of the head of a request.
const LARGEST_HEAD: u32 = 64 << 10;

/// Requests under way on one connection, for HTTP/2.
const MOST_STREAMS: u32 = 256;

/// How long a member may take to begin its answer.
const ANSWER: Duration = Duration::from_mins(1);

/// How long a member may take nothing of a request's body. Longer than a client may be silent, who is told so first.
const STALLED: Duration = Duration::from_secs(90);

/// How long a request waits for a member when none is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds after which a client is asked to come back where no member was ready.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Pause between two looks for a ready member.
const LOOK: Duration = Duration::from_millis(20);

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The port that `https` means by itself.
const HTTPS: u16 = 443;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

type AnyBody = UnsyncBoxBody<Bytes, BrokenOff>;

/// What every connection needs.
pub(crate) struct Front {
    state: Arc<State>,
    certificates: Arc<Certificates>,
    /// The port where routes are served encrypted.
    tls_port: u16,
    upstream: Upstream,
    log: AccessLog,
}

impl Front {
    pub(crate) fn new(
        state: Arc<State>,
        certificates: Arc<Certificates>,
        tls_port: u16,
        log: AccessLog,
    ) -> Arc<Self> {
        Arc::new(Self { state, certificates, tls_port, upstream: Upstream::default(), log })
    }
}

/// Accepts connections until it is dropped, encrypted ones where there is an acceptor.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, front: Arc<Front>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let (front, tls) = (front.clone(), tls.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true).ok();
                    rustix::net::sockopt::set_socket_keepalive(&stream, true).ok();
                    if let Some(tls) = tls {
                        encrypted(stream, &tls, client, front).await;
                    } else {
                        connection(stream, Client { address: client, is_encrypted: false }, front).await;
                    }
                    drop(permit);
                });
            }
            // Too many files are open, or the client is gone already: others may still come.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Whoever is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
struct Client {
    address: SocketAddr,
    is_encrypted: bool,
}

async fn encrypted(stream: TcpStream, tls: &TlsAcceptor, address: SocketAddr, front: Arc<Front>) {
    // Whoever cannot be talked to, or says nothing, is left alone.
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD, tls.accept(stream)).await else { return };
    if certificates::is_for_proof(stream.get_ref().1.alpn_protocol()) {
        return;
    }
    connection(stream, Client { address, is_encrypted: true }, front).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    front: Arc<Front>,
) {
    let service = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(front.answer(request, client).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(Some(HEAD)).max_concurrent_streams(MOST_STREAMS);
    http2.max_header_list_size(LARGEST_HEAD);
    // A client that breaks off ends its connection; that is no error of ours.
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.ok();
}

/// An answer that was not a member's.
struct Refusal {
    status: StatusCode,
    what: String,
}

impl Front {
    async fn answer(&self, mut request: Request<Incoming>, client: Client) -> Response<AnyBody> {
        let began = Instant::now();
        let id = request_id(request.headers_mut());
        let mut line = Line {
            at: access::now(),
            id: id.to_str().unwrap_or_default().to_owned(),
            client: client.address.ip().to_string(),
            method: request.method().to_string(),
            host: host(&request).unwrap_or_default(),
            path: request.uri().path().to_owned(),
            status: 0,
            took: 0,
            member: None,
        };
        let result = match self.shortcut(&request, client, &line.host) {
            Some(response) => Ok(response),
            None => self.lead(request, client, &mut line).await,
        };
        let mut response = result.unwrap_or_else(|refusal| {
            let text = format!("{} {}\nrequest {}\n", refusal.status.as_u16(), refusal.what, line.id);
            let mut response = own(refusal.status, text);
            if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            response
        });
        response.headers_mut().insert(REQUEST_ID, id);
        line.status = response.status().as_u16();
        line.took = began.elapsed().as_millis();
        self.log.add(line);
        response
    }

    /// What is answered without any copy: the proof that an authority asks for, and the way to the encrypted port.
    fn shortcut(&self, request: &Request<Incoming>, client: Client, host: &str) -> Option<Response<AnyBody>> {
        if client.is_encrypted {
            return None;
        }
        let path = request.uri().path();
        if let Some(text) = self.certificates.proof(host, path) {
            return Some(own(StatusCode::OK, text));
        }
        let routing = self.state.routing();
        routing.find(host, path).filter(|route| route.tls)?;
        let port = if self.tls_port == HTTPS { String::new() } else { format!(":{}", self.tls_port) };
        let whole = request.uri().path_and_query().map_or("/", |it| it.as_str());
        let place = HeaderValue::from_str(&format!("https://{host}{port}{whole}")).ok()?;
        // The same method, with the same body.
        let mut response = own(StatusCode::PERMANENT_REDIRECT, format!("308 see {}\n", place.to_str().ok()?));
        response.headers_mut().insert(header::LOCATION, place);
        // Whoever comes back finds out again.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    async fn lead(
        &self,
        mut request: Request<Incoming>,
        client: Client,
        line: &mut Line,
    ) -> Result<Response<AnyBody>, Refusal> {
        let path = request.uri().path().to_owned();
        let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let protocol = upgrade.is_some().then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
        forward_headers(&mut request, client, &line.host, protocol.as_ref());
        if request.body().size_hint().lower() > LARGEST_REQUEST {
            return Err(refused_body(&BrokenOff::TooLarge, StatusCode::PAYLOAD_TOO_LARGE));
        }
        let (passed, sent) =
            (!request.body().is_end_stream()).then(|| watch::channel(Instant::now())).unzip();
        let mut request = request.map(|body| Passing::from_client(body, passed));
        let mut patience = Patience { give_up: Instant::now() + PATIENCE, held: None };
        let mut tried = Vec::new();
        loop {
            let routing = self.state.routing();
            let route = routing.find(&line.host, &path).ok_or_else(|| Refusal {
                status: StatusCode::NOT_FOUND,
                what: format!("no route leads from {}{path}", line.host),
            })?;
            let backend = &route.backend;
            let hsts = route.hsts.filter(|_| client.is_encrypted);
            let Some(in_flight) = backend.pick(&tried) else {
                patience.wait(backend, &self.state.holding).await?;
                tried.clear();
                continue;
            };
            tried.push(in_flight.endpoint);
            let mut counted =
                Counted { load: in_flight.load.clone(), since: Instant::now(), is_counted: false };
            line.member = Some(in_flight.endpoint.to_string());
            let answered = tokio::select! {
                answered = self.upstream.send(in_flight.endpoint, request) => Ok(answered),
                () = late(sent.clone()) => Err(()),
            };
            request = match answered {
                Ok(Ok(response)) => {
                    // A member's time begins when it has all of the request.
                    let sent = sent.as_ref().map(|sent| *sent.borrow());
                    counted.since = sent.map_or(counted.since, |sent| sent.max(counted.since));
                    counted.answered(response.status().is_server_error());
                    let mut response = answer_of(response, in_flight, upgrade);
                    if let Some(hsts) = hsts {
                        tell(&mut response, hsts);
                    }
                    return Ok(response);
                }
                // It never saw the request: another one may have it, whatever the method.
                Ok(Err(NoAnswer::NotSent(unsent))) => {
                    counted.is_counted = true;
                    *unsent
                }
                Ok(Err(NoAnswer::Broken(error))) => {
                    counted.broken(&error);
                    return Err(broken(&error));
                }
                Err(()) => {
                    counted.failed();
                    let what = format!("the copy did not answer within {} s", ANSWER.as_secs());
                    return Err(Refusal { status: StatusCode::GATEWAY_TIMEOUT, what });
                }
            };
        }
    }
}

/// A request that waits for a member, and wakes a component that sleeps.
struct Patience {
    give_up: Instant,
    held: Option<Held>,
}

impl Patience {
    /// Waits for a moment, if it may wait any longer.
    async fn wait(&mut self, backend: &Backend, holding: &Arc<Holding>) -> Result<(), Refusal> {
        let refused = |what: &str| Refusal { status: StatusCode::SERVICE_UNAVAILABLE, what: what.into() };
        if let Some(sleeper) = backend.sleeper.as_ref().filter(|_| self.held.is_none() && backend.is_empty())
        {
            let held = holding.hold(sleeper);
            self.held = Some(held.ok_or_else(|| refused("too many wait for a copy already"))?);
            self.give_up = Instant::now() + Duration::from_millis(sleeper.hold.millis);
        }
        if Instant::now() >= self.give_up {
            return Err(refused(if backend.is_empty() {
                "no copy is ready"
            } else {
                "no copy can be reached"
            }));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

/// A request at a member, until it is counted. One whose client gave up before there was an answer took at least so long.
struct Counted {
    load: Arc<Load>,
    since: Instant,
    is_counted: bool,
}

impl Counted {
    fn answered(&mut self, is_failure: bool) {
        self.load.answered(self.since.elapsed(), is_failure);
        self.is_counted = true;
    }

    fn failed(&mut self) {
        self.load.failed();
        self.is_counted = true;
    }

    /// What the client broke off is not the member's failure.
    fn broken(&mut self, error: &hyper::Error) {
        if error.source().is_some_and(<dyn std::error::Error>::is::<BrokenOff>) {
            self.is_counted = true;
        } else {
            self.failed();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_counted {
            self.load.answered(self.since.elapsed(), false);
        }
    }
}

/// Ends when a member has had its time to answer, which begins when it has all of the request; or when it takes nothing of
/// the request's body any more.
async fn late(sent: Option<watch::Receiver<Instant>>) {
    if let Some(mut sent) = sent {
        loop {
            match tokio::time::timeout(STALLED, sent.changed()).await {
                Ok(Ok(())) => {}
                // All of it has passed.
                Ok(Err(_)) => break,
                Err(_) => return,
            }
        }
    }
    tokio::time::sleep(ANSWER).await;
}

/// Tells a client for how long it shall come encrypted only.
fn tell(response: &mut Response<AnyBody>, hsts: Span) {
    if let Ok(value) = HeaderValue::from_str(&format!("max-age={}", hsts.millis / 1000)) {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
}

/// An answer of the router's own.
fn own(status: StatusCode, text: String) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn refused_body(broken: &BrokenOff, status: StatusCode) -> Refusal {
    Refusal { status, what: broken.to_string() }
}

/// What a client is told when an exchange with a member broke off: it may have been the client's own fault.
fn broken(error: &hyper::Error) -> Refusal {
    match error.source().and_then(|cause| cause.downcast_ref::<BrokenOff>()) {
        Some(it @ BrokenOff::TooLarge) => refused_body(it, StatusCode::PAYLOAD_TOO_LARGE),
        Some(it @ BrokenOff::Silent(_)) => refused_body(it, StatusCode::REQUEST_TIMEOUT),
        _ => Refusal { status: StatusCode::BAD_GATEWAY, what: error.to_string() },
    }
}

/// The member's answer; the member is busy until all of it was passed on.
fn answer_of(
    mut response: Response<Incoming>,
    in_flight: InFlight,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Response<AnyBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(upgrade) = upgrade
    {
        let member = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _in_flight = in_flight;
            let (Ok(client), Ok(member)) = tokio::join!(upgrade, member) else { return };
            let (mut client, mut member) = (TokioIo::new(client), TokioIo::new(member));
            // Either side may break off at any time; that is theirs to handle.
            tokio::io::copy_bidirectional(&mut client, &mut member).await.ok();
        });
        return response.map(|body| body.map_err(BrokenOff::from).boxed_unsync());
    }
    remove_hop_headers(response.headers_mut());
    response.map(|body| Passing::from_member(body, in_flight).boxed_unsync())
}

/// The host a request is for, in lower case and without a port.
fn host(request: &Request<Incoming>) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().host().or(header)?;
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    Some(bare.to_lowercase())
}

/// The client's own request id if it has a plausible one, else a new one.
fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let plausible = |id: &&HeaderValue| {
        id.len() <= 128
            && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(plausible) {
        return id.clone();
    }
    let id = format!("{:016x}", fastrand::u64(..));
    let id = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"));
    headers.insert(REQUEST_ID, id.clone());
    id
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get(header::CONNECTION).and_then(|value| value.to_str().ok());
    let named = connection
        .is_some_and(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")));
    named && headers.contains_key(header::UPGRADE)
}

/// Headers of one connection only: RFC 9110, section 7.6.1.
fn remove_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let always = [
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRANSFER_ENCODING,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in always {
        headers.remove(name);
    }
}

/// HTTP/2 may send each cookie by itself, HTTP/1.1 has them in one field: RFC 9113, section 8.2.3.
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes a client's request one to a member.
fn forward_headers(
    request: &mut Request<Incoming>,
    client: Client,
    host: &str,
    protocol: Option<&HeaderValue>,
) {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    if let (Ok(uri), true) = (path.parse::<Uri>(), request.method() != Method::CONNECT) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    remove_hop_headers(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    join_cookies(headers);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    // What a client says of itself is not passed on: it may be made up.
    set("x-forwarded-for", &client.address.ip().to_string());
    set("x-forwarded-proto", if client.is_encrypted { "https" } else { "http" });
    set("x-forwarded-host", host);
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(host)
    {
        headers.insert(header::HOST, host);
    }
}
