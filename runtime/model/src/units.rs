//! Units as types. Text forms are those of the command line: `64MB`, `1.5GB`, `100Mbit`, `15s`,
//! `0.5` cpus. `KB`, `MB`, `GB` are powers of 1024, as in Mesos; `KiB` and so on mean the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("{text:?} is not a number with a unit ({expected})")]
    Malformed { text: String, expected: &'static str },
    #[error("{text:?} is negative")]
    Negative { text: String },
    #[error("{text:?} is out of range (from {min} to {max})")]
    OutOfRange { text: String, min: String, max: String },
}

/// Splits `1.5GB` into `1.5` and `GB`; refuses signs, NaN, infinities and exponents.
fn number_and_unit<'a>(text: &'a str, expected: &'static str) -> Result<(f64, &'a str), UnitError> {
    let malformed = || UnitError::Malformed {
        text: text.to_owned(),
        expected,
    };
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(UnitError::Negative {
            text: text.to_owned(),
        });
    }
    let end = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let number: f64 = number.parse().map_err(|_| malformed())?;
    if !number.is_finite() {
        return Err(malformed());
    }
    Ok((number, unit.trim()))
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    pub const fn get(self) -> u64 {
        self.0
    }
}

const BYTES_FORM: &str = "like 64MB, 1.5GB, 4096B";
/// Beyond an exbibyte a size is a mistake, and the kernel's page counters overflow soon after.
const BYTES_MAX: u64 = 1 << 60;

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = number_and_unit(text, BYTES_FORM)?;
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => {
                return Err(UnitError::Malformed {
                    text: text.to_owned(),
                    expected: BYTES_FORM,
                });
            }
        };
        let value = number * (1u64 << shift) as f64;
        if value > BYTES_MAX as f64 {
            return Err(UnitError::OutOfRange {
                text: text.to_owned(),
                min: "0B".into(),
                max: Bytes(BYTES_MAX).to_string(),
            });
        }
        Ok(Bytes(value.round() as u64))
    }
}

impl fmt::Display for Bytes {
    /// Shortest form that a person reads at a glance: `256MB`, `1.5GB`, `512B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        let rounded = loop {
            // One decimal up to a hundred.
            let rounded = if value < 99.95 {
                (value * 10.0).round() / 10.0
            } else {
                value.round()
            };
            // After rounding: 1023.99 KB are 1MB, not 1024KB.
            if rounded < 1024.0 || unit + 1 == UNITS.len() {
                break rounded;
            }
            value /= 1024.0;
            unit += 1;
        };
        let text = format!("{rounded}{}", UNITS[unit]);
        f.pad(&text)
    }
}

/// CPUs in thousandths: exact where Mesos rounds scalars to three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cpus(u32);

/// The most CPUs that a kernel is built for (NR_CPUS of distributions is 8192).
const CPUS_MILLI_MAX: u32 = 8192 * 1000;

impl Cpus {
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }
    pub const fn milli(self) -> u32 {
        self.0
    }
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl TryFrom<f64> for Cpus {
    type Error = UnitError;
    fn try_from(value: f64) -> Result<Self, UnitError> {
        let text = || value.to_string();
        if value.is_nan() {
            return Err(UnitError::Malformed {
                text: text(),
                expected: "like 0.5 or 2",
            });
        }
        if value < 0.0 {
            return Err(UnitError::Negative { text: text() });
        }
        let milli = (value * 1000.0).round();
        if !(1.0..=f64::from(CPUS_MILLI_MAX)).contains(&milli) {
            return Err(UnitError::OutOfRange {
                text: text(),
                min: "0.001".into(),
                max: "8192".into(),
            });
        }
        Ok(Self(milli as u32))
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> f64 {
        cpus.as_f64()
    }
}

impl FromStr for Cpus {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = number_and_unit(text, "like 0.5 or 2")?;
        if !unit.is_empty() {
            return Err(UnitError::Malformed {
                text: text.to_owned(),
                expected: "like 0.5 or 2",
            });
        }
        Self::try_from(number)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_f64().to_string())
    }
}

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn secs(n: u64) -> Self {
        Self(n * 1000)
    }
    pub const fn get(self) -> u64 {
        self.0
    }
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

const MILLIS_FORM: &str = "like 500ms, 15s, 2m, 1h";
/// A year: longer than any timeout that a person means.
const MILLIS_MAX: f64 = 366.0 * 86_400_000.0;

