//! Programs that run in the kernel, and their loaders: plain instructions and bpf(2), no C, no library.
//!
//! Beside `kernel` the only crate with `unsafe`.

pub mod device;
pub mod instruction;
pub mod system;

pub use device::{DeviceRule, NodeKind};
pub use system::{BpfError, Program, attached_device_programs};
