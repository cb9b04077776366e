//! The conversation between the agent and one child, over a stream socket.
//!
//! ```text
//! agent -> child   length (u32, little endian), plan (postcard); one byte GATE_OPEN
//! child -> agent   length (u32, little endian), Report (postcard), maybe one descriptor; each in one
//!                  sendmsg
//! ```
//! The agent may write the gate byte at any time after the plan, also before the child has read it.
//! End of file before the gate byte: the child ends and nothing has run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use kernel::Errno;
use kernel::socket::{self, Kind, Receive};
use model::{Fault, FaultKind};
use serde::{Deserialize, Serialize};

use crate::plan::ChildPlan;

/// Lets the command run.
pub const GATE_OPEN: u8 = b'G';

/// The longest plan: argument and environment strings of one exec may be 2 MiB on Linux with the
/// usual stack limit; above this a spec is a mistake.
pub const PLAN_BYTES_MAX: usize = 2 << 20;

/// Two paths and a sentence.
const REPORT_BYTES_MAX: usize = 16 << 10;
const LENGTH_BYTES: usize = 4;

/// Name of the step that becomes 126 or 127 as in a shell.
pub(crate) const STEP_EXECUTE: &str = "execute";

/// Status of a container whose launch failed in a step of ours.
pub(crate) const FAILED_STATUS: i32 = 125;

/// 127: there is no such command; 126: it can not be executed; else [`FAILED_STATUS`].
pub(crate) fn failure_status(step: &str, errno: Errno) -> i32 {
    match errno {
        _ if step != STEP_EXECUTE => FAILED_STATUS,
        Errno::ENOENT | Errno::ENOTDIR => 127,
        _ => 126,
    }
}

/// What a child says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// All steps are done; waiting at the gate. Left out when the gate is already open.
    Ready,
    /// The master of the terminal travels with it.
    Pty,
    /// Exec: the process is the agent's child now, its pidfd travels with it. The agent must reap it, also
    /// when `Failed` follows: an unreaped process keeps the container's init from ending.
    Process { pid: i32 },
    /// The command's program is running.
    Started,
    /// What the container's directories take on the disk.
    Measured {
        bytes: u64,
        files: u64,
        directories: u64,
    },
    Failed {
        step: String,
        path: Option<PathBuf>,
        errno: i32,
        message: String,
    },
}

impl Report {
    /// A failure as the person who asked for the launch sees it.
    pub fn into_fault(self) -> Fault {
        let Self::Failed {
            step,
            path,
            errno,
            message,
        } = self
        else {
            return Fault::failed(format!("unexpected report {self:?}"));
        };
        let mut text = step.clone();
        if let Some(path) = &path {
            text.push_str(&format!(" {}", path.display()));
        }
        if !message.is_empty() {
            text.push_str(&format!(": {message}"));
        }
        if errno != 0 {
            text.push_str(&format!(": {}", Errno::from_raw(errno).desc().to_lowercase()));
        }
        let kind = match failure_status(&step, Errno::from_raw(errno)) {
            127 => FaultKind::CommandNotFound,
            126 => FaultKind::CommandNotExecutable,
            _ => FaultKind::Failed,
        };
        let fault = Fault::new(kind, text);
        match Errno::from_raw(errno) {
            Errno::EAGAIN if step.starts_with(CLONE_STEP) => {
                let remedy =
                    "there is no room for another process: raise --pids, or the limit of a group above";
                fault.remedy(remedy)
            }
            _ => fault,
        }
    }
}

/// How the steps begin that make a process.
const CLONE_STEP: &str = "clone";

