//! The program `bulkhead-init` as bytes, to be put into a sealed memory file by the agent.
//!
//! A crate of its own because the program contains `container`, which therefore can not embed it.

/// A static executable for this target, built by `build.rs`.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bulkhead-init"));

#[cfg(test)]
mod tests {
    /// What every launcher costs in memory once, and what a copy into a memory file takes in time.
    const BYTES_MAX: usize = 900 << 10;

    #[test]
    fn the_program_is_small_and_static() {
        assert_eq!(&super::INIT[..4], b"\x7fELF");
        assert!(super::INIT.len() < BYTES_MAX, "{} bytes", super::INIT.len());
        let interpreter = super::INIT.windows(10).any(|bytes| bytes == b"ld-linux-x");
        assert!(!interpreter, "asks for a dynamic loader");
    }
}
