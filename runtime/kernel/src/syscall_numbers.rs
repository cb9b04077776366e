//! Numbers of system calls that a policy names: they differ between architectures.

use libc::c_long;

pub const CLONE: u32 = libc::SYS_clone as u32;
pub const CLONE3: u32 = libc::SYS_clone3 as u32;
pub const UNSHARE: u32 = libc::SYS_unshare as u32;
pub const IOCTL: u32 = libc::SYS_ioctl as u32;
pub const PERSONALITY: u32 = libc::SYS_personality as u32;
pub const SOCKET: u32 = libc::SYS_socket as u32;
pub const SOCKETPAIR: u32 = libc::SYS_socketpair as u32;

/// Flags of clone(2) and unshare(2) that make namespaces. `CLONE_NEWTIME` (0x80) is a signal number to
/// clone and is only taken by unshare and clone3.
pub const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
pub const NEW_TIME_NAMESPACE: u32 = 0x80;

/// TIOCSTI and TIOCLINUX.
pub const TERMINAL_INJECTIONS: [u32; 2] = [0x5412, 0x541c];

/// FS_IOC_FSSETXATTR: gives a file another project id, and so to another's disk quota.
pub const SET_PROJECT_ID: u32 = 0x401c_5820;

/// Linux, 32-bit Linux, both with a short uname release, and the question which one it is.
pub const PERSONALITIES_ALLOWED: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// AF_ALG and AF_VSOCK.
pub const FAMILIES_DENIED: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];

/// Numbers that libc does not name yet; the same on all architectures.
mod newer {
    use super::c_long;
    pub const OPEN_TREE_ATTR: c_long = 467;
    pub const FILE_SETATTR: c_long = 469;
    pub const LSM_SET_SELF_ATTR: c_long = 460;
    pub const FSMOUNT: c_long = 432;
}

/// Denied to containers whatever their arguments.
pub const DENIED: &[c_long] = &[
    // The kernel itself: another one, modules, programs, restarts.
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_reboot,
    // Wide interfaces with a history of holes.
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Not confined by any namespace.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_kcmp,
    // The whole tree of files, whatever is mounted here.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // Mounts, roots, namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    newer::FSMOUNT,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    newer::OPEN_TREE_ATTR,
    newer::LSM_SET_SELF_ATTR,
    // As the ioctl FS_IOC_FSSETXATTR: disk quotas go by what it sets.
    newer::FILE_SETATTR,
    // Memory of others on other nodes.
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Hardware and relics.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];
