//! The replicated log against etcd, ZooKeeper and the least that a durable quorum write costs. All have three processes on
//! loopback, all write to one disk, all flush before they acknowledge; all run at the same time, and take turns.

mod bulk;
mod driver;
pub mod etcd;
pub mod own;
mod peers;
pub mod zookeeper;

use std::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::floor::{self, Helper};
use crate::report::{Goal, Report};
use crate::sample::Sample;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUND_MS: u64 = 1000;
const DEPTHS: [usize; 2] = [1, 64];

/// A process that ends with its owner.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it; what it says goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> std::io::Result<Self> {
        let log = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Addresses on loopback that nobody listens at.
pub fn addresses(count: usize) -> std::io::Result<Vec<String>> {
    // All are held until the last is known, so that none is given twice.
    let taken: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    taken
        .iter()
        .map(|one| Ok(one.local_addr()?.to_string()))
        .collect()
}

pub fn patiently(what: &str, mut met: impl FnMut() -> bool) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !met() {
        if Instant::now() > deadline {
            return Err(format!("{what}: not within a minute").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The program beside this one.
pub fn product() -> Outcome<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("bulkhead"))
}

/// Starts replica `id` of the log whose replicas listen at `addresses`.
pub fn replica(directory: &Path, id: usize, addresses: &[String]) -> Outcome<Daemon> {
    let mut command = Command::new(product()?);
    command.args(["log", "replica", "--id", &id.to_string()]);
    command
        .arg("--directory")
        .arg(directory.join(format!("replica-{id}")));
    command.args(["--listen", &addresses[id - 1]]);
    for (peer, address) in (1..).zip(addresses).filter(|(peer, _)| *peer != id) {
        command.arg("--peer").arg(format!("{peer}={address}"));
    }
    Ok(Daemon::start(
        &mut command,
        &directory.join(format!("replica-{id}.log")),
    )?)
}

/// One that is measured, and what came of it: entries a second and p99 in microseconds, at each depth.
struct Contestant {
    name: &'static str,
    client: Client,
    rates: [Sample; 2],
    p99: [Sample; 2],
    _servers: Vec<Daemon>,
}

enum Client {
    Driver(Helper),
    /// `bulkhead log bench` at this address.
    Tool(String),
}

impl Contestant {
    fn new(name: &'static str, client: Client, servers: Vec<Daemon>) -> Self {
        Self {
            name,
            client,
            rates: Default::default(),
            p99: Default::default(),
            _servers: servers,
        }
    }

    fn round(&mut self, at: usize) -> Outcome<()> {
        let writers = DEPTHS[at];
        let (rate, p99) = match &mut self.client {
            Client::Driver(helper) => {
                let said = helper.ask_all(&format!("{writers} {ROUND_MS}"))?;
                let [entries, micros, _, p99, _] = said[..] else {
                    return Err(format!("{} answered {said:?}", self.name).into());
                };
                (entries as f64 / (micros as f64 / 1e6), p99 as f64 / 1e3)
            }
            Client::Tool(address) => through_the_tool(address, writers)?,
        };
        self.rates[at].push(rate);
        self.p99[at].push(p99);
        Ok(())
    }
}

fn through_the_tool(address: &str, writers: usize) -> Outcome<(f64, f64)> {
    let mut command = Command::new(product()?);
    command.args(["log", "bench", "--seconds", "1", "--at", address]);
    let said = command.args(["--writers", &writers.to_string()]).output()?;
    let value: serde_json::Value = serde_json::from_slice(&said.stdout)
        .map_err(|_| format!("bulkhead log bench: {}", String::from_utf8_lossy(&said.stderr)))?;
    let number = |key: &str| value[key].as_f64().ok_or(format!("no {key} in {value}"));
    Ok((number("appends_per_second")?, number("p99_us")?))
}

/// Three `bulkhead log replica`, asked over the network as a stranger would.
fn served(directory: &Path) -> Outcome<Contestant> {
    std::fs::create_dir_all(directory)?;
    let addresses = addresses(3)?;
    let servers = (1..=3)
        .map(|id| replica(directory, id, &addresses))
        .collect::<Outcome<_>>()?;
    let at = addresses[0].clone();
    patiently("the log is served", || through_the_tool(&at, 1).is_ok())?;
    Ok(Contestant::new("bulkhead, by RPC", Client::Tool(at), servers))
}

/// The writer's replica in the writer's process, and two `bulkhead log replica`: as a master has it.
fn own(directory: &Path) -> Outcome<Contestant> {
    std::fs::create_dir_all(directory)?;
    let addresses = addresses(3)?;
    let servers = vec![
        replica(directory, 2, &addresses)?,
        replica(directory, 3, &addresses)?,
    ];
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("log-own")
        .arg(directory.join("replica-1"))
        .args(&addresses);
    let client = Client::Driver(Helper::start(&mut command)?);
    Ok(Contestant::new("bulkhead, in process", client, servers))
}

pub fn run(report: &mut Report, quick: bool) -> Outcome<()> {
    let rounds = if quick { 3 } else { 15 };
    // Beside the program: /tmp may be memory, and a log belongs on a disk.
    let scratch = tempfile::Builder::new()
        .prefix("bench-log-")
        .tempdir_in(std::env::current_exe()?.with_file_name(""))?;
    let at = scratch.path();
    let mut limit = Command::new(floor::program("quorum"));
    let limit = Helper::start(limit.arg(at))?;
    let mut disk = Helper::start(Command::new(floor::program("flush")).arg(at))?;
    let mut all = vec![
        Contestant::new("bare quorum write", Client::Driver(limit), Vec::new()),
        own(&at.join("own"))?,
        served(&at.join("served"))?,
    ];
    for (name, started) in [
        ("etcd", peers::etcd(&at.join("etcd"))),
        ("zookeeper", peers::zookeeper(&at.join("zookeeper"))),
    ] {
        match started {
            Ok((client, servers)) => all.push(Contestant::new(name, Client::Driver(client), servers)),
            Err(error) => report.note(&format!("{name} is left out: {error}")),
        }
    }
    let [mut over, mut append, mut preallocated] = [Sample::default(), Sample::default(), Sample::default()];
    for round in 0..rounds {
        let (ahead, behind) = (disk.ask("over 500")? as f64, disk.ask("append 500")? as f64);
        over.push(ahead);
        append.push(behind);
        preallocated.push(ahead / behind.max(1.0));
        for turn in 0..all.len() {
            let turn = (turn + round) % all.len();
            for depth in 0..DEPTHS.len() {
                all[turn].round(depth)?;
            }
        }
    }
    tell(report, &all);
    let disks = [("over what is there", &over), ("behind the end", &append)];
    report.table("the disk by itself, 4 KiB and fdatasync", "a second", &disks);
    let goal = Goal::AtLeast(1.5);
    report.metric(
        "preallocated_vs_appending",
        Some(preallocated.median()),
        "x",
        goal,
    );
    // Their memory and processor time are not the bulk's.
    drop(all);
    bulk::run(report, &mut disk, &at.join("bulk"), quick)
}

fn tell(report: &mut Report, all: &[Contestant]) {
    for (at, writers) in DEPTHS.iter().enumerate() {
        let rows = |of: fn(&Contestant) -> &[Sample; 2]| -> Vec<(&str, &Sample)> {
            all.iter().map(|one| (one.name, &of(one)[at])).collect()
        };
        report.table(
            &format!("acknowledged appends of 1 KiB, {writers} in flight"),
            "a second",
            &rows(|one| &one.rates),
        );
        report.table(
            &format!("p99 of one append, {writers} in flight"),
            "us",
            &rows(|one| &one.p99),
        );
    }
    let find = |name: &str| all.iter().find(|one| one.name.starts_with(name));
    let (Some(limit), Some(own), Some(served)) = (find("bare"), find("bulkhead, in"), find("bulkhead, by"))
    else {
        return;
    };
    for (at, goal) in [(0, 3.0), (1, 10.0)] {
        let writers = DEPTHS[at];
        for peer in ["etcd", "zookeeper"] {
            let ratio = |a: &Sample, b: &Sample| Some(a.median() / b.median());
            let (rate, p99, inside) = match find(peer) {
                Some(peer) => (
                    ratio(&served.rates[at], &peer.rates[at]),
                    ratio(&served.p99[at], &peer.p99[at]),
                    ratio(&own.rates[at], &peer.rates[at]),
                ),
                None => (None, None, None),
            };
            report.metric(format!("vs_{peer}_{writers}"), rate, "x", Goal::AtLeast(goal));
            report.metric(
                format!("own_vs_{peer}_{writers}"),
                inside,
                "x",
                Goal::AtLeast(goal),
            );
            report.metric(format!("p99_vs_{peer}_{writers}"), p99, "x", Goal::AtMost(1.0));
        }
        let limited = own.rates[at].median() / limit.rates[at].median();
        report.metric(
            format!("vs_limit_{writers}"),
            Some(limited),
            "x",
            Goal::AtLeast(0.5),
        );
    }
}
