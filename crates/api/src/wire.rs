//! Objects as they are sent.

use plimsoll_model::{App, Kind as _, Secret};
use plimsoll_store::Row;
use serde_json::{Value, json};

use crate::conditions::conditions;
use crate::kinds::Resource;
use crate::problem::{Problem, Sort};

/// The version of everything that is sent.
pub(crate) const API_VERSION: &str = plimsoll_manifest::API_VERSION;

/// An object. Values of secrets and the hash of a token are not sent, sealed or not.
pub(crate) fn sent(resource: &Resource, row: &Row) -> Result<Value, Problem> {
    let broken = |error: serde_json::Error| Problem::new(Sort::Internal, error.to_string());
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(broken);
    let mut spec = json(&row.spec)?;
    if resource.plural == Secret::PLURAL
        && let Some(data) = spec.get_mut("data").and_then(Value::as_object_mut)
    {
        data.values_mut().for_each(|sealed| *sealed = Value::Null);
    }
    if resource.plural == plimsoll_model::Token::PLURAL
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("hash");
    }
    let mut status = row.status.as_deref().map(json).transpose()?.unwrap_or_default();
    if resource.plural == App::PLURAL {
        // Without conditions others would take it for ready.
        status["conditions"] = conditions(&status, row.meta.generation);
    }
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": resource.kind,
        "metadata": serde_json::to_value(&row.meta).map_err(broken)?,
        "spec": spec,
        "operations": json(&row.operations)?,
        "status": status,
    }))
}

/// A page of objects.
pub(crate) fn page(resource: &Resource, items: &[Value], version: u64, next: Option<&str>) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": format!("{}List", resource.kind),
        "metadata": {"resourceVersion": version.to_string(), "continue": next},
        "items": items,
    })
}
