//! Values as people write them: durations, sizes, counts, and any text that parses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::Invalid;

/// A value that is a text in the configuration and is parsed when it is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A duration of at most a year, written `500ms`, `30s` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Period(pub(super) Duration);

impl Period {
    /// Longer ones are mistakes, and adding them to a clock could overflow.
    const MAX: Duration = Duration::from_secs(366 * 24 * 3600);
}

impl FromStr for Period {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match humantime::parse_duration(text) {
            Ok(period) if period <= Self::MAX => Ok(Self(period)),
            _ => Err(Invalid::new("duration", text, "want a number and a unit, as in 500ms, 30s, 15m or 24h, at most 366 days")),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// A number of bytes in memory, in a message, of a document or in the spool, from 1 KiB to 1 TiB, written plain
/// or with a unit: `33554432`, `"32MiB"`.
pub(super) type Size = Bytes<{ 1 << 10 }, { 1 << 40 }>;
/// A number of bytes on a disk, from 0 to 1 PiB, written in the same way.
pub(super) type Capacity = Bytes<0, { 1 << 50 }>;

/// A number of bytes from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bytes<const MIN: u64, const MAX: u64>(pub(super) u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    const ALLOWED: &'static str = if MIN == 0 {
        "want bytes, plain or with one of KiB, MiB, GiB, TiB, KB, MB, GB, TB; from 0 to 1024TiB"
    } else {
        "want bytes, plain or with one of KiB, MiB, GiB, TiB, KB, MB, GB, TB; from 1KiB to 1TiB"
    };

    fn new(bytes: u64) -> Option<Self> {
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes))
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bytes<MIN, MAX> {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (number, factor) = unit.unwrap_or((text, 1));
        let bytes = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.and_then(Self::new).ok_or_else(|| Invalid::new("size", text, Self::ALLOWED))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bytes<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Written<MIN, MAX> {
            type Value = Bytes<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in bytes")
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Self::Value, E> {
                Bytes::new(bytes).ok_or_else(|| E::custom(Invalid::new("size", &bytes.to_string(), Self::Value::ALLOWED)))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Self::Value, E> {
                let size = u64::try_from(bytes).ok().and_then(Bytes::new);
                size.ok_or_else(|| E::custom(Invalid::new("size", &bytes.to_string(), Self::Value::ALLOWED)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Bytes<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// How many of something may be at once, from 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Count(pub(super) usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match usize::try_from(number) {
            Ok(count @ 1..=1_000_000) => Ok(Self(count)),
            _ => Err(D::Error::invalid_value(Unexpected::Signed(number), &"a number from 1 to 1000000")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("32MiB"), Some(32 << 20));
        assert_eq!(size("5 GB"), Some(5_000_000_000));
        assert_eq!(size("2048B"), Some(2048));
        for bad in ["", "MiB", "1", "-5MiB", "1.5GiB", "1025GiB", "99999999999999GiB", "32 mb"] {
            assert_eq!(size(bad), None, "{bad}");
        }
        let capacity = |text: &str| text.parse::<Capacity>().map(|capacity| capacity.0).ok();
        assert_eq!((capacity("0"), capacity("2TiB"), capacity("1024TiB")), (Some(0), Some(2 << 40), Some(1 << 50)));
        assert_eq!((capacity("-1"), capacity("1025TiB"), capacity("20 GIB")), (None, None, None));
    }

    #[test]
    fn durations_are_bounded_and_printed_back() {
        for text in ["500ms", "30s", "15m", "1day", "1h 30m"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for bad in ["", "30", "-5s", "soon", "2years"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
