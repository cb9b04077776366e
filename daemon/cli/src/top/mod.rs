//! `bulkhead top`: the containers of an agent on a full screen.
//!
//! The loop here only carries: keys, samples and signals into [`state::TopState`], its wishes to the
//! agent, and [`render::render`] to the terminal.

mod chart;
mod columns;
mod detail;
mod names;
mod network;
mod render;
#[cfg(test)]
mod sample;
mod screen;
mod state;
mod theme;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use client::{Agent, Endpoint};
use crossterm::event::{Event, KeyEventKind};
use model::{ContainerStatus, Fault, FaultKind, Millis, Usage};
use net::queue::{Sender, bounded};
use net::{Pool, Signal, Signals};

use crate::failure::{Failure, Outcome};
use screen::Screen;
use state::{Host, TopState, Wish};

/// Watch containers on the full screen
///
/// Keys: q quit; arrows select; t to the network's figures and back; c m p n sort by CPU, memory, pids, name (again: the
/// other way round); / filter; k kill, after a question. NO_COLOR is respected.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead top
  bulkhead --agent host2:5055 top --interval 2s")]
pub(crate) struct TopArgs {
    /// Time between refreshes
    #[arg(long, value_name = "TIME", default_value = "1s")]
    interval: Millis,
}

const INTERVAL_LEAST: Millis = Millis(100);
/// How long a restarted agent is looked for before the next try is shown as one.
const PATIENCE: Duration = Duration::from_secs(3600);

enum Step {
    Terminal(Event),
    Round {
        at_ms: u64,
        containers: Vec<ContainerStatus>,
        samples: Vec<(String, Usage)>,
    },
    Away,
    Back(Agent),
    Told(String),
    /// The terminal is gone, or the agent's refusal is final.
    Failed(Fault),
    Signal,
}

pub(crate) async fn top(agent: &Agent, args: &TopArgs) -> Outcome {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Fault::invalid("top", "stdin and stdout must be a terminal")
            .remedy("use: bulkhead stats")
            .into());
    }
    if args.interval < INTERVAL_LEAST {
        return Err(Fault::invalid("--interval", format!("must be at least {INTERVAL_LEAST}")).into());
    }
    let (report, info) = (agent.host().await?, agent.version().await?);
    let host = Host {
        cpus: report.cpus,
        memory_bytes: report.memory.get(),
        kernel: report.kernel_release,
        agent_version: info.version,
        instance: info.instance,
    };
    // no-color.org: any value that is not empty.
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let failed = |error: io::Error| Failure::from(Fault::from_error(FaultKind::Failed, &error));
    // Before the pool: its threads must have the signals blocked too.
    let signals = Signals::new(&[Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT]).map_err(failed)?;
    let pool = Pool::new(1, 1).map_err(failed)?;
    let (steps, next) = bounded(16);
    let _tasks = [
        net::spawn(watch_signals(signals, steps.clone())),
        net::spawn(read_terminal(pool, steps.clone())),
        net::spawn(watch_agent(agent.clone(), args.interval, steps.clone())),
    ];
    let screen = Screen::enter().map_err(failed)?;
    Top {
        screen,
        state: TopState::new(host, colour),
        agent: agent.clone(),
        steps,
    }
    .run(next)
    .await
}

struct Top {
    screen: Screen,
    state: TopState,
    agent: Agent,
    steps: Sender<Step>,
}

