//! One container as the core remembers it.

use model::{
    ContainerState, ContainerStatus, Fault, LaunchSpec, Limitation, Limits, Millis, ProcessIdentity, Reason,
    Termination,
};

use crate::input::{EndReport, Ticket};

/// Where a container is, and what is being waited for.
///
/// ```text
/// Preparing → Forking → Checkpointing → Starting → Running → Dying → Cleaning ⟲ → Over
///     │ fails    │ fails      │ fails       │ fails              ▲       ▲
///     └──────────┼────────────┼─────────────┼──── nothing forked ┼───────┘
///                └────────────┴─────────────┴─── kill everything ┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Preparing,
    Forking,
    Checkpointing,
    Starting,
    Running,
    /// The init is told to end or is being killed; its exit is awaited.
    Dying,
    /// No process is left; the rest is being taken down. A retry is due at the container's deadline.
    Cleaning,
    Over,
}

/// What the container's one timer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Ran for its allowed time.
    Timeout,
    /// Grace is over, or the last kill did not help: kill everything (again).
    KillAll,
    /// Try the cleanup again.
    RetryCleanup,
    /// The command should have been started by now.
    StartOverdue,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub spec: LaunchSpec,
    pub status: ContainerStatus,
    pub phase: Phase,
    pub identity: Option<ProcessIdentity>,
    pub alarm: Option<(Millis, Alarm)>,
    pub launcher: Option<Ticket>,
    pub waiters: Vec<Ticket>,
    /// Why it has to go, if it was decided: first decision wins.
    pub doom: Option<Doom>,
    pub end: Option<EndReport>,
    pub limitation: Option<Limitation>,
    /// A live update on its way: who asked, the limits to be, and whether they are in the kernel already.
    pub update: Option<PendingUpdate>,
    pub cleanup_attempts: u32,
    /// Times that everything in it was killed.
    pub kill_attempts: u32,
    /// Checkpoints and updates of limits that are being written. Cleaning up waits for them: what is written
    /// afterwards would stay behind.
    pub writing: u32,
    /// Whoever asked for the graceful kill that is being checkpointed.
    pub killers: Vec<Ticket>,
    /// That it is to be killed has been given to be written down: a successor will not call it lost.
    pub kill_noted: bool,
    /// Everything in it is killed as soon as that is written.
    pub kill_waits: bool,
    /// When it is no longer waited for.
    pub kill_due: Option<Millis>,
    /// Last plain signal delivered by request, to tell a wanted death from an unwanted one.
    pub delivered: Option<i32>,
}

#[derive(Debug, Clone)]
pub(crate) struct PendingUpdate {
    pub ticket: Ticket,
    pub new: Limits,
    pub applied: bool,
}

/// A decision that the container has to end.
#[derive(Debug, Clone)]
pub(crate) enum Doom {
    Killed,
    Timeout,
    Limit,
    Failed(Fault),
    /// It ended while no agent was there, and left no record.
    Lost,
}

/// How a container ended, to be written down where a successor looks.
#[derive(Debug, Clone)]
pub struct Ending(pub(crate) Container);

impl Ending {
    /// What will be told, if this is what its groups said at the last and `wall_ms` the time.
    pub fn termination(mut self, limitation: Option<Limitation>, wall_ms: u64) -> Termination {
        self.0.limit(limitation);
        self.0.termination(wall_ms)
    }
}

impl Container {
    /// A limit that was found to have been hit when all was over.
    pub fn limit(&mut self, limitation: Option<Limitation>) {
        if self.limitation.is_none() && !matches!(self.doom, Some(Doom::Failed(_))) {
            self.limitation = limitation;
        }
    }

