//! The message that asks the launcher for a clone, and its answer.
//!
//! ```text
//! request   magic, version, kind, namespaces, then one role byte per descriptor that travels with it
//! reply     pid (i32), errno (i32), and the pidfd when errno is 0
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::socket::{self, Receive};

const MAGIC: u8 = 0xb7;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 4;
const REQUEST_BYTES_MAX: usize = HEADER_BYTES + socket::FDS_MAX;
const REPLY_BYTES: usize = 8;

/// What the clone becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneKind {
    /// Pid 1 of a new container.
    Init,
    /// A further process in the container whose init is `ChildFds::target`.
    Exec,
    /// Measures the directories `ChildFds::trees`, in the container's groups and outside its namespaces.
    Measure,
}

/// Namespaces beyond those that every container has (pid, mount, uts, ipc, cgroup).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Init: a new network namespace, made at clone (300 us and more; `ChildFds::netns` from a pool
    /// is cheaper). Exec: the container has one of its own, join it.
    pub net: bool,
}

/// What the child is given. All are copies once the request is sent.
#[derive(Debug)]
pub struct ChildFds {
    pub channel: OwnedFd,
    /// Absent: the command reads end of file.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Read ends that the init keeps open, so that output survives the agent's absence.
    pub keep_stdout: Option<OwnedFd>,
    pub keep_stderr: Option<OwnedFd>,
    /// File for the wait status record.
    pub status: Option<OwnedFd>,
    /// Directory in the v2 tree to be born in.
    pub cgroup: Option<OwnedFd>,
    /// `cgroup.procs` of v1 groups, open for writing.
    pub cgroup_procs: Vec<OwnedFd>,
    pub netns: Option<OwnedFd>,
    /// Pidfd of the init whose namespaces to join (exec).
    pub target: Option<OwnedFd>,
    /// Directories to measure.
    pub trees: Vec<OwnedFd>,
}

