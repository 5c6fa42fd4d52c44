//! JSON where it is more than YAML: several documents in a row, and escapes in two halves.
//!
//! Nearly every JSON text is also YAML, so it is read by the same reader and gets the same positions. This
//! only prepares the text.

use serde::de::IgnoredAny;

/// The documents of a JSON text or nothing if the text is no JSON.
pub(crate) fn documents(text: &str) -> Option<Vec<&str>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(document) = stream.next() {
        document.ok()?;
        let end = stream.byte_offset();
        found.push(&text[start..end]);
        start = end;
    }
    Some(found)
}

/// Joins the halves of characters that JSON writes as two escapes (`\ud83d\ude00`), which YAML cannot read.
/// Later columns of the same line move by as much as the text gets shorter.
pub(crate) fn join_surrogates(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        joined.push_str(before);
        let pair = half(escape).zip(escape.get(6..).and_then(half));
        let joined_pair = pair.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        let length = match joined_pair {
            Some(character) if u32::from(character) > 0xFFFF => {
                joined.push(character);
                12
            }
            // Two bytes at once, so that the second of `\\` does not begin an escape.
            _ => {
                let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                joined.push_str(&escape[..length]);
                length
            }
        };
        rest = &escape[length..];
    }
    joined.push_str(rest);
    joined
}

/// The number of an escape `\uXXXX` at the beginning of a text.
fn half(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_in_a_row_are_told_apart() {
        let found = documents("{\"a\": 1}\n{\"b\": \"}\"} []").unwrap();
        assert_eq!(found, ["{\"a\": 1}", "\n{\"b\": \"}\"}", " []"]);
        assert_eq!(documents("a: 1"), None);
        assert_eq!(documents("{a: 1}"), None);
    }

    #[test]
    fn halves_are_joined_and_nothing_else_is() {
        assert_eq!(join_surrogates(r#""\ud83d\ude00 \u00e9 \n""#), r#""😀 \u00e9 \n""#);
        for text in [r"\\ud83d\ude00", r"\ud83d", r"\ude00\ud83d", r"\", "é\\é"] {
            assert_eq!(join_surrogates(text), text);
        }
    }
}
