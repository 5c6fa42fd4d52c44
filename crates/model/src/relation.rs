//! Relations: a component provides an interface, another consumes it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::id::{ComponentName, InterfaceName, InvalidName, KeyName, ObjectName, PartName};

/// An endpoint that others may consume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provide {
    /// What is spoken there, such as `postgresql` or `http`.
    pub interface: InterfaceName,
    /// The port it is spoken on; the component's only port when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PartName>,
    /// Data for consumers beside `host`, `port` and `uri`. Values may hold `${host}`, `${port:NAME}` and
    /// `${secret:NAME/KEY}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub data: BTreeMap<KeyName, String>,
}

/// A need for an endpoint of another component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consume {
    /// The interface that the endpoint must provide.
    pub interface: InterfaceName,
    /// Which endpoint: `[app/]component/endpoint`.
    pub from: EndpointRef,
}

/// `component/endpoint` of the same App, or `app/component/endpoint` of another App of the project.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointRef {
    /// The other App; the same one when absent.
    pub app: Option<ObjectName>,
    /// The providing component.
    pub component: ComponentName,
    /// Its endpoint.
    pub endpoint: PartName,
}

/// Why a text is not an endpoint reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not two or three parts.
    #[error("{0:?} is not an endpoint: write `component/endpoint` or `app/component/endpoint`")]
    Shape(String),
    /// A part is not a valid name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl FromStr for EndpointRef {
    type Err = InvalidEndpoint;
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let parts: Vec<&str> = text.split('/').collect();
        let (app, component, endpoint) = match parts[..] {
            [component, endpoint] => (None, component, endpoint),
            [app, component, endpoint] => (Some(app.parse()?), component, endpoint),
            _ => return Err(InvalidEndpoint::Shape(text.chars().take(80).collect())),
        };
        Ok(Self { app, component: component.parse()?, endpoint: endpoint.parse()? })
    }
}
impl TryFrom<String> for EndpointRef {
    type Error = InvalidEndpoint;
    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        text.parse()
    }
}
impl From<EndpointRef> for String {
    fn from(endpoint: EndpointRef) -> Self {
        endpoint.to_string()
    }
}
impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(app) = &self.app {
            write!(f, "{app}/")?;
        }
        write!(f, "{}/{}", self.component, self.endpoint)
    }
}
impl fmt::Debug for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl JsonSchema for EndpointRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([a-z0-9.-]+/)?[a-z0-9-]+/[a-z0-9-]+$",
            "description": "write `component/endpoint` or `app/component/endpoint`",
        })
    }
}
