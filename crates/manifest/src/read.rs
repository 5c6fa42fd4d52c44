//! From the text of a file to trees, one for each document, without trusting the text.
//!
//! Aliases share the node they name, but count as if they were written out: nodes, bytes of text and depth
//! all have a limit, so that a small file cannot unfold into a large one. After an error of syntax, reading
//! goes on with the next `---`.

mod build;

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScanError};

use crate::error::Error;
use crate::json;
use crate::read::build::{Frame, FrameKind, Pending};
use crate::tree::{Node, Position};

/// Values and keys of a file, aliases unfolded.
const MOST_NODES: usize = 50_000;
/// Bytes of text of a file, aliases unfolded. The file itself may have 1 MiB.
const MOST_TEXT: usize = 4 << 20;
/// Lists and mappings inside each other.
const DEEPEST: usize = 64;
/// Documents of a file.
const MOST_DOCUMENTS: usize = 200;
/// Bytes of a key. Paths are made of keys, and every error has one.
const LONGEST_KEY: usize = 1024;
/// Errors that are recorded.
pub(crate) const MOST_ERRORS: usize = 1000;

/// Reads all documents. Empty ones are left out.
pub(crate) fn documents(text: &str) -> (Vec<Node>, Vec<Error>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::default();
    match json::documents(text) {
        Some(pieces) => {
            for piece in pieces {
                if reader.read(&json::join_surrogates(piece)).is_some() {
                    break;
                }
                reader.origin.pass(piece);
            }
        }
        None => reader.read_resuming(text),
    }
    (reader.documents, reader.errors)
}

/// What a node weighs once aliases are unfolded.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    text: usize,
    height: usize,
}

/// Where the text that is being read begins in the file.
#[derive(Clone, Copy, Default)]
struct Origin {
    line: usize,
    column: usize,
}

impl Origin {
    fn pass(&mut self, text: &str) {
        let (lines, last) = text.rsplit_once('\n').map_or((0, text), |(before, last)| {
            self.column = 0;
            (before.matches('\n').count() + 1, last)
        });
        self.line += lines;
        self.column += last.chars().count();
    }
}

#[derive(Default)]
struct Reader {
    origin: Origin,
    documents: Vec<Node>,
    errors: Vec<Error>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Rc<Node>, Weight)>,
    total: Weight,
    /// A limit of the whole file is reached.
    stopped: bool,
}

/// Reading of the current document ends here; the error is recorded.
struct Abandoned(usize);

impl Reader {
    fn read_resuming(&mut self, text: &str) {
        let mut rest = text;
        while let Some(broken) = self.read(rest) {
            if self.stopped || self.errors.len() >= MOST_ERRORS {
                return;
            }
            // A marker at the start of a line can only be a marker, whatever was open before it.
            let mut offset = 0;
            let mut next = None;
            for (index, line) in rest.split_inclusive('\n').enumerate() {
                let marker =
                    line.strip_prefix("---").is_some_and(|after| after.trim_start().len() < after.len());
                if marker && index > 0 && index + 1 >= broken {
                    next = Some((index, offset));
                    break;
                }
                offset += line.len();
            }
            let Some((lines, offset)) = next else { return };
            rest = &rest[offset..];
            self.origin = Origin { line: self.origin.line + lines, column: 0 };
        }
    }

    /// Reads documents up to the end or the first error of syntax, whose line within `text` it returns.
    fn read(&mut self, text: &str) -> Option<usize> {
        self.stack.clear();
        self.anchors.clear();
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let outcome = match event {
                Ok((event, span)) => self.event(event, span.start),
                Err(error) => Err(self.syntax(&error)),
            };
            if let Err(Abandoned(line)) = outcome {
                return Some(line);
            }
        }
        None
    }

    fn event(&mut self, event: Event<'_>, mark: Marker) -> Result<(), Abandoned> {
        match event {
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let weight = Weight { nodes: 1, text: text.len(), height: 0 };
                self.spend(weight, mark)?;
                if self.at_key() {
                    self.key(&text, style, mark, anchor);
                    return Ok(());
                }
                let content = self.scalar(&text, style, tag.as_deref(), mark);
                self.complete(Rc::new(Node { at: self.position(mark), content }), weight, anchor, mark)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(mark, anchor, tag.as_deref(), "seq", FrameKind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                let (entries, lines) = (Vec::new(), HashMap::new());
                let kind = FrameKind::Map { entries, lines, pending: Pending::Key, broken: false };
                self.open(mark, anchor, tag.as_deref(), "map", kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(mark)?,
            Event::Alias(id) => self.alias(id, mark)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    /// Takes weight off what the file may still use.
    fn spend(&mut self, weight: Weight, mark: Marker) -> Result<(), Abandoned> {
        self.total.nodes += weight.nodes;
        self.total.text += weight.text;
        let message = if self.total.nodes > MOST_NODES {
            format!("the file holds more than {MOST_NODES} values, aliases counted as often as they are used")
        } else if self.total.text > MOST_TEXT {
            "the file holds more than 4 MiB of text, aliases counted as often as they are used".to_owned()
        } else {
            return Ok(());
        };
        self.stopped = true;
        Err(self.abandon(mark, message, None))
    }

    fn record(&mut self, error: Error) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(error);
        }
    }

    fn position(&self, mark: Marker) -> Position {
        let column = if mark.line() == 1 { self.origin.column } else { 0 };
        Position { line: self.origin.line + mark.line(), column: column + mark.col() + 1 }
    }

    fn syntax(&mut self, error: &ScanError) -> Abandoned {
        let message = format!("this is not valid YAML: {}", error.info());
        self.abandon(*error.marker(), message, None)
    }

    fn abandon(&mut self, mark: Marker, message: String, suggestion: Option<String>) -> Abandoned {
        let error = self.here().error(self.position(mark), message, suggestion);
        self.record(error);
        Abandoned(mark.line())
    }
}
