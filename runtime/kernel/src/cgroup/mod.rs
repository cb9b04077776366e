//! Control groups, v1, hybrid and v2, behind one typed interface.
//!
//! ```text
//! <hierarchy mount>/<root group of this agent>/<container>      one Tree per hierarchy
//! v1, hybrid:  cpu  memory  pids  [cpuacct] [devices] [blkio] [cpuset]   and, hybrid, the v2 tree beside them
//! v2:          one tree; cgroup.subtree_control of mount and root group names the controllers
//! ```
//!
//! Contract: every limit is written and read back ([`Group::set`]); what the kernel refuses or changes is
//! a typed [`LimitError`], never silence. A resource file knows both generations' formulas and file names.
//! Kernel: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.

pub mod cpu;
pub mod cpuset;
pub mod delegation;
pub mod devices;
pub mod freezer;
pub mod group;
pub mod hierarchy;
pub mod io;
pub mod memory;
pub mod pids;
pub mod pressure;
pub mod processes;
pub mod tree;

pub use group::{Compare, Group, LimitError};
pub use hierarchy::{CgroupMount, MountError, Mounts};
pub use tree::{KernelTree, Removal, Tree, Version};
