//! JSON Schemas of whole documents, made from the types of the model and from nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use jsonschema::{PatternOptions, Validator};
use plimsoll_model::id::{CommitId, Digest, KeyName, LabelName, ObjectName, ProjectName, UserName};
use plimsoll_model::image::ImageRef;
use plimsoll_model::kind::{EngineAddress, ProjectSpec, TargetSpec};
use plimsoll_model::quantity::{Bytes, Cpu, Percent, Span};
use plimsoll_model::relation::EndpointRef;
use plimsoll_model::secret::SecretRef;
use plimsoll_model::version::VersionRange;
use plimsoll_model::{AppSpec, Operations};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// The version of the documents that this crate reads.
pub const API_VERSION: &str = "plimsoll.dev/v1";

/// A kind of document that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// Components that belong together.
    App,
    /// A tenant.
    Project,
    /// Where instances run.
    Target,
    /// Write-only values.
    Secret,
}

impl DocumentKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::App, Self::Project, Self::Target, Self::Secret];

    /// The name in documents: `App`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Project => "Project",
            Self::Target => "Target",
            Self::Secret => "Secret",
        }
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The JSON Schema (2020-12) of a whole document of a kind.
pub fn schema(kind: DocumentKind) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut properties = json!({
        "apiVersion": {"const": API_VERSION, "description": format!("write `apiVersion: {API_VERSION}`")},
        "kind": {"const": kind.name()},
        "metadata": metadata(kind, &mut generator),
    });
    let mut required = vec!["apiVersion", "kind", "metadata"];
    match kind {
        DocumentKind::App => {
            properties["spec"] = reference::<AppSpec>(&mut generator);
            properties["operations"] =
                json!({"anyOf": [reference::<Operations>(&mut generator), {"type": "null"}]});
            required.push("spec");
        }
        DocumentKind::Project => properties["spec"] = reference::<ProjectSpec>(&mut generator),
        DocumentKind::Target => properties["spec"] = reference::<TargetSpec>(&mut generator),
        DocumentKind::Secret => {
            let mut data = reference::<BTreeMap<KeyName, String>>(&mut generator);
            data["maxProperties"] = json!(256);
            data["description"] = json!("Values by key, as text.");
            properties["spec"] = json!({"type": "object", "additionalProperties": false, "properties": {"data": data.clone()}});
            properties["data"] = data;
        }
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name(),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "$defs": generator.take_definitions(true),
    });
    tighten(&mut schema);
    limit_components(&mut schema);
    schema
}

fn metadata(kind: DocumentKind, generator: &mut SchemaGenerator) -> Value {
    // Names that people give are labels; dots are left to objects that the system names after others.
    let label = reference::<ProjectName>(generator);
    let mut properties = json!({
        "name": label.clone(),
        "labels": attached(generator, "For selection by people and tools."),
        "annotations": attached(generator, "For tools, which find them again."),
    });
    if matches!(kind, DocumentKind::App | DocumentKind::Secret) {
        properties["project"] = label.clone();
        properties["namespace"] = label;
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": false,
    })
}

/// Short texts by name.
fn attached(generator: &mut SchemaGenerator, description: &str) -> Value {
    let mut schema = reference::<BTreeMap<LabelName, String>>(generator);
    schema["maxProperties"] = json!(256);
    schema["description"] = json!(description);
    schema
}

fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Components of an App. The model says so too, but schemars leaves the `length` of maps out, and this limit
/// bounds the recursion with which relations are checked.
const MOST_COMPONENTS: usize = 200;

fn limit_components(schema: &mut Value) {
    if let Some(components) = schema.pointer_mut("/$defs/AppSpec/properties/components") {
        components["maxProperties"] = json!(MOST_COMPONENTS);
    }
}

/// The model limits the values of some maps by `additionalProperties`, beside the `patternProperties` that
/// schemars makes of typed keys. Read literally, that would allow every key; meant is that keys have the
/// pattern and values obey both.
fn tighten(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let limit = map.get("additionalProperties").filter(|limit| limit.is_object()).cloned();
            if let (Some(limit), Some(Value::Object(patterns))) = (limit, map.get_mut("patternProperties")) {
                for value in patterns.values_mut() {
                    *value = json!({"allOf": [value.take(), limit]});
                }
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(tighten);
        }
        Value::Array(items) => items.iter_mut().for_each(tighten),
        _ => {}
    }
}

