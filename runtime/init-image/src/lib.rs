//! The program `bulkhead-init` as bytes, to be put into a sealed memory file by the agent.
//!
//! A crate of its own because the program contains `container`, which therefore can not embed it.

/// A static executable for this target, built by `build.rs`.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bulkhead-init"));

#[cfg(test)]
mod tests {
    /// Paid once an agent: all inits share the pages of one memory file. A static C library is half of it,
    /// the standard library's own backtraces a quarter.
    const BYTES_MAX: usize = 1280 << 10;

    #[test]
    fn the_program_is_small_and_static() {
        assert_eq!(&super::INIT[..4], b"\x7fELF");
        assert!(super::INIT.len() < BYTES_MAX, "{} bytes", super::INIT.len());
        let interpreter = super::INIT.windows(10).any(|bytes| bytes == b"ld-linux-x");
        assert!(!interpreter, "asks for a dynamic loader");
    }
}
