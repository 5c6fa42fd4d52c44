//! How the number of copies follows what is measured.

use super::{Check, update};
use crate::app::Component;
use crate::scale::Measures;

pub(super) fn scale(check: &mut Check<'_>, it: &Component) {
    let Some(scale) = &it.scale else { return };
    if scale.min == 0 {
        check.at("min").fail_with("there is no way yet to wake what has no copy: at least 1", "min: 1");
    }
    if scale.max < scale.min {
        check.at("max").fail(format!("it is less than `min`, which is {}", scale.min));
    }
    let mut on = check.at("on");
    if scale.on == Measures::default() {
        on.fail_with("nothing is measured", "on: {inFlight: 10}");
    }
    for (name, is_asked, limit) in [
        ("cpu", scale.on.cpu.is_some(), it.resources.cpu.is_some()),
        ("memory", scale.on.memory.is_some(), it.resources.memory.is_some()),
    ] {
        if is_asked && !limit {
            on.at(name).fail(format!("it is a part of `resources.{name}`, which is not declared"));
        }
    }
    if scale.on.requests.is_some() && it.routes.is_empty() {
        on.at("requests").fail("the router counts the requests of `routes`, and the component has none");
    }
    if scale.on.in_flight.is_some() && !update::is_routed(it) {
        on.at("inFlight").fail("the router has none: the component has no `routes` and no `provides`");
    }
}
