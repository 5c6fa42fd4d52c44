//! Traffic: the table of addresses and routes, and which copies share each component's traffic.

use std::collections::BTreeMap;

use plimsoll_model::app::{Component, Route, TlsMode};
use plimsoll_model::id::ComponentName;
use plimsoll_model::operations::Power;
use plimsoll_model::status::Memory;
use plimsoll_model::step::{Service, Split, Table, TableRoute};
use plimsoll_model::template::{self, Part};
use plimsoll_model::wait::{Reason, Wait};
use plimsoll_model::world::RouterView;

use crate::input::{Context, Input};
use crate::resolve::PERSON_DEADLINE;

/// Whether the router shares out a component's traffic: it is consumed or routed to.
pub(crate) fn is_routed(component: &Component) -> bool {
    !component.provides.is_empty() || !component.routes.is_empty()
}

/// The table an App should have, and the waits of routes that another App holds.
pub(crate) fn table(
    input: &Input,
    memory: &BTreeMap<ComponentName, Memory>,
    splits: &BTreeMap<ComponentName, Split>,
    leaving: &[ComponentName],
    present: Option<&RouterView>,
) -> (Table, Vec<Wait>) {
    let Input { spec, operations, context, .. } = input;
    let mut table = Table::default();
    let mut waits = Vec::new();
    for (name, component) in spec.components.iter().filter(|(_, component)| is_routed(component)) {
        let Some(ip) = memory.get(name).and_then(|memory| memory.address) else { continue };
        // Where a person says that none runs, no request brings one.
        let is_woken = operations.power == Power::On && !operations.replicas.contains_key(name);
        table.services.insert(
            name.clone(),
            Service {
                ip,
                ports: component.ports.clone(),
                split: splits.get(name).copied(),
                hold: component
                    .scale
                    .as_ref()
                    .and_then(|scale| scale.to_zero)
                    .filter(|_| is_woken)
                    .map(|zero| zero.hold),
            },
        );
        for route in &component.routes {
            let host = host(&route.host, ip, component);
            if let Some(by) = context.taken.get(&(host.clone(), route.path.clone())) {
                let reason = Reason::RouteTaken { route: format!("{host}{}", route.path), by: by.clone() };
                waits.push(Wait::new(Some(name.clone()), reason, PERSON_DEADLINE));
                continue;
            }
            waits.extend(without_certificate(name, route, context));
            table.routes.push(TableRoute {
                host,
                path: route.path.clone(),
                tls: served(route, present, context),
                hsts: route.hsts,
                component: name.clone(),
                port: route.port.clone(),
            });
        }
    }
    // A component that left the declaration keeps its address until its last copy is gone: others may
    // still be using it.
    for name in leaving {
        if let Some(service) = present.and_then(|router| router.table.services.get(name)) {
            table.services.insert(name.clone(), service.clone());
        }
    }
    (table, waits)
}

/// Attempts after which a certificate that cannot be renewed is a matter for people.
const MANY_FAILURES: u32 = 5;

/// How a route is served: as it is declared, but for one that was served in the clear before and has no certificate yet.
fn served(route: &Route, present: Option<&RouterView>, context: &Context) -> TlsMode {
    let is_there = context.certificates.get(&route.host).is_some_and(|it| it.is_there);
    let before = present.and_then(|router| {
        router.table.routes.iter().find(|it| it.host == route.host && it.path == route.path)
    });
    if !is_there && before.is_some_and(|it| !it.tls.is_on()) { TlsMode::Off } else { route.tls.clone() }
}

/// The wait of a route that is to be encrypted and cannot be yet.
fn without_certificate(name: &ComponentName, route: &Route, context: &Context) -> Option<Wait> {
    let known = context.certificates.get(&route.host);
    let problem = known.and_then(|it| it.problem.as_ref());
    // One that is there ends some day: people are told while there is time.
    let is_urgent = problem.is_some_and(|it| it.needs_person || it.failures >= MANY_FAILURES);
    if !route.tls.is_on() || (known.is_some_and(|it| it.is_there) && !is_urgent) {
        return None;
    }
    let reason = Reason::CertificateMissing {
        host: route.host.clone(),
        why: problem.map(|it| it.why.clone()),
        needs_person: problem.is_some_and(|it| it.needs_person),
    };
    Some(Wait::new(Some(name.clone()), reason, PERSON_DEADLINE))
}

/// A route's host with `${host}` and `${port:…}` filled in.
fn host(text: &str, ip: std::net::Ipv4Addr, component: &Component) -> String {
    let parts = template::parse(text).unwrap_or_default();
    let fill = |part: Part| match part {
        Part::Text(text) => text,
        Part::Host => ip.to_string(),
        Part::Port(name) => component.ports.get(&name).map(ToString::to_string).unwrap_or_default(),
        Part::Secret(_) | Part::Relation(..) => String::new(),
    };
    parts.into_iter().map(fill).collect()
}
