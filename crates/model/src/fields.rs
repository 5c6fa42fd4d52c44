//! Who set which field of an object, so that several people and programs can each declare a part of it.
//!
//! It follows server-side apply of Kubernetes (KEP-555). A manager applies a document with just the fields that it cares for:
//! these are set and from then on its own; what it leaves out that it had set before is removed. A field that another
//! manager has set to something else is a conflict, unless it is forced. Any other write makes its writer the owner of what it
//! changes. A field is the RFC 6901 pointer of a leaf: a scalar, a list or an empty object. Lists are one field, because what
//! people name here is in maps.
//!
//! Tracking begins with the first apply of an object; whatever it had then belongs to [`BEFORE`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::ManagerName;
use crate::object::Timestamp;

/// Whose the fields are that were there before the first apply.
pub const BEFORE: &str = "before-first-apply";

/// Managers of one object that are told apart; the eldest of more are one beside them.
const MOST_MANAGERS: usize = 20;

/// Where the declared part of a document is; fields are found nowhere else.
const ROOTS: [&str; 4] = ["/metadata/labels", "/metadata/annotations", "/spec", "/operations"];

/// The fields of one manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manager {
    /// Who.
    pub manager: ManagerName,
    /// How they came to own them.
    pub operation: Operation,
    /// When it was last changed.
    pub time: Timestamp,
    /// Pointers of the fields, in order.
    pub fields: BTreeSet<String>,
}

/// How fields are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// By a document with all fields of a manager.
    Apply,
    /// By any other change.
    Update,
}

/// A field that somebody else has set to something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its pointer.
    pub field: String,
    /// Whose it is.
    pub manager: ManagerName,
}

/// The fields of a document.
pub fn fields(document: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ROOTS {
        if let Some(value) = document.pointer(root) {
            gather(value, &mut root.to_owned(), &mut found);
        }
    }
    // A root itself is nobody's.
    found.retain(|field| !ROOTS.contains(&field.as_str()));
    found
}

fn gather(value: &Value, at: &mut String, found: &mut BTreeSet<String>) {
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let length = at.len();
                at.push('/');
                at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                gather(value, at, found);
                at.truncate(length);
            }
        }
        _ => drop(found.insert(at.clone())),
    }
}

/// The document that an apply leads to: what is there, without what the manager had set and now leaves out, and with
/// what it declares.
pub fn merge(live: &Value, declared: &Value, manager: &ManagerName, managers: &[Manager]) -> Value {
    let mut merged = live.clone();
    let kept = fields(declared);
    let (own, others): (Vec<_>, Vec<_>) = managers.iter().partition(|it| it.manager == *manager);
    let others: BTreeSet<String> = others.iter().flat_map(|it| it.fields.iter().cloned()).collect();
    let applied = own.iter().filter(|it| it.operation == Operation::Apply).flat_map(|it| &it.fields);
    for field in applied.filter(|field| !kept.contains(*field)) {
        if let Some(place) = removable(field, declared, &others) {
            remove(&mut merged, place);
        }
    }
    for root in ROOTS {
        if let Some(value) = declared.pointer(root) {
            overlay(place(&mut merged, root), value);
        }
    }
    merged
}

/// The highest place above a field that goes with it: nothing of it is declared, and nobody else has anything in it.
fn removable<'a>(field: &'a str, declared: &Value, others: &BTreeSet<String>) -> Option<&'a str> {
    let root = ROOTS.into_iter().find(|root| field.starts_with(root))?;
    let mut ends = field.match_indices('/').map(|(at, _)| at).chain([field.len()]);
    ends.find_map(|end| {
        let place = &field[..end];
        let is_below = place.len() > root.len();
        let is_free = declared.pointer(place).is_none() && !touched(others, place);
        (is_below && is_free).then_some(place)
    })
}

/// Whether a place is in one of the fields, or has one of them in it, or is one.
fn touched(fields: &BTreeSet<String>, place: &str) -> bool {
    let above = place.match_indices('/').map(|(at, _)| &place[..at]).chain([place]);
    let below = format!("{place}/");
    let first = fields.range(below.clone()..).next();
    first.is_some_and(|field| field.starts_with(&below)) || above.into_iter().any(|it| fields.contains(it))
}

fn remove(document: &mut Value, place: &str) {
    let Some((above, key)) = place.rsplit_once('/') else { return };
    if let Some(map) = document.pointer_mut(above).and_then(Value::as_object_mut) {
        map.remove(&key.replace("~1", "/").replace("~0", "~"));
    }
}

/// The place of a pointer, made where it is not there.
fn place<'a>(document: &'a mut Value, pointer: &str) -> &'a mut Value {
    pointer.split('/').skip(1).fold(document, |value, key| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        &mut value[key]
    })
}

