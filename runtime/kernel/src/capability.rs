//! Capabilities by mask: names to numbers, and the system calls, which allocate nothing and touch
//! this task alone (capabilities(7)).

use crate::Errno;
use crate::process;

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CapabilitySet(pub u64);

/// In the order of their numbers: linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability, by name: case does not matter, `CAP_` may lead.
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|at| at as u32)
}

pub fn name(number: u32) -> Option<&'static str> {
    NAMES.get(number as usize).copied()
}

impl CapabilitySet {
    pub const EMPTY: Self = Self(0);

    /// From names that are known at compile time to be right; an unknown one adds nothing.
    pub fn of(names: &[&str]) -> Self {
        Self(
            names
                .iter()
                .filter_map(|name| number(name))
                .fold(0, |set, bit| set | 1 << bit),
        )
    }
    pub fn contains(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |bit| self.0 & (1 << bit) != 0)
    }
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Names separated by commas; numbers for those that we do not know.
    pub fn describe(self) -> String {
        if self.0 == 0 {
            return "none".to_owned();
        }
        let words: Vec<String> = self
            .numbers()
            .map(|bit| name(bit).map_or_else(|| bit.to_string(), str::to_owned))
            .collect();
        words.join(",")
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const VERSION: u32 = 0x2008_0522;

/// Sets the effective, permitted and inheritable sets of this task.
pub fn set(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<(), Errno> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let word = |shift: u32| Data {
        effective: (effective.0 >> shift) as u32,
        permitted: (permitted.0 >> shift) as u32,
        inheritable: (inheritable.0 >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both structures have the layout of linux/capability.h and live across the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// The effective and permitted sets of this task.
pub fn own() -> Result<(CapabilitySet, CapabilitySet), Errno> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: both structures have the layout of linux/capability.h and live across the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let join = |low: u32, high: u32| CapabilitySet(u64::from(low) | u64::from(high) << 32);
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
    ))
}

/// Takes `gone` out of the bounding set, for ever. Needs CAP_SETPCAP. What the kernel does not know is not there.
pub fn drop_bounding(gone: CapabilitySet) -> Result<(), Errno> {
    for bit in gone.numbers() {
        match process::drop_bounding(bit) {
            // Numbers have no gaps.
            Err(Errno::EINVAL) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Makes `raised`, already permitted and inheritable, survive exec by a user who is not root.
pub fn raise_ambient(raised: CapabilitySet) -> Result<(), Errno> {
    for bit in raised.numbers() {
        process::raise_ambient(bit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel_header() {
        for (name, expected) in [
            ("CHOWN", 0),
            ("CAP_NET_BIND_SERVICE", 10),
            ("sys_admin", 21),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        assert_eq!(number("ROOT"), None);
        assert_eq!(CapabilitySet::of(&["CHOWN", "KILL"]).describe(), "CHOWN,KILL");
    }
}