    pub fn termination(&self, wall_ms: u64) -> Termination {
        let end = self.end.unwrap_or(EndReport::UNRECORDED);
        let (exit_status, signal) = match (end.exit_code, end.signal) {
            (Some(code), _) => (code & 0xff, None),
            (None, Some(signal)) => (128 + signal, Some(signal)),
            (None, None) => (128 + SIGKILL, Some(SIGKILL)),
        };
        let mut termination = Termination {
            exit_status,
            signal,
            reason: Reason::Exited,
            message: String::new(),
            limitation: self.limitation.clone(),
            finished_at_ms: wall_ms,
        };
        match (&self.doom, &self.limitation) {
            (Some(Doom::Failed(fault)), _) => {
                termination.exit_status = launch_failure_status(fault);
                termination.signal = None;
                termination.reason = Reason::LaunchFailed;
                termination.message = fault.to_string();
            }
            (_, Some(limitation)) => {
                termination.exit_status = 128 + SIGKILL;
                termination.signal = Some(SIGKILL);
                termination.reason = limitation.reason;
                termination.message = limitation.message.clone();
            }
            (Some(Doom::Timeout), _) => {
                termination.reason = Reason::Timeout;
                let allowed = self.spec.timeout.unwrap_or_default();
                termination.message = format!("ran for its timeout of {allowed}");
            }
            (Some(Doom::Killed), _) => {
                termination.reason = Reason::Killed;
                termination.message = "killed on request".into();
            }
            (Some(Doom::Lost), _) => {
                termination.reason = Reason::Lost;
                termination.message = "ended while no agent was there to see how".into();
            }
            (Some(Doom::Limit) | None, None) => match (end.exit_code, signal) {
                (Some(code), _) => termination.message = format!("exited with status {code}"),
                (None, Some(signal)) if self.delivered == Some(signal) => {
                    termination.reason = Reason::Killed;
                    termination.message = format!("killed on request by signal {signal}");
                }
                (None, Some(signal)) => {
                    termination.reason = Reason::Signaled;
                    termination.message = format!("killed by signal {signal}");
                }
                (None, None) => {}
            },
        }
        termination
    }

    /// What it was before anything happened to it.
    pub fn new(status: ContainerStatus, spec: LaunchSpec, phase: Phase) -> Self {
        Self {
            spec,
            status,
            phase,
            identity: None,
            alarm: None,
            launcher: None,
            waiters: Vec::new(),
            doom: None,
            end: None,
            limitation: None,
            update: None,
            cleanup_attempts: 0,
            kill_attempts: 0,
            writing: 0,
            killers: Vec::new(),
            kill_noted: false,
            kill_waits: false,
            kill_due: None,
            delivered: None,
        }
    }

    /// Why it is being taken down, if somebody decided so.
    pub fn killing(&self) -> Option<Reason> {
        match self.doom.as_ref()? {
            Doom::Killed => Some(Reason::Killed),
            Doom::Timeout => Some(Reason::Timeout),
            Doom::Limit => self.limitation.as_ref().map(|l| l.reason),
            Doom::Failed(_) => Some(Reason::LaunchFailed),
            Doom::Lost => Some(Reason::Lost),
        }
    }

    /// Its directories go with it: as asked for, or because a command that never ran left nothing worth keeping.
    pub fn leaves_nothing(&self) -> bool {
        self.spec.remove || self.has_failed()
    }

    /// Its launch did: nobody was promised anything.
    pub fn has_failed(&self) -> bool {
        matches!(self.doom, Some(Doom::Failed(_)))
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The first decision to end it stands; later ones do not rewrite the reason.
    pub fn doom(&mut self, doom: Doom) {
        self.doom.get_or_insert(doom);
        if self.status.state < ContainerState::Killing {
            self.status.state = ContainerState::Killing;
        }
    }
}

pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

/// 126 and 127 as shells have it; 125 for every failure of our own.
fn launch_failure_status(fault: &Fault) -> i32 {
    match fault.kind {
        model::FaultKind::CommandNotFound => 127,
        model::FaultKind::CommandNotExecutable => 126,
        _ => 125,
    }
}
