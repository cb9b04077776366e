//! For how long an agent answers nobody while a thousand mapped containers come and go: what its loop tells of itself, and what
//! somebody sees who asks it every other millisecond.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Agent, Endpoint};
use model::{Fault, FaultKind, Millis};
use support::network::{NetworkWorld, UPLINK, configure, within};

use crate::agent::RunningAgent;
use crate::report::{Goal, Report};
use crate::sample::Sample;

const CONTAINERS: usize = 1_000;
const CONTAINERS_QUICK: usize = 200;
/// The least that the agent takes: 1,000 times 16 fit.
const FLAGS: [&str; 5] = [
    "--resources=ports:[31000-32000];ephemeral_ports:[40000-57343]",
    "--ephemeral_ports_per_container=16",
    "--http=127.0.0.1:5051",
    "--max_containers=1100",
    // Which task made a turn long.
    "--log=info,net::turn=debug",
];
const SETTLE: Duration = Duration::from_secs(3);
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(2);

pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let containers = if quick { CONTAINERS_QUICK } else { CONTAINERS };
    let world = NetworkWorld::new();
    configure(
        &world.host,
        "sysctl -q -w net.ipv4.ip_local_reserved_ports=31000-32000,40000-57343",
    );
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    let uplinks = format!("--uplinks={UPLINK}");
    let mut flags = FLAGS.to_vec();
    flags.push(&uplinks);
    let agent = within(&world.host, || RunningAgent::start_with(scratch.path(), &flags))?;
    let mut driver = agent.driver("mapped")?;
    // What happens once has happened then.
    driver.ask("many 20 4")?;
    let idle = during(agent.socket(), || {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    let up = format!("up {containers} 4");
    let made = during(agent.socket(), || Ok(driver.ask_all(&up).map(drop)?))?;
    // A launch is answered when it can't fail any more, and measured when it runs.
    std::thread::sleep(SETTLE);
    let sampled = during(agent.socket(), || {
        for _ in 0..10 {
            driver.ask("statistics")?;
        }
        Ok(())
    })?;
    let removed = during(agent.socket(), || Ok(driver.ask("down 4").map(drop)?))?;
    driver.ask_all(&up)?;
    std::thread::sleep(SETTLE);
    let drained = during(agent.socket(), || drain(agent.socket()))?;
    let phases = [
        ("idle", &idle),
        ("mapped containers are made, 4 at a time", &made),
        ("they are measured", &sampled),
        ("they are removed, 4 at a time", &removed),
        ("they are drained, all at once", &drained),
    ];
    report.table("An agent's answer to a ping every 2 ms", "ms", &phases);
    for (name, sample) in phases {
        report.note(&format!(
            "  {name}: p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms of {} pings",
            sample.quantile(0.99),
            sample.quantile(0.999),
            sample.quantile(1.0),
            sample.in_order().len()
        ));
    }
    for line in long_turns(&scratch.path().join("agent/agent.log"))? {
        report.note(&line);
    }
    let longest = within(&world.host, || metric("bulkhead_event_loop_longest_turn_ms"))?;
    report.note("the loop measures its turns by the kernel's tick (4 ms at 250 Hz): 4 is a turn that saw a tick, 8 one that saw two");
    report.metric("loop_longest_turn_ms", Some(longest), "ms", Goal::AtMost(5.0));
    let worst = phases[1..]
        .iter()
        .map(|(_, sample)| sample.quantile(0.999))
        .fold(0.0, f64::max);
    report.metric("loop_answer_p999_ms", Some(worst), "ms", Goal::AtMost(5.0));
    Ok(())
}

/// Kills all that run; the agent takes nothing new from then on.
fn drain(socket: &Path) -> Result<(), Box<dyn Error>> {
    let endpoint: Endpoint = format!("unix:{}", socket.display()).parse()?;
    let drained = client::block_on(async {
        let agent = Agent::connect(&endpoint).await?;
        agent.drain(Millis(0)).await
    });
    drained.map(drop).map_err(|fault: Fault| fault.to_string().into())
}

/// What the agent's log tells of turns that somebody may have noticed.
fn long_turns(log: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = std::fs::read_to_string(log)?;
    let told = |line: &&str| line.contains("event loop") && line.contains("took_ms");
    Ok(text.lines().filter(told).map(str::to_owned).collect())
}

/// How long each ping took while `work` ran.
fn during(
    socket: &Path,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Sample, Box<dyn Error>> {
    let ended = AtomicBool::new(false);
    let endpoint: Endpoint = format!("unix:{}", socket.display()).parse()?;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| pings(&endpoint, &ended));
        let worked = work();
        ended.store(true, Ordering::Relaxed);
        let sample = asking.join().map_err(|_| "a thread has panicked")?;
        worked?;
        sample.map_err(|fault| fault.to_string().into())
    })
}

fn pings(endpoint: &Endpoint, ended: &AtomicBool) -> Result<Sample, Fault> {
    let mut sample = Sample::default();
    client::block_on(async {
        let agent = Agent::connect(endpoint).await?;
        while !ended.load(Ordering::Relaxed) {
            let begun = Instant::now();
            agent.ping(b"?").await?;
            sample.push(begun.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(BETWEEN_QUESTIONS);
        }
        Ok(())
    })?;
    Ok(sample)
}

/// From the agent's page for Prometheus, in the namespace of the calling thread.
fn metric(name: &str) -> Result<f64, Fault> {
    let failed = |cause: std::io::Error| Fault::from_error(FaultKind::Failed, &cause);
    let mut stream = TcpStream::connect(("127.0.0.1", 5_051)).map_err(failed)?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .map_err(failed)?;
    let mut page = String::new();
    stream.read_to_string(&mut page).map_err(failed)?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.ok_or_else(|| Fault::failed(format!("the page has no {name}")))
}
