//! `${…}` in literals: parsed here, resolved in the planner. An unknown name is an error, never an empty text.
//!
//! `${host}` and `${port:NAME}` stand for the component's own stable address in `provides.*.data`, and in
//! `env`, `files` and route hosts; `${secret:NAME/KEY}` for a secret; `${RELATION.KEY}` for data of a consumed relation.
//! `$${` is a literal `${`.

use crate::id::{KeyName, PartName};
use crate::secret::SecretRef;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// `${host}`.
    Host,
    /// `${port:NAME}`.
    Port(PartName),
    /// `${secret:NAME/KEY}`.
    Secret(SecretRef),
    /// `${RELATION.KEY}`.
    Relation(PartName, KeyName),
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `${` without `}`.
    #[error("`${{` is never closed; write `$${{` for a literal one")]
    Unclosed,
    /// Something else than the known forms.
    #[error("`${{{0}}}` is none of ${{host}}, ${{port:NAME}}, ${{secret:NAME/KEY}}, ${{RELATION.KEY}}")]
    Unknown(String),
}

/// Splits a text into its parts.
pub fn parse(text: &str) -> Result<Vec<Part>, InvalidTemplate> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            literal.push_str(escaped);
            literal.push_str("${");
            rest = &after[2..];
            continue;
        }
        literal.push_str(before);
        let end = after.find('}').ok_or(InvalidTemplate::Unclosed)?;
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(parse_name(&after[2..end])?);
        rest = &after[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

fn parse_name(name: &str) -> Result<Part, InvalidTemplate> {
    let unknown = || InvalidTemplate::Unknown(name.chars().take(80).collect());
    if name == "host" {
        return Ok(Part::Host);
    }
    if let Some(port) = name.strip_prefix("port:") {
        return port.parse().map(Part::Port).map_err(|_| unknown());
    }
    if let Some(secret) = name.strip_prefix("secret:") {
        return secret.parse().map(Part::Secret).map_err(|_| unknown());
    }
    let (relation, key) = name.split_once('.').ok_or_else(unknown)?;
    Ok(Part::Relation(relation.parse().map_err(|_| unknown())?, key.parse().map_err(|_| unknown())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_understood() {
        let parts = parse("a ${host}:${port:pg} $${x} ${secret:db/password}${db.url}").unwrap();
        assert_eq!(
            parts,
            [
                Part::Text("a ".into()),
                Part::Host,
                Part::Text(":".into()),
                Part::Port("pg".parse().unwrap()),
                Part::Text(" ${x} ".into()),
                Part::Secret("db/password".parse().unwrap()),
                Part::Relation("db".parse().unwrap(), "url".parse().unwrap()),
            ]
        );
    }

    #[test]
    fn unknown_names_are_errors() {
        for bad in ["${", "${}", "${hots}", "${port:}", "${secret:x}", "${a.}"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollar_is_itself(text in "[^$]{1,40}") {
            prop_assert_eq!(parse(&text).unwrap(), [Part::Text(text)]);
        }

        #[test]
        fn nothing_panics(text in "[${}:./a-z]{0,30}") {
            let _ = parse(&text).is_ok();
        }
    }
}
