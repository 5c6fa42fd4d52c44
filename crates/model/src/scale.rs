//! How many copies run, by what is measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Span;

/// How the number of copies follows what they have to do. `replicas` is only where it begins; `plimsoll scale` takes its place
/// until the declaration is followed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// Copies at least. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub min: u32,
    /// Copies at most. Quotas count these.
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
    /// What is measured, and how much of it each copy should have. The one that asks for most copies decides.
    #[serde(default, skip_serializing_if = "Measures::is_empty")]
    pub on: Measures,
    /// By how many percent what is measured may differ before anything changes. Default: 10.
    #[serde(default = "usual_tolerance")]
    #[schemars(range(max = 100))]
    pub tolerance: u32,
    /// When copies are added. Default: after 10s, and 10s after the last change.
    #[serde(default = "Pace::up", skip_serializing_if = "Pace::is_up")]
    pub up: Pace,
    /// When copies are taken away. Default: after 5m, and 1m after the last change.
    #[serde(default = "Pace::down", skip_serializing_if = "Pace::is_down")]
    pub down: Pace,
    /// Has no copy at all run while nobody asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_zero: Option<ToZero>,
}

/// When the last copy goes, and how long a request waits for the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToZero {
    /// Time since the last request ended. Default: 5m.
    #[serde(default = "usual_after")]
    pub after: Span,
    /// How long the router has a request wait for a copy to be ready, before it answers with 503. Default: 30s.
    #[serde(default = "usual_hold")]
    pub hold: Span,
}

fn usual_after() -> Span {
    Span::seconds(300)
}

fn usual_hold() -> Span {
    Span::seconds(30)
}

fn one() -> u32 {
    1
}

fn usual_tolerance() -> u32 {
    10
}

/// What each copy should have of what is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measures {
    /// CPU time, in percent of the limit of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub cpu: Option<u32>,
    /// Memory, in percent of the limit of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub memory: Option<u32>,
    /// HTTP requests of routes per second, on the average of the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
    /// Requests and connections under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub in_flight: Option<u32>,
}

impl Measures {
    /// True when nothing is measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it takes a look at what copies use.
    pub fn is_of_usage(&self) -> bool {
        self.cpu.is_some() || self.memory.is_some()
    }
}

/// How soon the number of copies changes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pace {
    /// For how long all that is measured must ask for it; then the number is the one in that time that changes least.
    pub window: Span,
    /// How long after any change.
    pub cooldown: Span,
}

impl Pace {
    const UP: Self = Self { window: Span::seconds(10), cooldown: Span::seconds(10) };
    const DOWN: Self = Self { window: Span::seconds(300), cooldown: Span::seconds(60) };

    fn up() -> Self {
        Self::UP
    }

    fn down() -> Self {
        Self::DOWN
    }

    fn is_up(&self) -> bool {
        *self == Self::UP
    }

    fn is_down(&self) -> bool {
        *self == Self::DOWN
    }
}
