//! From the request to the answer that a container runs: at an agent, and through a master to the same agent, in turns.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::master::{Access, Master as Handle};
use client::{Agent, Endpoint};
use model::{Bytes, Cpus, LaunchSpec, Limit, Limits, Network};

use super::{Failure, Master};
use crate::floor;
use crate::sample::Sample;

const WARM_UP: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;

/// An agent of that master.
pub struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // SIGTERM: one that is killed leaves its groups, as it should.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// `way`: flags that say where its master is, and what lets it in.
pub fn member(directory: &Path, work_dir: &Path, way: &[String], socket: &Path) -> Result<Member, Failure> {
    let log = std::fs::File::create(directory.join("agent.log"))?;
    let program = std::env::current_exe()?.with_file_name("bulkhead");
    let child = Command::new(program)
        .args(["agent", "--log=warn", "--http=none"])
        .args(way)
        .arg(format!("--work_dir={}", work_dir.display()))
        .arg(format!("--runtime_dir={}", directory.join("run").display()))
        .arg(format!("--socket={}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Member(child))
}

/// Microseconds: at the agent, through the master.
pub async fn measure(rounds: usize) -> Result<(Sample, Sample), Failure> {
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    // What is written down lies on a disk as in production.
    let own = std::env::current_exe()?;
    let disk = tempfile::Builder::new()
        .prefix("bench-master-")
        .tempdir_in(own.parent().ok_or("this program lies nowhere")?)?;
    let socket = scratch.path().join("agent.sock");
    let master = Master::start(disk.path(), super::free_port()?)?;
    let way = [
        format!("--master=127.0.0.1:{}", master.port),
        format!("--credential={}", master.credential().display()),
    ];
    let _member = member(scratch.path(), &disk.path().join("agent"), &way, &socket)?;
    let endpoint: Endpoint = format!("unix:{}", socket.display()).parse()?;
    let agent = Agent::connect_retry(&endpoint, PATIENCE).await?;
    let handle = connected(&master).await?;
    let spec = spec();
    let (mut local, mut through) = (Sample::default(), Sample::default());
    for round in 0..WARM_UP + rounds {
        let began = Instant::now();
        let launched = agent.launch(&spec, None, false).await?;
        let took = began.elapsed();
        end(&launched.container).await?;
        let id = format!("{:032x}", net::random()?).parse()?;
        let began = Instant::now();
        handle.launch(&id, None, &spec).await?;
        let across = began.elapsed();
        end(&agent.container(id.as_str()).await?).await?;
        if round >= WARM_UP {
            local.push(took.as_nanos() as f64 / 1000.0);
            through.push(across.as_nanos() as f64 / 1000.0);
        }
    }
    Ok((local, through))
}

pub async fn end(container: &client::Container) -> Result<(), Failure> {
    let waiting = container.wait();
    container.kill(SIGKILL, None).await?;
    waiting.await?;
    Ok(())
}

/// Once its agent is there.
async fn connected(master: &Master) -> Result<Handle, Failure> {
    let deadline = net::now() + PATIENCE;
    let endpoint: Endpoint = format!("tcp:127.0.0.1:{}", master.port).parse()?;
    loop {
        let access = Access {
            credential: std::fs::read_to_string(master.credential())
                .ok()
                .and_then(|text| api::credentials::one(&text).ok()),
            tls: None,
        };
        let endpoints = std::slice::from_ref(&endpoint);
        if let Ok(handle) = Handle::connect(endpoints, &access).await
            && !handle.agents().await?.is_empty()
        {
            return Ok(handle);
        }
        if net::now() > deadline {
            return Err("no agent came to the master".into());
        }
        net::sleep(Duration::from_millis(50)).await;
    }
}

pub fn spec() -> LaunchSpec {
    LaunchSpec {
        command: vec![floor::program("sleeper").display().to_string()],
        limits: Limits {
            cpus: Some(Cpus::from_milli(500)),
            mem: Some(Limit::Value(Bytes::mib(64))),
            pids: Some(Limit::Value(64)),
            ..Limits::default()
        },
        network: Network::Host,
        ..LaunchSpec::default()
    }
}