impl FromStr for Millis {
    type Err = UnitError;
    /// A bare number is seconds. `15secs`, `2mins`, `3hrs`, `1days` are Mesos' own spellings.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = number_and_unit(text, MILLIS_FORM)?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1.0,
            "" | "s" | "sec" | "secs" => 1e3,
            "m" | "min" | "mins" => 60e3,
            "h" | "hr" | "hrs" => 3600e3,
            "d" | "day" | "days" => 86_400e3,
            "w" | "week" | "weeks" => 7.0 * 86_400e3,
            _ => {
                return Err(UnitError::Malformed {
                    text: text.to_owned(),
                    expected: MILLIS_FORM,
                });
            }
        };
        let value = number * factor;
        if value > MILLIS_MAX {
            return Err(UnitError::OutOfRange {
                text: text.to_owned(),
                min: "0ms".into(),
                max: "366d".into(),
            });
        }
        Ok(Millis(value.round() as u64))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        if ms < 1000 || (ms < 60_000 && !ms.is_multiple_of(1000)) {
            return f.pad(&format!("{ms}ms"));
        }
        // What is less than a second is left out first: the rest may be whole minutes.
        let text = match ms / 1000 {
            s if s < 120 || s % 60 != 0 => format!("{s}s"),
            s if s < 7200 || s % 3600 != 0 => format!("{}m", s / 60),
            s => format!("{}h", s / 3600),
        };
        f.pad(&text)
    }
}

/// A rate of a network link, in bits a second. `100Mbit` is 100,000,000 (powers of 1000, as in tc(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitsPerSecond(pub u64);

impl FromStr for BitsPerSecond {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        const FORM: &str = "like 100Mbit, 1.5Gbit, 64kbit";
        let (number, unit) = number_and_unit(text, FORM)?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            "tbit" => 1e12,
            _ => {
                return Err(UnitError::Malformed {
                    text: text.to_owned(),
                    expected: FORM,
                });
            }
        };
        let value = number * factor;
        if value > 1e15 {
            return Err(UnitError::OutOfRange {
                text: text.to_owned(),
                min: "0bit".into(),
                max: "1000Tbit".into(),
            });
        }
        Ok(Self(value.round() as u64))
    }
}

/// Exact: in the largest unit of which it is a whole number.
impl fmt::Display for BitsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1000, "kbit")];
        let fits = |(factor, _): &&(u64, &str)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match units.iter().find(fits) {
            Some((factor, unit)) => f.pad(&format!("{}{unit}", self.0 / factor)),
            None => f.pad(&format!("{}bit", self.0)),
        }
    }
}

/// A ceiling, or none. The kernel writes "none" as `max` (v2) or -1 (v1): here it is a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit<T> {
    Max,
    Value(T),
}

impl<T> Limit<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Limit::Max => None,
            Limit::Value(v) => Some(v),
        }
    }
}

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;
    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "max" | "none" | "unlimited" => Ok(Limit::Max),
            _ => text.parse().map(Limit::Value),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.pad("max"),
            Limit::Value(v) => v.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [
            ("64MB", 64 << 20),
            ("1.5GB", 3 << 29),
            ("0", 0),
            ("17", 17),
            ("4 KiB", 4096),
            ("2t", 2 << 40),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
        }
        for bad in [
            "",
            "MB",
            "-1MB",
            "1e9",
            "inf",
            "NaN",
            "1XB",
            "1..5MB",
            "99999999PB",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print_as_people_read_them() {
        for (bytes, text) in [
            (0, "0B"),
            (512, "512B"),
            (1 << 20, "1MB"),
            (3 << 29, "1.5GB"),
            (64 << 20, "64MB"),
            (1_500_000, "1.4MB"),
            // Found by fuzzing: these printed as 1024KB, 100.0MB and 2.0KB.
            ((1 << 20) - 1, "1MB"),
            (104_836_628, "100MB"),
            (2040, "2KB"),
            (u64::MAX, "16384PB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn absurd_cpus_are_refused() {
        for bad in ["0", "-1", "0.0001", "9000", "NaN", "two", "1e3", ""] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
        assert_eq!("0.5".parse::<Cpus>().unwrap().milli(), 500);
        assert!(Cpus::try_from(f64::NAN).is_err());
    }

    #[test]
    fn durations_take_mesos_spellings() {
        for (text, ms) in [
            ("15s", 15_000),
            ("15secs", 15_000),
            ("2mins", 120_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("7", 7000),
        ] {
            assert_eq!(text.parse::<Millis>().unwrap().0, ms, "{text}");
        }
        assert!("1parsec".parse::<Millis>().is_err());
    }

    #[test]
    fn durations_print_as_something_that_prints_the_same() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1500, "1500ms"),
            (60_500, "60s"),
            (120_000, "2m"),
            (5_400_000, "90m"),
            (7_200_000, "2h"),
            // Found by fuzzing: this printed as 12000s, which is read as 200m.
            (12_000_990, "200m"),
        ] {
            assert_eq!(Millis(ms).to_string(), text);
            assert_eq!(text.parse::<Millis>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn max_is_a_word_not_a_number() {
        assert_eq!("max".parse::<Limit<Bytes>>().unwrap(), Limit::Max);
        assert_eq!("1KB".parse::<Limit<Bytes>>().unwrap(), Limit::Value(Bytes(1024)));
    }
}
