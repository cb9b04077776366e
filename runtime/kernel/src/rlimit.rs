//! Resource limits of a process by name, setrlimit(2).

use crate::Errno;

/// Name and number of every limit, linux/resource.h.
const LIMITS: [(&str, u32); 16] = [
    ("cpu", libc::RLIMIT_CPU),
    ("fsize", libc::RLIMIT_FSIZE),
    ("data", libc::RLIMIT_DATA),
    ("stack", libc::RLIMIT_STACK),
    ("core", libc::RLIMIT_CORE),
    ("rss", libc::RLIMIT_RSS),
    ("nproc", libc::RLIMIT_NPROC),
    ("nofile", libc::RLIMIT_NOFILE),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("as", libc::RLIMIT_AS),
    ("locks", libc::RLIMIT_LOCKS),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
];

pub const UNLIMITED: u64 = libc::RLIM_INFINITY;

/// The kernel's number for `nofile`, `RLIMIT_NOFILE`, …
pub fn number(name: &str) -> Option<u32> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    LIMITS
        .iter()
        .find(|(known, _)| *known == bare)
        .map(|(_, number)| *number)
}

pub fn name(number: u32) -> &'static str {
    LIMITS
        .iter()
        .find(|(_, known)| *known == number)
        .map_or("unknown", |(name, _)| name)
}

pub fn names() -> impl Iterator<Item = &'static str> {
    LIMITS.iter().map(|(name, _)| *name)
}

pub fn set(number: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure lives across the call.
    Errno::result(unsafe { libc::setrlimit(number, &raw const limit) }).map(drop)
}

/// Lowers the soft limit of open files to `most`, if it is higher: what commands expect that go through
/// all descriptors, or use select(2).
pub fn lower_soft_descriptors(most: u64) -> Result<(), Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure lives across the call.
    Errno::result(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur > most {
        limit.rlim_cur = most;
        // SAFETY: as above.
        Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sixteen_names_are_known() {
        assert_eq!(super::names().count(), 16);
        assert_eq!(super::number("RLIMIT_NOFILE"), super::number("nofile"));
        assert_eq!(super::number("files"), None);
    }
}
