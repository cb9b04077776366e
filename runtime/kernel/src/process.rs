//! Processes: made, told apart, signalled, waited for, replaced by a program.
//!
//! Everything here is a thin door to one system call and allocates nothing, so that it may be used
//! between clone and exec. The C library's wrappers for ids are not used: they signal the other
//! threads of the caller (nptl(7), "NPTL and setuid"), which share memory with a suspended parent.

use std::ffi::{CStr, c_char, c_int, c_ulong};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::Errno;

/// libc's constant has a type too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Namespaces to make at clone or unshare, or to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceFlags(c_int);

impl NamespaceFlags {
    pub const NONE: Self = Self(0);
    pub const PID: Self = Self(libc::CLONE_NEWPID);
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS);
    pub const UTS: Self = Self(libc::CLONE_NEWUTS);
    pub const IPC: Self = Self(libc::CLONE_NEWIPC);
    pub const NET: Self = Self(libc::CLONE_NEWNET);
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP);
    pub const USER: Self = Self(libc::CLONE_NEWUSER);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub const fn bits(self) -> c_int {
        self.0
    }
}

/// Which side of a clone we are on.
#[derive(Debug)]
pub enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// clone3(2) without a new stack: the child is a copy of the caller. The child becomes a child of the
/// caller's *parent* (`CLONE_PARENT`), who alone can wait for it.
///
/// Only for single-threaded callers: the child would otherwise hold copies of locks that no thread
/// of its own will ever release.
pub fn clone_as_sibling(
    namespaces: NamespaceFlags,
    into_cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | libc::CLONE_PARENT as u64 | namespaces.0 as u32 as u64;
    let mut cgroup = 0;
    if let Some(fd) = into_cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: clone_args is plain data for which all zeroes is valid.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    // With CLONE_PARENT the exit signal is the caller's own and must not be given (clone(2)).
    args.exit_signal = 0;
    args.cgroup = cgroup;
    // SAFETY: args lives across the call; without CLONE_VM the child gets its own copy of memory and
    // returns here on its own copy of the stack.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, mem::size_of_val(&args)) };
    match Errno::result(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// Stack of a child that shares our memory until it executes a program.
const SUSPENDED_STACK_BYTES: usize = 64 << 10;

struct StackMapping(*mut libc::c_void);

impl StackMapping {
    fn new() -> Result<Self, Errno> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SUSPENDED_STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(Self(at))
        }
    }
}

impl Drop for StackMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; the child that used it has left it.
        unsafe { libc::munmap(self.0, SUSPENDED_STACK_BYTES) };
    }
}

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parentage {
    Mine,
    /// The caller's parent's: `CLONE_PARENT`.
    MyParents,
}

/// Makes a child that shares our memory and suspends us until it has executed a program or ended
/// (`CLONE_VM | CLONE_VFORK`): no page table is copied, however big we are, and what the child writes
/// into `context` we can read afterwards.
///
/// `child` must end in exec or exit, must not panic, and must keep to calls that are safe between
/// fork and exec. Callers with more than one thread block all signals around this.
pub fn spawn_suspended<C>(
    parentage: Parentage,
    context: &mut C,
    child: fn(&mut C) -> c_int,
) -> Result<(i32, OwnedFd), Errno> {
    spawn_before_exec(parentage, libc::CLONE_VM, context, child)
}

/// As [`spawn_suspended`], but the child has a copy of our memory: whoever takes it over before it has
/// executed its program has not taken us over. What it has to tell goes through
/// [`SharedNumbers`](crate::shared_memory::SharedNumbers).
pub fn spawn_apart<C>(
    parentage: Parentage,
    context: &mut C,
    child: fn(&mut C) -> c_int,
) -> Result<(i32, OwnedFd), Errno> {
    spawn_before_exec(parentage, 0, context, child)
}

/// `flags`: what the child shares with us, and namespaces of its own.
pub(crate) fn spawn_before_exec<C>(
    parentage: Parentage,
    flags: c_int,
    context: &mut C,
    child: fn(&mut C) -> c_int,
) -> Result<(i32, OwnedFd), Errno> {
    struct Start<'a, C> {
        context: &'a mut C,
        child: fn(&mut C) -> c_int,
    }
    extern "C" fn trampoline<C>(argument: *mut libc::c_void) -> c_int {
        // SAFETY: the argument is the Start below; its owner is suspended while we run, or has another copy.
        let start = unsafe { &mut *argument.cast::<Start<'_, C>>() };
        (start.child)(start.context)
    }
    let stack = StackMapping::new()?;
    let mut start = Start { context, child };
    let mut pidfd: c_int = -1;
    let mut flags = flags | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if parentage == Parentage::MyParents {
        flags |= libc::CLONE_PARENT;
    }
    // SAFETY: the stack is ours, page-aligned at its top, and outlives the child's use of it because
    // CLONE_VFORK suspends us; `start` likewise.
    let result = unsafe {
        libc::clone(
            trampoline::<C>,
            stack.0.byte_add(SUSPENDED_STACK_BYTES),
            flags,
            ptr::from_mut(&mut start).cast(),
            &raw mut pidfd,
        )
    };
    let pid = Errno::result(result)?;
    // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo asks for the default one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Exited(i32),
    Signaled { signal: i32, core_dumped: bool },
}

impl Exit {
    /// From a raw wait status (wait(2)).
    pub fn from_raw(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled {
                signal: libc::WTERMSIG(status),
                core_dumped: libc::WCOREDUMP(status),
            }
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
    /// As a shell says it: 128+signal when killed.
    pub fn shell_status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled { signal, .. } => 128 + signal,
        }
    }
}

