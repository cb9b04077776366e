//! bpf(2): load a program, attach it to a group. No CAP_SYS_RESOURCE: our programs are small enough for
//! the default memory lock limit where the kernel still counts it (before 5.11).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::device::{self, DeviceRule, RULES_MAX};
use crate::instruction::Instruction;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of parents and children all run and all must agree; nobody else's attachment is replaced.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("load a device program of {instructions} instructions{log}")]
    Load {
        instructions: usize,
        log: String,
        source: io::Error,
    },
    #[error("attach a device program to a control group")]
    Attach { source: io::Error },
    #[error("detach a device program from a control group")]
    Detach { source: io::Error },
    #[error("list the device programs of a control group")]
    Query { source: io::Error },
    #[error("{0} device rules, the most allowed are {RULES_MAX}")]
    TooManyRules(usize),
}

/// `union bpf_attr`, the part of BPF_PROG_LOAD that we use. The kernel takes a shorter structure than its
/// own and reads the rest as zero.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    program_flags: u32,
    name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
}

pub(crate) fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live repr(C) value of the size passed, laid out as this command's part of
    // `union bpf_attr`; pointers in it refer to buffers that the callers keep alive over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The kernel's licence check is for helpers that only GPL programs may call; ours call none.
const LICENSE: &CStr = c"Apache-2.0";

/// Room for the verifier's words about a program that it refuses.
const LOG_BYTES: usize = 16 << 10;

/// A loaded program. It stays attached to a group after this handle is closed, until the group is removed.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
}

impl Program {
    /// Loads the program that allows exactly `rules`.
    pub fn device(rules: &[DeviceRule]) -> Result<Self, BpfError> {
        if rules.len() > RULES_MAX {
            return Err(BpfError::TooManyRules(rules.len()));
        }
        let program = device::program(rules);
        match load(&program, &mut []) {
            Ok(fd) => Ok(Self { fd }),
            Err(first) => {
                // Once more with a log: it says why, and costs only on the way to an error.
                let mut log = vec![0; LOG_BYTES];
                match load(&program, &mut log) {
                    Ok(fd) => Ok(Self { fd }),
                    Err(_) => Err(BpfError::Load {
                        instructions: program.len(),
                        log: readable(&log),
                        source: first,
                    }),
                }
            }
        }
    }

    /// Attaches to a v2 group (a descriptor of its directory).
    pub fn attach(&self, group: BorrowedFd<'_>) -> Result<(), BpfError> {
        let mut attributes = self.attachment(group);
        bpf(BPF_PROG_ATTACH, &mut attributes)
            .map(drop)
            .map_err(|source| BpfError::Attach { source })
    }

    pub fn detach(&self, group: BorrowedFd<'_>) -> Result<(), BpfError> {
        let mut attributes = AttachAttributes {
            flags: 0,
            ..self.attachment(group)
        };
        bpf(BPF_PROG_DETACH, &mut attributes)
            .map(drop)
            .map_err(|source| BpfError::Detach { source })
    }

    fn attachment(&self, group: BorrowedFd<'_>) -> AttachAttributes {
        AttachAttributes {
            target: group.as_raw_fd() as u32,
            program: self.fd.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            flags: BPF_F_ALLOW_MULTI,
            replaced: 0,
        }
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn load(program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"bulkhead_nodes");
    let mut attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buffer: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kernel_version: 0,
        program_flags: 0,
        name,
        interface_index: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just returned this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn readable(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    match text.trim() {
        "" => String::new(),
        text => format!(" (verifier: {})", text.replace('\n', " | ")),
    }
}

/// Ids of the device programs attached to this very group.
pub fn attached_device_programs(group: BorrowedFd<'_>) -> Result<Vec<u32>, BpfError> {
    let mut ids = vec![0u32; 64];
    let mut attributes = QueryAttributes {
        target: group.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: ids.len() as u32,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attributes).map_err(|source| BpfError::Query { source })?;
    ids.truncate(attributes.program_count as usize);
    Ok(ids)
}
