//! Statistics of a thousand idle containers: what one sample of all costs against the bare reads of the same files, and
//! what the thousand cost in memory and processor time.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::agent::RunningAgent;
use crate::floor::{Helper, program};
use crate::proc;
use crate::report::{Goal, Report};
use crate::sample::Sample;

const CONTAINERS: usize = 1000;
const IN_FLIGHT: usize = 8;
/// Freed memory comes back from the kernel's per-CPU lists and RCU with a delay.
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    let agent = RunningAgent::start(scratch.path())?;
    let mut driver = agent.driver("host")?;
    // One of everything first, so that code and tables that exist once are not charged to the thousand.
    driver.ask("many 20 4")?;
    sleep(SETTLE);
    let empty_kb = proc::resident_kb(agent.pid())?;
    report.metric(
        "agent_rss_mb_empty",
        Some(empty_kb as f64 / 1024.0),
        "MB",
        Goal::AtMost(16.0),
    );
    for launcher in proc::children(agent.pid(), "bulkhead")? {
        report.note(&format!(
            "launcher: {} kB resident, not in the figures",
            proc::resident_kb(launcher)?
        ));
    }

    let bare_kb = bare_process_kb(report)?;
    let before = proc::available_kb()?;
    driver.ask_all(&format!("up {CONTAINERS} {IN_FLIGHT}"))?;
    sleep(SETTLE);
    let container_kb = before.saturating_sub(proc::available_kb()?) as f64 / CONTAINERS as f64;
    let full_kb = proc::resident_kb(agent.pid())?;
    report.note(&format!(
        "memory a container: {container_kb:.0} kB, a bare process in the same namespaces {bare_kb:.0} kB"
    ));
    report.metric(
        "agent_rss_mb_1000",
        Some(full_kb as f64 / 1024.0),
        "MB",
        Goal::AtMost(40.0),
    );
    report.metric(
        "idle_container_kb",
        Some(container_kb - bare_kb),
        "kB",
        Goal::AtMost(350.0),
    );

    latency(report, &agent, &mut driver, if quick { 10 } else { 30 })?;
    processor_time(report, &agent, Duration::from_secs(if quick { 30 } else { 60 }))?;
    driver.ask(&format!("down {IN_FLIGHT}"))?;
    Ok(())
}

/// Memory that vanishes for each process held bare in namespaces of its own.
fn bare_process_kb(report: &Report) -> Result<f64, Box<dyn Error>> {
    let mut sample = Sample::default();
    for _ in 0..3 {
        let before = proc::available_kb()?;
        let held = Helper::start(
            Command::new(program("hold"))
                .arg(CONTAINERS.to_string())
                .arg(program("sleeper")),
        )?;
        sleep(SETTLE);
        sample.push(before.saturating_sub(proc::available_kb()?) as f64 / CONTAINERS as f64);
        drop(held);
        sleep(SETTLE);
    }
    report.table(
        "memory of a bare process",
        "kB",
        &[("in pid, mnt, uts, ipc, cgroup", &sample)],
    );
    Ok(sample.median())
}

fn latency(
    report: &mut Report,
    agent: &RunningAgent,
    driver: &mut Helper,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    // The agent opens them at the first sample.
    driver.ask("statistics")?;
    let paths = sampled_files(agent)?;
    let files = paths.iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
    let names = per_container_names(&paths);
    report.note(&format!(
        "{} files, a container's: {}",
        files.len(),
        names.join(" ")
    ));
    let (mut bare, mut product) = (Sample::default(), Sample::default());
    let mut buffer = vec![0u8; 16384];
    for round in 0..rounds + 2 {
        let start = Instant::now();
        for file in &files {
            file.read_at(&mut buffer, 0)?;
        }
        let took = start.elapsed();
        let sampled = driver.ask("statistics")?;
        if round >= 2 {
            bare.push(took.as_nanos() as f64 / 1000.0);
            product.push(sampled as f64 / 1000.0);
        }
    }
    let ratio = product.median() / bare.median();
    report.table(
        &format!("one sample of {CONTAINERS} containers"),
        "us",
        &[
            ("pread of kept files", &bare),
            ("bulkhead, read to client", &product),
        ],
    );
    report.metric("ratio_to_pread", Some(ratio), "ratio", Goal::AtMost(1.5));
    Ok(())
}

/// Open, but read only when the kernel says that something happened, or not at all.
const NOT_SAMPLED: [&str; 6] = [
    "cgroup.procs",
    "cgroup.event_control",
    "cgroup.events",
    "cgroup.kill",
    "memory.oom_control",
    "memory.events",
];

/// The files that the agent keeps open for its samples; the bare reads take exactly these.
fn sampled_files(agent: &RunningAgent) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = proc::open_cgroup_files(agent.pid())?;
    files.retain(|path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        path.is_file() && !NOT_SAMPLED.contains(&name)
    });
    if files.len() < CONTAINERS {
        return Err(format!(
            "the agent keeps {} files open for {CONTAINERS} containers",
            files.len()
        )
        .into());
    }
    Ok(files)
}

fn per_container_names(paths: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = paths
        .iter()
        .filter_map(|path| Some(format!("{}/{}", hierarchy(path)?, path.file_name()?.to_str()?)))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// `memory` of `/sys/fs/cgroup/memory/...`.
fn hierarchy(path: &Path) -> Option<&str> {
    path.strip_prefix("/sys/fs/cgroup").ok()?.iter().next()?.to_str()
}

fn processor_time(report: &mut Report, agent: &RunningAgent, window: Duration) -> Result<(), Box<dyn Error>> {
    let used = proc::cpu_time(agent.pid())?;
    let start = Instant::now();
    // The agent samples every container by itself, at its default interval.
    sleep(window);
    let used = proc::cpu_time(agent.pid())?.saturating_sub(used);
    let percent = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
    report.note(&format!(
        "agent: {used:?} of processor time in {window:?}, which samples all every 10 s"
    ));
    report.metric(
        "agent_cpu_percent_1000",
        Some(percent),
        "percent",
        Goal::AtMost(0.5),
    );
    Ok(())
}
