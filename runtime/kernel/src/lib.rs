//! The door to the kernel: system calls, kernel filesystems and device paths. The only crate (beside
//! `bpf`) with `unsafe`, and the only one that spells paths below `/proc`, `/sys` and `/dev`.

pub mod account;
pub mod capability;
pub mod cgroup;
pub mod descriptor;
pub mod device;
pub mod directory;
pub mod disk_use;
pub mod fake;
pub mod file;
pub mod file_flags;
pub mod host;
pub mod memfd;
pub mod mount;
pub mod mount_table;
pub mod namespace;
pub mod netlink;
pub mod network_stack;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod quota;
pub mod removal;
pub mod rlimit;
pub mod schedule;
pub mod seccomp;
pub mod shared_memory;
pub mod signal;
pub mod socket;
pub mod syscall_numbers;
pub mod system;
pub mod user_namespace;

pub use nix::errno::Errno;
