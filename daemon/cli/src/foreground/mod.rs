//! A command in the foreground, as if it were local: stdio, signals, terminal and exit status pass
//! through. Shared by `run`, `exec` and `attach`.
//!
//! ```text
//! our stdin ──thread──> pieces ──> Input ─────────> command
//! our stdout, stderr <──thread── Console <───────── command
//! our signals ──signalfd──> Target::signal ───────> command
//! ```

mod console;
mod last_output;
mod losses;
mod signals;
mod stdin;
pub(crate) mod terminal;

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use client::{Agent, Container, Endpoint, Input, OutputEnd, Process, Waiting};
use futures::future::{Either, select};
use model::{ContainerId, Fault, FaultKind, Termination};
use net::queue::{Receiver, Sender, bounded};
use net::{Notify, Pool, Signal, Signals, Task};

pub(crate) use console::Console;
pub(crate) use last_output::LastOutput;
pub(crate) use losses::Losses;
use signals::{FORWARDED, Interrupts, Pressed};
use stdin::{DetachKeys, StdinEnd};
use terminal::RawMode;

use crate::failure::Failure;
use crate::output::complain;

/// One thread is kept by stdin, one each may be kept by a slow stdout and stderr.
const THREADS: usize = 3;
/// For an agent that is being restarted while a signal waits for it.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(10);

/// What signals and terminal sizes are for.
pub(crate) enum Target {
    Container {
        endpoint: Endpoint,
        id: ContainerId,
        handle: RefCell<Container>,
    },
    Process(Process),
}

impl Target {
    pub fn container(agent: &Agent, container: &Container) -> Self {
        Self::Container {
            endpoint: agent.endpoint().clone(),
            id: container.id().clone(),
            handle: RefCell::new(container.clone()),
        }
    }

    async fn signal(&self, number: i32) -> Result<(), Fault> {
        match self {
            Self::Process(process) => process.signal(number).await,
            Self::Container { endpoint, id, handle } => {
                let container = handle.borrow().clone();
                match container.kill(number, None).await {
                    Err(fault) if fault.kind == FaultKind::Unavailable => {
                        let agent = Agent::connect_retry(endpoint, SIGNAL_PATIENCE).await?;
                        let container = agent.container(id.as_str()).await?;
                        handle.replace(container.clone());
                        container.kill(number, None).await
                    }
                    result => result,
                }
            }
        }
    }

    /// Delivers a signal. The command may be over already; then its end is on its way to us.
    async fn tell(&self, number: i32) {
        if let Err(fault) = self.signal(number).await
            && fault.kind != FaultKind::State
            && fault.kind != FaultKind::NotFound
        {
            let name = crate::parse::signal_name(number);
            complain(&format!("bulkhead: {name} was not delivered: {fault}"));
        }
    }

    async fn resize(&self) -> Result<(), Fault> {
        match self {
            Self::Process(process) => process.resize(terminal::size()).await,
            Self::Container { handle, .. } => {
                let container = handle.borrow().clone();
                container.resize(terminal::size()).await
            }
        }
    }
}

/// What the session has of the command when it begins.
pub(crate) struct Connected {
    pub target: Target,
    pub input: Option<Input>,
    pub output: Option<OutputEnd>,
    pub waiting: Waiting,
    pub last_output: LastOutput,
}

/// How the session ended.
pub(crate) enum SessionEnd {
    Command(Termination),
    Detached,
}

/// What the session does beyond passing on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionOptions {
    /// The command has a terminal: ours becomes raw, and the detach keys work.
    pub terminal: bool,
    /// Detach keys make sense: the command goes on without us.
    pub detachable: bool,
    /// Signals go to the command; otherwise SIGINT, SIGTERM and SIGHUP detach.
    pub forward_signals: bool,
}

enum Step {
    Signal(i32),
    /// The command is over; the last of its output may be still to come.
    Over,
    Ended(Result<Termination, Fault>),
    Stdin(StdinEnd),
    StdoutClosed,
}

/// Ready to be connected to a command.
pub(crate) struct Session {
    options: SessionOptions,
    pool: Pool,
    stdout_closed: Notify,
    losses: Losses,
    interrupts: Interrupts,
    /// Came before there was a command.
    early_signals: Vec<i32>,
    signals: Option<Signals>,
    inputs: (Sender<Input>, Option<Receiver<Input>>),
}

impl Session {
    pub fn new(options: SessionOptions) -> Result<Self, Failure> {
        // Before the pool: its threads must have the signals blocked too.
        let signals = Signals::new(&FORWARDED).map_err(|error| failed(&error))?;
        let pool = Pool::new(THREADS, THREADS).map_err(|error| failed(&error))?;
        let (sender, receiver) = bounded(1);
        Ok(Self {
            options,
            pool,
            stdout_closed: Notify::new(),
            losses: Losses::default(),
            interrupts: Interrupts::default(),
            early_signals: Vec::new(),
            signals: Some(signals),
            inputs: (sender, Some(receiver)),
        })
    }

