//! A program as a sealed piece of memory: it can be executed, and nobody can overwrite it through
//! its link in procfs (the class of CVE-2019-5736).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Errno;

/// From Linux 6.3: says that this one is meant to be executed, as `vm.memfd_noexec` may demand.
const MFD_EXEC: libc::c_uint = 0x10;

/// Copies `program` into a memory file and seals it against every change, of the seals too.
pub fn sealed_program(program: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a constant string that ends in a null byte, and flags.
    let create = |flags| unsafe { libc::memfd_create(c"bulkhead-init".as_ptr(), flags) };
    let fd = match Errno::result(create(flags | MFD_EXEC)) {
        Err(Errno::EINVAL) => Errno::result(create(flags))?,
        other => other?,
    };
    // SAFETY: a new descriptor that nobody else owns.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(program)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_ADD_SEALS takes an integer.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_program_can_not_be_changed() {
        let fd = sealed_program(b"#!/bin/true\n").unwrap();
        let mut file = File::from(fd);
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(file.set_len(0).is_err());
    }
}
