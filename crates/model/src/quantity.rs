//! Quantities as people write them: `250m` of a CPU, `64Mi` of memory, `1h30m` of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidQuantity {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidQuantity {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(40).collect(), rule }
    }
}

/// Splits `12.5Mi` into the number in thousandths (`12500`) and the suffix. At most 18 digits, so that
/// nothing here can overflow.
fn split_number(text: &str) -> Option<(u128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || whole.len() > 18
        || fraction.len() > 3
        || (number.contains('.') && fraction.is_empty())
    {
        return None;
    }
    let mut thousandths = whole.parse::<u128>().ok()? * 1000;
    if !fraction.is_empty() {
        let scale = [100, 10, 1][fraction.len() - 1];
        thousandths += fraction.parse::<u128>().ok()? * scale;
    }
    Some((thousandths, suffix))
}

/// Declares the serde, schema and `Debug` of a quantity by its text form.
macro_rules! quantity_type {
    ($name:ident, $pattern:literal, $rule:expr) => {
        impl TryFrom<String> for $name {
            type Error = InvalidQuantity;
            fn try_from(text: String) -> Result<Self, InvalidQuantity> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(quantity: $name) -> Self {
                quantity.to_string()
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $rule })
            }
        }
    };
}

/// CPU time per second, in thousandths of a core. Written `250m`, `1`, `1.5`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cpu {
    /// Thousandths of one core.
    pub millicores: u64,
}

const CPU_RULE: &str =
    "write cores as `2` or `0.5`, or thousandths of a core as `250m`; at least 1m, at most 1024";
quantity_type!(Cpu, "^[0-9]+(\\.[0-9]{1,3})?m?$", CPU_RULE);

impl FromStr for Cpu {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::new("CPU quantity", text, CPU_RULE);
        let millicores = match split_number(text).ok_or_else(invalid)? {
            (thousandths, "") => thousandths,
            (thousandths, "m") if thousandths % 1000 == 0 => thousandths / 1000,
            _ => return Err(invalid()),
        };
        match u64::try_from(millicores) {
            Ok(millicores @ 1..=1_024_000) => Ok(Self { millicores }),
            _ => Err(invalid()),
        }
    }
}
impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millicores.is_multiple_of(1000) {
            write!(f, "{}", self.millicores / 1000)
        } else {
            write!(f, "{}m", self.millicores)
        }
    }
}

/// A share. Written `1%`, `0.5%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent {
    /// Thousandths of one percent.
    pub thousandths: u32,
}

const PERCENT_RULE: &str = "write a share as `1%` or `0.5%`, at most 100%";
quantity_type!(Percent, "^[0-9]{1,3}([.][0-9]{1,3})?%$", PERCENT_RULE);

impl Percent {
    /// Whether so many of so many are more than this share.
    pub fn is_passed(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 100_000 > u128::from(whole) * u128::from(self.thousandths)
    }
}

impl FromStr for Percent {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::new("share", text, PERCENT_RULE);
        match split_number(text).ok_or_else(invalid)? {
            (thousandths @ 0..=100_000, "%") => {
                Ok(Self { thousandths: u32::try_from(thousandths).map_err(|_| invalid())? })
            }
            _ => Err(invalid()),
        }
    }
}
impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.thousandths / 1000, self.thousandths % 1000);
        if rest == 0 {
            write!(f, "{whole}%")
        } else {
            write!(f, "{whole}.{}%", format!("{rest:03}").trim_end_matches('0'))
        }
    }
}

/// An amount of bytes. Written `64Mi`, `5Gi`, `1000`, `2M`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes {
    /// The amount itself.
    pub bytes: u64,
}

const BYTES_RULE: &str = "write bytes with a suffix Ki, Mi, Gi, Ti (powers of 1024) or k, M, G, T (powers of 1000), at most 1024Ti";
quantity_type!(Bytes, "^[0-9]+(\\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$", BYTES_RULE);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::new("amount of bytes", text, BYTES_RULE);
        let (thousandths, suffix) = split_number(text).ok_or_else(invalid)?;
        let (_, unit) = BYTE_UNITS.iter().find(|(name, _)| *name == suffix).ok_or_else(invalid)?;
        let bytes = thousandths * u128::from(*unit) / 1000;
        match u64::try_from(bytes) {
            Ok(bytes @ 1..=0x0004_0000_0000_0000) => Ok(Self { bytes }),
            _ => Err(invalid()),
        }
    }
}
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            BYTE_UNITS.iter().find(|(_, unit)| self.bytes.is_multiple_of(*unit)).unwrap_or(&("", 1));
        write!(f, "{}{name}", self.bytes / unit)
    }
}

