//! Names of system calls, and those that change nothing outside the process that makes them.

use nix::libc;

macro_rules! names {
    ($($name:ident)*) => {
        const NAMES: &[(i64, &str)] = &[$((libc::$name, stringify!($name))),*];
    };
}

names! {
    SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap SYS_mprotect
    SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_ioctl SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev
    SYS_access SYS_pipe SYS_madvise SYS_dup SYS_dup2 SYS_nanosleep SYS_getpid SYS_socket SYS_connect SYS_accept
    SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind SYS_listen SYS_getsockname SYS_getpeername
    SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_clone SYS_fork SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill
    SYS_uname SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync SYS_truncate SYS_ftruncate SYS_getcwd SYS_chdir SYS_fchdir
    SYS_rename SYS_mkdir SYS_rmdir SYS_creat SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_fchmod
    SYS_chown SYS_fchown SYS_lchown SYS_umask SYS_gettimeofday SYS_getrlimit SYS_getuid SYS_setuid SYS_setgid
    SYS_geteuid SYS_setsid SYS_setgroups SYS_capget SYS_capset SYS_rt_sigtimedwait SYS_rt_sigreturn SYS_sigaltstack
    SYS_statfs SYS_fstatfs SYS_prctl SYS_arch_prctl SYS_chroot SYS_mount SYS_umount2 SYS_sethostname SYS_gettid
    SYS_futex SYS_sched_yield SYS_sched_getaffinity SYS_set_tid_address SYS_clock_gettime SYS_clock_nanosleep
    SYS_exit_group SYS_epoll_wait SYS_epoll_ctl SYS_tgkill SYS_waitid SYS_openat SYS_mkdirat SYS_mknodat
    SYS_fchownat SYS_newfstatat SYS_unlinkat SYS_renameat SYS_linkat SYS_symlinkat SYS_readlinkat SYS_fchmodat
    SYS_faccessat SYS_unshare SYS_set_robust_list SYS_utimensat SYS_epoll_pwait SYS_signalfd4 SYS_eventfd2
    SYS_epoll_create1 SYS_dup3 SYS_pipe2 SYS_accept4 SYS_prlimit64 SYS_setns SYS_getrandom SYS_memfd_create SYS_bpf
    SYS_execveat SYS_statx SYS_rseq SYS_pidfd_send_signal SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig
    SYS_fsmount SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
    SYS_epoll_pwait2 SYS_mount_setattr SYS_getdents64 SYS_sysinfo SYS_seccomp SYS_pivot_root SYS_getppid
    SYS_restart_syscall SYS_sched_setaffinity SYS_mremap SYS_keyctl SYS_setresuid SYS_setresgid SYS_copy_file_range
    SYS_sendfile SYS_fadvise64 SYS_fallocate SYS_getxattr SYS_setpriority SYS_getpriority
}

/// Waiting, memory, time and looking at oneself: to die there is to die after the call before. They come in numbers
/// that differ from run to run.
const NOISE: &[i64] = &[
    libc::SYS_futex,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_sched_yield,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_rt_sigprocmask,
    libc::SYS_restart_syscall,
];

pub fn is_noise(number: i64) -> bool {
    NOISE.contains(&number)
}

pub fn name(number: i64) -> String {
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => name.trim_start_matches("SYS_").to_owned(),
        None => format!("system call {number}"),
    }
}
