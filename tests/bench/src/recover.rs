//! How long a host is without an agent when the agent is killed: from the start of the next one to its first answer, with a
//! thousand running containers to take over, and with none.

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use client::{Agent, Endpoint};
use model::ContainerState;

use crate::agent::RunningAgent;
use crate::report::{Goal, Report};
use crate::sample::Sample;

const CONTAINERS: usize = 1000;
const IN_FLIGHT: usize = 8;
/// Between a restart and the next kill: everything that follows the first answer is over.
const SETTLE: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let rounds = if quick { 5 } else { 11 };
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    let mut agent = RunningAgent::start(scratch.path())?;
    let mut empty = Sample::default();
    for _ in 0..rounds {
        empty.push(restart(&mut agent, 0)?);
    }
    let mut driver = agent.driver("host")?;
    driver.ask_all(&format!("up {CONTAINERS} {IN_FLIGHT}"))?;
    // Its connection would end with the agent that is killed.
    drop(driver);
    let mut full = Sample::default();
    for _ in 0..rounds {
        full.push(restart(&mut agent, CONTAINERS)?);
    }
    report.table(
        "start to first answer",
        "ms",
        &[("no container", &empty), ("1,000 running containers", &full)],
    );
    report.metric("readopt_1000_ms", Some(full.median()), "ms", Goal::AtMost(400.0));
    report.metric(
        "first_call_empty_ms",
        Some(empty.median()),
        "ms",
        Goal::AtMost(50.0),
    );
    Ok(())
}

/// Milliseconds until the successor of a killed agent has listed all of them as running.
fn restart(agent: &mut RunningAgent, running: usize) -> Result<f64, Box<dyn Error>> {
    let start = agent.restart_hard()?;
    // Tried often, so that the pauses of a patient client are not measured.
    while UnixStream::connect(agent.socket()).is_err() {
        if start.elapsed() > ANSWER_WITHIN {
            return Err(format!("the agent does not answer within {ANSWER_WITHIN:?}").into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let endpoint: Endpoint = format!("unix:{}", agent.socket().display()).parse()?;
    let found = net::run(net::Config::default(), async {
        let all = Agent::connect(&endpoint).await?.list(false).await?;
        Ok::<_, model::Fault>(all.iter().filter(|c| c.state == ContainerState::Running).count())
    })??;
    let elapsed = Instant::now() - start;
    if found != running {
        return Err(format!("{found} containers run, and should be {running}").into());
    }
    std::thread::sleep(SETTLE);
    Ok(elapsed.as_secs_f64() * 1000.0)
}
