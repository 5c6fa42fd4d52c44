//! Manifests: what people write in files, made into what the system believes.
//!
//! [`parse`] takes the text of a file (YAML or JSON, many documents) and gives back typed [`Document`]s, or
//! all [`Errors`] of the file at once, each with line, column, field path, reason and a way out. It is one
//! road for everybody: the CLI reads files by it before anything is sent, the server reads bodies by it
//! before anything is stored.
//!
//! The road has four stages. `read` makes trees that remember positions; `schema` asks the JSON Schema that
//! the model's types generate; serde makes the types; and `plimsoll_model::validate` asks what no schema can.
//! Each stage leaves out what the one before found broken, so a typo on line 3 does not hide another one on
//! line 30, and findings that only follow from what was left out are not reported.
//!
//! The text is not trusted. Size, depth, number of documents and the unfolding of aliases have limits, numbers
//! that fit no 64-bit number are errors, and the value of a Secret is never part of a message.
//!
//! Deliberately absent: reading files, uploading what `file:` names, knowing whether other objects exist,
//! defaults of the context such as the project, merge keys, tags, and any way to switch a check off.

mod check;
mod digests;
mod document;
mod doubt;
mod error;
mod json;
mod message;
mod nearest;
mod read;
mod scalar;
mod schema;
mod tree;

pub use digests::require_digests;
pub use document::{Declared, Document, Metadata, SecretDeclared};
pub use error::{Error, Errors};
pub use schema::{API_VERSION, DocumentKind, schema};

/// The largest file that is read, in bytes.
pub const LARGEST_FILE: usize = 1 << 20;

/// Reads a file. The name is only for messages.
///
/// # Errors
/// All errors of all documents. Then there is no document, not even a good one: a file is applied as a whole.
pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Vec<Document>, Errors> {
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    match text(bytes) {
        Err(error) => errors.push(error),
        Ok(text) => {
            let (trees, broken) = read::documents(text);
            errors = broken;
            if trees.is_empty() && errors.is_empty() {
                let help = format!("begin with `apiVersion: {API_VERSION}`");
                errors.push(at(1, 1, "the file holds no document".to_owned(), Some(help)));
            }
            for tree in &trees {
                documents.extend(check::document(tree, &mut errors));
                if errors.len() >= read::MOST_ERRORS {
                    break;
                }
            }
        }
    }
    Errors::unless_empty(file_name, errors)?;
    Ok(documents)
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    if bytes.len() > LARGEST_FILE {
        let message = format!("the file has {} bytes; {LARGEST_FILE} are allowed", bytes.len());
        return Err(at(1, 1, message, Some("split it into several files".to_owned())));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let message = format!("byte 0x{:02x} is not UTF-8", bytes[error.valid_up_to()]);
        at(line, column, message, Some("save the file as UTF-8".to_owned()))
    })
}

/// An error about the file rather than a field.
fn at(line: usize, column: usize, message: String, suggestion: Option<String>) -> Error {
    Error { line, column, path: String::new(), pointer: String::new(), message, suggestion }
}
