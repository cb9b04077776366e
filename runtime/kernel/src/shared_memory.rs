//! Memory that somebody else sees too: a child that has a copy of everything else, or a file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::Errno;

/// A mapping with `MAP_SHARED`, gone with its owner.
struct Mapping {
    at: NonNull<libc::c_void>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, flags: libc::c_int, fd: libc::c_int) -> Result<Self, Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice touches nothing of ours.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED | flags,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        NonNull::new(at).map(|at| Self { at, bytes }).ok_or(Errno::ENOMEM)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; whoever borrowed from it has ended.
        unsafe { libc::munmap(self.at.as_ptr(), self.bytes) };
    }
}

/// Three numbers that a child made without `CLONE_VM` can leave for its maker. Zeroes at first.
pub struct SharedNumbers(Mapping);

pub type Numbers = [AtomicI32; 3];

impl SharedNumbers {
    pub fn new() -> Result<Self, Errno> {
        Mapping::new(size_of::<Numbers>(), libc::MAP_ANONYMOUS, -1).map(Self)
    }

    pub fn get(&self) -> &Numbers {
        // SAFETY: the mapping is page-aligned, zeroed and long enough, lives as long as self, and every bit
        // pattern is a value of atomic integers, whatever another process writes there.
        unsafe { self.0.at.cast().as_ref() }
    }
}

/// The beginning of a file as memory: it can be filled in without a descriptor, and nobody who gets hold of
/// it can make the file longer.
pub struct FileStart<const BYTES: usize>(Mapping);

impl<const BYTES: usize> FileStart<BYTES> {
    /// `file` must be open for reading and writing. Its first bytes become zeroes, so that space for them
    /// is found now: a page without would be a SIGBUS later (mmap(2)).
    pub fn new(file: &File) -> io::Result<Self> {
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(&[0; BYTES], 0)?;
        Ok(Self(Mapping::new(BYTES, 0, file.as_raw_fd())?))
    }

    pub fn write(&self, content: &[u8; BYTES]) {
        // SAFETY: the mapping is as long as the content and nobody borrows from it; others who map the
        // file are other processes.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), self.0.at.cast().as_ptr(), BYTES) };
        // Not to be moved behind the end of the process.
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, Parentage};

    #[test]
    fn a_file_gets_what_is_written_without_its_descriptor() {
        let file = tempfile::tempfile().unwrap();
        let start = FileStart::<5>::new(&file).unwrap();
        start.write(b"hello");
        drop(start);
        let mut content = [0; 8];
        let count = std::os::unix::fs::FileExt::read_at(&file, &mut content, 0).unwrap();
        assert_eq!(&content[..count], b"hello");
    }

    #[test]
    fn a_child_apart_leaves_numbers_and_nothing_else() {
        let shared = SharedNumbers::new().unwrap();
        let mut context = (shared.get(), 1);
        let child = |context: &mut (&Numbers, i32)| {
            context.0[1].store(7, Ordering::Relaxed);
            context.1 = 2;
            3
        };
        let blocked = crate::signal::block_all();
        let (_, pidfd) = process::spawn_apart(Parentage::Mine, &mut context, child).unwrap();
        drop(blocked);
        assert_eq!(context.1, 1, "memory is shared");
        assert_eq!(shared.get()[1].load(Ordering::Relaxed), 7);
        assert_eq!(
            process::wait_pidfd(&pidfd, true).unwrap(),
            Some(process::Exit::Exited(3))
        );
    }
}
