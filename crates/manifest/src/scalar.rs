//! What an unquoted word means: the core schema of YAML 1.2, less what surprises.
//!
//! `yes`, `no`, `on` and `off` are text. Two things that the core schema allows are refused instead of
//! guessed: numbers with a leading zero (octal to YAML 1.1, decimal to 1.2), and numbers that no 64-bit
//! number can hold.

use crate::tree::Content;

/// Why a scalar has no value. The text itself is not part of it, because it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: &'static str,
    pub(crate) suggestion: &'static str,
}

const TOO_LARGE: Fault = Fault {
    message: "the number is out of range: it does not fit into 64 bits",
    suggestion: "write a smaller number, or put it in quotes if it is meant as text",
};
const NOT_FINITE: Fault = Fault {
    message: "infinity and not-a-number are no values",
    suggestion: "write a finite number, or put it in quotes if it is meant as text",
};
const LEADING_ZERO: Fault = Fault {
    message: "a number with a leading zero means different things to different programs",
    suggestion: "write it without the zero, as `0o…` if it is octal, or in quotes if it is text",
};

/// A tag that says otherwise than the text: `!!int x`.
pub(crate) const WRONG_TAG: Fault =
    Fault { message: "the value does not have the type that its tag names", suggestion: "remove the tag" };

/// Whether a tag of the core schema, other than that of text, may stand before a scalar.
pub(crate) fn is_core_tag(suffix: &str) -> bool {
    matches!(suffix, "null" | "bool" | "int" | "float")
}

/// Whether a value has the type of its core tag.
pub(crate) fn tag_fits(suffix: &str, content: &Content) -> bool {
    matches!(
        (suffix, content),
        ("null", Content::Null)
            | ("bool", Content::Bool(_))
            | ("int", Content::Integer(_))
            | ("float", Content::Float(_) | Content::Integer(_))
    )
}

/// The value of an unquoted scalar.
pub(crate) fn plain(text: &str) -> Result<Content, Fault> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Content::Null),
        "true" | "True" | "TRUE" => return Ok(Content::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Content::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(NOT_FINITE);
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return i64::from_str_radix(digits, radix).map(Content::Integer).map_err(|_| TOO_LARGE);
        }
    }
    if !is_decimal(unsigned) {
        return Ok(Content::Text(text.to_owned()));
    }
    if unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.as_bytes()[1].is_ascii_digit() {
        return Err(LEADING_ZERO);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Content::Integer).map_err(|_| TOO_LARGE);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Content::Float(number)),
        _ => Err(TOO_LARGE),
    }
}

/// `[0-9]+`, or `( . [0-9]+ | [0-9]+ ( . [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`.
fn is_decimal(unsigned: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match plain(text) {
            Ok(Content::Null) => "null".into(),
            Ok(Content::Bool(truth)) => truth.to_string(),
            Ok(Content::Integer(number)) => number.to_string(),
            Ok(Content::Float(number)) => format!("{number:?}"),
            Ok(Content::Text(text)) => format!("{text:?}"),
            Ok(_) => "other".into(),
            Err(fault) => fault.message.into(),
        }
    }

    #[test]
    fn words_follow_the_core_schema() {
        for text in
            ["yes", "No", "on", "1_000", "1:30", "0b1", "-", ".", "e5", "1e", "0x", "2024-01-01", "1.2.3"]
        {
            assert_eq!(shown(text), format!("{text:?}"));
        }
        for (text, value) in [("~", "null"), ("", "null"), ("TRUE", "true"), ("0x1F", "31"), ("0o17", "15")] {
            assert_eq!(shown(text), value);
        }
        for (text, value) in
            [("-5", "-5"), ("+5", "5"), ("1.50", "1.5"), (".5", "0.5"), ("1e3", "1000.0"), ("0", "0")]
        {
            assert_eq!(shown(text), value);
        }
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for text in ["99999999999999999999", "-9223372036854775809", "1e400", "0xFFFFFFFFFFFFFFFFFF"] {
            assert_eq!(shown(text), TOO_LARGE.message, "{text}");
        }
        for text in [".inf", "-.INF", ".nan"] {
            assert_eq!(shown(text), NOT_FINITE.message, "{text}");
        }
        assert_eq!(shown("0644"), LEADING_ZERO.message);
        assert_eq!(shown("-9223372036854775808"), "-9223372036854775808");
    }
}
