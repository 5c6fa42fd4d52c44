//! The trees under construction: what each event adds to the innermost list or mapping.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Marker, ScalarStyle, Tag};

use super::{Abandoned, DEEPEST, LONGEST_KEY, MOST_DOCUMENTS, Reader, Weight};
use crate::scalar;
use crate::tree::{Content, Entry, Node, Position, Shown};

/// A list or mapping that is not complete yet.
pub(super) struct Frame {
    at: Position,
    anchor: usize,
    weight: Weight,
    kind: FrameKind,
}

pub(super) enum FrameKind {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, lines: HashMap<String, usize>, pending: Pending, broken: bool },
}

/// What a mapping expects next.
pub(super) enum Pending {
    Key,
    Value(String, Position),
    /// The value of a key that is already reported.
    Skipped,
}

impl Reader {
    pub(super) fn open(
        &mut self,
        mark: Marker,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        kind: FrameKind,
    ) -> Result<(), Abandoned> {
        let weight = Weight { nodes: 1, text: 0, height: 1 };
        self.spend(weight, mark)?;
        if self.stack.len() >= DEEPEST {
            let message = format!("lists and mappings are nested more than {DEEPEST} deep");
            return Err(self.abandon(mark, message, None));
        }
        if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == core)) {
            self.tag_error(mark);
        }
        self.stack.push(Frame { at: self.position(mark), anchor, weight, kind });
        Ok(())
    }

    pub(super) fn close(&mut self, mark: Marker) -> Result<(), Abandoned> {
        let Some(Frame { at, anchor, weight, kind }) = self.stack.pop() else { return Ok(()) };
        let content = match kind {
            FrameKind::List(items) => Content::List(items),
            // Without a key that cannot be told, nothing can be said about what is missing.
            FrameKind::Map { broken: true, .. } => Content::Broken,
            FrameKind::Map { entries, .. } => Content::Map(entries),
        };
        self.complete(Rc::new(Node { at, content }), weight, anchor, mark)
    }

    pub(super) fn alias(&mut self, id: usize, mark: Marker) -> Result<(), Abandoned> {
        // The anchor of a node is known from its beginning, its content only from its end.
        let Some((node, weight)) = self.anchors.get(&id).map(|(node, weight)| (node.clone(), *weight)) else {
            return Err(self.abandon(mark, "an alias inside of what it names".to_owned(), None));
        };
        self.spend(weight, mark)?;
        if self.stack.len() + weight.height > DEEPEST {
            let message = format!("aliases nest lists and mappings more than {DEEPEST} deep");
            return Err(self.abandon(mark, message, None));
        }
        if self.at_key()
            && let Some(text) = node.text()
        {
            self.key(text, ScalarStyle::DoubleQuoted, mark, 0);
            return Ok(());
        }
        self.complete(node, weight, 0, mark)
    }

    pub(super) fn at_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame { kind: FrameKind::Map { pending: Pending::Key, .. }, .. }))
    }

    /// Takes a scalar as the key of the innermost mapping.
    pub(super) fn key(&mut self, text: &str, style: ScalarStyle, mark: Marker, anchor: usize) {
        let at = self.position(mark);
        if anchor != 0 {
            let node = Rc::new(Node { at, content: Content::Text(text.to_owned()) });
            self.anchors.insert(anchor, (node, Weight { nodes: 1, text: text.len(), height: 0 }));
        }
        let Some(Frame { kind: FrameKind::Map { entries, lines, pending, .. }, .. }) = self.stack.last_mut()
        else {
            return;
        };
        let problem = if text.len() > LONGEST_KEY {
            Some((format!("the key is longer than {LONGEST_KEY} bytes"), "shorten it"))
        } else if text == "<<" && style == ScalarStyle::Plain {
            // It stays as a broken entry: what it would have merged in is not missing.
            let value = Rc::new(Node { at, content: Content::Broken });
            entries.push(Entry { key: text.to_owned(), key_at: at, value });
            Some(("merge keys (`<<`) are not understood".to_owned(), "write the merged keys out"))
        } else if let Some(line) = lines.get(text) {
            let text = crate::nearest::printable(text);
            Some((
                format!("the key `{text}` is given twice; the first is on line {line}"),
                "keep one of them",
            ))
        } else {
            None
        };
        let Some((message, suggestion)) = problem else {
            lines.insert(text.to_owned(), at.line);
            *pending = Pending::Value(text.to_owned(), at);
            return;
        };
        *pending = Pending::Skipped;
        let mut shown = self.here();
        if text.len() <= LONGEST_KEY {
            shown.key(text);
        }
        self.record(shown.error(at, message, Some(suggestion.to_owned())));
    }

    /// Hands a complete value to whatever it is part of.
    pub(super) fn complete(
        &mut self,
        node: Rc<Node>,
        weight: Weight,
        anchor: usize,
        mark: Marker,
    ) -> Result<(), Abandoned> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let Some(frame) = self.stack.last_mut() else { return self.document(node, mark) };
        frame.weight.nodes += weight.nodes;
        frame.weight.text += weight.text;
        frame.weight.height = frame.weight.height.max(weight.height + 1);
        match &mut frame.kind {
            FrameKind::List(items) => items.push(node),
            FrameKind::Map { entries, pending, broken, .. } => match std::mem::replace(pending, Pending::Key)
            {
                Pending::Value(key, key_at) => {
                    frame.weight.text += key.len();
                    frame.weight.nodes += 1;
                    entries.push(Entry { key, key_at, value: node });
                }
                Pending::Skipped => {}
                Pending::Key => {
                    (*pending, *broken) = (Pending::Skipped, true);
                    let message = "a key must be text, not a list or a mapping".to_owned();
                    // Unquoted braces are the usual reason: `{{ value }}` of a template language.
                    let help = Some("put it in quotes if it is meant as text".to_owned());
                    let error = self.here().error(node.at, message, help);
                    self.record(error);
                }
            },
        }
        Ok(())
    }

    fn document(&mut self, node: Rc<Node>, mark: Marker) -> Result<(), Abandoned> {
        if matches!(node.content, Content::Null) {
            return Ok(());
        }
        if self.documents.len() == MOST_DOCUMENTS {
            self.stopped = true;
            let message = format!("the file holds more than {MOST_DOCUMENTS} documents");
            let help = Some("split it into several files".to_owned());
            self.record(Shown::default().error(node.at, message, help));
            return Err(Abandoned(mark.line()));
        }
        self.anchors.clear();
        self.documents.extend(Rc::into_inner(node));
        Ok(())
    }

    pub(super) fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        mark: Marker,
    ) -> Content {
        let plain = match tag {
            None => style == ScalarStyle::Plain,
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => false,
            Some(tag) if tag.is_yaml_core_schema() && scalar::is_core_tag(&tag.suffix) => true,
            Some(_) => {
                self.tag_error(mark);
                return Content::Broken;
            }
        };
        if !plain {
            return Content::Text(text.to_owned());
        }
        let fault = match scalar::plain(text) {
            Ok(content) if tag.is_none_or(|tag| scalar::tag_fits(&tag.suffix, &content)) => return content,
            Ok(_) => scalar::WRONG_TAG,
            Err(fault) => fault,
        };
        let (message, suggestion) = (fault.message.to_owned(), Some(fault.suggestion.to_owned()));
        let error = self.here().error(self.position(mark), message, suggestion);
        self.record(error);
        Content::Broken
    }

    fn tag_error(&mut self, mark: Marker) {
        let message = "a tag (`!…`) that is not understood".to_owned();
        let help = Some("remove it, or put the whole text in quotes if it begins with `!`".to_owned());
        let error = self.here().error(self.position(mark), message, help);
        self.record(error);
    }

    /// The path of the value that is being read.
    pub(super) fn here(&self) -> Shown {
        let mut shown = Shown::default();
        for frame in &self.stack {
            match &frame.kind {
                FrameKind::List(items) => shown.index(items.len()),
                FrameKind::Map { pending: Pending::Value(key, _), .. } => shown.key(key),
                FrameKind::Map { .. } => {}
            }
        }
        shown
    }
}