impl Top {
    async fn run(mut self, mut next: net::queue::Receiver<Step>) -> Outcome {
        self.draw()?;
        while let Some(step) = next.pop().await {
            match step {
                Step::Terminal(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let (width, height) = self.screen.size();
                    // A question that can not be seen is not answered.
                    if render::is_too_small(width, height) {
                        self.state.mode = state::Mode::Browse;
                    }
                    match self.state.take_key(key, render::page_rows(height)) {
                        Some(Wish::Quit) => return Ok(0),
                        Some(Wish::Kill { id, label, at_once }) => self.kill(id, label, at_once),
                        None => {}
                    }
                }
                Step::Terminal(_) => {}
                Step::Round {
                    at_ms,
                    containers,
                    samples,
                } => {
                    self.state.connected = true;
                    self.state.take_containers(containers);
                    self.state.take_samples(at_ms, samples);
                }
                Step::Away => self.state.connected = false,
                Step::Back(agent) => self.agent = agent,
                Step::Told(text) => self.state.notify(text),
                Step::Failed(fault) => return Err(fault.into()),
                Step::Signal => return Ok(0),
            }
            self.draw()?;
        }
        Ok(0)
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let state = &self.state;
        self.screen
            .draw(|frame| render::render(frame, state))
            .map_err(|error| Fault::failed(format!("draw the screen: {error}")).into())
    }

    /// Without waiting: the screen goes on, the answer comes as a notice.
    fn kill(&mut self, id: String, label: String, at_once: bool) {
        let (agent, steps) = (self.agent.clone(), self.steps.clone());
        let signal = if at_once { Signal::SIGKILL as i32 } else { 0 };
        net::spawn(async move {
            let killed = match agent.container(&id).await {
                Ok(container) => container.kill(signal, None).await,
                Err(fault) => Err(fault),
            };
            let text = match killed {
                Ok(()) if at_once => format!("killed {label}"),
                Ok(()) => format!("killing {label}: SIGTERM, then its grace period"),
                Err(fault) => format!("kill {label}: {fault}"),
            };
            // Fails when the screen is gone.
            let _ = steps.push(Step::Told(text)).await;
        })
        .detach();
    }
}

async fn watch_signals(mut signals: Signals, steps: Sender<Step>) {
    let _ = signals.next().await;
    let _ = steps.push(Step::Signal).await;
}

async fn read_terminal(pool: Pool, steps: Sender<Step>) {
    loop {
        let step = match pool.run(crossterm::event::read).await {
            Ok(Ok(event)) => Step::Terminal(event),
            Ok(Err(error)) => Step::Failed(Fault::failed(format!("read the terminal: {error}"))),
            Err(error) => Step::Failed(Fault::from_error(FaultKind::Failed, &error)),
        };
        let last = matches!(step, Step::Failed(_));
        if steps.push(step).await.is_err() || last {
            return;
        }
    }
}

/// Samples and containers, over any number of agent restarts.
async fn watch_agent(mut agent: Agent, interval: Millis, steps: Sender<Step>) {
    loop {
        match watch_once(&agent, interval, &steps).await {
            Err(fault) if fault.kind == FaultKind::Unavailable => {}
            Err(fault) => return drop(steps.push(Step::Failed(fault)).await),
            // The agent ended the subscription in good order: it is going away.
            Ok(()) => {}
        }
        if steps.push(Step::Away).await.is_err() {
            return;
        }
        match find_again(agent.endpoint()).await {
            Ok(found) => agent = found,
            Err(fault) => return drop(steps.push(Step::Failed(fault)).await),
        }
        if steps.push(Step::Back(agent.clone())).await.is_err() {
            return;
        }
    }
}

async fn find_again(endpoint: &Endpoint) -> Result<Agent, Fault> {
    // An agent that takes connections and drops them at once must not be asked without a pause.
    net::sleep(Duration::from_millis(100)).await;
    Agent::connect_retry(endpoint, PATIENCE).await
}

async fn watch_once(agent: &Agent, interval: Millis, steps: &Sender<Step>) -> Result<(), Fault> {
    let mut samples = agent.watch_statistics(&[], interval).await?;
    // The names at once; figures come with the first round.
    let containers = agent.list(false).await?;
    let first = Step::Round {
        at_ms: net::wall_ms(),
        containers,
        samples: Vec::new(),
    };
    if steps.push(first).await.is_err() {
        return Ok(());
    }
    while let Some(round) = samples.next().await {
        let samples = round?
            .into_iter()
            .map(|sample| (sample.id.to_string(), sample.usage))
            .collect();
        let containers = agent.list(false).await?;
        if steps
            .push(Step::Round {
                at_ms: net::wall_ms(),
                containers,
                samples,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}
