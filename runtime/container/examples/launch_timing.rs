//! Launches a static `true` many times through a launcher, without an agent and without control groups,
//! and prints the median time of each stage in microseconds.
//!
//! `launch_timing [COUNT] [PROGRAM]`

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use container::channel::{self, Report};
use container::launcher;
use container::plan::{self, PlanContext};
use container::{ChildFds, CloneKind, CloneRequest, Namespaces};
use kernel::process;
use model::LaunchSpec;

type Failure = Box<dyn std::error::Error>;

fn wait<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            other => return other,
        }
    }
}

/// Least and median: neighbours stretch the median, hardly the least.
fn figures(times: &mut [Duration]) -> String {
    times.sort_unstable();
    format!(
        "{:6} {:6}",
        times[0].as_micros(),
        times[times.len() / 2].as_micros()
    )
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let program = arguments.next().unwrap_or_else(|| "/bin/true".to_owned());
    let host = kernel::host::probe()?;
    let directory = tempfile::tempdir_in("/var/lib")?;
    let sandbox = directory.path().join("c/sandbox");
    std::fs::create_dir_all(&sandbox)?;
    let context = PlanContext {
        id: "timing".parse()?,
        sandbox_target: sandbox.clone(),
        sandbox,
        hidden: vec![directory.path().to_owned()],
        overlay_dir: None,
        hostname: "timing".to_owned(),
    };
    let spec = LaunchSpec {
        command: vec![program],
        ..LaunchSpec::default()
    };
    let launcher = launcher::start_launcher(init_image::INIT, "timing")?;
    let mut stages: [Vec<Duration>; 5] = Default::default();
    let mut bare = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let plan = plan::launch_plan(&spec, &host, &context)?;
        let (channel, child) = channel::open(&channel::encode_plan(&plan))?;
        let status = tempfile::tempfile_in("/dev/shm")?;
        let planned = Instant::now();
        let mut fds = ChildFds::new(child);
        fds.status = Some(status.into());
        let request = CloneRequest {
            fds,
            namespaces: Namespaces::default(),
            kind: CloneKind::Init,
        };
        launcher::send_request(launcher.socket.as_fd(), &request)?;
        let (_, pidfd) = wait(|| launcher::receive_reply(launcher.socket.as_fd()))?.result?;
        drop(request);
        let cloned = Instant::now();
        channel::open_gate(channel.as_fd())?;
        loop {
            match wait(|| channel::receive_report(channel.as_fd()))? {
                Some((Report::Started, _)) => break,
                Some((Report::Ready, _)) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        let started = Instant::now();
        process::wait_pidfd(&pidfd, true)?;
        let ended = Instant::now();
        for (stage, time) in stages.iter_mut().zip([
            planned - begin,
            cloned - planned,
            started - cloned,
            ended - started,
            ended - begin,
        ]) {
            stage.push(time);
        }
        let begin = Instant::now();
        std::process::Command::new(&spec.command[0]).status()?;
        bare.push(begin.elapsed());
    }
    for (name, stage) in ["plan", "clone", "setup", "run", "total"].iter().zip(&mut stages) {
        println!("{name:6} {} us", figures(stage));
    }
    println!("spawn  {} us (without a container)", figures(&mut bare));
    Ok(())
}
