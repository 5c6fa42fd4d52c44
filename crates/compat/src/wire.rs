//! JSON as Jolie reads and writes it: a bare value is `{"$": value}`, one of a list need not be in a list, texts are taken for
//! numbers and truths, and whatever does not fit is a `TypeMismatch`.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The code that every error has.
const CODE: i32 = -32000;

/// What a client is told instead of an answer, always with status 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The message does not have the type of the operation.
    TypeMismatch(String),
    /// There is no such operation, or it did not come to an end.
    Io(String),
    /// It is no JSON at all.
    Unreadable(String),
}

impl Fault {
    pub(crate) fn to_json(&self) -> Value {
        let (message, data) = match self {
            Self::TypeMismatch(data) => ("TypeMismatch", data),
            Self::Io(data) | Self::Unreadable(data) => ("IOException", data),
        };
        json!({"error": {"message": message, "code": CODE, "data": data}})
    }
}

/// Text of JSON, with slashes as Jolie writes them.
fn text(value: &Value) -> String {
    // Slashes are in texts only.
    value.to_string().replace('/', "\\/")
}

fn sent(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text(value)).into_response()
}

/// An answer.
pub(crate) fn answer(value: &Value) -> Response {
    sent(StatusCode::OK, value)
}

/// A bare text.
pub(crate) fn bare(text: &str) -> Value {
    json!({"$": text})
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        match self {
            Self::Unreadable(why) => (failed, [(header::CONTENT_TYPE, "text/plain")], why).into_response(),
            fault => sent(failed, &fault.to_json()),
        }
    }
}

/// A message as it came, decoded by its content type.
pub(crate) fn message(headers: &HeaderMap, operation: &str, body: &Bytes) -> Result<Value, Fault> {
    let unreadable = |why: String| Fault::Unreadable(why);
    let media = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let text = std::str::from_utf8(body).map_err(|error| unreadable(error.to_string()))?;
    if media.starts_with("text/xml") || media.starts_with("application/xml") {
        return element(text, operation)
            .map(|text| bare(&text))
            .ok_or_else(|| unreadable(format!("the body is no element <{operation}> with a text in it")));
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
}

/// The text of an XML document that is one element.
fn element(text: &str, name: &str) -> Option<String> {
    let text = text.trim();
    let text = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>")?.1.trim_start(),
        None => text,
    };
    let (open, rest) = text.strip_prefix('<')?.split_once('>')?;
    if open.split_whitespace().next()? != name {
        return None;
    }
    let inner = rest.strip_suffix('>')?.trim_end().strip_suffix(name)?.strip_suffix("</")?;
    // Only what a token can hold is expected here; anything that is not plain text is none.
    (!inner.contains(['<', '&'])).then(|| inner.trim().to_owned())
}

/// A value without its `$`.
fn inner(value: &Value) -> &Value {
    match value {
        Value::Object(map) if map.len() == 1 => map.get("$").unwrap_or(value),
        other => other,
    }
}

fn mismatch(node: &str, expected: &str) -> Fault {
    Fault::TypeMismatch(format!("Invalid native type for node {node}: expected {expected}"))
}

pub(crate) fn string(value: &Value, node: &str) -> Result<String, Fault> {
    match inner(value) {
        Value::String(text) => Ok(text.clone()),
        value @ (Value::Number(_) | Value::Bool(_)) => Ok(value.to_string()),
        _ => Err(mismatch(node, "STRING")),
    }
}

fn integer(value: &Value, node: &str) -> Result<i64, Fault> {
    match inner(value) {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| mismatch(node, "INT"))
}

fn truth(value: &Value, node: &str) -> Result<bool, Fault> {
    match inner(value) {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => text.trim().to_lowercase().parse().ok(),
        Value::Number(number) => Some(number.as_i64() != Some(0)),
        _ => None,
    }
    .ok_or_else(|| mismatch(node, "BOOL"))
}

