//! Batch lookups of per-CPU maps, which libbpf-rs has not.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libbpf_rs::libbpf_sys;

/// Slots asked for at once: bounds the buffer on machines with many CPUs.
const AT_ONCE: u32 = 256;

/// Calls `take` with the keys below `entries`, and perhaps some more, and their values of all CPUs, one after the other. `value_size` is that of all CPUs'
/// together; each CPU's is a multiple of 8.
pub(crate) fn read_percpu(
    map: BorrowedFd<'_>,
    value_size: usize,
    entries: u32,
    mut take: impl FnMut(u32, &[u8]),
) -> io::Result<()> {
    let mut keys = vec![0u32; AT_ONCE as usize];
    let mut values = vec![0u8; AT_ONCE as usize * value_size];
    let (mut from, mut next) = (0u32, 0u32);
    let (mut first, mut done) = (true, 0);
    while done < entries {
        let mut count = AT_ONCE;
        // SAFETY: `from` and `next` are as large as a key of an array map; `keys` and `values` have room for `count`
        // entries; the descriptor is that of a map; no options.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                map.as_raw_fd(),
                if first {
                    ptr::null_mut()
                } else {
                    (&raw mut from).cast::<c_void>()
                },
                (&raw mut next).cast::<c_void>(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                ptr::null(),
            )
        };
        let last = match result {
            0 => false,
            // The end of the map; `count` entries came with it.
            _ if -result == libc::ENOENT => true,
            _ => return Err(io::Error::from_raw_os_error(-result)),
        };
        let got = count.min(AT_ONCE) as usize;
        for (key, value) in keys.iter().zip(values.chunks_exact(value_size)).take(got) {
            take(*key, value);
        }
        done += count;
        if last || count == 0 {
            break;
        }
        (from, first) = (next, false);
    }
    Ok(())
}
