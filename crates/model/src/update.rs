//! How a new revision of a component replaces the old one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::quantity::Span;
use crate::version::VersionRange;

/// The update policy of one component. It is not part of the component revision: changing it rolls nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Update {
    /// In which manner copies are replaced.
    #[serde(default)]
    pub strategy: Strategy,
    /// Copies that may run beyond `replicas` meanwhile. Default: 1, or 0 with volumes; as many again for `canary`, always so for
    /// `blue-green`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub surge: Option<u32>,
    /// Copies that may be missing from `replicas` meanwhile. Default: 0, or 1 with volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub unavailable: Option<u32>,
    /// How long every copy must have stayed ready before the rollout counts as done. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Span>,
    /// How long the rollout may go without one more copy becoming ready. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// What `canary` and `blue-green` go through before all copies are replaced. Default: 10 and 50 percent of the traffic, or none
    /// and then all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub steps: Vec<Stage>,
    /// What new copies must keep to while they are watched, beside being ready.
    #[serde(default, skip_serializing_if = "Gate::is_default")]
    pub gate: Gate,
    /// What happens when the rollout fails through its own fault.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What happens when the image's tag leads to other bytes.
    #[serde(default, skip_serializing_if = "ImageUpdate::is_default")]
    pub image: ImageUpdate,
}

/// How the tag of an image is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageUpdate {
    /// Whether what the tag leads to is rolled out.
    #[serde(default)]
    pub follow: Follow,
    /// How often the registry is asked. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

impl ImageUpdate {
    /// True when nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The versions that are followed, if versions are.
    pub fn range(&self) -> Option<&VersionRange> {
        match &self.follow {
            Follow::Semver(range) => Some(range),
            Follow::None | Follow::Digest => None,
        }
    }

    /// Time between two questions.
    pub fn every(&self) -> Span {
        self.every.unwrap_or(Span::seconds(300))
    }
}

/// Whether what a tag leads to is rolled out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Follow {
    /// What the tag led to when the declaration was first resolved stays.
    #[default]
    None,
    /// Whenever the tag leads to another digest, that is rolled out.
    Digest,
    /// The newest of these versions that the repository has is rolled out, whatever digest its tag leads to.
    Semver(VersionRange),
}

/// In which manner copies are replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Copy by copy within the budgets; traffic never stops.
    #[default]
    Rolling,
    /// All old copies end before the first new one starts.
    Recreate,
    /// Some new copies get a share of the traffic beside all old ones, step by step, and are watched; then the rest follows.
    Canary,
    /// All new copies run beside all old ones; then the traffic moves to them at once.
    BlueGreen,
}

impl Strategy {
    /// Whether new copies are tried beside all old ones.
    pub fn is_staged(self) -> bool {
        matches!(self, Self::Canary | Self::BlueGreen)
    }
}

/// One step in which new copies are tried beside all old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    /// Percent of the traffic that goes to them.
    #[schemars(range(max = 100))]
    pub weight: u8,
    /// How long they are watched. Default: the `soak` of the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Span>,
    /// Whether it lasts until a person ends it: `plimsoll rollout promote`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

impl Stage {
    /// A step with nothing said about it but its share of the traffic.
    pub const fn of(weight: u8) -> Self {
        Self { weight, soak: None, hold: false }
    }
}

const CANARY: &[Stage] = &[Stage::of(10), Stage::of(50)];
const BLUE_GREEN: &[Stage] = &[Stage::of(0), Stage::of(100)];

/// What a failed rollout leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Back to the last good component revision.
    #[default]
    Rollback,
    /// Everything stays as it is, for a person to look at.
    Halt,
}

/// The numbers a rollout works within, after defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Copies wanted.
    pub replicas: u32,
    /// Copies allowed beyond `replicas`.
    pub surge: u32,
    /// Copies that may be missing from `replicas`.
    pub unavailable: u32,
}

impl Update {
    /// True when nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Budgets after defaults. A slot's volume is never open in two copies, so copies with volumes are
    /// replaced in place.
    pub fn budget(&self, replicas: u32, has_volumes: bool) -> Budget {
        let (surge, unavailable) = if has_volumes { (0, 1) } else { (1, 0) };
        let surge = match self.strategy {
            _ if has_volumes => 0,
            Strategy::BlueGreen => replicas,
            Strategy::Canary => self.surge.unwrap_or(replicas),
            Strategy::Rolling | Strategy::Recreate => self.surge.unwrap_or(surge),
        };
        let mut unavailable = self.unavailable.unwrap_or(unavailable);
        // Neither more nor fewer copies: nothing could ever be replaced. Validation refuses the literal
        // 0/0; this arises only where a default meets a given value.
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Budget { replicas, surge, unavailable }
    }

    /// What new copies go through beside all old ones, after defaults; nothing where copies are replaced at once.
    pub fn stages(&self) -> &[Stage] {
        match (self.strategy, &self.steps[..]) {
            (Strategy::Rolling | Strategy::Recreate, _) => &[],
            (Strategy::Canary, []) => CANARY,
            (Strategy::BlueGreen, []) => BLUE_GREEN,
            (Strategy::Canary | Strategy::BlueGreen, steps) => steps,
        }
    }

    /// New copies that a step's share of the traffic is worth.
    pub fn worth(&self, stage: &Stage, replicas: u32) -> u32 {
        let share = match self.strategy {
            Strategy::BlueGreen => replicas,
            _ => (u64::from(replicas) * u64::from(stage.weight)).div_ceil(100).try_into().unwrap_or(replicas),
        };
        share.clamp(1, replicas.max(1))
    }

    /// New copies that run in a step: as many as its share is worth, as far as there is room beside all old ones.
    pub fn tried(&self, stage: &Stage, budget: &Budget) -> u32 {
        self.worth(stage, budget.replicas).min(budget.surge)
    }

    /// Soak after the default.
    pub fn soak(&self) -> Span {
        self.soak.unwrap_or(Span::seconds(10))
    }

    /// Deadline after the default.
    pub fn deadline(&self) -> Span {
        self.deadline.unwrap_or(Span::seconds(120))
    }
}
