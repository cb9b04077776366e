//! Amounts: scalars in thousandths, ranges of whole numbers, sets of words.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ResourceError;

/// An amount with three decimals, never negative: 0.1 + 0.2 is 0.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scalar(u64);

impl Scalar {
    pub const ZERO: Self = Self(0);
    /// More than a trillion, in thousandths, would not survive the way through a double.
    pub const MAX: Self = Self(1_000_000_000_000_000);

    pub fn from_milli(milli: u64) -> Self {
        Self(milli.min(Self::MAX.0))
    }

    pub fn milli(self) -> u64 {
        self.0
    }

    /// Rounded to the nearest thousandth. `None`: negative, not a number, or more than [`Self::MAX`].
    pub fn from_f64(value: f64) -> Option<Self> {
        let milli = (value * 1000.0).round();
        // -0.0 and what rounds to it are zero.
        (milli >= 0.0 && milli <= Self::MAX.0 as f64).then_some(Self(milli as u64))
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// At most [`Self::MAX`].
    pub fn plus(self, other: Self) -> Self {
        Self::from_milli(self.0.saturating_add(other.0))
    }

    /// At least zero.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let text = format!("{whole}.{rest:03}");
        f.write_str(text.trim_end_matches('0'))
    }
}

impl std::str::FromStr for Scalar {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let wrong = || ResourceError::new(text, "is no amount; write for example 4 or 0.5");
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !plain || !text.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        text.parse().ok().and_then(Self::from_f64).ok_or_else(wrong)
    }
}

/// Closed intervals: in order, apart from each other by at least one number, none empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// From intervals in any order that may overlap. `None`: one ends before it begins.
    pub fn new(intervals: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut intervals: Vec<_> = intervals.into_iter().collect();
        if intervals.iter().any(|(begin, end)| begin > end) {
            return None;
        }
        intervals.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
        for (begin, end) in intervals {
            match joined.last_mut() {
                Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => joined.push((begin, end)),
            }
        }
        Some(Self(joined))
    }

    pub fn intervals(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (begin, end)| {
            sum.saturating_add((end - begin).saturating_add(1))
        })
    }

    pub fn holds(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(begin, _)| *begin <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    pub fn plus(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied()).unwrap_or_default()
    }

    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut taken = other.0.iter().copied().peekable();
        for (mut begin, end) in self.0.iter().copied() {
            let mut used_up = false;
            while let Some((from, to)) = taken.peek().copied() {
                if to < begin {
                    taken.next();
                    continue;
                }
                if from > end {
                    break;
                }
                if from > begin {
                    left.push((begin, from - 1));
                }
                if to >= end {
                    used_up = true;
                    break;
                }
                begin = to + 1;
                taken.next();
            }
            if !used_up {
                left.push((begin, end));
            }
        }
        Self(left)
    }

    /// Whether every number of `other` is here.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(begin, end)| {
            let after = self.0.partition_point(|(from, _)| from <= begin);
            after > 0 && self.0[after - 1].1 >= *end
        })
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, (begin, end)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{begin}-{end}")?;
        }
        f.write_str("]")
    }
}

impl std::str::FromStr for Ranges {
    type Err = ResourceError;

    /// `[31000-32000,33000-33010]`; a single number stands for itself.
    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let wrong = || ResourceError::new(text, "are no ranges; write for example [31000-32000,33000-33010]");
        let inner = text
            .trim()
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or_else(wrong)?;
        let mut intervals = Vec::new();
        for part in inner.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (begin, end) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse().map_err(|_| wrong());
            intervals.push((number(begin)?, number(end)?));
        }
        Self::new(intervals)
            .ok_or_else(|| ResourceError::new(text, "holds a range that ends before it begins"))
    }
}

/// How much of something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Amount {
    Scalar(Scalar),
    Ranges(Ranges),
    Set(BTreeSet<String>),
}

impl Amount {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(scalar) => scalar.is_zero(),
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(set) => set.is_empty(),
        }
    }

    /// Of one kind: amounts of different kinds can't be added.
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Nothing of this kind.
    pub fn none_of(&self) -> Self {
        match self {
            Self::Scalar(_) => Self::Scalar(Scalar::ZERO),
            Self::Ranges(_) => Self::Ranges(Ranges::default()),
            Self::Set(_) => Self::Set(BTreeSet::new()),
        }
    }

    /// Both together. Of different kinds: this one.
    pub fn plus(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => Self::Scalar(a.plus(*b)),
            (Self::Ranges(a), Self::Ranges(b)) => Self::Ranges(a.plus(b)),
            (Self::Set(a), Self::Set(b)) => Self::Set(a.union(b).cloned().collect()),
            _ => self.clone(),
        }
    }

    /// What is left of this without the other. Of different kinds: this one.
    pub fn minus(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => Self::Scalar(a.minus(*b)),
            (Self::Ranges(a), Self::Ranges(b)) => Self::Ranges(a.minus(b)),
            (Self::Set(a), Self::Set(b)) => Self::Set(a.difference(b).cloned().collect()),
            _ => self.clone(),
        }
    }

    /// Whether all of the other is in this one.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a >= b,
            (Self::Ranges(a), Self::Ranges(b)) => a.contains(b),
            (Self::Set(a), Self::Set(b)) => a.is_superset(b),
            _ => false,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => write!(f, "{scalar}"),
            Self::Ranges(ranges) => write!(f, "{ranges}"),
            Self::Set(set) => {
                let words: Vec<_> = set.iter().map(String::as_str).collect();
                write!(f, "{{{}}}", words.join(","))
            }
        }
    }
}

impl std::str::FromStr for Amount {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let text = text.trim();
        if text.starts_with('[') {
            return text.parse().map(Self::Ranges);
        }
        if let Some(inner) = text.strip_prefix('{') {
            let inner = inner.strip_suffix('}').ok_or_else(|| {
                ResourceError::new(text, "is a set without its end; write for example {a,b}")
            })?;
            let words = inner.split(',').map(str::trim).filter(|word| !word.is_empty());
            return Ok(Self::Set(words.map(str::to_owned).collect()));
        }
        text.parse().map(Self::Scalar)
    }
}
