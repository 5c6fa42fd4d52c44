//! From what the validator says to what a person needs: where, what is wrong, what to write instead.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use crate::nearest::{as_label, nearest, printable, suggest};
use crate::read::MOST_ERRORS;
use crate::schema::rule;
use crate::tree::{Path, Spot};

/// Something wrong with one node of a document. Without the node the rest can still be looked at.
pub(crate) struct Finding {
    pub(crate) path: Path,
    pub(crate) spot: Spot,
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
    /// The field that an unknown one was most likely meant to be.
    pub(crate) meant: Option<String>,
    /// The field that is missing.
    pub(crate) missing: Option<String>,
}

/// Translates errors of one schema.
pub(crate) struct Translator<'a> {
    pub(crate) schema: &'a Value,
    /// Whether the value at a path may be repeated in a message.
    pub(crate) may_show: &'a dyn Fn(&[String]) -> bool,
}

impl Translator<'_> {
    /// What there is to say about an error. Several unknown fields of one mapping come as one error.
    pub(crate) fn findings(&self, error: &ValidationError<'_>) -> Vec<Finding> {
        let path = steps(error.instance_path().as_str());
        let value = error.instance().as_ref();
        let found = describe(value, (self.may_show)(&path));
        let (spot, message, suggestion) = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                return unexpected
                    .iter()
                    .take(MOST_ERRORS)
                    .map(|key| self.unexpected(error, &path, key))
                    .collect();
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                return self.alternatives(error, path, &found, context);
            }
            ValidationErrorKind::Type { kind } => {
                let expected = types_of(kind);
                let names: Vec<&str> = expected.iter().filter_map(|&kind| type_name(kind)).collect();
                let message = format!("expected {}, found {found}", join_or(&names));
                let help = self.type_help(error, &expected, value, (self.may_show)(&path));
                (Spot::Value, message, help)
            }
            ValidationErrorKind::Required { property } => {
                return vec![self.missing(error, path, property.as_str().unwrap_or_default())];
            }
            ValidationErrorKind::Pattern { pattern } => {
                let help = rule_for(pattern, value.as_str().filter(|_| (self.may_show)(&path)));
                (Spot::Value, format!("{found} is not valid here"), help)
            }
            ValidationErrorKind::Constant { expected_value } => {
                let expected = expected_value.as_str().unwrap_or_default();
                (Spot::Value, format!("expected `{expected}`, found {found}"), None)
            }
            ValidationErrorKind::Enum { options } => {
                let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
                let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
                let (message, help) = choice(&found, value, &options);
                (Spot::Value, message, help)
            }
            kind => (Spot::Value, limit(kind, &found, value), None),
        };
        vec![Finding { path, spot, message, suggestion, meant: None, missing: None }]
    }

    fn missing(&self, error: &ValidationError<'_>, path: Path, field: &str) -> Finding {
        let schema = self.owner(error).and_then(|schema| schema.get("properties")?.get(field));
        let suggestion = schema.and_then(first_sentence).map(|help| format!("`{field}`: {help}"));
        let (message, missing) = (format!("`{field}` is missing"), Some(field.to_owned()));
        Finding { path, spot: Spot::Key, message, suggestion, meant: None, missing }
    }

    fn unexpected(&self, error: &ValidationError<'_>, parent: &[String], key: &str) -> Finding {
        let schema = self.owner(error);
        let names = |keyword| schema.and_then(|schema| schema.get(keyword)?.as_object());
        let shown = printable(key);
        let (message, suggestion, meant) = if let Some(patterns) = names("patternProperties") {
            let pattern = patterns.keys().next().map_or("", String::as_str);
            (format!("`{shown}` is not a valid name"), rule_for(pattern, Some(key)), None)
        } else {
            let known: Vec<&str> =
                names("properties").into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let meant = nearest(key, known.iter().copied()).map(str::to_owned);
            (format!("unknown field `{shown}`"), suggest(key, "known fields", &known), meant)
        };
        let mut path = parent.to_vec();
        path.push(key.to_owned());
        Finding { path, spot: Spot::Key, message, suggestion, meant, missing: None }
    }

    /// No alternative fits. If only one of them has the type of the value, its errors say more.
    fn alternatives(
        &self,
        error: &ValidationError<'_>,
        path: Path,
        found: &str,
        context: &[Vec<ValidationError<'static>>],
    ) -> Vec<Finding> {
        let here = error.instance_path();
        let other_type = |error: &ValidationError<'_>| {
            error.instance_path() == here && matches!(error.kind(), ValidationErrorKind::Type { .. })
        };
        let branches = self.schema.pointer(error.schema_path().as_str()).and_then(Value::as_array);
        let branches: Vec<&Value> =
            branches.into_iter().flatten().map(|branch| self.resolve(branch)).collect();
        let choices: Vec<&str> = branches.iter().filter_map(|branch| branch.get("const")?.as_str()).collect();
        let (message, suggestion) = if choices.is_empty() {
            let mut near = context.iter().filter(|errors| !errors.iter().any(other_type));
            if let (Some(errors), None) = (near.next(), near.next()) {
                return errors.iter().flat_map(|error| self.findings(error)).collect();
            }
            let names: Vec<String> = branches.iter().filter_map(|branch| branch_name(branch)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let help = match error.instance().as_ref() {
                Value::Null => Some("remove the key, or give it a value".to_owned()),
                Value::Number(_) => Some("put the number in quotes".to_owned()),
                _ => None,
            };
            (format!("expected {}, found {found}", join_or(&names)), help)
        } else {
            choice(found, error.instance(), &choices)
        };
        vec![Finding { path, spot: Spot::Value, message, suggestion, meant: None, missing: None }]
    }

    fn type_help(
        &self,
        error: &ValidationError<'_>,
        expected: &[JsonType],
        value: &Value,
        show: bool,
    ) -> Option<String> {
        let wants = |kind| expected.contains(&kind);
        let written = |text: String| if show { text } else { "…".to_owned() };
        let whole = wants(JsonType::Integer) || wants(JsonType::Number);
        match value {
            Value::Null => Some("remove the key, or give it a value".to_owned()),
            Value::Bool(_) | Value::Number(_) if wants(JsonType::String) => {
                Some(format!("put it in quotes: \"{}\"", written(value.to_string())))
            }
            Value::Number(number) if whole && number.is_f64() => Some("write a whole number".to_owned()),
            Value::String(text) if whole && text.parse::<i64>().is_ok() => {
                Some(format!("write it without quotes: {}", written(text.clone())))
            }
            Value::String(text) if wants(JsonType::Boolean) => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => Some("write `true`".to_owned()),
                "no" | "off" | "n" => Some("write `false`".to_owned()),
                _ => None,
            },
            Value::String(text) if wants(JsonType::Array) => {
                Some(format!("write a list: [\"{}\"]", written(printable(text))))
            }
            _ => self.owner(error).and_then(|schema| {
                let pattern = schema.get("pattern").and_then(Value::as_str);
                pattern.and_then(rule).map(str::to_owned).or_else(|| first_sentence(schema))
            }),
        }
    }

    /// The schema whose keyword is violated.
    fn owner(&self, error: &ValidationError<'_>) -> Option<&Value> {
        let (owner, _) = error.schema_path().as_str().rsplit_once('/')?;
        self.schema.pointer(owner)
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
        reference.and_then(|pointer| self.schema.pointer(pointer)).unwrap_or(schema)
    }
}

