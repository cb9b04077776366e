//! When the calling thread gets its turn: sched_setattr(2).

use std::io;
use std::time::Duration;

/// `struct sched_attr` of `linux/sched/types.h`, first version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = 48;
const _: () = assert!(size_of::<Attributes>() == SIZE as usize);

/// Asks for turns of that length for the calling thread and those that it makes from then on: who asks for short ones is let
/// in sooner when it wakes up, and has no more of the processor for it. Linux 6.12 and later (between 0.1 and 100 ms); older
/// kernels take the wish and do nothing. A thread with another policy than the ordinary one keeps what it was given.
///
/// # Errors
/// When the kernel refuses it.
pub fn prefer_short_turns(length: Duration) -> io::Result<()> {
    let mut attributes = get()?;
    if attributes.policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.runtime = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads `size` bytes of the record, which is that large; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes at most SIZE bytes into the record, which is that large; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_asks_for_short_turns_keeps_its_policy_and_its_nice_value() {
        let asked = std::thread::spawn(|| {
            let before = get().unwrap();
            prefer_short_turns(Duration::from_micros(500)).unwrap();
            (before, get().unwrap())
        });
        let (before, after) = asked.join().unwrap();
        assert_eq!((before.policy, before.nice), (after.policy, after.nice));
        // Before 6.12 the kernel tells nothing here.
        assert!([before.runtime, 500_000].contains(&after.runtime), "{after:?}");
    }
}
