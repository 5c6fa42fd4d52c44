//! What a control plane measures of itself, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_engine::{Fut, Hints, Look, Reconciler};
use plimsoll_model::ObjectKey;
use plimsoll_model::status::Outcome;
use prometheus::{
    Encoder as _, GaugeVec, HistogramVec, IntCounterVec, IntGauge, Registry, TextEncoder, histogram_opts,
    opts,
};

/// Bounds of histograms, in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Counts and times. Clones share them.
#[derive(Clone)]
pub struct Meter {
    registry: Registry,
    requests: IntCounterVec,
    request_time: HistogramVec,
    reconciles: IntCounterVec,
    reconcile_time: HistogramVec,
    queue: IntGauge,
    apps: GaugeVec,
    lag: IntGauge,
    revision: IntGauge,
    unsettled: Arc<Mutex<BTreeMap<ObjectKey, State>>>,
}

/// Where an App was after its latest pass, and since when it has not been settled.
#[derive(Clone, Copy)]
struct State {
    outcome: &'static str,
    since: Option<Instant>,
}

/// Outcomes as labels; the one of an App that is gone counts passes only.
const OUTCOMES: [&str; 4] = ["settled", "advanced", "waiting", "stalled"];

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Settled => OUTCOMES[0],
        Outcome::Advanced => OUTCOMES[1],
        Outcome::Waiting(_) => OUTCOMES[2],
        Outcome::Stalled(_) => OUTCOMES[3],
        Outcome::Gone => "gone",
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new().expect("the names of metrics are valid and differ")
    }
}

impl Meter {
    fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let times = |name: &str, help: &str| histogram_opts!(name, help, BOUNDS.to_vec());
        let meter = Self {
            requests: IntCounterVec::new(
                opts!("plimsoll_http_requests_total", "Requests to the API."),
                &["method", "route", "status"],
            )?,
            request_time: HistogramVec::new(
                times("plimsoll_http_request_duration_seconds", "Time to the head of an answer."),
                &["method", "route"],
            )?,
            reconciles: IntCounterVec::new(
                opts!("plimsoll_reconciles_total", "Passes over Apps, by how they ended."),
                &["outcome"],
            )?,
            reconcile_time: HistogramVec::new(
                times("plimsoll_reconcile_duration_seconds", "Time of a pass over an App."),
                &["outcome"],
            )?,
            queue: IntGauge::new(
                "plimsoll_queue_objects",
                "Apps that are to be looked at, now or at a set time.",
            )?,
            apps: GaugeVec::new(
                opts!("plimsoll_apps", "Apps by the outcome of their latest pass."),
                &["outcome"],
            )?,
            lag: IntGauge::new(
                "plimsoll_convergence_lag_seconds",
                "How long the App that waits longest has not been as declared.",
            )?,
            revision: IntGauge::new(
                "plimsoll_store_revision",
                "Revision of the newest write that watches know.",
            )?,
            unsettled: Arc::default(),
            registry,
        };
        let registry = &meter.registry;
        registry.register(Box::new(meter.requests.clone()))?;
        registry.register(Box::new(meter.request_time.clone()))?;
        registry.register(Box::new(meter.reconciles.clone()))?;
        registry.register(Box::new(meter.reconcile_time.clone()))?;
        registry.register(Box::new(meter.queue.clone()))?;
        registry.register(Box::new(meter.apps.clone()))?;
        registry.register(Box::new(meter.lag.clone()))?;
        registry.register(Box::new(meter.revision.clone()))?;
        Ok(meter)
    }

    /// Counts a request. The route is that of the table, without names: labels must be few.
    pub fn request(&self, method: &str, route: &str, status: u16, time: Duration) {
        self.requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.request_time.with_label_values(&[method, route]).observe(time.as_secs_f64());
    }

    fn pass(&self, key: &ObjectKey, outcome: &Outcome, time: Duration) {
        let name = name_of(outcome);
        self.reconciles.with_label_values(&[name]).inc();
        self.reconcile_time.with_label_values(&[name]).observe(time.as_secs_f64());
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(outcome, Outcome::Gone) {
            unsettled.remove(key);
            return;
        }
        let before = unsettled.get(key).and_then(|state| state.since);
        let since =
            if matches!(outcome, Outcome::Settled) { None } else { before.or_else(|| Some(Instant::now())) };
        unsettled.insert(key.clone(), State { outcome: name, since });
    }

    /// Everything, as a scrape wants it.
    ///
    /// # Panics
    /// Never: everything that is registered can be written.
    pub fn text(&self, hints: &Hints, revision: u64) -> String {
        self.queue.set(i64::try_from(hints.waiting()).unwrap_or(i64::MAX));
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        let mut counts: BTreeMap<&str, f64> = OUTCOMES.into_iter().map(|name| (name, 0.0)).collect();
        let mut longest = Duration::ZERO;
        for state in self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).values() {
            *counts.entry(state.outcome).or_default() += 1.0;
            longest = longest.max(state.since.map_or(Duration::ZERO, |since| since.elapsed()));
        }
        for (name, count) in counts {
            self.apps.with_label_values(&[name]).set(count);
        }
        self.lag.set(i64::try_from(longest.as_secs()).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("metrics can be written");
        String::from_utf8(text).expect("metrics are text")
    }
}

/// A reconciler whose passes are measured.
pub(crate) struct Metered<R> {
    pub(crate) inner: R,
    pub(crate) meter: Meter,
}

impl<R: Reconciler> Reconciler for Metered<R> {
    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> Fut<'a, Look> {
        Box::pin(async move {
            let began = Instant::now();
            let look = self.inner.reconcile(key).await;
            self.meter.pass(key, &look.outcome, began.elapsed());
            look
        })
    }
}
