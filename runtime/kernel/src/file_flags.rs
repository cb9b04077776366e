//! Flags of open(2) that the standard library takes as numbers.

/// Refuses a symbolic link as the last part of a path.
pub const NO_FOLLOW: i32 = libc::O_NOFOLLOW;
