//! `plimsoll explain`: what a field of a document is for, from the schema that checks documents.

use std::fmt::Write as _;

use anyhow::bail;
use clap::Args;
use plimsoll_api::Origin;
use serde_json::{Map, Value};

use crate::Ended;
use crate::what::resource;

/// Say what a field of a document is for: app, app.spec.components.update
#[derive(Args)]
pub(crate) struct Explain {
    /// The kind and the way to the field, parted by dots; names that people choose may be left out
    field: String,
    /// Every field below it, not only the next ones
    #[arg(long)]
    recursive: bool,
}

impl Explain {
    #[expect(clippy::print_stdout, reason = "the explanation is this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let mut parts = self.field.split('.');
        let resource = resource(parts.next().unwrap_or_default())?;
        let Origin::Declared(kind) = resource.origin else {
            bail!(
                "{} are not declared; `plimsoll get {} -o yaml` shows them",
                resource.plural,
                resource.plural
            );
        };
        let schema = plimsoll_manifest::schema(kind);
        let mut at = &schema;
        let mut way = resource.kind.to_lowercase();
        for part in parts {
            way = format!("{way}.{part}");
            let Some(found) = field(&schema, at, part) else {
                let known = fields(&schema, at).into_iter().flat_map(|it| it.keys());
                let known: Vec<&str> = known.map(String::as_str).collect();
                bail!("there is no {way}; there are {}", known.join(", "))
            };
            at = found;
        }
        print!("{}", text(&schema, at, &way, self.recursive));
        Ok(Ended::Done)
    }
}

/// A schema without the detours that have no meaning for people: references, and alternatives of which one is null.
fn plain<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(place) = schema["$ref"].as_str().and_then(|it| it.strip_prefix('#')) {
        return root.pointer(place).map_or(schema, |found| plain(root, found));
    }
    let real = |schema: &&Value| schema["type"] != "null";
    match schema["anyOf"].as_array().map(|all| all.iter().filter(real).collect::<Vec<_>>()) {
        Some(one) if one.len() == 1 => plain(root, one[0]),
        _ => schema,
    }
}

/// The fields of an object; those of its values where people choose the names, and of the items of a list.
fn fields<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Map<String, Value>> {
    let schema = plain(root, schema);
    if let Some(fields) = schema["properties"].as_object() {
        return Some(fields);
    }
    let inner = [&schema["additionalProperties"], &schema["items"]];
    let by_name = schema["patternProperties"].as_object().and_then(|all| all.values().next());
    inner.into_iter().chain(by_name).filter(|it| it.is_object()).find_map(|inner| fields(root, inner))
}

/// The schema of a field, or of what lies under a name that people choose.
fn field<'a>(root: &'a Value, schema: &'a Value, name: &str) -> Option<&'a Value> {
    fields(root, schema)?.get(name)
}

/// What a value looks like, in a word or two.
fn kind_of(root: &Value, schema: &Value) -> String {
    let schema = plain(root, schema);
    if let Some(known) = schema["enum"].as_array() {
        return known.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | ");
    }
    if let Some(value) = schema["const"].as_str() {
        return value.to_owned();
    }
    let alternatives = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    if let Some(alternatives) = alternatives {
        let names: Vec<String> = alternatives.iter().map(|it| kind_of(root, it)).collect();
        return names.join(" | ");
    }
    let name = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).find(|it| *it != "null").unwrap_or("value")
        }
        _ => "value",
    };
    match name {
        "array" => format!("list of {}", kind_of(root, &schema["items"])),
        "object" if schema["properties"].is_object() => "object".to_owned(),
        "object" => "map by name".to_owned(),
        other => other.to_owned(),
    }
}

fn description<'a>(root: &'a Value, schema: &'a Value) -> &'a str {
    schema["description"].as_str().or_else(|| plain(root, schema)["description"].as_str()).unwrap_or_default()
}

fn text(root: &Value, schema: &Value, way: &str, recursive: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    writeln!(out, "{way}  <{}>", kind_of(root, schema)).ok();
    let words = description(root, schema);
    if !words.is_empty() {
        writeln!(out, "\n  {}", words.replace('\n', " ")).ok();
    }
    if let Some(fields) = fields(root, schema) {
        writeln!(out, "\nFIELDS").ok();
        list(&mut out, root, fields, 1, recursive);
    }
    out
}

fn list(out: &mut String, root: &Value, known: &Map<String, Value>, level: usize, recursive: bool) {
    /// Deeper than any document; schemas may refer to themselves.
    const DEEPEST: usize = 12;
    for (name, schema) in known {
        let indent = "  ".repeat(level);
        writeln!(out, "{indent}{name}  <{}>", kind_of(root, schema)).ok();
        if recursive {
            if let Some(below) = fields(root, schema).filter(|_| level < DEEPEST) {
                list(out, root, below, level + 1, recursive);
            }
        } else {
            let words = description(root, schema);
            if !words.is_empty() {
                writeln!(out, "{indent}  {}", words.replace('\n', " ")).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_manifest::DocumentKind;

    use super::*;

    /// `docs/fields.md` is what the schemas say.
    #[test]
    fn the_committed_reference_of_fields_is_this_one() {
        fn rows(root: &Value, schema: &Value, way: &str, level: usize, out: &mut String) {
            let Some(known) = fields(root, schema).filter(|_| level < 8) else { return };
            for (name, inner) in known {
                let way = if way.is_empty() { name.clone() } else { format!("{way}.{name}") };
                let words = description(root, inner).replace('\n', " ").replace('|', "\\|");
                let kind = kind_of(root, inner).replace('|', "\\|");
                writeln!(out, "| `{way}` | {kind} | {words} |").unwrap();
                rows(root, inner, &way, level + 1, out);
            }
        }
        let mut text = String::from(
            "# Every field\n\nWhat `plimsoll explain` says, from the schemas that check documents. Names that people choose are left out: \
             `spec.components.replicas` is `spec.components.NAME.replicas`.\n",
        );
        for kind in DocumentKind::ALL {
            let schema = plimsoll_manifest::schema(kind);
            writeln!(text, "\n## {}\n\n| field | what it is | what it is for |\n|---|---|---|", kind.name())
                .unwrap();
            rows(&schema, &schema, "", 0, &mut text);
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/fields.md");
        if std::env::var_os("PLIMSOLL_WRITE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text, "run the tests with PLIMSOLL_WRITE=1 and commit docs/fields.md");
    }

    #[test]
    fn every_field_of_every_kind_can_be_explained() {
        fn walk(root: &Value, schema: &Value, way: &str, level: usize, seen: &mut usize) {
            let Some(known) = fields(root, schema).filter(|_| level < 8) else { return };
            for (name, inner) in known {
                let way = format!("{way}.{name}");
                assert!(!kind_of(root, inner).is_empty(), "{way}");
                *seen += 1;
                walk(root, inner, &way, level + 1, seen);
            }
        }
        let mut seen = 0;
        for kind in DocumentKind::ALL {
            let schema = plimsoll_manifest::schema(kind);
            walk(&schema, &schema, kind.name(), 0, &mut seen);
        }
        assert!(seen > 80, "{seen}");
        let schema = plimsoll_manifest::schema(DocumentKind::App);
        let components = field(&schema, field(&schema, &schema, "spec").unwrap(), "components").unwrap();
        let replicas = field(&schema, components, "replicas").unwrap();
        assert_eq!(kind_of(&schema, replicas), "integer");
        assert!(text(&schema, replicas, "app.spec.components.replicas", false).contains("equal copies"));
    }
}
