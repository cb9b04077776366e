//! Random numbers from the kernel, for identities and for the seeds of whatever must not be the same twice.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// 128 random bits. Waits for the kernel's generator when the host has only just started.
pub fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    // Up to 256 bytes come whole, or not at all (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes))
}
