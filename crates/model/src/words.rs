//! Errors in words, for people who are not there when they happen.

use std::error::Error;

/// An error with all its causes, each said once.
pub fn in_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Said {
        said: &'static str,
        #[source]
        cause: Option<Box<Said>>,
    }

    #[test]
    fn causes_are_said_once() {
        let last = Said { said: "no space is left", cause: None };
        let middle = Said { said: "a file: no space is left", cause: Some(Box::new(last)) };
        let whole = Said { said: "nothing was kept", cause: Some(Box::new(middle)) };
        assert_eq!(in_words(&whole), "nothing was kept: a file: no space is left");
    }
}