/// Sets what is declared; `null` says nothing.
fn overlay(live: &mut Value, declared: &Value) {
    match (live, declared) {
        (_, Value::Null) => {}
        (Value::Object(live), Value::Object(declared)) if !declared.is_empty() => {
            for (key, value) in declared {
                overlay(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, Value::Object(declared)) if !declared.is_empty() => {
            *live = Value::Object(Map::new());
            overlay(live, &Value::Object(declared.clone()));
        }
        (live, declared) => *live = declared.clone(),
    }
}

/// A write, for the question who owns what after it.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// Who writes.
    pub manager: &'a ManagerName,
    /// What is there.
    pub before: &'a Value,
    /// What will be there.
    pub after: &'a Value,
    /// When.
    pub at: Timestamp,
}

impl Written<'_> {
    /// Who owns what after an apply of these fields.
    ///
    /// # Errors
    /// Fields of others that would become something else, unless it is forced.
    pub fn applied(
        self,
        managers: &[Manager],
        declared: &BTreeSet<String>,
        force: bool,
    ) -> Result<Vec<Manager>, Vec<Conflict>> {
        let mut managers = managers.to_vec();
        let before = fields(self.before);
        if managers.is_empty() && !before.is_empty() {
            let manager = BEFORE.parse().expect("a valid manager's name");
            managers.push(Manager { manager, operation: Operation::Update, time: self.at, fields: before });
        }
        let taken = |field: &String| {
            touched(declared, field) && self.before.pointer(field) != self.after.pointer(field)
        };
        let others = managers.iter().filter(|it| it.manager != *self.manager);
        let conflicts = others.flat_map(|it| {
            let taken = it.fields.iter().filter(|field| taken(field));
            taken.map(|field| Conflict { field: field.clone(), manager: it.manager.clone() })
        });
        let conflicts: Vec<Conflict> = conflicts.collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        for other in managers.iter_mut().filter(|it| it.manager != *self.manager) {
            other.fields.retain(|field| !conflicts.iter().any(|it| it.field == *field));
        }
        Ok(self.settled(managers, Operation::Apply, declared.clone()))
    }

    /// Who owns what after any other write, if that is known of the object at all.
    pub fn updated(self, mut managers: Vec<Manager>) -> Vec<Manager> {
        let mut changed = fields(self.after);
        changed.retain(|field| self.before.pointer(field) != self.after.pointer(field));
        if managers.is_empty() || self.before == self.after {
            return managers;
        }
        for other in &mut managers {
            other.fields.retain(|field| !changed.contains(field));
        }
        let own = managers.iter().find(|it| self.is_own(it, Operation::Update));
        changed.extend(own.into_iter().flat_map(|it| it.fields.iter().cloned()));
        self.settled(managers, Operation::Update, changed)
    }

    fn is_own(&self, manager: &Manager, operation: Operation) -> bool {
        manager.manager == *self.manager && manager.operation == operation
    }

    /// Puts the writer's fields in the place of those from before, and takes away what is no field any more.
    fn settled(
        self,
        mut managers: Vec<Manager>,
        operation: Operation,
        own: BTreeSet<String>,
    ) -> Vec<Manager> {
        let known = managers.iter().position(|it| self.is_own(it, operation)).map(|at| managers.remove(at));
        // Who applies the same again changes nothing, not even the time.
        let time = known.filter(|it| it.fields == own).map_or(self.at, |it| it.time);
        managers.push(Manager { manager: self.manager.clone(), operation, time, fields: own });
        let now = fields(self.after);
        for manager in &mut managers {
            manager.fields.retain(|field| touched(&now, field));
        }
        managers.retain(|it| !it.fields.is_empty());
        if managers.len() > MOST_MANAGERS {
            // Nobody applies for this one, so nothing that it has is ever taken away as left out.
            managers.sort_by_key(|it| (it.manager.as_str() == BEFORE, it.time));
            let eldest = managers.remove(0);
            let before = managers.iter_mut().find(|it| it.manager.as_str() == BEFORE);
            match before {
                Some(before) => before.fields.extend(eldest.fields),
                None => managers.push(Manager {
                    manager: BEFORE.parse().expect("a valid manager's name"),
                    operation: Operation::Update,
                    ..eldest
                }),
            }
        }
        managers.sort_by(|a, b| (&a.manager, a.operation).cmp(&(&b.manager, b.operation)));
        managers
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> ManagerName {
        text.parse().unwrap()
    }

    /// Applies a document for somebody to what is there.
    fn apply(
        live: &mut (Value, Vec<Manager>),
        who: &str,
        declared: &Value,
        force: bool,
    ) -> Result<(), Vec<Conflict>> {
        let who = name(who);
        let after = merge(&live.0, declared, &who, &live.1);
        let written = Written { manager: &who, before: &live.0, after: &after, at: Timestamp(1) };
        let managers = written.applied(&live.1, &fields(declared), force)?;
        *live = (after, managers);
        Ok(())
    }

    fn owned(live: &(Value, Vec<Manager>), who: &str) -> Vec<String> {
        let own = live.1.iter().filter(|it| it.manager.as_str() == who);
        own.flat_map(|it| it.fields.iter().cloned()).collect()
    }

    #[test]
    fn each_declares_a_part() {
        let mut live = (json!({}), Vec::new());
        let web = json!({"spec": {"components": {"web": {"command": ["a", "b"], "env": {"A": "1"}}}}});
        apply(&mut live, "dev", &web, false).unwrap();
        let scaled = json!({"spec": {"components": {"web": {"replicas": 3}}}});
        apply(&mut live, "scaler", &scaled, false).unwrap();
        assert_eq!(owned(&live, "scaler"), ["/spec/components/web/replicas"]);
        assert_eq!(owned(&live, "dev"), ["/spec/components/web/command", "/spec/components/web/env/A"]);
        // Left out: gone. What is another one's stays.
        let less = json!({"spec": {"components": {"web": {"command": ["a", "b"]}}}});
        apply(&mut live, "dev", &less, false).unwrap();
        assert_eq!(live.0, json!({"spec": {"components": {"web": {"command": ["a", "b"], "replicas": 3}}}}));
    }

    #[test]
    fn what_is_another_ones_is_a_conflict_unless_it_is_the_same_or_forced() {
        let mut live = (json!({}), Vec::new());
        let two = json!({"spec": {"web": {"replicas": 2, "image": "x"}}});
        apply(&mut live, "dev", &two, false).unwrap();
        apply(&mut live, "ops", &json!({"spec": {"web": {"replicas": 2}}}), false).unwrap();
        let five = json!({"spec": {"web": {"replicas": 5}}});
        let conflicts = apply(&mut live, "ops", &five, false).unwrap_err();
        let conflict = Conflict { field: "/spec/web/replicas".into(), manager: name("dev") };
        assert_eq!(conflicts, [conflict]);
        apply(&mut live, "ops", &five, true).unwrap();
        assert_eq!(owned(&live, "dev"), ["/spec/web/image"]);
        assert_eq!(live.0["spec"]["web"]["replicas"], 5);
        // A list is one field.
        let mut live = (json!({"spec": {"args": [1]}}), Vec::new());
        assert_eq!(apply(&mut live, "ops", &json!({"spec": {"args": [2]}}), false).unwrap_err().len(), 1);
    }

    #[test]
    fn whoever_writes_otherwise_owns_what_they_change() {
        let mut live = (json!({}), Vec::new());
        apply(&mut live, "dev", &json!({"spec": {"a": 1, "b": {"c": 1}}}), false).unwrap();
        let after = json!({"spec": {"a": 2, "b": {"c": 1}}});
        let who = name("edit");
        let written = Written { manager: &who, before: &live.0, after: &after, at: Timestamp(2) };
        live = (after.clone(), written.updated(live.1.clone()));
        assert_eq!(
            (owned(&live, "edit"), owned(&live, "dev")),
            (vec!["/spec/a".into()], vec!["/spec/b/c".into()])
        );
        // An object that nobody ever applied is not tracked.
        let written = Written { manager: &who, before: &json!({}), after: &after, at: Timestamp(2) };
        assert_eq!(written.updated(Vec::new()), []);
        // What was there before the first apply is somebody's too.
        let mut live = (json!({"spec": {"a": 1}}), Vec::new());
        assert_eq!(
            apply(&mut live, "dev", &json!({"spec": {"a": 2}}), false).unwrap_err()[0].manager.as_str(),
            BEFORE
        );
    }

    #[test]
    fn whoever_came_first_of_many_loses_nothing() {
        let mut live = (json!({}), Vec::new());
        for number in 0..40 {
            let part = json!({"spec": {"env": {format!("K{number:02}"): "x"}}});
            apply(&mut live, &format!("run-{number:02}"), &part, false).unwrap();
        }
        assert_eq!((live.1.len(), owned(&live, BEFORE).len()), (MOST_MANAGERS + 1, 20));
        // The same again, by whoever is still known, takes nothing from the others.
        apply(&mut live, "run-39", &json!({"spec": {"env": {"K39": "x"}}}), false).unwrap();
        assert_eq!(live.0["spec"]["env"].as_object().unwrap().len(), 40);
    }

    #[test]
    fn an_entry_goes_as_a_whole_when_nobody_has_anything_in_it() {
        let mut live = (json!({}), Vec::new());
        apply(&mut live, "dev", &json!({"spec": {"web": {"image": "x"}, "db": {"image": "y"}}}), false)
            .unwrap();
        // As the server fills it in: a default that nobody declared.
        live.0["spec"]["db"]["replicas"] = json!(1);
        apply(&mut live, "dev", &json!({"spec": {"web": {"image": "x"}}}), false).unwrap();
        assert_eq!(live.0, json!({"spec": {"web": {"image": "x"}}}));
        let escaped = json!({"metadata": {"labels": {"a/b~c": "1"}}});
        apply(&mut live, "dev", &escaped, false).unwrap();
        assert_eq!(live.0, json!({"spec": {}, "metadata": {"labels": {"a/b~c": "1"}}}));
        apply(&mut live, "dev", &json!({}), false).unwrap();
        assert_eq!(live.0["metadata"]["labels"], json!({}));
    }
}
