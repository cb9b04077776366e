//! A file system whose server is this test: it answers, or it does not, as a network file system does whose server is
//! gone. Kernel: filesystems/fuse.rst, include/uapi/linux/fuse.h.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The file whose contents never come.
pub const STUCK: &str = "stuck";

const ROOT: u64 = 1;
const FILE: u64 = 2;

#[derive(Clone)]
struct Request {
    operation: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

struct Shared {
    device: File,
    /// Answer nothing at all.
    silent: AtomicBool,
    unanswered: Mutex<Vec<Request>>,
}

/// Mounted while it lives.
pub struct Fuse {
    path: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    pub fn mount(path: &Path) -> Self {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let target = CString::new(path.to_str().expect("a plain path")).expect("no null byte");
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let options = CString::new(options).expect("no null byte");
        kernel::mount::mount_filesystem(
            c"fuse",
            &target,
            kernel::mount::MountFlags::default(),
            Some(&options),
        )
        .expect("mount a FUSE file system");
        let shared = Arc::new(Shared {
            device,
            silent: AtomicBool::new(false),
            unanswered: Mutex::default(),
        });
        let server = std::thread::spawn({
            let shared = shared.clone();
            move || serve(&shared)
        });
        Self {
            path: path.to_owned(),
            shared,
            server: Some(server),
        }
    }

    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
    }

    /// Answers what was asked meanwhile, and everything from now on.
    pub fn speak_again(&self) {
        self.shared.silent.store(false, Ordering::SeqCst);
        for request in std::mem::take(&mut *self.shared.unanswered.lock().expect("whole")) {
            answer(&self.shared.device, &request);
        }
    }

    /// The server is given up: whoever waits gets an error.
    pub fn abort(&self) {
        let _ = Command::new("umount").arg("-f").arg(&self.path).status();
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.abort();
        let _ = Command::new("umount").args(["-l", "-q"]).arg(&self.path).status();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn serve(shared: &Shared) {
    let mut buffer = vec![0; 256 * 1024];
    // ENODEV: unmounted or aborted.
    while let Ok(length) = (&shared.device).read(&mut buffer) {
        let Some(request) = parse(&buffer[..length]) else {
            continue;
        };
        if shared.silent.load(Ordering::SeqCst) {
            shared.unanswered.lock().expect("whole").push(request);
        } else {
            answer(&shared.device, &request);
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Request> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
    Some(Request {
        operation: word(4)?,
        unique: long(8)?,
        node: long(16)?,
        body: bytes.get(40..)?.to_vec(),
    })
}

fn answer(device: &File, request: &Request) {
    const NOT_THERE: i32 = -2;
    const UNKNOWN: i32 = -38;
    let body = match request.operation {
        // FORGET, BATCH_FORGET and INTERRUPT take no answer; READ gets none.
        2 | 42 | 36 | 15 => return,
        // LOOKUP
        1 if request.body.starts_with(STUCK.as_bytes()) => {
            let mut entry = [FILE, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
            entry.extend(attributes(FILE));
            Ok(entry)
        }
        1 => Err(NOT_THERE),
        // GETATTR
        3 => Ok([vec![0; 16], attributes(request.node)].concat()),
        // OPEN, OPENDIR: contents are asked of the server each time
        14 | 27 => Ok([7u64.to_le_bytes(), 1u64.to_le_bytes()].concat()),
        // READDIR, FLUSH, RELEASE, RELEASEDIR, ACCESS, FSYNC
        28 | 25 | 18 | 29 | 34 | 20 => Ok(Vec::new()),
        // STATFS
        17 => Ok(vec![0; 80]),
        // INIT: version 7.31, 4 kB at a time
        26 => {
            let mut init = vec![0; 64];
            init[..4].copy_from_slice(&7u32.to_le_bytes());
            init[4..8].copy_from_slice(&31u32.to_le_bytes());
            init[16..18].copy_from_slice(&12u16.to_le_bytes());
            init[18..20].copy_from_slice(&9u16.to_le_bytes());
            init[20..24].copy_from_slice(&4096u32.to_le_bytes());
            init[24..28].copy_from_slice(&1u32.to_le_bytes());
            Ok(init)
        }
        _ => Err(UNKNOWN),
    };
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(error) => (error, Vec::new()),
    };
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_le_bytes());
    message.extend(i32::to_le_bytes(error));
    message.extend(request.unique.to_le_bytes());
    message.extend(body);
    // ENOENT: whoever asked was killed.
    let _ = (&*device).write(&message);
}

/// struct fuse_attr
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = match node {
        ROOT => (0o040_755u32, 0u64),
        _ => (0o100_644, 1 << 20),
    };
    let mut bytes = [node, size, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
    // Nanoseconds of three times, mode, links, owner, group, device, block size, flags.
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes);
    bytes.extend(words.concat());
    bytes
}
