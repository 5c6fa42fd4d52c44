//! The gate of a rollout: what is measured of new copies while they are watched, and how bad it may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{Percent, Span};

/// Requests in the last minute below which a share of them says nothing, unless it is declared otherwise.
const ENOUGH_REQUESTS: u32 = 10;

/// What new copies must keep to while they are watched. Health is always judged; this comes on top.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// The share of a minute's HTTP requests that may fail: answered with 5xx, or not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Percent>,
    /// How slow answers may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Requests that new copies must have had in the last minute before `errors` and `latency` are judged; until then
    /// the rollout waits. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
    /// Numbers that others know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub queries: Vec<Query>,
}

impl Gate {
    /// True when nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Requests that it takes to judge, after the default.
    pub fn requests(&self) -> u32 {
        self.requests.unwrap_or(ENOUGH_REQUESTS)
    }
}

/// How slow answers may be, as the router sees it: from the request to the head of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Latency {
    /// Which percentile of a minute's requests is meant. Default: 95.
    #[serde(default = "usual_percentile")]
    #[schemars(range(min = 1, max = 99))]
    pub percentile: u8,
    /// It may take so long.
    pub within: Span,
}

fn usual_percentile() -> u8 {
    95
}

/// A number that somebody else knows, and its bounds: `prometheus` or `http`, with at least one of `most` and `least`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    /// In `PromQL`; the target's Prometheus is asked. Its answer is one number: a scalar, or a vector of one element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub prometheus: Option<String>,
    /// An address that is asked with GET. Its answer is a number, as text. It begins with one of those that the target allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub http: Option<String>,
    /// The largest number that is fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<serde_json::Number>,
    /// The smallest number that is fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<serde_json::Number>,
}

impl Query {
    /// Whom it asks for what.
    pub fn asks(&self) -> Option<Ask> {
        let prometheus = self.prometheus.clone().map(Ask::Prometheus);
        prometheus.or_else(|| self.http.clone().map(Ask::Http))
    }

    /// How a number breaks the bounds, if it does.
    pub fn breach(&self, number: f64) -> Option<String> {
        let bound = |bound: &Option<serde_json::Number>| bound.as_ref().and_then(serde_json::Number::as_f64);
        let above = bound(&self.most).filter(|most| number > *most).map(|most| format!("more than {most}"));
        let below = || bound(&self.least).filter(|it| number < *it).map(|it| format!("less than {it}"));
        above.or_else(below).map(|how| format!("{number} is {how}"))
    }
}

/// Whom a query asks for what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// The target's Prometheus, in its language.
    Prometheus(String),
    /// An address.
    Http(String),
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prometheus(query) => write!(f, "prometheus {query:?}"),
            Self::Http(address) => f.write_str(address),
        }
    }
}
