//! How the number of copies follows what is measured.

use super::{Check, update};
use crate::app::Component;

pub(super) fn scale(check: &mut Check<'_>, it: &Component) {
    let Some(scale) = &it.scale else { return };
    if scale.min == 0 {
        check.at("min").fail_with("whether none runs while nobody asks is another question", "toZero: {}");
    }
    if scale.max < scale.min {
        check.at("max").fail(format!("it is less than `min`, which is {}", scale.min));
    }
    if let Some(zero) = &scale.to_zero {
        let mut zero_at = check.at("toZero");
        if it.routes.is_empty() {
            zero_at.fail("nobody could wake it: the component has no `routes`");
        } else if !it.provides.is_empty() {
            zero_at.fail("those that consume what it `provides` wait for a copy that is ready");
        }
        if zero.after.millis < 1000 {
            zero_at.at("after").fail_with("a copy that has just come is not taken away", "after: 1s");
        }
        if !(1000..=600_000).contains(&zero.hold.millis) {
            zero_at.at("hold").fail_with("a request waits for 1s at least and 10m at most", "hold: 30s");
        }
    }
    if scale.on.requests.is_some() && scale.down.window.millis < 60_000 {
        let mut window = check.at("down");
        window
            .at("window")
            .fail_with("a router started anew has not counted `requests` for a minute", "window: 1m");
    }
    let mut on = check.at("on");
    if scale.on.is_empty() && scale.to_zero.is_none() {
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