/// A schema ready for use.
pub(crate) struct Compiled {
    pub(crate) schema: Value,
    pub(crate) validator: Validator,
}

/// The compiled schema of a kind.
pub(crate) fn compiled(kind: DocumentKind) -> &'static Compiled {
    static COMPILED: LazyLock<BTreeMap<DocumentKind, Compiled>> =
        LazyLock::new(|| DocumentKind::ALL.into_iter().map(|kind| (kind, compile(kind))).collect());
    &COMPILED[&kind]
}

fn compile(kind: DocumentKind) -> Compiled {
    let schema = schema(kind);
    // This engine takes time linear in the text, whatever the pattern.
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).offline();
    let validator =
        options.build(&schema).expect("a schema of the model's types is valid; tests compile all");
    Compiled { schema, validator }
}

/// The rule in words that belongs to a pattern. A field's own description replaces that of its type in the
/// generated schema, so the rules are looked up by pattern.
pub(crate) fn rule(pattern: &str) -> Option<&'static str> {
    static RULES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let types = [
            reference::<Bytes>(&mut generator),
            reference::<CommitId>(&mut generator),
            reference::<Cpu>(&mut generator),
            reference::<Percent>(&mut generator),
            reference::<Digest>(&mut generator),
            reference::<EndpointRef>(&mut generator),
            reference::<EngineAddress>(&mut generator),
            reference::<ImageRef>(&mut generator),
            reference::<KeyName>(&mut generator),
            reference::<LabelName>(&mut generator),
            reference::<ObjectName>(&mut generator),
            reference::<ProjectName>(&mut generator),
            reference::<SecretRef>(&mut generator),
            reference::<Span>(&mut generator),
            reference::<UserName>(&mut generator),
            reference::<VersionRange>(&mut generator),
        ];
        let text = |schema: &Value, key: &str| Some(schema.get(key)?.as_str()?.to_owned());
        types.iter().filter_map(|schema| text(schema, "pattern").zip(text(schema, "description"))).collect()
    });
    RULES.get(pattern).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_of_every_schema_has_a_rule_in_words() {
        fn patterns(schema: &Value, found: &mut Vec<String>) {
            if let Value::Object(map) = schema {
                found.extend(map.get("pattern").and_then(Value::as_str).map(str::to_owned));
                if let Some(Value::Object(keys)) = map.get("patternProperties") {
                    found.extend(keys.keys().cloned());
                }
                map.values().for_each(|value| patterns(value, found));
            } else if let Value::Array(items) = schema {
                for item in items {
                    patterns(item, found);
                }
            }
        }
        let mut found = Vec::new();
        for kind in DocumentKind::ALL {
            patterns(&compiled(kind).schema, &mut found);
        }
        assert!(found.len() > 20);
        for pattern in found {
            assert!(rule(&pattern).is_some(), "no type of the model explains {pattern}");
        }
    }

    #[test]
    fn limits_of_map_values_do_not_open_the_keys() {
        let schema = schema(DocumentKind::App);
        let ports = &schema["$defs"]["Component"]["properties"]["ports"];
        assert_eq!(ports["additionalProperties"], json!(false));
        let valid = |ports: Value| {
            compiled(DocumentKind::App).validator.is_valid(&json!({
                "apiVersion": API_VERSION, "kind": "App", "metadata": {"name": "a"},
                "spec": {"components": {"web": {"command": ["x"], "ports": ports}}},
            }))
        };
        assert!(valid(json!({"http": 8080})));
        assert!(!valid(json!({"HTTP": 8080})));
        assert!(!valid(json!({"http": 0})));
    }

    #[test]
    fn schemas_forbid_what_they_do_not_name() {
        for kind in DocumentKind::ALL {
            let schema = schema(kind);
            assert_eq!(schema["title"], kind.name());
            assert_eq!(schema["additionalProperties"], json!(false));
            assert_eq!(schema["properties"]["kind"]["const"], kind.name());
            assert_eq!(DocumentKind::named(kind.name()), Some(kind));
        }
        assert_eq!(DocumentKind::named("app"), None);
    }
}
