//! What is measured of new copies, held against the gate of their rollout.
//!
//! New copies are not to blame for what old ones do as well: then nothing is decided.

use std::collections::BTreeMap;

use plimsoll_model::gate::{Ask, Gate};
use plimsoll_model::quantity::Span;
use plimsoll_model::world::Recent;

use crate::input::AnswerView;
use crate::survey::{Survey, Traffic};

/// What a gate says of new copies at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They keep to it.
    Fine,
    /// Not enough is known. The text is the same for as long as that has the same cause.
    Undecided(String),
    /// They do not keep to it.
    Broken(String),
}

impl Reading {
    /// What is broken, and why nothing can be decided.
    pub(crate) fn said(self) -> (Option<String>, Option<String>) {
        match self {
            Self::Fine => (None, None),
            Self::Undecided(why) => (None, Some(why)),
            Self::Broken(how) => (Some(how), None),
        }
    }
}

/// What was answered to the questions of gates.
pub(crate) type Answers = BTreeMap<Ask, AnswerView>;

/// How new copies are watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// For how long, all of them.
    pub(crate) since: Span,
    /// Whether they get requests. Those that get none are judged by queries only.
    pub(crate) has_traffic: bool,
}

/// Judges the fresh copies.
pub(crate) fn read(survey: &Survey<'_>, gate: &Gate, answers: &Answers, watch: Watch) -> Reading {
    let requests = if watch.has_traffic { of_requests(survey, gate) } else { Vec::new() };
    let mut readings = requests.into_iter().chain(of_queries(gate, answers, watch.since));
    let mut undecided = None;
    // What is broken stays so, whatever else is not known.
    let broken = readings.find_map(|reading| match reading {
        Reading::Broken(how) => Some(how),
        Reading::Undecided(why) => {
            undecided.get_or_insert(why);
            None
        }
        Reading::Fine => None,
    });
    match (broken, undecided) {
        (Some(how), _) => Reading::Broken(how),
        (None, Some(why)) => Reading::Undecided(why),
        (None, None) => Reading::Fine,
    }
}

fn of_requests(survey: &Survey<'_>, gate: &Gate) -> Vec<Reading> {
    if gate.errors.is_none() && gate.latency.is_none() {
        return Vec::new();
    }
    let count = |fresh: bool| {
        let active =
            survey.copies.iter().filter(|copy| copy.fresh == fresh && copy.traffic == Traffic::Active);
        Recent::sum(active.filter_map(|copy| copy.recent))
    };
    let (new, old) = (count(true), count(false));
    let enough = u64::from(gate.requests());
    if new.requests < enough {
        let why = format!("new copies have had fewer than {enough} requests in the last minute");
        return vec![Reading::Undecided(why)];
    }
    let old = Some(old).filter(|old| old.requests >= enough);
    let judge =
        |breach: &dyn Fn(&Recent) -> Option<String>| match (breach(&new), old.as_ref().and_then(breach)) {
            (None, _) => Reading::Fine,
            (Some(how), None) => Reading::Broken(how),
            (Some(_), Some(_)) => Reading::Undecided("old copies do as badly as new ones".into()),
        };
    let errors = gate.errors.map(|most| {
        judge(&|it| {
            most.is_passed(it.failures, it.requests)
                .then(|| format!("{} of {} requests failed, more than {most}", it.failures, it.requests))
        })
    });
    let latency = gate.latency.map(|latency| {
        judge(&|it| {
            let took = it.percentile(latency.percentile).filter(|took| *took > latency.within)?;
            let slowest = 100 - latency.percentile;
            Some(format!("the slowest {slowest} % of requests took {took} and more, not {}", latency.within))
        })
    });
    errors.into_iter().chain(latency).collect()
}

/// What was asked for before all new copies were there says nothing of them.
fn of_queries<'a>(gate: &'a Gate, answers: &'a Answers, since: Span) -> impl Iterator<Item = Reading> + 'a {
    gate.queries.iter().filter_map(move |query| {
        let ask = query.asks()?;
        let answer = answers.get(&ask).filter(|it| it.age <= since).map(|it| &it.answer);
        Some(match answer {
            None => Reading::Undecided(format!("{ask} is being asked")),
            Some(Err(why)) => Reading::Undecided(format!("{ask}: {why}")),
            Some(Ok(number)) => match query.breach(*number) {
                None => Reading::Fine,
                Some(how) => Reading::Broken(format!("{ask}: {how}")),
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(json: serde_json::Value) -> Gate {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_query_is_judged_by_its_bounds_and_by_its_answer_only() {
        let gate = gate(serde_json::json!({"queries": [{"prometheus": "up", "least": 1, "most": 2.5}]}));
        let read = |answer: Option<Result<f64, String>>| {
            let view = |answer| (Ask::Prometheus("up".into()), AnswerView { answer, age: Span::seconds(3) });
            let answers = answer.map(view).into_iter().collect();
            assert!(matches!(
                of_queries(&gate, &answers, Span::seconds(2)).next(),
                Some(Reading::Undecided(_))
            ));
            of_queries(&gate, &answers, Span::seconds(3)).next().unwrap()
        };
        assert_eq!(read(Some(Ok(1.0))), Reading::Fine);
        assert_eq!(read(Some(Ok(2.5))), Reading::Fine);
        let broken = |how: &str| Reading::Broken(format!("prometheus \"up\": {how}"));
        assert_eq!(read(Some(Ok(0.0))), broken("0 is less than 1"));
        assert_eq!(read(Some(Ok(3.0))), broken("3 is more than 2.5"));
        assert!(matches!(read(Some(Err("no answer".into()))), Reading::Undecided(_)));
        assert!(matches!(read(None), Reading::Undecided(_)));
    }

    #[test]
    fn a_percentile_is_the_time_that_the_slowest_took_at_least() {
        let span = Span::millis;
        let answered = BTreeMap::from([(span(10), 90), (span(20), 5), (span(400), 5)]);
        let recent = Recent { requests: 100, failures: 0, answered };
        assert_eq!(recent.percentile(90), Some(span(10)));
        assert_eq!(recent.percentile(91), Some(span(20)));
        assert_eq!(recent.percentile(95), Some(span(20)));
        assert_eq!(recent.percentile(96), Some(span(400)));
        assert_eq!(Recent::default().percentile(95), None);
    }
}
