//! How a component is updated: budgets, steps and gate.

use super::Check;
use crate::app::Component;
use crate::update::Strategy;

pub(super) fn update(check: &mut Check<'_>, it: &Component) {
    let update = &it.update;
    if update.surge == Some(0) && update.unavailable == Some(0) && update.strategy == Strategy::Rolling {
        check.fail("with neither surge nor unavailable copies nothing can ever be replaced");
    }
    if !it.volumes.is_empty() && update.surge.is_some_and(|surge| surge > 0) {
        check.at("surge").fail_with("a volume is never open in two copies of one slot", "surge: 0");
    }
    if !it.volumes.is_empty() && update.unavailable == Some(0) {
        check.at("unavailable").fail_with("copies with volumes are replaced in place", "unavailable: 1");
    }
    staged_update(check, it);
    gate(check, it);
    if update.deadline.is_some_and(|deadline| deadline.millis == 0) {
        check.at("deadline").fail("a rollout needs some time");
    }
}

fn staged_update(check: &mut Check<'_>, it: &Component) {
    let update = &it.update;
    if !update.strategy.is_staged() {
        if !update.steps.is_empty() {
            check.at("steps").fail_with("only `canary` and `blue-green` go in steps", "strategy: canary");
        }
        return;
    }
    if !it.volumes.is_empty() {
        let message =
            "new copies run beside the old ones, and a volume is never open in two copies of one slot";
        check.at("strategy").fail_with(message, "strategy: rolling");
    }
    match (update.strategy, update.surge) {
        (Strategy::Canary, Some(0)) => {
            check.at("surge").fail("new copies run beside all old ones: at least 1");
        }
        (Strategy::BlueGreen, Some(_)) => {
            check.at("surge").fail("`blue-green` runs as many copies again; leave it out");
        }
        _ => {}
    }
    if update.strategy == Strategy::BlueGreen && !is_routed(it) {
        let message =
            "there is no traffic that could move at once: the component has no `routes` and no `provides`";
        check.at("strategy").fail(message);
    }
    let mut steps = check.at("steps");
    for (index, pair) in update.steps.windows(2).enumerate() {
        if pair[1].weight < pair[0].weight {
            steps.at(index + 1).at("weight").fail("it is less than in the step before");
        }
    }
    if let Some(index) = update.steps.iter().position(|step| step.weight > 100) {
        steps.at(index).at("weight").fail("it is a share in percent, at most 100");
    }
}

/// Whether traffic is shared out between its copies.
pub(super) fn is_routed(it: &Component) -> bool {
    !it.routes.is_empty() || !it.provides.is_empty()
}

fn gate(check: &mut Check<'_>, it: &Component) {
    let gate = &it.update.gate;
    let mut check = check.at("gate");
    let measures = [("errors", gate.errors.is_some()), ("latency", gate.latency.is_some())];
    for (name, _) in measures.into_iter().filter(|(_, is_declared)| *is_declared && it.routes.is_empty()) {
        check.at(name).fail("the router counts the requests of `routes`, and the component has none");
    }
    if gate.requests == Some(0) {
        check.at("requests").fail("it takes at least 1 to judge");
    }
    if gate.latency.is_some_and(|latency| !(1..100).contains(&latency.percentile)) {
        check.at("latency").at("percentile").fail("it is from 1 to 99");
    }
    let mut check = check.at("queries");
    for (index, query) in gate.queries.iter().enumerate() {
        let mut check = check.at(index);
        match (&query.prometheus, &query.http) {
            (Some(_), Some(_)) | (None, None) => check.fail("it asks either `prometheus` or `http`"),
            (None, Some(address)) if !address.starts_with("http://") && !address.starts_with("https://") => {
                check.at("http").fail("it begins with `http://` or `https://`");
            }
            _ => {}
        }
        if query.most.is_none() && query.least.is_none() {
            check.fail("a number is judged by `most`, `least` or both");
        }
    }
}
