//! From one tree to one document, or to everything that is wrong with it.
//!
//! Schema, types and rules of the model are asked one after the other, and each sees what the one before
//! found sound: broken nodes are left out, so that one slip hides no other.

use jsonschema::ValidationError;
use plimsoll_model::kind::{App, ProjectSpec, TargetSpec};
use plimsoll_model::secret::Sensitive;
use plimsoll_model::{Kind, validate};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::document::{Declared, Document, Metadata, SecretDeclared};
use crate::doubt;
use crate::error::Error;
use crate::message::{Finding, Translator};
use crate::nearest::{printable, suggest};
use crate::read::MOST_ERRORS;
use crate::schema::{API_VERSION, DocumentKind, compiled};
use crate::tree::{Content, Node, Path, Spot};

/// Types are asked again after each failure, with the failing part left out.
const MOST_DECODINGS: usize = 100;

/// Checks a document and turns it into its type. It comes back only if it has no error.
pub(crate) fn document(root: &Node, errors: &mut Vec<Error>) -> Option<Document> {
    let kind = kind(root, errors)?;
    let mut check = Check { root, kind, json: Value::Null, left_out: Vec::new(), errors: Vec::new() };
    check.json = root.to_json(&mut Path::new(), &mut check.left_out);
    check.against_schema();
    let metadata = check.metadata();
    let line = root.at.line;
    let document =
        match kind {
            DocumentKind::App => check.app(metadata).map(Document::App),
            DocumentKind::Project => check.spec_or::<ProjectSpec>().zip(metadata).map(|(spec, metadata)| {
                Document::Project(Declared { line, metadata, spec, operations: None })
            }),
            DocumentKind::Target => check.spec_or::<TargetSpec>().zip(metadata).map(|(spec, metadata)| {
                Document::Target(Declared { line, metadata, spec, operations: None })
            }),
            DocumentKind::Secret => check.secret(metadata).map(Document::Secret),
        };
    // A broken node has told its error to the reader already.
    let sound = check.errors.is_empty() && check.left_out.is_empty();
    errors.append(&mut check.errors);
    document.filter(|_| sound)
}

/// The kind decides on the schema, so it is asked first; without it nothing else can be said.
fn kind(root: &Node, errors: &mut Vec<Error>) -> Option<DocumentKind> {
    let kinds = DocumentKind::ALL.map(DocumentKind::name);
    if matches!(root.content, Content::Broken) {
        return None;
    }
    if !matches!(root.content, Content::Map(_)) {
        let help = format!("begin with `apiVersion: {API_VERSION}` and `kind: {}`", kinds.join("|"));
        errors.push(root.error(&[], Spot::Value, "the document is not a mapping".to_owned(), Some(help)));
        return None;
    }
    let path = ["kind".to_owned()];
    let Some(node) = root.get("kind") else {
        let help = Some(format!("write one of: {}", kinds.join(", ")));
        errors.push(root.error(&[], Spot::Value, "`kind` is missing".to_owned(), help));
        return None;
    };
    let text = node.text().unwrap_or_default();
    let kind = DocumentKind::named(text);
    if kind.is_none() && !matches!(node.content, Content::Broken) {
        let message = if text.is_empty() {
            "the kind is not a text".to_owned()
        } else {
            format!("unknown kind `{}`", printable(text))
        };
        errors.push(root.error(&path, Spot::Value, message, suggest(text, "known kinds", &kinds)));
    }
    kind
}

struct Check<'a> {
    root: &'a Node,
    kind: DocumentKind,
    /// What is left of the document.
    json: Value,
    left_out: Vec<Path>,
    errors: Vec<Error>,
}

