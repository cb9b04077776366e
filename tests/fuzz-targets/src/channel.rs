//! What agent, launcher and a container's init say to each other. They are one program, but an init shares a kernel with
//! hostile code.
//!
//! Rules: what is decoded encodes to something that decodes to the same; a plan and a fault can be printed; a request is
//! taken only with as many descriptors as it names.

use std::os::fd::{AsFd, BorrowedFd};

use container::CloneKind;
use container::channel::{decode_plan, decode_report, encode_plan};
use kernel::socket::{self, Kind};

/// Bodies of plans and reports.
pub fn run(data: &[u8]) {
    let (kind, body) = crate::choice(data);
    if kind % 2 == 0 {
        let Some(report) = decode_report(body) else { return };
        let fault = report.into_fault();
        let _ = fault.to_string();
        return;
    }
    let Some(plan) = decode_plan(body) else { return };
    let _ = plan.to_string();
    let encoded = encode_plan(&plan);
    assert_eq!(decode_plan(&encoded[4..]), Some(plan));
}

/// Requests for a clone, over a real socket: the first byte is the number of descriptors that travel along.
pub fn request(data: &[u8]) {
    let (count, bytes) = crate::choice(data);
    let count = usize::from(count) % (socket::FDS_MAX + 1);
    if bytes.is_empty() || bytes.len() > 4096 {
        return;
    }
    let (agent, launcher) = socket::pair(Kind::SeqPacket).expect("a pair of sockets");
    let fds: Vec<BorrowedFd<'_>> = vec![agent.as_fd(); count];
    socket::send(agent.as_fd(), bytes, &fds).expect("room for one message");
    let Ok(Some(request)) = container::receive_request(launcher.as_fd()) else {
        return;
    };
    let optional = [
        &request.fds.stdin,
        &request.fds.stdout,
        &request.fds.stderr,
        &request.fds.keep_stdout,
        &request.fds.keep_stderr,
        &request.fds.status,
        &request.fds.cgroup,
        &request.fds.netns,
        &request.fds.target,
    ];
    let given = 1 + request.fds.cgroup_procs.len() + optional.iter().filter(|fd| fd.is_some()).count();
    assert_eq!(given, count);
    assert!(request.kind == CloneKind::Init || request.fds.target.is_some());
}