/// What the agent writes into the channel: the plan with its length in front.
pub fn encode_plan(plan: &ChildPlan) -> Vec<u8> {
    // Serialising plain data into memory cannot fail.
    let body = postcard::to_allocvec(plan).unwrap_or_default();
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// A channel with the encoded plan already in it: the agent's end (non-blocking) and the child's.
pub fn open(encoded_plan: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    if encoded_plan.len() > PLAN_BYTES_MAX {
        return Err(Errno::E2BIG.into());
    }
    let (agent, child) = socket::pair(Kind::Stream)?;
    // The kernel counts its own bookkeeping too: a quarter more, and the default is enough for most.
    if encoded_plan.len() > 64 << 10 {
        socket::reserve_send_buffer(agent.as_fd(), encoded_plan.len() * 2);
    }
    socket::set_nonblocking(agent.as_fd())?;
    let mut rest = encoded_plan;
    while !rest.is_empty() {
        let sent = socket::send(agent.as_fd(), rest, &[])?;
        rest = &rest[sent..];
    }
    Ok((agent, child))
}

/// Opens the gate.
pub fn open_gate(channel: BorrowedFd<'_>) -> io::Result<()> {
    socket::send(channel, &[GATE_OPEN], &[]).map(drop)
}

/// The next report with its descriptor. `None`: the child has closed its end. `WouldBlock` when
/// nothing is there yet and the descriptor is non-blocking.
pub fn receive_report(channel: BorrowedFd<'_>) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; LENGTH_BYTES];
    let mut fds = Vec::new();
    match socket::receive(channel, &mut head, &mut fds, Receive::Peek) {
        Ok(0) => return Ok(None),
        Ok(LENGTH_BYTES) => {}
        Ok(_) => return Err(malformed("cut report")),
        // The child ended with our gate byte unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > REPORT_BYTES_MAX {
        return Err(malformed("report too long"));
    }
    let mut frame = vec![0; LENGTH_BYTES + length];
    let count = socket::receive(channel, &mut frame, &mut fds, Receive::Take)?;
    if count != frame.len() {
        return Err(malformed("cut report"));
    }
    let report = decode_report(&frame[LENGTH_BYTES..]).ok_or_else(|| malformed("malformed report"))?;
    Ok(Some((report, fds.pop())))
}

/// A report without its length.
pub fn decode_report(body: &[u8]) -> Option<Report> {
    postcard::from_bytes(body).ok()
}

pub(crate) fn send_report(
    channel: BorrowedFd<'_>,
    report: &Report,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let body = postcard::to_allocvec(report).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    socket::send(channel, &frame, fd.as_slice()).map(drop)
}

/// Child's side: reads the plan; `None` when the agent went away first.
pub(crate) fn receive_plan(channel: BorrowedFd<'_>) -> io::Result<Option<ChildPlan>> {
    let mut head = [0; LENGTH_BYTES];
    if !read_exact(channel, &mut head)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > PLAN_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    if !read_exact(channel, &mut body)? {
        return Ok(None);
    }
    decode_plan(&body)
        .map(Some)
        .ok_or(io::ErrorKind::InvalidData.into())
}

/// A plan as [`encode_plan`] writes it, without its length.
pub fn decode_plan(body: &[u8]) -> Option<ChildPlan> {
    postcard::from_bytes(body).ok()
}

fn read_exact(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = 0;
    while at < buffer.len() {
        match socket::receive(channel, &mut buffer[at..], &mut Vec::new(), Receive::Take)? {
            0 => return Ok(false),
            count => at += count,
        }
    }
    Ok(true)
}

/// State of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed,
    /// The agent is gone: nothing may run.
    Gone,
}

/// Looks at the gate, or with `wait` waits until it opens or the agent is gone.
pub(crate) fn gate(channel: BorrowedFd<'_>, wait: bool) -> Gate {
    let how = if wait { Receive::Take } else { Receive::TakeNow };
    let mut byte = [0];
    match socket::receive(channel, &mut byte, &mut Vec::new(), how) {
        Ok(1) if byte[0] == GATE_OPEN => Gate::Open,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Gate::Closed,
        _ => Gate::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_keep_their_boundaries_and_descriptors() {
        let (agent, child) = open(&[]).unwrap();
        assert_eq!(
            receive_report(agent.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let failed = Report::Failed {
            step: "mount".into(),
            path: Some("/x".into()),
            errno: libc_enoent(),
            message: String::new(),
        };
        for report in [&Report::Ready, &failed] {
            send_report(child.as_fd(), report, None).unwrap();
        }
        send_report(child.as_fd(), &Report::Process { pid: 7 }, Some(child.as_fd())).unwrap();
        send_report(child.as_fd(), &Report::Started, None).unwrap();
        drop(child);
        let next = || receive_report(agent.as_fd()).unwrap();
        assert_eq!(next().unwrap().0, Report::Ready);
        assert_eq!(next().unwrap().0, failed);
        let (report, fd) = next().unwrap();
        assert!(report == Report::Process { pid: 7 } && fd.is_some());
        drop(fd);
        assert_eq!(next().unwrap().0, Report::Started);
        assert!(next().is_none());
    }

    fn libc_enoent() -> i32 {
        Errno::ENOENT as i32
    }

    #[test]
    fn failures_to_execute_have_a_shells_meaning() {
        let fault = |step: &str, errno: Errno| {
            Report::Failed {
                step: step.into(),
                path: Some("/bin/x".into()),
                errno: errno as i32,
                message: String::new(),
            }
            .into_fault()
        };
        assert_eq!(
            fault(STEP_EXECUTE, Errno::ENOENT).kind,
            FaultKind::CommandNotFound
        );
        assert_eq!(
            fault(STEP_EXECUTE, Errno::EACCES).kind,
            FaultKind::CommandNotExecutable
        );
        let other = fault("attach volume", Errno::ENOENT);
        assert_eq!(other.kind, FaultKind::Failed);
        assert_eq!(other.message, "attach volume /bin/x: no such file or directory");
    }

    #[test]
    fn the_gate_tells_open_closed_and_gone_apart() {
        let (agent, child) = open(&[]).unwrap();
        assert_eq!(gate(child.as_fd(), false), Gate::Closed);
        open_gate(agent.as_fd()).unwrap();
        assert_eq!(gate(child.as_fd(), true), Gate::Open);
        drop(agent);
        assert_eq!(gate(child.as_fd(), true), Gate::Gone);
    }
}
