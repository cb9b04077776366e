//! Ids of user-namespaced containers: what one container has, and the pool that they come from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A container's own user namespace: its ids from 0 to `count` - 1 are those from `base` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Chosen by the agent; absent in a request.
    pub base: Option<u32>,
    pub count: u32,
}

/// All 16-bit ids: images and programs know `nobody` as 65534.
pub const IDS_DEFAULT: u32 = 65_536;

impl UserNamespace {
    /// As it is asked for.
    pub const fn of(count: u32) -> Self {
        Self { base: None, count }
    }

    /// The ids outside, once they are chosen.
    pub fn range(self) -> Option<IdRange> {
        self.base.map(|base| IdRange {
            base,
            count: self.count,
        })
    }

    /// As it was asked for: a repeated request names no base.
    #[must_use]
    pub const fn asked(self) -> Self {
        Self::of(self.count)
    }
}

/// Ids of users and of groups alike, from `base` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub base: u32,
    pub count: u32,
}

/// Below are the host's own accounts, 65534 (nobody) and 65535 (not an id to 16-bit interfaces) among them.
pub const ID_MIN: u32 = 65_536;
/// One less than `u32::MAX`, which means "leave as it is" to the kernel.
const ID_MAX: u64 = u32::MAX as u64 - 1;

/// Why a text is not a range of ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdRangeError {
    #[error("is not BASE:COUNT, two numbers such as 2000224256:65536")]
    Form,
    #[error("has no ids")]
    Empty,
    #[error("begins below {ID_MIN}, among the ids of the host's own accounts")]
    HostIds,
    #[error("ends beyond {ID_MAX}, the last id there is")]
    Beyond,
}

impl IdRange {
    /// First id beyond.
    pub fn end(self) -> u64 {
        u64::from(self.base) + u64::from(self.count)
    }

    pub fn overlaps(self, other: Self) -> bool {
        u64::from(self.base) < other.end() && u64::from(other.base) < self.end()
    }

    /// `count` ids of this pool that none of `taken` has, from `after` on or, when there are none, from the beginning:
    /// an id that was given back is used again as late as possible.
    pub fn allocate(self, taken: impl IntoIterator<Item = Self>, after: u32, count: u32) -> Option<Self> {
        let mut taken: Vec<Self> = taken
            .into_iter()
            .filter(|range| range.overlaps(self) && range.count > 0)
            .collect();
        taken.sort_unstable_by_key(|range| range.base);
        let gap = |from: u64| {
            let mut start = from.max(u64::from(self.base));
            for range in &taken {
                if start + u64::from(count) <= u64::from(range.base) {
                    break;
                }
                start = start.max(range.end());
            }
            let fits = start + u64::from(count) <= self.end();
            u32::try_from(start)
                .ok()
                .filter(|_| fits && count > 0)
                .map(|base| Self { base, count })
        };
        gap(u64::from(after)).or_else(|| gap(0))
    }
}

impl FromStr for IdRange {
    type Err = IdRangeError;

    fn from_str(text: &str) -> Result<Self, IdRangeError> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| IdRangeError::Form);
        let (base, count) = text.split_once(':').ok_or(IdRangeError::Form)?;
        let range = Self {
            base: number(base)?,
            count: number(count)?,
        };
        if range.count == 0 {
            return Err(IdRangeError::Empty);
        }
        if range.base < ID_MIN {
            return Err(IdRangeError::HostIds);
        }
        if range.end() > ID_MAX + 1 {
            return Err(IdRangeError::Beyond);
        }
        Ok(range)
    }
}

/// As it is written for the agent's flag.
impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.base, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u32, count: u32) -> IdRange {
        IdRange { base, count }
    }

    #[test]
    fn ranges_are_read_and_wrong_ones_refused() {
        assert_eq!("100000:65536".parse(), Ok(range(100_000, 65_536)));
        assert_eq!(
            "4294901759:65536".parse::<IdRange>().unwrap().end(),
            u64::from(u32::MAX)
        );
        for (text, error) in [
            ("", IdRangeError::Form),
            ("5", IdRangeError::Form),
            ("a:5", IdRangeError::Form),
            ("-1:5", IdRangeError::Form),
            ("100000:0", IdRangeError::Empty),
            ("0:65536", IdRangeError::HostIds),
            ("65535:1", IdRangeError::HostIds),
            ("4294901760:65536", IdRangeError::Beyond),
        ] {
            assert_eq!(text.parse::<IdRange>(), Err(error), "{text}");
        }
    }

    #[test]
    fn what_was_given_back_is_used_as_late_as_possible() {
        let pool = range(100_000, 30);
        let first = pool.allocate([], 0, 10).unwrap();
        assert_eq!(first, range(100_000, 10));
        // Nobody has the first ten any more.
        assert_eq!(pool.allocate([], 100_010, 10), Some(range(100_010, 10)));
        assert_eq!(
            pool.allocate([range(100_010, 10)], 100_020, 10),
            Some(range(100_020, 10))
        );
        // The end of the pool: from the beginning.
        assert_eq!(
            pool.allocate([range(100_010, 10)], 100_030, 10),
            Some(range(100_000, 10))
        );
        assert_eq!(
            pool.allocate([range(100_010, 10)], 100_025, 5),
            Some(range(100_025, 5))
        );
    }

    #[test]
    fn a_full_pool_gives_nothing_and_foreign_ranges_do_not_matter() {
        let pool = range(100_000, 30);
        let full = [range(100_000, 10), range(100_010, 15)];
        assert_eq!(pool.allocate(full, 0, 10), None);
        assert_eq!(pool.allocate(full, 0, 5), Some(range(100_025, 5)));
        // Of a pool that the agent had before: reaches into ours from below.
        assert_eq!(
            pool.allocate([range(99_990, 15)], 0, 10),
            Some(range(100_005, 10))
        );
        assert_eq!(pool.allocate([range(200_000, 15)], 0, 30), Some(pool));
        assert_eq!(pool.allocate([], 0, 31), None);
        assert_eq!(pool.allocate([], 0, 0), None);
    }
}
