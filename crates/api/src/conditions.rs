//! An App's outcome in the form that tools of others read: conditions, as kstatus has them
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>).

use plimsoll_model::object::Generation;
use plimsoll_model::status::{OutcomeRecord, OutcomeState};
use serde_json::{Value, json};

/// `Ready`, `Reconciling` and `Stalled` of a status; of a declaration that nobody has looked at yet, that it is being worked on.
pub(crate) fn conditions(status: &Value, generation: Generation) -> Value {
    let observed = &status["observedGeneration"];
    let outcome: Option<OutcomeRecord> = serde_json::from_value(status["outcome"].clone()).ok().flatten();
    let current = outcome.filter(|_| *observed == json!(generation));
    let (state, reason) = match current.as_ref().map(|it| it.state) {
        None => (OutcomeState::Advanced, "NotObserved"),
        Some(state @ OutcomeState::Settled) => (state, "Settled"),
        Some(state @ OutcomeState::Advanced) => (state, "Advancing"),
        Some(state @ OutcomeState::Waiting) => (state, "Waiting"),
        Some(state @ OutcomeState::Stalled) => (state, "Stalled"),
    };
    let wait = current.as_ref().and_then(|it| it.waits.first()).map(|it| &it.wait);
    let message = wait.map_or_else(String::new, |wait| {
        let component = wait.component().map(|it| format!("{it}: ")).unwrap_or_default();
        format!("{component}{}", wait.reason())
    });
    let condition = |name: &str, is_so: bool| {
        json!({
            "type": name,
            "status": if is_so { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastTransitionTime": current.as_ref().map(|it| it.since),
            "observedGeneration": observed,
        })
    };
    json!([
        condition("Ready", state == OutcomeState::Settled),
        condition("Reconciling", matches!(state, OutcomeState::Advanced | OutcomeState::Waiting)),
        condition("Stalled", state == OutcomeState::Stalled),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_condition_holds() {
        let status = |state: &str| json!({"observedGeneration": 2, "outcome": {"state": state, "since": "2026-11-21T00:00:00Z", "site": "x"}});
        let holds = |status: &Value, generation| {
            let all = conditions(status, Generation(generation));
            let so = all.as_array().unwrap().iter().filter(|it| it["status"] == "True");
            so.map(|it| it["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(holds(&status("settled"), 2), ["Ready"]);
        assert_eq!(holds(&status("waiting"), 2), ["Reconciling"]);
        assert_eq!(holds(&status("stalled"), 2), ["Stalled"]);
        assert_eq!(holds(&status("settled"), 3), ["Reconciling"], "the outcome is of an older declaration");
        assert_eq!(holds(&Value::Null, 1), ["Reconciling"]);
    }
}
