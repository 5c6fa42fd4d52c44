//! One decision about one App: everything the crate knows, put together as a numbered plan.

use std::collections::BTreeMap;

use plimsoll_model::id::{ComponentName, ObjectName, RevisionNo};
use plimsoll_model::quantity::Span;
use plimsoll_model::revision::{AppRevision, RejectionRecord};
use plimsoll_model::status::{ComponentStatus, Memory, Rejected};
use plimsoll_model::step::{Plan, Step};
use plimsoll_model::wait::Wait;
use plimsoll_model::world::ServiceIp;

use crate::input::Input;
use crate::planner::Planner;
use crate::resolve::Resolution;

/// What is due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Steps to carry out.
    pub course: Course,
    /// What to remember of each component.
    pub memory: BTreeMap<ComponentName, Memory>,
    /// What people want to see of each component.
    pub components: BTreeMap<ComponentName, ComponentStatus>,
    /// The App revision the declaration amounts to now; absent when it cannot be resolved.
    pub revision: Option<RevisionNo>,
    /// That revision, if it must be recorded.
    pub new_revision: Option<AppRevision>,
    /// Component revisions to reject now, by the name of the record.
    pub rejections: BTreeMap<ObjectName, RejectionRecord>,
    /// All component revisions that are rejected.
    pub rejected: BTreeMap<ObjectName, Rejected>,
    /// Addresses to claim before anything else happens.
    pub claims: BTreeMap<ComponentName, ServiceIp>,
    /// Addresses that nobody uses any more.
    pub released: Vec<ServiceIp>,
    /// Why the App is not where it should be.
    pub waits: Vec<Wait>,
    /// Look again after this time at the latest, on the node's clock.
    pub next_look: Option<Span>,
    /// Deletion is complete: nothing of the App is left anywhere.
    pub gone: bool,
}

/// Steps to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// None.
    Rest,
    /// These steps of the current plan, whose effects have not been seen yet.
    Continue(Vec<Step>),
    /// A new plan, to be made current first.
    Adopt(Box<Plan>),
}

impl Course {
    /// The steps, whatever plan they belong to.
    pub fn steps(&self) -> &[Step] {
        match self {
            Self::Rest => &[],
            Self::Continue(steps) => steps,
            Self::Adopt(plan) => &plan.steps,
        }
    }
}

/// Decides what is due now.
pub fn decide(input: &Input) -> Decision {
    let resolution = Resolution::of(input);
    let mut planner = Planner::new(input, &resolution);
    planner.allocate_addresses();
    let names = planner.in_order();
    let judged: Vec<_> = names.iter().map(|name| planner.judge(name)).collect();
    planner.publish(&judged);
    for component in judged {
        planner.component(component);
    }
    planner.expel_and_close();
    planner.finish()
}
