//! Ports: how they are written, asked for and granted.
//!
//! Two ways to write them: `[31000-32000,32002-32002]` as Mesos' resources do, and `31005,31010-31012` on the command
//! line. Both are read everywhere; port 0 is none.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::resources::Ranges;

/// Why a text names no ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("{0:?} is no port; write ports from 1 to 65535, for example 31005,31010-31012")]
    Number(String),
    #[error("{0:?} ends before it begins")]
    Backward(String),
    #[error("{0:?} names a port twice")]
    Twice(String),
    #[error("no ports are named")]
    Empty,
    #[error("{0} ports in a row are more than there are")]
    TooMany(u64),
}

/// Ports from `first` to `last`, both included. Never empty, never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None`: begins at 0 or ends before it begins.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last {
            return None;
        }
        Some(Self { first, last })
    }

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports; 65535 at most.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl TryFrom<(u16, u16)> for PortRange {
    type Error = PortError;

    fn try_from((first, last): (u16, u16)) -> Result<Self, PortError> {
        Self::new(first, last).ok_or_else(|| PortError::Backward(format!("{first}-{last}")))
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.first, range.last)
    }
}

impl FromStr for PortRange {
    type Err = PortError;

    /// `31005` or `31010-31012`.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = || PortError::Number(text.to_owned());
        let number = |part: &str| {
            let part = part.trim();
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let port = part.parse::<u16>().ok().filter(|port| digits && *port != 0);
            port.ok_or_else(wrong)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        Self::new(first, last).ok_or_else(|| PortError::Backward(text.to_owned()))
    }
}

/// As on the command line: a single port stands for itself.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Ranges in order, apart from each other by at least one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<PortRange>", into = "Vec<PortRange>")]
pub struct PortRanges(Vec<PortRange>);

impl PortRanges {
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|range| u32::from(range.count())).sum()
    }

    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|range| range.first <= port);
        after > 0 && self.0[after - 1].last >= port
    }

    pub fn contains_all(&self, other: &Self) -> bool {
        other.minus(self).is_empty()
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        !self.common(other).is_empty()
    }

    /// Each port, in order.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|range| range.ports())
    }

    pub fn plus(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        for range in &self.0 {
            let mut from = u32::from(range.first);
            for taken in other.0.iter().filter(|taken| taken.overlaps(*range)) {
                if u32::from(taken.first) > from {
                    left.extend(PortRange::new(from as u16, taken.first - 1));
                }
                from = u32::from(taken.last) + 1;
            }
            if from <= u32::from(range.last) {
                left.extend(PortRange::new(from as u16, range.last));
            }
        }
        Self(left)
    }

    pub fn common(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// As Mesos writes it: `[31000-32000,32002-32002]`.
    pub fn mesos(&self) -> String {
        let parts: Vec<_> = self
            .0
            .iter()
            .map(|range| format!("{}-{}", range.first, range.last))
            .collect();
        format!("[{}]", parts.join(","))
    }

    fn read(text: &str, once: bool) -> Result<Self, PortError> {
        let text = text.trim();
        let inner = match text.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .ok_or_else(|| PortError::Number(text.to_owned()))?,
            None => text,
        };
        let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
        let ranges = parts.map(str::parse).collect::<Result<Vec<PortRange>, _>>()?;
        let named: u32 = ranges.iter().map(|range| u32::from(range.count())).sum();
        let ranges: Self = ranges.into_iter().collect();
        if once && named != ranges.count() {
            return Err(PortError::Twice(text.to_owned()));
        }
        Ok(ranges)
    }
}

impl FromIterator<PortRange> for PortRanges {
    /// In any order, overlapping or not.
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl From<Vec<PortRange>> for PortRanges {
    fn from(ranges: Vec<PortRange>) -> Self {
        ranges.into_iter().collect()
    }
}

impl From<PortRanges> for Vec<PortRange> {
    fn from(ranges: PortRanges) -> Self {
        ranges.0
    }
}

impl From<PortRange> for PortRanges {
    fn from(range: PortRange) -> Self {
        Self(vec![range])
    }
}

impl TryFrom<&Ranges> for PortRanges {
    type Error = PortError;

