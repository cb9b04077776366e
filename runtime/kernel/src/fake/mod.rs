//! Fakes: the kernel's shapes and refusals without the kernel.

mod cgroup_rules;
pub mod cgroups;
