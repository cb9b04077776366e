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

    const PT_INTERP: u32 = 3;

    /// Types of the program headers, elf(5).
    fn program_headers(elf: &[u8]) -> Vec<u32> {
        let word = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
        let (at, size, count) = (word(32), word(54), word(56));
        (0..count)
            .map(|n| u32::from_le_bytes(elf[at + n * size..][..4].try_into().unwrap()))
            .collect()
    }

    #[test]
    fn the_program_is_small_and_static() {
        assert_eq!(&super::INIT[..4], b"\x7fELF");
        assert!(super::INIT.len() < BYTES_MAX, "{} bytes", super::INIT.len());
        assert!(
            !program_headers(super::INIT).contains(&PT_INTERP),
            "asks for a dynamic loader"
        );
    }
}