impl Check<'_> {
    fn report(&mut self, path: &[String], spot: Spot, message: String, suggestion: Option<String>) {
        self.errors.push(self.root.error(path, spot, message, suggestion));
    }

    fn against_schema(&mut self) {
        let compiled = compiled(self.kind);
        let json = std::mem::take(&mut self.json);
        let kind = self.kind;
        let may_show = move |path: &[String]| may_show(kind, path);
        let translator = Translator { schema: &compiled.schema, may_show: &may_show };
        let findings: Vec<_> = compiled
            .validator
            .iter_errors(&json)
            .flat_map(|error: ValidationError<'_>| translator.findings(&error))
            .take(MOST_ERRORS)
            .collect();
        let broken = self.left_out.clone();
        // A misspelt field stands for the one it was meant to be, unless that is there too.
        let meant = |finding: &Finding| {
            let (_, parent) = finding.path.split_last()?;
            let path: Path = parent.iter().chain(&finding.meant).cloned().collect();
            (finding.meant.is_some() && value_at(&json, &path).is_none()).then_some(path)
        };
        let meant: Vec<Path> = findings.iter().filter_map(meant).collect();
        self.json = json;
        for finding in findings {
            // What the reader has reported is null here, and that null is no second error.
            let known = broken.iter().any(|path| finding.path.starts_with(path));
            let path: Path = finding.path.iter().chain(&finding.missing).cloned().collect();
            let misspelt = finding.missing.is_some() && meant.contains(&path);
            if !known && !misspelt {
                self.report(&finding.path, finding.spot, finding.message, finding.suggestion);
            }
            self.left_out.push(finding.path);
        }
        for path in &self.left_out {
            leave_out(&mut self.json, path);
        }
        self.left_out.extend(meant);
    }

    /// Decodes a part of what is left. A failure is reported, unless it only shows what was left out.
    fn decode<T: DeserializeOwned>(&mut self, part: &str) -> Option<T> {
        for _ in 0..MOST_DECODINGS {
            let failure = match serde_path_to_error::deserialize::<_, T>(self.json.get(part)?) {
                Ok(value) => return Some(value),
                Err(failure) => failure,
            };
            let mut path = vec![part.to_owned()];
            for segment in failure.path() {
                match segment {
                    serde_path_to_error::Segment::Seq { index } => path.push(index.to_string()),
                    serde_path_to_error::Segment::Map { key } => path.push(key.clone()),
                    _ => break,
                }
            }
            if !self.left_out.iter().any(|gone| gone.starts_with(&path)) {
                let (message, suggestion) = self.type_failure(&path, &failure.inner().to_string());
                self.report(&path, Spot::Value, message, suggestion);
            }
            leave_out(&mut self.json, &path);
            self.left_out.push(path);
        }
        None
    }

    /// Whole numbers with a fraction or an exponent pass JSON Schema and fail here; the rest are rules that a
    /// pattern cannot express, whose messages the model words itself.
    fn type_failure(&self, path: &[String], message: &str) -> (String, Option<String>) {
        if let Some(Value::Number(number)) = value_at(&self.json, path)
            && number.is_f64()
        {
            let help = "write it without fraction and exponent, or in quotes if it is text";
            return (format!("expected a whole number, found the number `{number}`"), Some(help.to_owned()));
        }
        match message.split_once(": ") {
            Some((message, rule)) => (message.to_owned(), Some(rule.to_owned())),
            None => (message.to_owned(), None),
        }
    }

    fn metadata(&mut self) -> Option<Metadata> {
        let has = |key| self.root.get("metadata").is_some_and(|metadata| metadata.get(key).is_some());
        if has("project") && has("namespace") && self.kind_has_project() {
            let path = ["metadata".to_owned(), "namespace".to_owned()];
            let message = "`namespace` is another name of `project`, which is given too".to_owned();
            self.report(&path, Spot::Key, message, Some("keep one of them".to_owned()));
        }
        self.decode("metadata")
    }

    fn kind_has_project(&self) -> bool {
        matches!(self.kind, DocumentKind::App | DocumentKind::Secret)
    }

    fn app(&mut self, metadata: Option<Metadata>) -> Option<Declared<App>> {
        let spec: Option<<App as Kind>::Spec> = self.decode("spec");
        if let Some(spec) = &spec {
            let in_spec = |path: &Path| match path.split_first() {
                Some((first, rest)) if first == "spec" => Some(rest.to_vec()),
                _ => None,
            };
            let left_out: Vec<Path> = self.left_out.iter().filter_map(in_spec).collect();
            for violation in validate::app(spec) {
                if !doubt::is_in_doubt(&violation.path, &left_out) {
                    let path: Path = ["spec".to_owned()].into_iter().chain(violation.path).collect();
                    self.report(&path, Spot::Value, violation.message, violation.suggestion);
                }
            }
        }
        let operations = match self.json.get("operations") {
            None | Some(Value::Null) => None,
            Some(_) => self.decode("operations"),
        };
        Some(Declared { line: self.root.at.line, metadata: metadata?, spec: spec?, operations })
    }

    /// The spec of a kind that needs none.
    fn spec_or<T: DeserializeOwned + Default>(&mut self) -> Option<T> {
        if self.json.get("spec").is_some() { self.decode("spec") } else { Some(T::default()) }
    }

    /// The values go straight from the tree into their wrapping; no decoder gets to quote them.
    fn secret(&mut self, metadata: Option<Metadata>) -> Option<SecretDeclared> {
        let top = self.root.get("data");
        let in_spec = self.root.get("spec").and_then(|spec| spec.get("data"));
        let data = match (top, in_spec) {
            (Some(data), None) | (None, Some(data)) => data,
            (Some(_), Some(_)) => {
                let path = ["spec".to_owned(), "data".to_owned()];
                let message = "`data` is given twice, here and beside `spec`".to_owned();
                self.report(&path, Spot::Key, message, Some("keep one of them".to_owned()));
                return None;
            }
            (None, None) if self.left_out.is_empty() => {
                let help = Some("give `data: {KEY: value}`".to_owned());
                self.report(&[], Spot::Value, "`data` is missing".to_owned(), help);
                return None;
            }
            (None, None) => return None,
        };
        let Content::Map(entries) = &data.content else { return None };
        let pair = |entry: &crate::tree::Entry| {
            Some((entry.key.parse().ok()?, Sensitive::new(entry.value.text()?.to_owned())))
        };
        let data = entries.iter().map(pair).collect::<Option<_>>()?;
        Some(SecretDeclared { line: self.root.at.line, metadata: metadata?, data })
    }
}

/// Whether a message may repeat the value at a path: of a Secret only what cannot be one.
fn may_show(kind: DocumentKind, path: &[String]) -> bool {
    kind != DocumentKind::Secret
        || path.first().is_some_and(|first| matches!(first.as_str(), "apiVersion" | "kind" | "metadata"))
}

fn value_at<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        value => value.get(step),
    })
}

/// Removes a node. A list goes as a whole, because indices must stay true.
fn leave_out(root: &mut Value, path: &[String]) {
    let mut node = root;
    let mut parents = path.iter().peekable();
    while let Some(step) = parents.next() {
        let Value::Object(map) = node else { return };
        let last = parents.peek().is_none() || map.get(step).is_some_and(Value::is_array);
        if last {
            map.remove(step);
            return;
        }
        let Some(next) = map.get_mut(step) else { return };
        node = next;
    }
    *node = Value::Null;
}