impl ChildFds {
    /// Only the channel; everything else absent.
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            stdin: None,
            stdout: None,
            stderr: None,
            keep_stdout: None,
            keep_stderr: None,
            status: None,
            cgroup: None,
            cgroup_procs: Vec::new(),
            netns: None,
            target: None,
            trees: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub struct CloneRequest {
    pub fds: ChildFds,
    pub namespaces: Namespaces,
    pub kind: CloneKind,
}

/// The launcher's answer: pid in our namespace and pidfd of our new child.
#[derive(Debug)]
pub struct CloneReply {
    pub result: Result<(i32, OwnedFd), Errno>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Role {
    Channel = 1,
    Stdin,
    Stdout,
    Stderr,
    KeepStdout,
    KeepStderr,
    Status,
    Cgroup,
    CgroupProcs,
    Netns,
    Target,
    Tree,
}

fn roles(fds: &ChildFds) -> Vec<(Role, BorrowedFd<'_>)> {
    let optional = [
        (Role::Stdin, &fds.stdin),
        (Role::Stdout, &fds.stdout),
        (Role::Stderr, &fds.stderr),
        (Role::KeepStdout, &fds.keep_stdout),
        (Role::KeepStderr, &fds.keep_stderr),
        (Role::Status, &fds.status),
        (Role::Cgroup, &fds.cgroup),
        (Role::Netns, &fds.netns),
        (Role::Target, &fds.target),
    ];
    let mut all = vec![(Role::Channel, fds.channel.as_fd())];
    all.extend(
        optional
            .into_iter()
            .filter_map(|(role, fd)| Some((role, fd.as_ref()?.as_fd()))),
    );
    all.extend(fds.trees.iter().map(|fd| (Role::Tree, fd.as_fd())));
    all.extend(fds.cgroup_procs.iter().map(|fd| (Role::CgroupProcs, fd.as_fd())));
    all
}

/// Sends one request. On a non-blocking socket `WouldBlock` means: nothing was sent, try again.
pub fn send_request(socket: BorrowedFd<'_>, request: &CloneRequest) -> io::Result<()> {
    let roles = roles(&request.fds);
    let kind = match request.kind {
        CloneKind::Init => 1,
        CloneKind::Exec => 2,
        CloneKind::Measure => 3,
    };
    let mut bytes = vec![MAGIC, VERSION, kind, u8::from(request.namespaces.net)];
    bytes.extend(roles.iter().map(|(role, _)| *role as u8));
    let fds: Vec<BorrowedFd<'_>> = roles.iter().map(|(_, fd)| *fd).collect();
    socket::send(socket, &bytes, &fds).map(drop)
}

/// The launcher's side. `Ok(None)`: the agent is gone. A malformed request is `InvalidData`, and the
/// connection goes on.
pub fn receive_request(socket: BorrowedFd<'_>) -> io::Result<Option<CloneRequest>> {
    let mut bytes = [0; REQUEST_BYTES_MAX];
    let mut fds = Vec::new();
    let count = socket::receive(socket, &mut bytes, &mut fds, Receive::Take)?;
    if count == 0 {
        return Ok(None);
    }
    parse_request(&bytes[..count], fds)
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed clone request"))
}

fn parse_request(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<CloneRequest> {
    let (header, roles) = bytes.split_at_checked(HEADER_BYTES)?;
    if header[..2] != [MAGIC, VERSION] || roles.len() != fds.len() {
        return None;
    }
    let kind = match header[2] {
        1 => CloneKind::Init,
        2 => CloneKind::Exec,
        3 => CloneKind::Measure,
        _ => return None,
    };
    let mut fds = fds.into_iter();
    let mut roles = roles.iter();
    if *roles.next()? != Role::Channel as u8 {
        return None;
    }
    let mut child = ChildFds::new(fds.next()?);
    for (role, fd) in roles.zip(fds) {
        let slot = match *role {
            role if role == Role::CgroupProcs as u8 => {
                child.cgroup_procs.push(fd);
                continue;
            }
            role if role == Role::Tree as u8 => {
                child.trees.push(fd);
                continue;
            }
            role => child.slot(role)?,
        };
        if slot.replace(fd).is_some() {
            return None;
        }
    }
    if kind == CloneKind::Exec && child.target.is_none() {
        return None;
    }
    Some(CloneRequest {
        fds: child,
        namespaces: Namespaces {
            net: header[3] & 1 != 0,
        },
        kind,
    })
}

impl ChildFds {
    fn slot(&mut self, role: u8) -> Option<&mut Option<OwnedFd>> {
        let slots = [
            (Role::Stdin, &mut self.stdin),
            (Role::Stdout, &mut self.stdout),
            (Role::Stderr, &mut self.stderr),
            (Role::KeepStdout, &mut self.keep_stdout),
            (Role::KeepStderr, &mut self.keep_stderr),
            (Role::Status, &mut self.status),
            (Role::Cgroup, &mut self.cgroup),
            (Role::Netns, &mut self.netns),
            (Role::Target, &mut self.target),
        ];
        slots
            .into_iter()
            .find(|(known, _)| *known as u8 == role)
            .map(|(_, slot)| slot)
    }
}

pub(crate) fn send_reply(socket: BorrowedFd<'_>, result: Result<(i32, &OwnedFd), Errno>) -> io::Result<()> {
    let (pid, errno, fds) = match &result {
        Ok((pid, pidfd)) => (*pid, 0, vec![pidfd.as_fd()]),
        Err(errno) => (0, *errno as i32, Vec::new()),
    };
    let mut bytes = [0; REPLY_BYTES];
    bytes[..4].copy_from_slice(&pid.to_le_bytes());
    bytes[4..].copy_from_slice(&errno.to_le_bytes());
    socket::send(socket, &bytes, &fds).map(drop)
}

/// One reply per request, in order. `WouldBlock` on a non-blocking socket; `UnexpectedEof` when the
/// launcher is gone.
pub fn receive_reply(socket: BorrowedFd<'_>) -> io::Result<CloneReply> {
    let mut bytes = [0; REPLY_BYTES];
    let mut fds = Vec::new();
    let count = socket::receive(socket, &mut bytes, &mut fds, Receive::Take)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (pid, errno) = (word(0), word(4));
    match (count, errno, fds.pop()) {
        (REPLY_BYTES, 0, Some(pidfd)) => Ok(CloneReply {
            result: Ok((pid, pidfd)),
        }),
        (REPLY_BYTES, 1.., None) => Ok(CloneReply {
            result: Err(Errno::from_raw(errno)),
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "malformed reply of the launcher",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::socket::Kind;

    fn some_fd() -> OwnedFd {
        socket::pair(Kind::Stream).unwrap().0
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let (agent, launcher) = socket::pair(Kind::SeqPacket).unwrap();
        let mut fds = ChildFds::new(some_fd());
        fds.stdout = Some(some_fd());
        fds.cgroup_procs = vec![some_fd(), some_fd()];
        fds.netns = Some(some_fd());
        let request = CloneRequest {
            fds,
            namespaces: Namespaces { net: true },
            kind: CloneKind::Init,
        };
        send_request(agent.as_fd(), &request).unwrap();
        let got = receive_request(launcher.as_fd()).unwrap().unwrap();
        assert_eq!(got.kind, CloneKind::Init);
        assert!(got.namespaces.net && got.fds.stdin.is_none() && got.fds.stdout.is_some());
        assert_eq!((got.fds.cgroup_procs.len(), got.fds.netns.is_some()), (2, true));
        drop(agent);
        assert!(receive_request(launcher.as_fd()).unwrap().is_none());
    }

    #[test]
    fn malformed_requests_are_refused() {
        let bad: [(&[u8], usize); 6] = [
            (&[], 0),
            (&[MAGIC, VERSION, 1, 0], 0),
            (&[MAGIC, VERSION, 9, 0, 1], 1),
            (&[MAGIC, VERSION, 1, 0, 2], 1),
            (&[MAGIC, VERSION, 1, 0, 1, 2, 2], 3),
            (&[MAGIC, VERSION, 2, 0, 1], 1),
        ];
        for (bytes, count) in bad {
            let fds = (0..count).map(|_| some_fd()).collect();
            assert!(parse_request(bytes, fds).is_none(), "{bytes:?}");
        }
    }
}
