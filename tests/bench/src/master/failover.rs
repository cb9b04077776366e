//! From the end of a leader to the first launch that another one accepts: three masters and a ZooKeeper server of the bench's own.

use std::process::Command;
use std::time::{Duration, Instant};

use client::master::{Access, Master as Handle};
use client::{Agent, Endpoint};

use super::latency::{end, member, spec};
use super::{Failure, Master, free_port};
use crate::report::{Goal, Report};
use crate::sample::Sample;

const MASTERS: usize = 3;
/// What ZooKeeper waits for a leader that says nothing.
const SESSION: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

pub fn run(report: &mut Report, rounds: usize) -> Result<(), Failure> {
    if support::zookeeper::skip_without_zookeeper() {
        report.note("failover: not measured, there is no ZooKeeper: scripts/setup --tests");
        return Ok(());
    }
    let ensemble = support::zookeeper::Ensemble::start(1);
    let (killed, stopped) = net::run(net::Config::default(), measure(&ensemble.url("/bench"), rounds))??;
    let rows = [("killed", &killed), ("stopped", &stopped)];
    report.table("a leader's end to the first launch at the next one", "ms", &rows);
    report.metric(
        "failover_over_timeout_s",
        Some(killed.quantile(1.0) / 1000.0 - SESSION.as_secs_f64()),
        "s",
        Goal::AtMost(1.0),
    );
    report.metric(
        "clean_failover_s",
        Some(stopped.quantile(1.0) / 1000.0),
        "s",
        Goal::AtMost(0.5),
    );
    Ok(())
}

/// Milliseconds: after `kill -9`, after SIGTERM.
async fn measure(zk: &str, rounds: usize) -> Result<(Sample, Sample), Failure> {
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    let own = std::env::current_exe()?;
    let disk = tempfile::Builder::new()
        .prefix("bench-master-")
        .tempdir_in(own.parent().ok_or("this program lies nowhere")?)?;
    let mut ports = Vec::new();
    for _ in 0..MASTERS {
        ports.push((free_port()?, free_port()?));
    }
    let replicas: Vec<String> = ports.iter().map(|(_, log)| format!("127.0.0.1:{log}")).collect();
    let start = |number: usize| {
        let directory = disk.path().join(format!("m{number}"));
        std::fs::create_dir_all(&directory)?;
        let (port, log) = ports[number];
        let flags = [
            format!("--zk={zk}"),
            "--quorum=2".to_owned(),
            "--insecure".to_owned(),
            format!("--zk_session_timeout={}s", SESSION.as_secs()),
            format!("--log_port={log}"),
            format!("--log_replicas={}", replicas.join(",")),
        ];
        Master::start_with(&directory, port, &flags)
    };
    let mut masters = (0..MASTERS).map(start).collect::<Result<Vec<_>, _>>()?;
    let socket = scratch.path().join("agent.sock");
    let way = [format!("--master={zk}"), "--insecure".to_owned()];
    let _member = member(scratch.path(), &disk.path().join("agent"), &way, &socket)?;
    let agent = Agent::connect_retry(&format!("unix:{}", socket.display()).parse()?, PATIENCE).await?;
    let endpoints = ports
        .iter()
        .map(|(port, _)| format!("tcp:127.0.0.1:{port}").parse())
        .collect::<Result<Vec<Endpoint>, _>>()?;
    let (mut killed, mut stopped) = (Sample::default(), Sample::default());
    for round in 0..=2 * rounds {
        let before = first_launch(&endpoints, &agent).await?;
        // The first one finds out that all is up; then they are killed and stopped in turns.
        if round == 0 {
            continue;
        }
        let leading = ports
            .iter()
            .position(|(port, _)| matches!(&before, Endpoint::Tcp { port: at, .. } if at == port))
            .ok_or("a launch was accepted by nobody")?;
        // The others have to be in line again, and the agent has to have nothing else to do.
        net::sleep(Duration::from_secs(2)).await;
        let kill = round % 2 == 1;
        let began = Instant::now();
        if kill {
            masters[leading].child.kill()?;
        } else {
            let pid = masters[leading].child.id().to_string();
            Command::new("kill").arg(pid).status()?;
        }
        let others: Vec<Endpoint> = (0..MASTERS)
            .filter(|number| *number != leading)
            .map(|number| endpoints[number].clone())
            .collect();
        first_launch(&others, &agent).await?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        match kill {
            true => killed.push(took),
            false => stopped.push(took),
        }
        masters[leading].child.wait()?;
        masters[leading] = start(leading)?;
    }
    Ok((killed, stopped))
}

/// Asks until one accepts; where that was.
async fn first_launch(masters: &[Endpoint], agent: &Agent) -> Result<Endpoint, Failure> {
    let deadline = net::now() + PATIENCE;
    let access = Access::default();
    loop {
        let id = format!("{:032x}", net::random()?).parse()?;
        let failure = match Handle::connect(masters, &access).await {
            Ok(handle) => match handle.launch(&id, None, &spec()).await {
                Ok(_) => {
                    end(&agent.container(id.as_str()).await?).await?;
                    return Ok(handle.endpoint().clone());
                }
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        if net::now() > deadline {
            return Err(failure.into());
        }
        net::sleep(PAUSE).await;
    }
}
