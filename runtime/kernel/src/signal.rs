//! Signals: blocked, waited for, reset.

use std::mem;
use std::ptr;

use crate::Errno;

/// Signal numbers that the container's life is made of.
pub const CHILD: i32 = libc::SIGCHLD;
pub const KILL: i32 = libc::SIGKILL;
pub const TERMINATE: i32 = libc::SIGTERM;
pub const STOP: i32 = libc::SIGSTOP;

/// Highest signal number of this kernel, real-time ones included.
const SIGNAL_MAX: i32 = 64;

/// Size of the kernel's signal set: the C library's is larger and hides two signals from us.
const KERNEL_SET_BYTES: usize = 8;

/// The mask that was in force; put back on drop.
pub struct Blocked {
    before: u64,
}

fn set_mask(mask: u64) -> u64 {
    let mut before: u64 = 0;
    // SAFETY: both sets are the kernel's 8 bytes and live across the call, which fails only for a
    // wrong size or address.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            KERNEL_SET_BYTES,
        )
    };
    before
}

/// Blocks every signal of this thread, those that the C library keeps for itself included.
pub fn block_all() -> Blocked {
    Blocked {
        before: set_mask(u64::MAX),
    }
}

impl Blocked {
    /// Leaves everything blocked for good.
    pub fn keep(self) {
        mem::forget(self);
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_mask(self.before);
    }
}

pub fn unblock_all() {
    set_mask(0);
}

/// Puts every signal back to its default action: exec keeps "ignored" as it is (signal(7)), and the
/// Rust runtime ignores SIGPIPE.
pub fn reset_dispositions() {
    /// The kernel's own structure: handler, flags, restorer, mask.
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let default = KernelAction {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the structure has the kernel's layout; SIG_DFL runs no code of ours. KILL and STOP
        // answer EINVAL, which changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                ptr::null_mut::<KernelAction>(),
                KERNEL_SET_BYTES,
            )
        };
    }
}

/// The next signal that arrives for us. All must be blocked.
pub fn wait_any() -> Result<i32, Errno> {
    let all = u64::MAX;
    // SAFETY: the set is the kernel's 8 bytes; no details and no timeout are asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const all,
            ptr::null_mut::<libc::siginfo_t>(),
            ptr::null::<libc::timespec>(),
            KERNEL_SET_BYTES,
        )
    };
    Errno::result(result).map(|signal| signal as i32)
}
