//! What is wrong with a file: every error of it, each with its place, its reason and a way out.

use std::fmt;

use serde::Serialize;

/// At most this many errors are kept; a file with more of them is rather the wrong file.
const MOST_KEPT: usize = 100;

/// One error of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Error {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in the line in characters, from 1.
    pub column: usize,
    /// Where in the document, for people: `spec.components.web.routes[0].port`. Empty for the whole document.
    pub path: String,
    /// The same as a JSON pointer, for tools: `/spec/components/web/routes/0/port`.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where we can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// All errors of a file, in the order of the file. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// The name of the file, as the caller gave it.
    pub file: String,
    #[serde(rename = "errors")]
    kept: Vec<Error>,
    /// How many more there are than are kept here.
    pub omitted: usize,
}

impl Errors {
    /// Sorts and cleans a non-empty list; an empty one is no failure.
    pub(crate) fn unless_empty(file: &str, mut errors: Vec<Error>) -> Result<(), Self> {
        // The order is total, so that one file always has one output.
        errors.sort_by(|a, b| {
            (a.line, a.column, &a.pointer, &a.message).cmp(&(b.line, b.column, &b.pointer, &b.message))
        });
        errors.dedup_by(|a, b| (a.line, a.column, &a.message) == (b.line, b.column, &b.message));
        let omitted = errors.len().saturating_sub(MOST_KEPT);
        errors.truncate(MOST_KEPT);
        if errors.is_empty() { Ok(()) } else { Err(Self { file: file.to_owned(), kept: errors, omitted }) }
    }

    /// The errors, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.kept.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.kept.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{error}", self.file)?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\nand {omitted} more"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "\n  help: {suggestion}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: usize, message: &str) -> Error {
        let (path, pointer) = ("a.b".to_owned(), "/a/b".to_owned());
        Error { line, column: 1, path, pointer, message: message.to_owned(), suggestion: None }
    }

    #[test]
    fn errors_are_sorted_said_once_and_counted() {
        assert_eq!(Errors::unless_empty("f", vec![]), Ok(()));
        let twice = Errors::unless_empty("f", vec![error(2, "x"), error(1, "y"), error(2, "x")]).unwrap_err();
        assert_eq!(twice.to_string(), "f:1:1: a.b: y\nf:2:1: a.b: x");
        let many = Errors::unless_empty("f", (0..130).map(|line| error(line, "x")).collect()).unwrap_err();
        assert_eq!((many.iter().count(), many.omitted), (100, 30));
        assert!(many.to_string().ends_with("\nand 30 more"));
    }

    #[test]
    fn tools_get_a_pointer() {
        let errors = Errors::unless_empty("f", vec![error(3, "x")]).unwrap_err();
        assert_eq!(
            serde_json::to_value(&errors).unwrap(),
            serde_json::json!({"file": "f", "omitted": 0, "errors": [
                {"line": 3, "column": 1, "path": "a.b", "pointer": "/a/b", "message": "x"}
            ]})
        );
    }
}
