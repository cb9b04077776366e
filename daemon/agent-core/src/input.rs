//! Facts that come in, wishes that go out.

use std::path::PathBuf;

use model::{
    ContainerId, Event, ExecSpec, Fault, LaunchSpec, Limitation, Limits, Millis, ProcessIdentity, Reason,
    Removed, Termination,
};

use crate::collecting::Which;

/// The moment at which an input is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Millis,
    /// Milliseconds since the epoch; may jump. Only shown to people, never computed with.
    pub wall_ms: u64,
}

/// Names one request that waits for an answer. Given by the shell, unique while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How the init ended, as far as the shell could find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndReport {
    /// Exit code of the command, when it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended the command.
    pub signal: Option<i32>,
}

impl EndReport {
    /// The init left no record: it was killed from outside, and the command with it.
    pub const UNRECORDED: EndReport = EndReport {
        exit_code: None,
        signal: None,
    };
}

/// What one try of cleaning up came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanupOutcome {
    Done,
    /// Something is still in use; to be tried again.
    Busy {
        message: String,
    },
}

/// A container that an earlier agent left, as its checkpoint and the kernel tell.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub spec: LaunchSpec,
    pub limits: Limits,
    pub identity: Option<ProcessIdentity>,
    pub sandbox: Option<PathBuf>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    /// Somebody had decided that it has to go.
    pub killing: Option<Reason>,
    /// Its init lives. If not: how it ended.
    pub alive: Result<(), EndReport>,
}

/// A container that has ended, and been cleaned up, under an earlier agent.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub spec: LaunchSpec,
    pub limits: Limits,
    pub sandbox: Option<PathBuf>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub termination: Termination,
    /// The earlier agent died before it could tell.
    pub news: bool,
}

#[derive(Debug, Clone)]
pub enum Input {
    /// Before anything else: one container found at start.
    Adopt {
        id: ContainerId,
        found: Box<Adopted>,
    },
    /// Before anything else: one container whose end was written down. From the oldest to the latest.
    Remember {
        id: ContainerId,
        ended: Box<Remembered>,
    },
    Launch {
        ticket: Ticket,
        id: ContainerId,
        spec: Box<LaunchSpec>,
    },
    Prepared {
        id: ContainerId,
        result: Result<(), Fault>,
    },
    Forked {
        id: ContainerId,
        result: Result<ProcessIdentity, Fault>,
    },
    Checkpointed {
        id: ContainerId,
        result: Result<(), Fault>,
    },
    /// The command runs.
    Started {
        id: ContainerId,
    },
    /// A step inside the child failed; the init exits by itself.
    StartFailed {
        id: ContainerId,
        fault: Fault,
    },
    /// The init is gone, and with it the container's pid namespace.
    Exited {
        id: ContainerId,
        end: EndReport,
    },
    /// Everything was killed, and some of it has not ended.
    Unkilled {
        id: ContainerId,
        message: String,
    },
    /// It tried ports that it does not have.
    PortRefused {
        id: ContainerId,
        /// The last of them.
        port: u16,
        /// How often since the last such input.
        refused: u64,
    },
    LimitHit {
        id: ContainerId,
        limitation: Limitation,
    },
    Cleaned {
        id: ContainerId,
        outcome: CleanupOutcome,
        limitation: Option<Limitation>,
        /// The time of the end that was written down, if one was.
        ended_at_ms: Option<u64>,
    },
    /// `signal` 0: graceful (SIGTERM, grace, everything); 9: everything at once; else just delivered.
    Kill {
        ticket: Ticket,
        id: ContainerId,
        signal: i32,
        grace: Option<Millis>,
    },
    Wait {
        ticket: Ticket,
        id: ContainerId,
    },
    /// The asker is gone; its ticket must not be answered.
    Cancel {
        ticket: Ticket,
    },
    Update {
        ticket: Ticket,
        id: ContainerId,
        change: Box<Limits>,
    },
    LimitsApplied {
        id: ContainerId,
        result: Result<(), Fault>,
    },
    /// A process was started by exec (only told to subscribers).
    Execed {
        id: ContainerId,
        spec: Box<ExecSpec>,
    },
    Drain {
        ticket: Ticket,
        grace: Option<Millis>,
    },
    /// Something is on disk of a container that has ended, so long ago. `wanted`: it was to go at once.
    Leftover {
        id: ContainerId,
        age: Millis,
        wanted: bool,
    },
    /// What was in use of a leftover (its output was read) no longer is: it goes, if it has not gone.
    LeftoverFree {
        id: ContainerId,
    },
    /// How much of the work directory's file system is used, from 0 to 1.
    DiskUsed {
        used: f64,
    },
    /// What came of `RemoveLeftover`.
    Removed {
        id: ContainerId,
        result: Result<Removed, String>,
    },
    /// Remove what finished containers left.
    Collect {
        ticket: Ticket,
        which: Which,
    },
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// Make directories, cgroups, limits. Answer: `Prepared`.
    Prepare {
        id: ContainerId,
        spec: Box<LaunchSpec>,
    },
    /// Clone the init; it stops at the gate. Answer: `Forked`.
    Fork {
        id: ContainerId,
    },
    /// Write who it is, its limits and whether it is being killed to the runtime directory, in the order of
    /// these wishes. Answer: `Checkpointed`.
    Checkpoint {
        id: ContainerId,
    },
    /// Let the command run. Answer: `Started` or `StartFailed`.
    OpenGate {
        id: ContainerId,
    },
    /// Deliver to the init, which passes it on to the command.
    Signal {
        id: ContainerId,
        signal: i32,
    },
    /// Kill every process of it. Answer: `Exited`, from the init's end.
    KillAll {
        id: ContainerId,
    },
    ApplyLimits {
        id: ContainerId,
        old: Box<Limits>,
        new: Box<Limits>,
    },
    /// Take down whatever exists of it, however little. Answer: `Cleaned`.
    Cleanup {
        id: ContainerId,
        remove: bool,
    },
    /// Remove all that a finished container left on disk. Answer: `Removed`.
    RemoveLeftover {
        id: ContainerId,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    Emit(Event),
    /// Ended and no longer remembered: drop what is kept for it.
    Forget {
        id: ContainerId,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Launched {
        id: ContainerId,
        existed: bool,
    },
    Signalled,
    Ended(Termination),
    Updated(Box<Limits>),
    Drained {
        killed: u32,
    },
    /// What has gone, and what could not go.
    Collected(Vec<Removed>),
    Refused(Fault),
}
