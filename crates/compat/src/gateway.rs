//! Their gateway: the deployer's operations in `JSend`, and programs by their tokens.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use plimsoll_model::{App, ObjectKey};
use plimsoll_server::is_program;
use plimsoll_store::Scope;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::serve::Compat;
use crate::wire;

/// The one service that the gateway knows.
const SERVICE: &str = "jolie-deployer";

/// The one port of a program that is public.
const PUBLIC: u16 = 8080;

/// How long a program may take to accept a connection, and to begin its answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_mins(1);

/// Headers that are about one connection, see RFC 9110, section 7.6.1.
const OF_CONNECTIONS: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// An answer in `JSend`, as the gateway has it: what failed inside is a success with another code.
fn jsend(status: StatusCode, word: &str, data: &Value, message: &str, inside: StatusCode) -> Response {
    let sent = json!({
        "status": word,
        "data": data,
        "message": message,
        "http_code": status.as_u16(),
        "internal_http_code": inside.as_u16(),
        "error_code": i32::from(!inside.is_success()),
    });
    (status, [(header::CONTENT_TYPE, "application/json")], sent.to_string()).into_response()
}

/// Takes away what is about one connection, as far as that is said.
fn strip(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse().ok());
    let named: Vec<HeaderName> = named.collect();
    for name in named.iter().chain(&OF_CONNECTIONS) {
        headers.remove(name);
    }
}

impl Compat {
    /// An operation of the deployer through the gateway.
    pub(crate) async fn through_gateway(
        &self,
        (service, operation): (&str, &str),
        headers: &HeaderMap,
        body: &Bytes,
        from: IpAddr,
    ) -> Response {
        if service != SERVICE {
            let message = format!("there is no service {service}");
            return jsend(StatusCode::NOT_FOUND, "fail", &Value::Null, &message, StatusCode::NOT_FOUND);
        }
        let done = match wire::message(headers, operation, body) {
            Ok(message) => self.carry_out(operation, &message, from).await,
            Err(fault) => Err(fault),
        };
        let (data, inside) = match done {
            Ok(data) => (data, StatusCode::OK),
            Err(fault) => (fault.to_json(), StatusCode::INTERNAL_SERVER_ERROR),
        };
        jsend(StatusCode::OK, "success", &data, "", inside)
    }

    /// Leads a request on to a program, which is known by its token or by its public id.
    pub(crate) async fn lead(
        &self,
        name: &str,
        path: &str,
        mut request: Request<Body>,
        from: IpAddr,
    ) -> Response {
        let at = match self.find(name, from).await {
            Ok(at) => at,
            Err(refused) => return refused,
        };
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let Ok(uri) = format!("/{path}{query}").parse::<Uri>() else {
            return (StatusCode::BAD_REQUEST, "the path cannot be understood").into_response();
        };
        *request.uri_mut() = uri;
        strip(request.headers_mut());
        if let Ok(host) = HeaderValue::from_str(&at.to_string()) {
            request.headers_mut().insert(header::HOST, host);
        }
        match tokio::time::timeout(ANSWER, send(at, request)).await {
            Ok(Ok(mut answer)) => {
                strip(answer.headers_mut());
                answer
            }
            Ok(Err(why)) => {
                (StatusCode::BAD_GATEWAY, format!("the program does not answer: {why}")).into_response()
            }
            Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the program does not answer in time").into_response(),
        }
    }

    /// Where the public port of a program is.
    async fn find(&self, name: &str, from: IpAddr) -> Result<SocketAddr, Response> {
        let unknown = || (StatusCode::NOT_FOUND, "there is no such script").into_response();
        let broken = |error: String| (StatusCode::SERVICE_UNAVAILABLE, error).into_response();
        let owned = self.owner(name, from).await.map_err(|fault| broken(fault.to_json().to_string()))?;
        let key = match (owned, name.parse()) {
            (Some((_, key)), _) => key,
            (None, Ok(id)) => ObjectKey::in_project(self.settings.project.clone(), id),
            (None, Err(_)) => return Err(unknown()),
        };
        let app = self.server.store().get::<App>(&Scope::All, &key).await;
        let app = app.map_err(|error| broken(error.to_string()))?;
        let app = app.filter(|app| is_program(app) && app.meta.deleting.is_none()).ok_or_else(unknown)?;
        let mut public =
            app.spec.components.iter().filter(|(_, it)| it.ports.values().any(|port| *port == PUBLIC));
        let Some((component, _)) = public.next() else {
            let why = format!("the program has no port {PUBLIC}, and no other one is public");
            return Err((StatusCode::BAD_GATEWAY, why).into_response());
        };
        let ip = app.status.as_ref().and_then(|it| it.value.memory.get(component)?.address);
        let waits = || (StatusCode::SERVICE_UNAVAILABLE, "the program has not started yet").into_response();
        ip.map(|ip| SocketAddr::from((ip, PUBLIC))).ok_or_else(waits)
    }
}

async fn send(at: SocketAddr, request: Request<Body>) -> Result<Response, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(at)).await;
    let stream = connected.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    // It ends with the answer.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
    Ok(answer.map(Body::new))
}
