//! One group, and the rule that no limit is believed until the kernel has repeated it.

use std::fmt;
use std::path::PathBuf;

use crate::file::{KernelFileError, ShortText, keyed, number};

use super::tree::{Tree, Version};

/// A limit that is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The file could not be opened, written or read.
    #[error(transparent)]
    File(#[from] KernelFileError),
    /// The kernel took the value and shows another one.
    #[error("wrote {wrote:?} to {path} and read back {found:?}", path = path.display())]
    Mismatch {
        path: PathBuf,
        wrote: String,
        found: String,
    },
    /// The new ceiling lies below what is in use and could not be reclaimed; the old one stands.
    #[error("{path} can not be lowered to {wrote}: {in_use} bytes are in use", path = path.display())]
    BelowUsage {
        path: PathBuf,
        wrote: String,
        in_use: u64,
    },
    /// A device that has no queue to limit.
    #[error(transparent)]
    Device(#[from] super::io::DeviceError),
    /// One that is held by programs at the group, not by a file.
    #[error("programs at the group")]
    Programs(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LimitError {
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::File(error) if error.is_exhausted())
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::File(error) if error.is_absent())
    }
}

/// What may differ between the value written and the value read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Nothing but surrounding white space.
    Exact,
    /// The kernel counts memory in pages and rounds a limit down to them; `-1` reads as the largest
    /// number of pages. Kernel: mm/page_counter.c, page_counter_memparse.
    Pages { page: u64 },
    /// Lists of numbers and ranges that name the same set.
    List,
    /// A line of the file begins with the first word written and holds each other word.
    Line,
}

/// At or above this a v1 memory limit means "none": the largest is PAGE_COUNTER_MAX pages, just below 2^63.
pub const V1_UNLIMITED: u64 = 1 << 62;

impl Compare {
    pub fn agrees(self, wrote: &str, found: &str) -> bool {
        let (wrote, found) = (wrote.trim(), found.trim());
        match self {
            Self::Exact => wrote == found,
            Self::Pages { page } => match (number(wrote.as_bytes()), number(found.as_bytes())) {
                (Some(wrote), Some(found)) => found == wrote - wrote % page,
                (None, Some(found)) => wrote == "-1" && found >= V1_UNLIMITED,
                _ => wrote == found,
            },
            Self::List => match (super::cpuset::parse_list(wrote), super::cpuset::parse_list(found)) {
                (Some(wrote), Some(found)) => wrote == found,
                _ => false,
            },
            Self::Line => {
                let mut words = wrote.split_ascii_whitespace();
                let first = words.next().unwrap_or_default();
                let line = found
                    .lines()
                    .find(|line| line.split_ascii_whitespace().next() == Some(first));
                line.is_some_and(|line| words.all(|word| line.split_ascii_whitespace().any(|w| w == word)))
            }
        }
    }
}

/// A group in a tree. Borrowed: a name costs nothing until it is used.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    pub tree: &'a dyn Tree,
    pub name: &'a str,
}

impl fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.tree.path().join(self.name).display())
    }
}

/// Room for any one-value file and for the per-device lists of a few disks.
const READ_BACK_BYTES: usize = 1024;

impl<'a> Group<'a> {
    pub fn new(tree: &'a dyn Tree, name: &'a str) -> Self {
        Self { tree, name }
    }

    pub fn version(&self) -> Version {
        self.tree.version()
    }

    pub fn path_of(&self, file: &str) -> PathBuf {
        self.tree.path().join(self.name).join(file)
    }

    /// Writes a limit and makes sure that the kernel now shows it.
    pub fn set(&self, file: &str, value: fmt::Arguments<'_>, compare: Compare) -> Result<(), LimitError> {
        let text = ShortText::new(value);
        let wrote = text.as_str();
        let mut buffer = [0; READ_BACK_BYTES];
        let got = self.tree.exchange(self.name, file, wrote, &mut buffer)?;
        let found = String::from_utf8_lossy(&buffer[..got]);
        if compare.agrees(wrote, &found) {
            return Ok(());
        }
        Err(LimitError::Mismatch {
            path: self.path_of(file),
            wrote: wrote.to_owned(),
            found: found.trim().to_owned(),
        })
    }

    pub fn read_number(&self, file: &str) -> Result<Option<u64>, KernelFileError> {
        let mut buffer = [0; 64];
        let got = self.tree.read(self.name, file, &mut buffer)?;
        Ok(number(&buffer[..got]))
    }

    /// The value of one key of a flat keyed file.
    pub fn read_keyed(&self, file: &str, key: &str) -> Result<Option<u64>, KernelFileError> {
        let mut buffer = [0; 4096];
        let got = self.tree.read(self.name, file, &mut buffer)?;
        Ok(keyed(&buffer[..got], key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_the_same_value() {
        let pages = Compare::Pages { page: 4096 };
        for (compare, wrote, found, same) in [
            (Compare::Exact, "512", "512\n", true),
            (Compare::Exact, "512", "5120\n", false),
            (Compare::Exact, "max 100000", "max 100000\n", true),
            (pages, "1000000", "999424\n", true),
            (pages, "1000000", "1000000\n", false),
            (pages, "-1", "9223372036854771712\n", true),
            (pages, "-1", "4096\n", false),
            (pages, "max", "max\n", true),
            (pages, "max", "4096\n", false),
            (pages, "4096", "max\n", false),
            (Compare::List, "0-1", "0,1\n", true),
            (Compare::List, "0", "0-1\n", false),
            (Compare::Line, "8:0 1048576", "7:0 1\n8:0 1048576\n", true),
            (Compare::Line, "8:0 1048576", "8:0 2\n", false),
            (
                Compare::Line,
                "8:0 rbps=5 wiops=max",
                "8:0 rbps=5 wbps=max riops=max wiops=max\n",
                true,
            ),
            (Compare::Line, "8:0 rbps=5", "", false),
        ] {
            assert_eq!(
                compare.agrees(wrote, found),
                same,
                "{compare:?} {wrote:?} {found:?}"
            );
        }
    }
}
