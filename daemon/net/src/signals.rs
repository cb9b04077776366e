//! Signals by signalfd, ends of processes by pidfd.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::os::fd::AsFd;

use crate::source::{Interest, Source};

/// One received signal and who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedSignal {
    pub number: i32,
    pub pid: u32,
    pub uid: u32,
}

impl ReceivedSignal {
    pub fn is(&self, signal: Signal) -> bool {
        self.number == signal as i32
    }
}

/// Blocks signals in this thread and in all threads it makes from now on. Call it before the first thread is made: a
/// thread that does not block a signal may be killed by it although a signalfd waits for it.
pub fn block_signals(signals: &[Signal]) -> io::Result<()> {
    Ok(set_of(signals).thread_block()?)
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// Receives signals as events of the loop.
pub struct Signals {
    source: Source<SignalFd>,
}

impl Signals {
    /// Blocks the signals (see [`block_signals`]) and receives them from now on. They stay blocked when this is dropped;
    /// a child made by `exec` inherits that unless its maker resets the mask.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        block_signals(signals)?;
        let signal_fd =
            SignalFd::with_flags(&set_of(signals), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self {
            source: Source::new(signal_fd, Interest::Readable)?,
        })
    }

    /// The next signal. Several of one kind that came before the loop looked are one: the kernel does not count them.
    pub async fn next(&mut self) -> io::Result<ReceivedSignal> {
        let received = self
            .source
            .read_with(|signal_fd| match signal_fd.read_signal()? {
                Some(info) => Ok(info),
                None => Err(io::ErrorKind::WouldBlock.into()),
            })
            .await?;
        let number = i32::try_from(received.ssi_signo).unwrap_or_default();
        Ok(ReceivedSignal {
            number,
            pid: received.ssi_pid,
            uid: received.ssi_uid,
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitInfo {
    Exited(i32),
    Signaled {
        signal: i32,
        core_dumped: bool,
    },
    /// It is over, but it is not our child or somebody else has reaped it.
    Unknown,
}

/// Waits until the process behind the pidfd has ended, and reaps it if it is our child.
///
/// A child that somebody traces is his to reap first (ptrace(2)), and when he has done so or is gone, kernels since
/// 6.15 do not report it again: it is asked after until it is ours.
pub async fn wait_pidfd(pidfd: &Source<OwnedFd>) -> io::Result<ExitInfo> {
    let mut pause = TRACED_PAUSE;
    loop {
        if let Some(info) = pidfd.read_with(reap).await? {
            return Ok(info);
        }
        crate::sleep(pause).await;
        pause = (pause * 2).min(TRACED_PAUSE_MAX);
    }
}

const TRACED_PAUSE: Duration = Duration::from_millis(1);
const TRACED_PAUSE_MAX: Duration = Duration::from_millis(500);

/// `None`: it has ended, and can not be reaped yet.
fn reap(pidfd: &OwnedFd) -> io::Result<Option<ExitInfo>> {
    match waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    ) {
        Ok(Some(status)) => Ok(Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitInfo::Exited(code),
            (None, Some(signal)) => ExitInfo::Signaled {
                signal,
                core_dumped: status.dumped(),
            },
            (None, None) => ExitInfo::Unknown,
        })),
        Ok(None) => {
            let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ended, PollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(None),
            }
        }
        Err(Errno::CHILD) => Ok(Some(ExitInfo::Unknown)),
        Err(errno) => Err(errno.into()),
    }
}
