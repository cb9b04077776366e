//! The product as a contestant: a client process that launches on command, over the client library that every tool uses.
//!
//! Commands on stdin, one answer line each, times in nanoseconds:
//!   one           one launch of `true`, request to everything of it removed
//!   many N K      N launches, K in flight
//!   up N K        N sleepers that stay; answers when each was running
//!   down K        kills those and waits until all is removed
//!   statistics    one sample of all containers
//!
//! Reading stdin blocks the loop, harmlessly: between commands nothing is in flight.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use client::{Agent, Container, Endpoint};
use futures::stream::{self, StreamExt, TryStreamExt};
use model::{Bytes, Cpus, Fault, FaultKind, LaunchSpec, Limit, Limits, Network};

use crate::floor;

const SIGKILL: i32 = 9;

struct Driver {
    agent: Agent,
    network: Network,
    kept: Vec<Container>,
}

pub fn drive(socket: &Path, network: &str) -> Result<(), Box<dyn std::error::Error>> {
    let network = match network {
        "none" => Network::None,
        "mapped" => Network::Mapped,
        _ => Network::Host,
    };
    let endpoint: Endpoint = format!("unix:{}", socket.display()).parse()?;
    client::block_on(async {
        let agent = Agent::connect(&endpoint).await?;
        let mut driver = Driver {
            agent,
            network,
            kept: Vec::new(),
        };
        say(&[0])?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|cause| Fault::from_error(FaultKind::Failed, &cause))?;
            say(&driver.obey(&line).await?)?;
        }
        Ok(())
    })
    .map_err(|fault: Fault| fault.to_string().into())
}

fn say(numbers: &[u128]) -> Result<(), Fault> {
    let line: Vec<String> = numbers.iter().map(u128::to_string).collect();
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", line.join(" ")).and_then(|()| out.flush());
    written.map_err(|cause| Fault::from_error(FaultKind::Failed, &cause))
}

impl Driver {
    async fn obey(&mut self, line: &str) -> Result<Vec<u128>, Fault> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
        let start = Instant::now();
        match (verb, numbers.as_slice()) {
            ("one", []) => self.launch().await?,
            ("many", &[count, in_flight]) => {
                let launches = stream::iter(0..count)
                    .map(|_| self.launch())
                    .buffer_unordered(in_flight);
                launches.try_collect::<()>().await?;
            }
            ("up", &[count, in_flight]) => return self.up(count, in_flight).await,
            ("down", &[in_flight]) => self.down(in_flight).await?,
            ("statistics", []) => {
                let samples = self.agent.statistics(&[]).await?;
                if samples.len() != self.kept.len() {
                    return Err(Fault::failed(format!(
                        "{} samples of {} containers",
                        samples.len(),
                        self.kept.len()
                    )));
                }
            }
            _ => return Err(Fault::failed(format!("{line:?} is no command"))),
        }
        Ok(vec![start.elapsed().as_nanos()])
    }

    async fn launch(&self) -> Result<(), Fault> {
        let spec = spec(floor::program("true"), self.network);
        let (_launched, waiting) = self.agent.launch_and_wait(&spec, None, false).await?;
        let ended = waiting.await?;
        match ended.exit_status {
            0 => Ok(()),
            status => Err(Fault::failed(format!(
                "true ended with {status}: {}",
                ended.message
            ))),
        }
    }

    async fn up(&mut self, count: usize, in_flight: usize) -> Result<Vec<u128>, Fault> {
        let start = Instant::now();
        let spec = spec(floor::program("sleeper"), self.network);
        let (agent, spec) = (&self.agent, &spec);
        let mut launches = stream::iter(0..count)
            .map(|_| async move { Ok::<_, Fault>(agent.launch(spec, None, false).await?.container) })
            .buffer_unordered(in_flight);
        let mut finished = Vec::with_capacity(count);
        let mut kept = Vec::with_capacity(count);
        while let Some(container) = launches.next().await {
            kept.push(container?);
            finished.push(start.elapsed().as_nanos());
        }
        drop(launches);
        self.kept.extend(kept);
        Ok(finished)
    }

    async fn down(&mut self, in_flight: usize) -> Result<(), Fault> {
        let ends = stream::iter(std::mem::take(&mut self.kept)).map(|container| async move {
            let waiting = container.wait();
            container.kill(SIGKILL, None).await?;
            waiting.await.map(|_| ())
        });
        ends.buffer_unordered(in_flight).try_collect().await
    }
}

/// Limited as the floor and the peers are.
fn spec(program: std::path::PathBuf, network: Network) -> LaunchSpec {
    LaunchSpec {
        command: vec![program.display().to_string()],
        limits: Limits {
            cpus: Some(Cpus::from_milli(500)),
            mem: Some(Limit::Value(Bytes::mib(64))),
            pids: Some(Limit::Value(64)),
            ..Limits::default()
        },
        network,
        remove: true,
        ..LaunchSpec::default()
    }
}
