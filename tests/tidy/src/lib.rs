//! What the tests in `tests/` look through: the files of the tree, Rust source taken apart, what cargo knows of the crates.
//! The rules themselves stand in `tests/`, one test a rule, each failing with what to do instead.

pub mod crates;
pub mod rust_source;
pub mod tree;