/// Waits for the end of our child behind `pidfd` and reaps it. Without `block`, `None` while it runs.
pub fn wait_pidfd(pidfd: impl AsFd, block: bool) -> Result<Option<Exit>, Errno> {
    // SAFETY: siginfo_t is plain data for which all zeroes is valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let options = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    let id = pidfd.as_fd().as_raw_fd() as libc::id_t;
    loop {
        // SAFETY: info lives across the call.
        match Errno::result(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) }) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled the child variant, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Exit::Exited(status)),
        code => Some(Exit::Signaled {
            signal: status,
            core_dumped: code == libc::CLD_DUMPED,
        }),
    })
}

/// What a child used, from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceUse {
    pub user_micros: u64,
    pub system_micros: u64,
    /// Largest resident set, in kilobytes.
    pub max_rss_kb: u64,
}

/// Reaps any child that has ended: its pid, raw wait status and use. `None`: none has ended now, or
/// there is none.
pub fn reap_any() -> Option<(i32, i32, ResourceUse)> {
    let mut status = 0;
    // SAFETY: rusage is plain data for which all zeroes is valid.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: both out-parameters live across the call. __WALL: also children made without SIGCHLD.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (pid > 0).then(|| {
        let used = ResourceUse {
            user_micros: micros(usage.ru_utime),
            system_micros: micros(usage.ru_stime),
            max_rss_kb: usage.ru_maxrss as u64,
        };
        (pid, status, used)
    })
}

pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: two integers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub fn own_pid() -> i32 {
    // SAFETY: no preconditions. The system call, not a cached value: we may be a raw clone.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// Pointers to strings, ended by a null pointer, as execve wants them. Borrows the strings.
pub struct StringTable<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> StringTable<'a> {
    pub fn new(strings: impl IntoIterator<Item = &'a CStr>) -> Self {
        let mut pointers: Vec<_> = strings.into_iter().map(CStr::as_ptr).collect();
        pointers.push(ptr::null());
        Self {
            pointers,
            strings: std::marker::PhantomData,
        }
    }
}

/// Replaces the program; returns only when that failed.
pub fn execute(program: &CStr, arguments: &StringTable<'_>, environment: &StringTable<'_>) -> Errno {
    // SAFETY: both tables end in a null pointer and their strings are borrowed for their lifetime.
    unsafe {
        libc::execve(
            program.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// Like [`execute`], for a program that is only a descriptor (execveat(2), `AT_EMPTY_PATH`).
pub fn execute_fd(
    program: BorrowedFd<'_>,
    arguments: &StringTable<'_>,
    environment: &StringTable<'_>,
) -> Errno {
    // SAFETY: as in `execute`; the path is empty and the descriptor open.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

fn prctl(option: c_int, a: c_ulong, b: c_ulong) -> Result<c_int, Errno> {
    let zero: c_ulong = 0;
    // SAFETY: only used here with options whose arguments are integers.
    Errno::result(unsafe { libc::prctl(option, a, b, zero, zero) })
}

/// Whether others of the same user may trace us, read our memory or open our descriptors through
/// procfs. Inherited by a fork, reset by exec (prctl(2), `PR_SET_DUMPABLE`).
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// From now on exec grants nothing: no set-user-id, no file capabilities. Can not be undone.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Whether permitted capabilities survive the change from root to another user.
pub fn set_keep_capabilities(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// A new and empty session keyring instead of the one that was inherited (keyctl(2)).
pub fn leave_session_keyring() -> Result<(), Errno> {
    // SAFETY: an operation and a null pointer, which asks for a keyring without a name.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<c_char>(),
        )
    };
    Errno::result(result).map(drop)
}

/// The name in `comm`, at most 15 bytes.
pub fn set_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads at most 16 bytes of a string that ends in a null byte.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

pub(crate) fn drop_bounding(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

pub(crate) fn raise_ambient(capability: u32) -> Result<(), Errno> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
    prctl(libc::PR_CAP_AMBIENT, raise, capability.into()).map(drop)
}

/// A session of our own, without a terminal.
pub fn new_session() -> Result<(), Errno> {
    // SAFETY: no arguments.
    Errno::result(unsafe { libc::setsid() }).map(drop)
}

/// Real, effective and saved ids and the supplementary groups, for this task alone.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the slice is valid for its length, the rest are integers.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

pub fn change_directory(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a string that ends in a null byte.
    Errno::result(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

pub fn set_file_mode_mask(mask: u32) {
    // SAFETY: umask can not fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

/// One write(2) that must take all bytes.
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe the slice.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if Errno::result(count)? as usize == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

/// Closes every descriptor from `first` to `last`, both included; those that are not open do not
/// matter.
pub fn close_numbers(first: RawFd, last: RawFd) {
    // SAFETY: as in `close_from`.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            last as libc::c_uint,
            0,
        )
    };
}

/// Closes every descriptor from `first` up (close_range(2)).
pub fn close_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: the caller's owned descriptors in that range are given up: it is about to exec or has
    // forgotten them. Closing twice afterwards would only yield EBADF in a single-threaded process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) };
    Errno::result(result).map(drop)
}

/// Makes `fd` appear as number `target`, kept over exec.
pub fn place_fd(fd: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == target {
        // dup2 onto itself does nothing and would leave CLOEXEC set.
        // SAFETY: F_SETFD takes an integer.
        return Errno::result(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: two integers; the caller says that nothing of value is at `target`.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// A copy of `fd` numbered `minimum` or above, closed on exec.
pub fn duplicate_above(fd: BorrowedFd<'_>, minimum: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let new = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The descriptor that a program was started with under this number. To be called once per number.
pub fn inherited_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no argument; -1 means that the number is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the contract of the caller is that nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives freed heap memory back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