/// The fields of a message: all that must be there, and no others.
pub(crate) struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a Value, required: &[&str], optional: &[&str]) -> Result<Self, Fault> {
        let map = message.as_object();
        let is_there = |name: &&&str| {
            let value = map.and_then(|map| map.get(**name));
            value.is_some_and(|it| *it != json!([]) && !it.is_null())
        };
        if let Some(missing) = required.iter().find(|name| !is_there(name)) {
            return Err(Fault::TypeMismatch(format!("Undefined required child node: #Message.{missing}")));
        }
        let is_known = |name: &String| required.contains(&name.as_str()) || optional.contains(&name.as_str());
        if let Some(extra) = map.and_then(|map| map.keys().find(|name| !is_known(name))) {
            return Err(Fault::TypeMismatch(format!("Unexpected child node: #Message.{extra}")));
        }
        Ok(Self(map))
    }

    fn get(&self, name: &str) -> (&'a Value, String) {
        (self.0.and_then(|map| map.get(name)).unwrap_or(&Value::Null), format!("#Message.{name}"))
    }

    /// One value; a list of one is as good.
    fn one(&self, name: &str) -> Result<(&'a Value, String), Fault> {
        let (value, node) = self.get(name);
        match value {
            Value::Array(items) if items.len() == 1 => Ok((&items[0], node)),
            Value::Array(_) => Err(Fault::TypeMismatch(format!("Too many occurrences of node {node}"))),
            value => Ok((value, node)),
        }
    }

    pub(crate) fn string(&self, name: &str) -> Result<String, Fault> {
        let (value, node) = self.one(name)?;
        string(value, &node)
    }

    pub(crate) fn integer(&self, name: &str) -> Result<i64, Fault> {
        let (value, node) = self.one(name)?;
        integer(value, &node)
    }

    pub(crate) fn truth(&self, name: &str) -> Result<bool, Fault> {
        let (value, node) = self.one(name)?;
        truth(value, &node)
    }

    /// A list; one value is as good.
    pub(crate) fn integers(&self, name: &str) -> Result<Vec<i64>, Fault> {
        let (value, node) = self.get(name);
        match value {
            Value::Array(items) => items.iter().map(|item| integer(item, &node)).collect(),
            value => Ok(vec![integer(value, &node)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_come_bare_in_lists_and_as_texts() {
        let message = json!({"n": "1", "t": {"$": "TRUE"}, "s": {"$": "Kurt"}, "l": 8080, "m": [{"$": 1}, "2"], "o": [3]});
        let fields = Fields::of(&message, &["n", "t", "s", "l", "m", "o"], &[]).unwrap();
        assert_eq!((fields.integer("n"), fields.truth("t")), (Ok(1), Ok(true)));
        assert_eq!((fields.string("s"), fields.integers("l")), (Ok("Kurt".into()), Ok(vec![8080])));
        assert_eq!((fields.integers("m"), fields.integer("o")), (Ok(vec![1, 2]), Ok(3)));
        assert!(fields.integer("s").is_err() && fields.integer("m").is_err() && fields.truth("s").is_err());
    }

    #[test]
    fn what_does_not_fit_is_named_as_jolie_names_it() {
        let fault = |message: Value| Fields::of(&message, &["a", "b"], &["c"]).err().unwrap().to_json();
        let data = |data: &str| json!({"error": {"message": "TypeMismatch", "code": -32000, "data": data}});
        assert_eq!(fault(json!({"b": 1})), data("Undefined required child node: #Message.a"));
        assert_eq!(fault(json!({"a": 1, "b": []})), data("Undefined required child node: #Message.b"));
        assert_eq!(fault(json!({"a": 1, "b": 1, "x": 1})), data("Unexpected child node: #Message.x"));
        assert_eq!(fault(Value::Null), data("Undefined required child node: #Message.a"));
    }

    #[test]
    fn messages_are_decoded_by_their_content_type() {
        let read = |media: &'static str, body: &'static str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media.parse().unwrap())]);
            message(&headers, "getProgram", &Bytes::from_static(body.as_bytes()))
        };
        let token = Ok(bare("a-b"));
        assert_eq!(read("text/xml", "<getProgram>a-b</getProgram>"), token);
        assert_eq!(
            read(
                "text/xml; charset=utf-8",
                "<?xml version=\"1.0\"?>\n<getProgram xmlns=\"x\">a-b</getProgram>\n"
            ),
            token
        );
        assert_eq!(read("application/json", "{\"$\":\"a-b\"}"), token);
        for wrong in ["<other>a</other>", "<getProgram><b/></getProgram>", "a-b", "<getProgram>a", ""] {
            assert!(matches!(read("text/xml", wrong), Err(Fault::Unreadable(_))), "{wrong}");
        }
        assert!(matches!(read("application/json", "{"), Err(Fault::Unreadable(_))));
        assert_eq!(text(&json!({"a": "b/c"})), "{\"a\":\"b\\/c\"}");
    }
}
