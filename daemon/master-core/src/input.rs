//! Facts that come in, wishes that go out.

use std::sync::Arc;
use std::time::Duration;

use model::registry::{AgentId, Edit};
use model::task::{Hello, Need, Refusal, TaskId, TaskReport, TaskRequest, Welcome};
use model::{Fault, LaunchSpec, Limits, Millis};

pub use crate::registrar::{NotApplied, Token};

/// The moment at which an input is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Since some fixed start; never goes back.
    pub monotonic: Duration,
    /// Milliseconds since the epoch; may jump. Only written down and shown, never computed with.
    pub wall_ms: u64,
}

/// One attempt of an agent to come in, and the session that it becomes. Given by the shell, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// A question of somebody who waits. Given by the shell, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug, Clone)]
pub enum Input {
    /// Answer: `Welcome` or `Refuse`.
    Register {
        link: Link,
        hello: Box<Hello>,
    },
    /// Its connection is gone.
    LinkLost {
        link: Link,
    },
    /// What came of `Submit`.
    Applied {
        token: Token,
        result: Result<(), NotApplied>,
    },
    /// It answered a ping.
    Ponged {
        link: Link,
    },
    /// A ping was answered with an error, or can't be any more.
    PingFailed {
        link: Link,
    },
    /// Answered when the agent need not say it again.
    Update {
        ticket: Ticket,
        link: Link,
        report: TaskReport,
    },
    Launch {
        ticket: Ticket,
        request: TaskRequest,
    },
    /// What the agent said to `Launch`.
    Launched {
        link: Link,
        id: TaskId,
        result: Result<(), Fault>,
    },
    /// Other limits for a task that runs. Answered when its agent has them in force, and safe to ask again.
    Resize {
        ticket: Ticket,
        id: TaskId,
        change: Box<Limits>,
    },
    /// What the agent said to `Resize`; the report tells what the task takes now.
    Resized {
        link: Link,
        id: TaskId,
        result: Result<TaskReport, Fault>,
    },
    Kill {
        ticket: Ticket,
        id: TaskId,
        grace: Option<Millis>,
    },
    MarkGone {
        ticket: Ticket,
        agent: AgentId,
    },
    SetActive {
        ticket: Ticket,
        agent: AgentId,
        active: bool,
    },
    Drain {
        ticket: Ticket,
        agent: AgentId,
        grace: Option<Millis>,
        mark_gone: bool,
    },
    /// The registry forgot these.
    Pruned {
        agents: Vec<AgentId>,
    },
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// Into the registry. Answer: `Applied`.
    Submit {
        token: Token,
        edit: Edit,
    },
    Welcome {
        link: Link,
        welcome: Welcome,
    },
    /// After this nothing is said to the link.
    Refuse {
        link: Link,
        refusal: Refusal,
        fault: Fault,
    },
    /// Answer: `Launched`, or `LinkLost`.
    Launch {
        link: Link,
        id: TaskId,
        spec: Arc<LaunchSpec>,
    },
    /// So that the task takes at most that need. Answer: `Resized`, or `LinkLost`.
    Resize {
        link: Link,
        id: TaskId,
        change: Box<Limits>,
        need: Need,
    },
    /// Nobody waits for an answer: the task's status tells.
    Kill {
        link: Link,
        id: TaskId,
        grace: Option<Millis>,
    },
    /// Answer: `Ponged`, `PingFailed`, or none for as long as the agent likes.
    Ping {
        link: Link,
    },
    Shutdown {
        link: Link,
        message: String,
    },
    /// The session is over: the agent has to register again.
    Close {
        link: Link,
    },
    Answer {
        ticket: Ticket,
        result: Result<(), Fault>,
    },
    /// Somebody has to look before anything else is done.
    StepDown {
        why: String,
    },
}
