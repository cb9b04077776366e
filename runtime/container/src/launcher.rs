//! The agent's side of the launcher: starting it. Requests and replies: [`send_request`],
//! [`receive_reply`].
//!
//! The program is a sealed memory file: nobody can overwrite it through a link in procfs, and an
//! upgrade of the binary on disk changes nothing under a running agent. The launcher ends by itself
//! when its socket is closed; it is started again with the same call when it has died, and no
//! container notices, since containers are the agent's own children.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::device;
use kernel::memfd;
use kernel::process::{self, Parentage, StringTable};
use kernel::signal;
use kernel::socket::{self, Kind};

pub use crate::request::{receive_reply, send_request};

/// Number of the socket in the launcher.
pub(crate) const SOCKET_FD: i32 = 3;

/// Memory that is free must be seen to be free, or an init can not give it back (malloc_trim(3) leaves what glibc has in its
/// caches of threads). An init has one thread and allocates next to nothing. Commands do not inherit it.
const UNCACHED_HEAP: &CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

pub struct LauncherProcess {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The agent's end, SOCK_SEQPACKET, non-blocking.
    pub socket: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("put the launcher's program into a sealed memory file")]
    Seal(#[source] io::Error),
    #[error("make the launcher's socket")]
    Socket(#[source] io::Error),
    #[error("open the null device")]
    Null(#[source] io::Error),
    #[error("clone the launcher")]
    Clone(#[source] Errno),
    #[error("execute the launcher's program")]
    Execute(#[source] Errno),
}

struct Start<'a> {
    program: BorrowedFd<'a>,
    socket: BorrowedFd<'a>,
    null: BorrowedFd<'a>,
    arguments: StringTable<'a>,
    environment: StringTable<'a>,
    failure: Option<Errno>,
}

/// Starts a launcher from the bytes of `bulkhead-init`. `instance` is shown in its arguments.
///
/// May be called from any thread of a large process: the child shares memory and is gone from it
/// before this returns.
pub fn start_launcher(program: &[u8], instance: &str) -> Result<LauncherProcess, StartError> {
    let program = memfd::sealed_program(program).map_err(StartError::Seal)?;
    let (near, far) = socket::pair(Kind::SeqPacket).map_err(StartError::Socket)?;
    socket::set_nonblocking(near.as_fd()).map_err(StartError::Socket)?;
    let null = device::open_null().map_err(|error| StartError::Null(error.into()))?;
    // Out of the way of the numbers that the child places.
    let above = |fd: &OwnedFd| process::duplicate_above(fd.as_fd(), 10).map_err(StartError::Clone);
    let (program, far, null) = (above(&program)?, above(&far)?, above(&null)?);
    let instance = std::ffi::CString::new(instance).unwrap_or_default();
    let mut start = Start {
        program: program.as_fd(),
        socket: far.as_fd(),
        null: null.as_fd(),
        arguments: StringTable::new([c"bulkhead-launcher", instance.as_c_str()]),
        environment: StringTable::new([UNCACHED_HEAP]),
        failure: None,
    };
    let blocked = signal::block_all();
    let spawned = process::spawn_suspended(Parentage::Mine, &mut start, become_launcher);
    drop(blocked);
    let (pid, pidfd) = spawned.map_err(StartError::Clone)?;
    if let Some(errno) = start.failure {
        let _ = process::wait_pidfd(&pidfd, true);
        return Err(StartError::Execute(errno));
    }
    Ok(LauncherProcess {
        pid,
        pidfd,
        socket: near,
    })
}

fn become_launcher(start: &mut Start<'_>) -> i32 {
    let placed = [0, 1, 2]
        .into_iter()
        .try_for_each(|number| process::place_fd(start.null, number))
        .and_then(|()| process::place_fd(start.socket, SOCKET_FD))
        .and_then(|()| process::new_session());
    start.failure = Some(match placed {
        Err(errno) => errno,
        // Everything else is closed on exec: the agent opens nothing otherwise, and the launcher
        // closes what it finds beyond its socket.
        Ok(()) => process::execute_fd(start.program, &start.arguments, &start.environment),
    });
    debug_assert!(start.program.as_raw_fd() > SOCKET_FD);
    1
}
