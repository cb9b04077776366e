//! The host as a whole: load, free memory, chance, who we are.

use std::fs;
use std::io;

use model::{Bytes, Limit, PortRanges};

/// Averages of runnable tasks over 1, 5 and 15 minutes (proc(5), `/proc/loadavg`).
pub fn load_average() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut numbers = text.split(' ').map_while(|word| word.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// What could be used without swapping (proc(5), `MemAvailable`).
pub fn memory_available() -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes::kib(kib))
}

/// 128 bits from the kernel's generator, in hex.
pub fn random_hex() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    // SAFETY: the kernel writes at most the length given into the array. Up to 256 bytes come whole (getrandom(2)).
    if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } != bytes.len() as isize {
        return Err(io::Error::last_os_error());
    }
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// uname(2)'s node name.
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Raises the soft limit of open files to the hard one; returns it.
pub fn raise_descriptors() -> io::Result<Limit<u64>> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(if hard == RLIM_INFINITY {
        Limit::Max
    } else {
        Limit::Value(hard)
    })
}

/// Whether `path` lies on overlayfs. What can not be asked does not.
pub fn is_on_overlay(path: &std::path::Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|facts| facts.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

/// Where connections of this network namespace come from unless they say otherwise (ip-sysctl.rst), both included. It
/// holds for IPv6 too.
pub fn local_port_range() -> io::Result<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) => Ok((first, last)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{text:?} is no range"),
        )),
    }
}

/// The interface of the IPv4 default route, if there is one.
pub fn default_interface() -> Option<String> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let mut lines = routes.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| {
        let (name, destination) = (words.next()?, words.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

/// An interface's speed in bits a second. `None`: its driver does not tell (virtual ones), or it is down.
pub fn link_speed(interface: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    // -1: not known.
    let megabits: u64 = text.trim().parse().ok()?;
    (megabits > 0).then_some(megabits * 1_000_000)
}

/// Ports that the kernel takes for nobody who does not ask for them (ip-sysctl.rst, `ip_local_reserved_ports`).
pub fn reserved_ports() -> io::Result<PortRanges> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    text.trim().parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_answers() {
        assert!(load_average().is_some());
        assert!(memory_available().is_some_and(|m| m > Bytes::mib(1)));
        let (one, two) = (random_hex().unwrap(), random_hex().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
        let (first, last) = local_port_range().unwrap();
        assert!(0 < first && first <= last);
        assert!(reserved_ports().is_ok());
    }
}