    /// A resource's ranges: whole numbers that need not be ports.
    fn try_from(ranges: &Ranges) -> Result<Self, PortError> {
        let read = |&(begin, end): &(u64, u64)| {
            let ports = u16::try_from(begin).ok().zip(u16::try_from(end).ok());
            ports
                .and_then(|(first, last)| PortRange::new(first, last))
                .ok_or_else(|| PortError::Number(format!("{begin}-{end}")))
        };
        ranges.intervals().iter().map(read).collect()
    }
}

impl FromStr for PortRanges {
    type Err = PortError;

    /// Of either form. None at all is a legal set of ports.
    fn from_str(text: &str) -> Result<Self, PortError> {
        Self::read(text, false)
    }
}

/// As on the command line.
impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

/// Which ports somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortRequest {
    /// So many, whichever are free: in a row where there is such a row.
    Any(u16),
    /// So many in a row, or none.
    Row(u16),
    These(PortRanges),
}

/// More than this could be asked for as a number: from here on a number is a port.
///
/// `--ports 2` is two ports and `--ports 31005` is that port. Below are the ports that only root has, and no agent's
/// pool: who wants port 80 itself writes it as a range, `80-80`.
pub const ANY_MAX: u16 = 1023;

impl PortRequest {
    pub fn count(&self) -> u32 {
        match self {
            Self::Any(count) | Self::Row(count) => u32::from(*count),
            Self::These(ports) => ports.count(),
        }
    }
}

impl FromStr for PortRequest {
    type Err = PortError;

    /// `2`: any two. `row:4`: any four in a row. `31005,31010-31012`: these.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let text = text.trim();
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| digits)
        };
        if let Some(row) = text.strip_prefix("row:") {
            let count = number(row).ok_or_else(|| PortError::Number(text.to_owned()))?;
            return match u16::try_from(count) {
                Ok(0) => Err(PortError::Empty),
                Ok(count) => Ok(Self::Row(count)),
                Err(_) => Err(PortError::TooMany(count)),
            };
        }
        match number(text) {
            Some(0) => return Err(PortError::Empty),
            Some(count) if count <= u64::from(ANY_MAX) => return Ok(Self::Any(count as u16)),
            _ => {}
        }
        let ports = PortRanges::read(text, true)?;
        if ports.is_empty() {
            return Err(PortError::Empty);
        }
        Ok(Self::These(ports))
    }
}

/// As it is read.
impl fmt::Display for PortRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(count) => write!(f, "{count}"),
            Self::Row(count) => write!(f, "row:{count}"),
            // A low single port would be read as a number of ports.
            Self::These(ports) => match ports.ranges() {
                [one] if one.first == one.last && one.first <= ANY_MAX => {
                    write!(f, "{}-{}", one.first, one.last)
                }
                _ => write!(f, "{ports}"),
            },
        }
    }
}

/// The ports that one container has, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortGrant {
    /// Those that it may listen at.
    pub allotted: PortRanges,
    /// Where its bind(0), connect() and unbound sendto() take theirs from. None: from the host's.
    pub ephemeral: Option<PortRange>,
}

impl PortGrant {
    /// All of it.
    pub fn all(&self) -> PortRanges {
        let ephemeral = self.ephemeral.map(PortRanges::from).unwrap_or_default();
        self.allotted.plus(&ephemeral)
    }

    /// What a command finds in its environment: `PORT0`, `PORT1`, … and `PORTS` as Mesos' frameworks have taught
    /// programs, `BULKHEAD_PORTS` as on the command line. `PORT` is the first, alone.
    pub fn environment(&self) -> Vec<(String, String)> {
        if self.allotted.is_empty() {
            return Vec::new();
        }
        let ports: Vec<String> = self.allotted.ports().map(|port| port.to_string()).collect();
        let mut environment: Vec<(String, String)> = Vec::with_capacity(ports.len().min(NAMED_MAX) + 3);
        environment.push(("PORT".to_owned(), ports[0].clone()));
        let named = ports.iter().take(NAMED_MAX).enumerate();
        environment.extend(named.map(|(at, port)| (format!("PORT{at}"), port.clone())));
        let listed: Vec<&str> = ports.iter().take(NAMED_MAX).map(String::as_str).collect();
        environment.push(("PORTS".to_owned(), listed.join(",")));
        environment.push(("BULKHEAD_PORTS".to_owned(), self.allotted.to_string()));
        environment
    }
}

/// So many ports get a variable each; all of them are in `BULKHEAD_PORTS`. A full pool as variables would take more
/// than an environment may hold of many programs.
pub const NAMED_MAX: usize = 256;