    pub fn console(&self) -> Result<Console, Failure> {
        Console::new(self.pool.clone(), self.stdout_closed.clone(), self.losses.clone())
            .map_err(|error| Fault::failed(format!("duplicate stdout and stderr: {error}")).into())
    }

    /// Says at the end what output never came.
    pub fn tell_losses(&self, label: &str) {
        if let Some(line) = self.losses.summary(label) {
            complain(&line);
        }
    }

    /// Where a new stdin of the command goes after an agent restart.
    pub fn inputs(&self) -> Sender<Input> {
        self.inputs.0.clone()
    }

    /// Waits for the start. Signals are kept for the command; a second Ctrl-C or SIGTERM gives up.
    pub async fn while_starting<T>(
        &mut self,
        start: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Failure> {
        let mut start = pin!(start);
        loop {
            let Some(signals) = &mut self.signals else {
                return Ok(start.await?);
            };
            let number = match select(start.as_mut(), pin!(signals.next())).await {
                Either::Left((started, _)) => return Ok(started?),
                Either::Right((Ok(signal), _)) => signal.number,
                Either::Right((Err(error), _)) => return Err(failed(&error)),
            };
            if number == Signal::SIGWINCH as i32 {
                continue;
            }
            if matches!(self.early_signals.last(), Some(2 | 15)) && matches!(number, 2 | 15) {
                return Err(Failure::Status(128 + number as u8));
            }
            self.early_signals.push(number);
        }
    }

    /// Passes everything through until the command ends. `resume` goes on after the agent went away.
    pub async fn conduct<R>(&mut self, connected: Connected, resume: Option<R>) -> Result<SessionEnd, Failure>
    where
        R: Future<Output = Result<Termination, Fault>> + 'static,
    {
        let target = Rc::new(connected.target);
        // Without an input the keys are not read, and raw ones would be lost: Ctrl-C too.
        let reads_keys = self.options.terminal && connected.input.is_some();
        let raw = if reads_keys && io::stdin().is_terminal() {
            Some(RawMode::enter().map_err(|error| Fault::failed(format!("make the terminal raw: {error}")))?)
        } else {
            None
        };
        let (steps, mut next) = bounded(8);
        let ending = Ending {
            output: connected.output,
            waiting: connected.waiting,
            last_output: connected.last_output,
        };
        let _tasks = self.start_tasks(&steps, connected.input, ending, resume).await;
        let mut over = false;
        for number in std::mem::take(&mut self.early_signals) {
            self.deliver(&target, number)?;
        }
        while let Some(step) = next.pop().await {
            match step {
                Step::Ended(ended) => {
                    drop(raw);
                    return Ok(SessionEnd::Command(ended?));
                }
                Step::Stdin(StdinEnd::Detached) => {
                    drop(raw);
                    return Ok(SessionEnd::Detached);
                }
                Step::Stdin(StdinEnd::Finished) => {}
                Step::Over => over = true,
                Step::Signal(number) if self.detaches(number) => return Ok(SessionEnd::Detached),
                // Only our own reader is waited for, and the signal can mean nobody but us.
                Step::Signal(number) if over && signals::ENDING.contains(&number) => {
                    return Err(Failure::Status(128 + number as u8));
                }
                Step::Signal(number) => self.deliver(&target, number)?,
                // What a local command gets when it writes to a closed pipe.
                Step::StdoutClosed if self.options.forward_signals => {
                    self.deliver(&target, Signal::SIGPIPE as i32)?;
                }
                Step::StdoutClosed => return Err(Failure::OutputClosed),
            }
        }
        Err(Fault::failed("the session ended early").into())
    }

    fn detaches(&self, number: i32) -> bool {
        !self.options.forward_signals && number != Signal::SIGWINCH as i32
    }

    /// Sends a signal on, without waiting for the answer: an agent that hangs must not keep us from
    /// noticing the next one.
    fn deliver(&mut self, target: &Rc<Target>, number: i32) -> Result<(), Failure> {
        let mut number = number;
        if number == Signal::SIGINT as i32 {
            match self.interrupts.note(net::now()) {
                Pressed::Once => {}
                Pressed::Again if io::stderr().is_terminal() => {
                    complain("bulkhead: once more within 2 s kills it");
                }
                Pressed::Again => {}
                Pressed::Enough => number = Signal::SIGKILL as i32,
                Pressed::Hopeless => {
                    complain("bulkhead: the agent does not end it; gave up waiting");
                    return Err(Failure::Status(128 + Signal::SIGINT as u8));
                }
            }
        }
        let (target, terminal) = (Rc::clone(target), self.options.terminal);
        net::spawn(async move {
            if number != Signal::SIGWINCH as i32 {
                target.tell(number).await;
            } else if terminal {
                // Not being able to is no reason to stop.
                let _ = target.resize().await;
            }
        })
        .detach();
        Ok(())
    }

    async fn start_tasks<R>(
        &mut self,
        steps: &Sender<Step>,
        input: Option<Input>,
        ending: Ending,
        resume: Option<R>,
    ) -> Vec<Task<()>>
    where
        R: Future<Output = Result<Termination, Fault>> + 'static,
    {
        let mut tasks = vec![net::spawn(until_the_end(steps.clone(), ending, resume))];
        if let Some(signals) = self.signals.take() {
            tasks.push(net::spawn(pass_signals(signals, steps.clone())));
        }
        let (closed, closed_steps) = (self.stdout_closed.clone(), steps.clone());
        tasks.push(net::spawn(async move {
            closed.wait().await;
            // Fails when the session is over.
            let _ = closed_steps.push(Step::StdoutClosed).await;
        }));
        if let (Some(input), Some(inputs)) = (input, self.inputs.1.take()) {
            // There is room: nothing was pushed before.
            let _ = self.inputs.0.push(input).await;
            let keys = (self.options.terminal && self.options.detachable).then(DetachKeys::default);
            let (sender, pieces) = stdin::pieces();
            tasks.push(net::spawn(stdin::read(self.pool.clone(), sender)));
            let steps = steps.clone();
            tasks.push(net::spawn(async move {
                let end = stdin::send(pieces, inputs, keys).await;
                let _ = steps.push(Step::Stdin(end)).await;
            }));
        }
        tasks
    }
}

fn failed(error: &io::Error) -> Failure {
    Fault::from_error(FaultKind::Failed, error).into()
}

async fn pass_signals(mut signals: Signals, steps: Sender<Step>) {
    while let Ok(signal) = signals.next().await {
        if steps.push(Step::Signal(signal.number)).await.is_err() {
            return;
        }
    }
}

/// What the end of a command is known by.
struct Ending {
    output: Option<OutputEnd>,
    waiting: Waiting,
    last_output: LastOutput,
}

/// The end of the command, after the last of its output.
async fn until_the_end<R>(steps: Sender<Step>, ending: Ending, resume: Option<R>)
where
    R: Future<Output = Result<Termination, Fault>>,
{
    let ended = match (ending.waiting.await, resume) {
        (Err(fault), Some(resume)) if fault.kind == FaultKind::Unavailable => {
            drop(ending.output);
            resume.await
        }
        (Ok(termination), _) => {
            let _ = steps.push(Step::Over).await;
            let taken = ending.last_output.take(ending.output).await;
            taken.map(|()| termination)
        }
        (Err(fault), _) => Err(fault),
    };
    // Fails when the session is over.
    let _ = steps.push(Step::Ended(ended)).await;
}

/// What a person should know of an end that was not the command's own, in one line.
pub(crate) fn end_notice(label: &str, end: &Termination) -> Option<String> {
    use model::Reason;
    let told = |fallback: &str| {
        if end.message.is_empty() {
            fallback.to_owned()
        } else {
            end.message.clone()
        }
    };
    let text = match (&end.limitation, end.reason) {
        (Some(limitation), _) => match (limitation.reason, limitation.limit) {
            (Reason::MemoryLimit, Some(limit)) => {
                let peak = limitation
                    .peak
                    .map(|peak| format!(" (peak {peak})"))
                    .unwrap_or_default();
                format!("was killed: memory limit {limit} reached{peak}")
            }
            _ => format!("was killed: {}", limitation.message),
        },
        (None, Reason::MemoryLimit) => format!("was killed: {}", told("memory limit reached")),
        (None, Reason::DiskLimit) => format!("was killed: {}", told("disk limit reached")),
        (None, Reason::Timeout) => format!("was killed: {}", told("its timeout passed")),
        (None, Reason::Lost) => format!("was lost: {}", told("nobody saw it end")),
        (None, Reason::LaunchFailed) => {
            format!("could not be started: {}", told("a step of the launch failed"))
        }
        (None, Reason::Exited | Reason::Signaled | Reason::Killed) => return None,
    };
    Some(crate::human::one_line(&format!(
        "bulkhead: container {label} {text}"
    )))
}

/// The exit status of a command as our own.
pub(crate) fn exit_status(end: &Termination) -> u8 {
    u8::try_from(end.exit_status).unwrap_or(crate::failure::STATUS_BULKHEAD)
}

#[cfg(test)]
mod tests {
    use model::{Bytes, Limitation, Reason};

    use super::*;

    fn end(reason: Reason, limitation: Option<Limitation>) -> Termination {
        Termination {
            exit_status: 137,
            signal: Some(9),
            reason,
            message: String::new(),
            limitation,
            finished_at_ms: 0,
        }
    }

    #[test]
    fn a_limit_that_killed_is_told_with_its_figures() {
        let limitation = Limitation {
            reason: Reason::MemoryLimit,
            message: "memory".into(),
            limit: Some(Bytes::mib(64)),
            peak: Some(Bytes::mib(65)),
            statistics: Default::default(),
        };
        let notice = end_notice("web", &end(Reason::MemoryLimit, Some(limitation)));
        assert_eq!(
            notice.as_deref(),
            Some("bulkhead: container web was killed: memory limit 64MB reached (peak 65MB)")
        );
    }

    #[test]
    fn the_commands_own_end_needs_no_words() {
        assert_eq!(end_notice("web", &end(Reason::Exited, None)), None);
        assert!(end_notice("web", &end(Reason::Timeout, None)).is_some());
        assert_eq!(exit_status(&end(Reason::Killed, None)), 137);
    }
}
