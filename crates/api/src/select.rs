//! Selectors, as Kubernetes writes them: which objects of a list a client wants.

use serde_json::Value;

use crate::problem::Problem;

/// What all must hold of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    /// The label, or the parts of the field's path.
    name: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`, and for fields `metadata.name=x,status.outcome.state!=settled`.
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Problem> {
        let labels = terms(labels.unwrap_or_default())?;
        let fields = terms(fields.unwrap_or_default())?;
        let labels = labels.into_iter().map(|(name, test)| Term { name: vec![name], test });
        let fields = fields
            .into_iter()
            .map(|(name, test)| Term { name: name.split('.').map(str::to_owned).collect(), test });
        Ok(Self { labels: labels.collect(), fields: fields.collect() })
    }

    /// Whether an object as it is sent is wanted.
    pub(crate) fn admits(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|term| term.holds(labels)) && self.fields.iter().all(|term| term.holds(object))
    }
}

impl Term {
    fn holds(&self, within: &Value) -> bool {
        let found = self.name.iter().try_fold(within, |value, part| value.get(part));
        let text = found.filter(|it| !it.is_null()).map(|it| match it {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        match (&self.test, text) {
            (Test::In(wanted), Some(text)) => wanted.contains(&text),
            (Test::NotIn(unwanted), Some(text)) => !unwanted.contains(&text),
            (Test::Exists, found) => found.is_some(),
            (Test::Absent, found) => found.is_none(),
            (Test::In(_), None) => false,
            // As Kubernetes has it: what has no such label has none of the unwanted values either.
            (Test::NotIn(_), None) => true,
        }
    }
}

fn terms(text: &str) -> Result<Vec<(String, Test)>, Problem> {
    let mut depth = 0;
    // Commas within parentheses belong to a term.
    let parts = text.split(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).map(term).collect()
}

fn term(text: &str) -> Result<(String, Test), Problem> {
    let wrong =
        || Problem::bad(format!("{text:?} is no selector: write a=b, a!=b, a in (b,c), a notin (b), a, !a"));
    let set = |list: &str| -> Result<Vec<String>, Problem> {
        let inner = list.trim().strip_prefix('(').and_then(|it| it.strip_suffix(')')).ok_or_else(wrong)?;
        Ok(inner.split(',').map(|it| it.trim().to_owned()).collect())
    };
    let (name, test) = if let Some((name, value)) = text.split_once("!=") {
        (name, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (name, Test::In(vec![value.trim().to_owned()]))
    } else if let Some((name, list)) = text.split_once(" notin ") {
        (name, Test::NotIn(set(list)?))
    } else if let Some((name, list)) = text.split_once(" in ") {
        (name, Test::In(set(list)?))
    } else if let Some(name) = text.strip_prefix('!') {
        (name, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let name = name.trim();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(wrong());
    }
    Ok((name.to_owned(), test))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let object =
            json!({"metadata": {"name": "shop", "labels": {"tier": "front", "x": ""}}, "spec": {"n": 3}});
        for (labels, fields, wanted) in [
            ("", "", true),
            ("tier=front", "metadata.name=shop", true),
            ("tier==front,x", "spec.n=3", true),
            ("tier!=front", "", false),
            ("tier in (back, front),!none", "", true),
            ("tier notin (back)", "metadata.name!=shop", false),
            ("none!=x", "", true),
            ("none=x", "", false),
            ("", "metadata.none", false),
        ] {
            let selector = Selector::parse(Some(labels), Some(fields)).unwrap();
            assert_eq!(selector.admits(&object), wanted, "{labels} {fields}");
        }
        for wrong in ["=x", "a in b", "a b", "!", "a in (b"] {
            assert!(Selector::parse(Some(wrong), None).is_err(), "{wrong}");
        }
    }
}
