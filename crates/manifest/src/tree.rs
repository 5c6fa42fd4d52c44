//! A document as a tree that remembers where everything stands in the file.

use std::rc::Rc;

use serde_json::Value;

use crate::error::Error;
use crate::nearest::printable;

/// A place in the file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value and where it begins. It has no `Debug`, because the value may be a secret.
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) content: Content,
}

/// What a [`Node`] holds. Shared nodes come from aliases.
pub(crate) enum Content {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
    /// A value that is already reported. Nothing more is said about it.
    Broken,
}

/// One entry of a mapping. Keys are unique.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) value: Rc<Node>,
}

/// Keys and indices from the root of a document.
pub(crate) type Path = Vec<String>;

/// Where an error about a path is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spot {
    Key,
    Value,
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &*entry.value)
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Content::Text(text) = &self.content { Some(text) } else { None }
    }

    fn is_container(&self) -> bool {
        matches!(self.content, Content::List(_) | Content::Map(_))
    }

    /// The plain JSON value. Broken nodes become null and are listed by path.
    pub(crate) fn to_json(&self, here: &mut Path, broken: &mut Vec<Path>) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(truth) => (*truth).into(),
            Content::Integer(number) => (*number).into(),
            Content::Float(number) => (*number).into(),
            Content::Text(text) => text.as_str().into(),
            Content::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    here.push(index.to_string());
                    list.push(item.to_json(here, broken));
                    here.pop();
                }
                list.into()
            }
            Content::Map(entries) => {
                let mut map = serde_json::Map::new();
                for entry in entries {
                    here.push(entry.key.clone());
                    map.insert(entry.key.clone(), entry.value.to_json(here, broken));
                    here.pop();
                }
                map.into()
            }
            Content::Broken => {
                broken.push(here.clone());
                Value::Null
            }
        }
    }

    /// An error at a path below this root. A path that leads out of the tree is shown where it leaves it.
    pub(crate) fn error(
        &self,
        path: &[String],
        spot: Spot,
        message: String,
        suggestion: Option<String>,
    ) -> Error {
        let mut node = self;
        let mut at = self.at;
        let mut shown = Shown::default();
        for (depth, step) in path.iter().enumerate() {
            let last = depth + 1 == path.len();
            match &node.content {
                Content::Map(entries) => {
                    shown.key(step);
                    let Some(entry) = entries.iter().find(|entry| entry.key == *step) else { break };
                    // A block mapping begins with its first key, a line below the key that is meant.
                    let below = entry.value.is_container() && entry.value.at.line != entry.key_at.line;
                    at = if last && (spot == Spot::Key || below) { entry.key_at } else { entry.value.at };
                    node = &entry.value;
                }
                Content::List(items) => {
                    let Ok(index) = step.parse::<usize>() else { break };
                    shown.index(index);
                    let Some(item) = items.get(index) else { break };
                    at = item.at;
                    node = item;
                }
                _ => break,
            }
        }
        shown.error(at, message, suggestion)
    }
}

/// A path on its way to the two forms that errors show.
#[derive(Default)]
pub(crate) struct Shown {
    path: String,
    pointer: String,
}

impl Shown {
    /// Goes down to a key of a mapping.
    pub(crate) fn key(&mut self, key: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if key.is_empty() || !key.chars().all(plain) || key.len() > 128 {
            self.path.extend(["[\"", &printable(key), "\"]"]);
        } else {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(key);
        }
        self.pointer.push('/');
        self.pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
    }

    /// Goes down to an item of a list.
    pub(crate) fn index(&mut self, index: usize) {
        let index = index.to_string();
        self.path.extend(["[", &index, "]"]);
        self.pointer.extend(["/", &index]);
    }

    /// The error at this path.
    pub(crate) fn error(self, at: Position, message: String, suggestion: Option<String>) -> Error {
        let Self { path, pointer } = self;
        Error { line: at.line, column: at.column, path, pointer, message, suggestion }
    }
}