/// The rule of a pattern; if it is that of labels, with the label nearest to the text.
fn rule_for(pattern: &str, text: Option<&str>) -> Option<String> {
    let rule = rule(pattern)?;
    let label = text.filter(|_| rule.contains("63 lower-case")).and_then(as_label);
    Some(label.map_or_else(|| rule.to_owned(), |label| format!("{rule}, for example `{label}`")))
}

/// The keys and indices of a JSON pointer.
fn steps(pointer: &str) -> Path {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

/// A value in words; the value itself only if it may be shown.
fn describe(value: &Value, show: bool) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::Bool(truth) if show => format!("`{truth}`"),
        Value::Number(number) if show => format!("the number `{number}`"),
        Value::String(text) if show => format!("the text `{}`", printable(text)),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "text".to_owned(),
    }
}

fn choice(found: &str, value: &Value, choices: &[&str]) -> (String, Option<String>) {
    let message = format!("{found} is not one of: {}", choices.join(", "));
    let near = value.as_str().and_then(|text| nearest(text, choices.iter().copied()));
    (message, near.map(|name| format!("did you mean `{name}`?")))
}

fn limit(kind: &ValidationErrorKind, found: &str, value: &Value) -> String {
    match kind {
        ValidationErrorKind::Maximum { limit } => {
            format!("{found} is more than {limit}, the most allowed here")
        }
        ValidationErrorKind::Minimum { limit } => {
            format!("{found} is less than {limit}, the least allowed here")
        }
        ValidationErrorKind::MaxLength { limit } => format!("the text is longer than {limit} characters"),
        ValidationErrorKind::MinLength { limit: 1 } => "the text is empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => format!("the text is shorter than {limit} characters"),
        ValidationErrorKind::MinItems { limit: 1 } => "the list is empty".to_owned(),
        ValidationErrorKind::MinItems { limit } => format!("the list has fewer than {limit} items"),
        ValidationErrorKind::MaxItems { limit } => {
            format!("the list has {} items; {limit} are allowed", value.as_array().map_or(0, Vec::len))
        }
        ValidationErrorKind::MaxProperties { limit } => {
            format!(
                "there are {} entries; {limit} are allowed",
                value.as_object().map_or(0, serde_json::Map::len)
            )
        }
        // The model uses none of the other keywords. Their name at least can be looked up.
        kind => format!("{found} violates the rule `{}`", kind.keyword()),
    }
}

fn types_of(kind: &TypeKind) -> Vec<JsonType> {
    match kind {
        TypeKind::Single(kind) => vec![*kind],
        TypeKind::Multiple(kinds) => kinds.iter().collect(),
    }
}

/// The name of a type in a message. Null stands for an absent value and is not advertised.
fn type_name(kind: JsonType) -> Option<&'static str> {
    match kind {
        JsonType::Null => None,
        JsonType::Boolean => Some("true/false"),
        JsonType::Integer => Some("a whole number"),
        JsonType::Number => Some("a number"),
        JsonType::String => Some("text"),
        JsonType::Array => Some("a list"),
        JsonType::Object => Some("a mapping"),
    }
}

/// An alternative in a message: its type, or `{secret: name/key}`, with the form quoted in its rule.
fn branch_name(branch: &Value) -> Option<String> {
    let kind: JsonType = branch.get("type")?.as_str()?.parse().ok()?;
    let fields = branch.get("required").and_then(Value::as_array).filter(|_| kind == JsonType::Object);
    let Some(fields) = fields else { return type_name(kind).map(str::to_owned) };
    let form = |field: &str| {
        let rule = branch["properties"][field]["description"].as_str().unwrap_or("");
        let form = rule.split('`').nth(1).unwrap_or("…");
        format!("{field}: {form}")
    };
    let fields: Vec<String> = fields.iter().filter_map(Value::as_str).map(form).collect();
    Some(format!("{{{}}}", fields.join(", ")))
}

fn join_or(names: &[&str]) -> String {
    match names {
        [] => "something else".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn first_sentence(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    let end = text.find(". ").unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.').replace('\n', " "))
}