/// A span of time, in milliseconds. Written `300ms`, `10s`, `2m`, `1h30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// The length in milliseconds.
    pub millis: u64,
}

const SPAN_RULE: &str = "write a duration as `300ms`, `10s`, `2m` or `1h30m`, at most 365 days";
quantity_type!(Span, "^([0-9]+(ms|s|m|h|d))+$", SPAN_RULE);

const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SPAN_MAX: u64 = 365 * 86_400_000;

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self { millis: 0 };

    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self { millis: seconds * 1000 }
    }

    /// A span of milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self { millis }
    }

    /// The sum, or the longest span there is.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { millis: self.millis.saturating_add(other.millis) }
    }

    /// The difference, or zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self { millis: self.millis.saturating_sub(other.millis) }
    }

    /// The span as the standard library's type.
    pub const fn to_std(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}
impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self { millis: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) }
    }
}
impl FromStr for Span {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity::new("duration", text, SPAN_RULE);
        let mut rest = text;
        let mut millis = 0_u64;
        let mut largest = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let unit_end =
                rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            let (_, unit) =
                SPAN_UNITS.iter().find(|(name, _)| *name == &rest[digits..unit_end]).ok_or_else(invalid)?;
            // Units come once and from large to small, so that `1m1h` and `1s1s` are refused as slips.
            if *unit >= largest {
                return Err(invalid());
            }
            largest = *unit;
            let part = number.checked_mul(*unit).ok_or_else(invalid)?;
            millis = millis.checked_add(part).filter(|sum| *sum <= SPAN_MAX).ok_or_else(invalid)?;
            rest = &rest[unit_end..];
        }
        if largest == u64::MAX {
            return Err(invalid());
        }
        Ok(Self { millis })
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.pad("0s");
        }
        let mut rest = self.millis;
        let mut text = String::new();
        for (name, unit) in SPAN_UNITS {
            if rest >= unit {
                text += &(rest / unit).to_string();
                text += name;
                rest %= unit;
            }
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_is_read_as_kubernetes_reads_it() {
        assert_eq!("250m".parse::<Cpu>().unwrap().millicores, 250);
        assert_eq!("1.5".parse::<Cpu>().unwrap().millicores, 1500);
        for bad in ["", "0", "-1", "1.5m", "1e3", "99999999999999999999", "m", "1.", ".5", "2000"] {
            assert!(bad.parse::<Cpu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_know_both_families_of_units() {
        assert_eq!("64Mi".parse::<Bytes>().unwrap().bytes, 64 << 20);
        assert_eq!("2M".parse::<Bytes>().unwrap().bytes, 2_000_000);
        for bad in ["0", "1Xi", "5 Gi", "2048Ti", "1ki"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_read_from_large_to_small() {
        assert_eq!("1h30m".parse::<Span>().unwrap(), Span::seconds(5400));
        assert_eq!("300ms".parse::<Span>().unwrap(), Span::millis(300));
        for bad in ["", "10", "s", "1s1s", "1m1h", "400d", "9999999999999999999999s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quantities_survive_their_text_form(millis in 0..=SPAN_MAX, bytes in 1..=1_u64 << 50, cpu in 1..=1_024_000_u64) {
            let span = Span { millis };
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
            let amount = Bytes { bytes };
            prop_assert_eq!(amount.to_string().parse::<Bytes>().unwrap(), amount);
            let cpu = Cpu { millicores: cpu };
            prop_assert_eq!(cpu.to_string().parse::<Cpu>().unwrap(), cpu);
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let _ = (text.parse::<Span>().is_ok(), text.parse::<Bytes>().is_ok(), text.parse::<Cpu>().is_ok());
        }
    }
}
