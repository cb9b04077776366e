//! Programs that run in the kernel, and their loaders. The device program, which is generated rule by rule, is plain
//! instructions and bpf(2); those of the network are C (`programs/`), compiled by clang, loaded by libbpf.
//!
//! Beside `kernel` the only crate with `unsafe`.

pub mod bandwidth;
mod batch;
pub mod ceiling;
pub mod device;
pub mod hook;
pub mod instruction;
pub mod layout;
mod objects;
pub mod ports;
mod skeletons;
pub mod steering;
pub mod system;
pub mod uplink;

pub use device::{DeviceRule, NodeKind};
pub use hook::{PRIORITY, Way};
pub use layout::{Counters, DropReason, HostAddresses, Slot};
pub use steering::{Entry, Steering, SteeringError};
pub use system::{BpfError, Program, attached_device_programs};
