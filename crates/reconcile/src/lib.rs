//! The reconcilers: for each kind the loop that reads the world, plans, makes the plan current, and acts.
//!
//! [`AppReconciler`] brings one App closer to its declaration. Each pass reads everything anew: the App, its
//! surroundings, and what every driver holds of it; asks [`decide`](fn@plimsoll_plan::decide); commits the new status and, where there are
//! new steps, the new plan, as one batch with the App's revision as precondition; and only then carries the steps
//! out. Whatever happens in between (a crash, a lost reply, a second control plane) the next pass starts from
//! what is there. [`Orphans`] finds copies of this installation that no App owns; [`Tombstones`] keeps what may be
//! left of Apps that were given up; [`Images`] finds out what the tags of images lead to; [`Builds`] has sources built; [`Gauges`] ask for the numbers that gates judge.
//!
//! Deliberately absent: decisions. What to do is the planner's; whether a step may still be done is the far side's.

mod app;
mod builds;
mod certificates;
mod drivers;
mod execute;
mod gauges;
mod hints;
mod images;
mod orphans;
mod record;
mod surroundings;
mod tombstones;

pub use app::{AppReconciler, Hold, Identity, Settings};
pub use builds::{Builder, Builds, Order, Push, Pushes, Unbuilt, repository_of};
pub use certificates::{Certificates, Certifier, Uncertified};
pub use drivers::Drivers;
pub use execute::Opener;
pub use gauges::{Gauges, NoGauges};
pub use hints::{Apps, follow};
pub use images::{Found, ImageSource, Images, Look, Looks, Unsaid, known_image};
pub use orphans::{Orphan, Orphans, SweepError};
pub use surroundings::{DEFAULT_TARGET, certificate_name, encrypted_hosts, route_claim};
pub use tombstones::{Tombstones, abandon, forget};
