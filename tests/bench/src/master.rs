//! Many agents at one master: they register, the master is killed, they register again with their tasks. The agents are
//! simulated, many in this process, and speak the real protocol. And what a launch through a master costs.
//!
//! A process may have as many connections as the limit of its open files lets it, here and in the master. Where that is less
//! than the agents, it is measured twice: as many agents as there can be connections, each with its own; and all of them, sharing
//! those connections evenly.

mod failover;
mod latency;
mod simulated;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::proc;
use crate::report::{Goal, Report};
use simulated::{Door, Entered, Simulated};

const AGENTS: usize = 50_000;
const TASKS_EACH: usize = 2;
/// What the master, and this process, open besides connections.
const DESCRIPTORS_OWN: u64 = 1000;

type Failure = Box<dyn std::error::Error>;

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

struct Master {
    child: Child,
    port: u16,
    work_dir: PathBuf,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Master {
    fn start(directory: &Path, port: u16) -> Result<Self, Failure> {
        Self::start_with(directory, port, &[])
    }

    fn start_with(directory: &Path, port: u16, flags: &[String]) -> Result<Self, Failure> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let program = std::env::current_exe()?.with_file_name("bulkhead");
        let work_dir = directory.join("master");
        let child = Command::new(program)
            .args(["master", "--log=warn", &format!("--port={port}")])
            .arg(format!("--work-dir={}", work_dir.display()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self {
            child,
            port,
            work_dir,
        })
    }

    fn credential(&self) -> PathBuf {
        self.work_dir.join("credential")
    }
}

pub fn run(report: &mut Report, quick: bool) -> Result<(), Failure> {
    let descriptors = net::raise_descriptors()?;
    let most = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_OWN))?;
    let agents = if quick { AGENTS / 10 } else { AGENTS };
    let connections = agents.min(most);
    if connections < agents {
        report.note(&format!(
            "a process may open {descriptors} files here: {connections} agents with a connection each, then {agents} agents on \
             {connections} connections"
        ));
        let figures = net::run(net::Config::default(), crowd(connections, connections))??;
        figures.tell(report);
        report.metric(
            "connections",
            Some(connections as f64),
            "agents",
            Goal::AtLeast(10_000.0),
        );
        let again = figures.again.as_secs_f64();
        report.metric("connections_reregister_s", Some(again), "s", Goal::AtMost(15.0));
        report.metric(
            "connections_rss_mb",
            Some(figures.resident_mb),
            "MB",
            Goal::AtMost(1000.0),
        );
    }
    let figures = net::run(net::Config::default(), crowd(agents, connections))??;
    figures.tell(report);
    report.metric("agents", Some(agents as f64), "agents", Goal::AtLeast(50_000.0));
    let again = figures.again.as_secs_f64();
    report.metric("reregister_s", Some(again), "s", Goal::AtMost(15.0));
    report.metric("rss_mb", Some(figures.resident_mb), "MB", Goal::AtMost(1000.0));

    let rounds = if quick { 30 } else { 200 };
    let (local, through) = net::run(net::Config::default(), latency::measure(rounds))??;
    let rows = [("at the agent", &local), ("through the master", &through)];
    report.table("request to running", "us", &rows);
    report.metric(
        "launch_vs_local",
        Some(through.median() / local.median()),
        "ratio",
        Goal::AtMost(1.5),
    );
    failover::run(report, if quick { 1 } else { 5 })
}

struct Figures {
    again: Duration,
    resident_mb: f64,
    notes: Vec<(&'static str, String)>,
}

impl Figures {
    fn tell(&self, report: &Report) {
        for (name, value) in &self.notes {
            report.note(&format!("  {name}: {value}"));
        }
    }
}

async fn crowd(count: usize, connections: usize) -> Result<Figures, Failure> {
    // The registry lies on a disk as in production.
    let own = std::env::current_exe()?;
    let directory = tempfile::Builder::new()
        .prefix("bench-master-")
        .tempdir_in(own.parent().ok_or("this program lies nowhere")?)?;
    let port = free_port()?;
    let agents: Vec<Simulated> = (0..count).map(|_| Simulated::default()).collect();
    let mut notes = vec![("agents", format!("{count} on {connections} connections"))];

    let master = Master::start(directory.path(), port)?;
    let door = Door::new(port, &master.credential());
    drop(door.enter(0).await?);
    let (took, held) = timed(&master, &door, &agents, connections, 0, &mut notes).await?;
    let rate = count as f64 / took.as_secs_f64();
    notes.push((
        "first registration, each written to the registry",
        format!("{took:.2?}, {rate:.0} agents a second"),
    ));
    drop(master);
    drop(held);
    agents.iter().for_each(Simulated::part);

    let began = Instant::now();
    let master = Master::start(directory.path(), port)?;
    drop(door.enter(0).await?);
    notes.push((
        "from the start of a successor to its gate open",
        format!("{:.2?}", began.elapsed()),
    ));
    let (_, held) = timed(&master, &door, &agents, connections, TASKS_EACH, &mut notes).await?;
    let again = began.elapsed();
    let tasks = count * TASKS_EACH;
    notes.push((
        "registered again with tasks",
        format!("{again:.2?} from the successor's start, {tasks} tasks"),
    ));
    let resident_mb = proc::resident_kb(master.child.id())? as f64 / 1024.0;
    drop(held);
    Ok(Figures {
        again,
        resident_mb,
        notes,
    })
}

/// All of them come; what that costs the master, and this process.
async fn timed(
    master: &Master,
    door: &Door,
    agents: &[Simulated],
    connections: usize,
    tasks: usize,
    notes: &mut Vec<(&'static str, String)>,
) -> Result<(Duration, Vec<Entered>), Failure> {
    let pid = master.child.id();
    let (own, theirs) = (proc::cpu_time(std::process::id())?, proc::cpu_time(pid)?);
    let began = Instant::now();
    let held = simulated::all_register(door, agents, connections, tasks).await?;
    let took = began.elapsed();
    notes.push((
        "processor time: the master's, this bench's; the master's memory",
        format!(
            "{:.2?}, {:.2?}; {} MB",
            proc::cpu_time(pid)?.saturating_sub(theirs),
            proc::cpu_time(std::process::id())?.saturating_sub(own),
            proc::resident_kb(pid)? / 1024
        ),
    ));
    Ok((took, held))
}
