//! A 64-byte ping over the product's event loop and Cap'n Proto, against a bare epoll echo and against the same service on
//! tokio. One call at a time, both ends on one core: on this kind of machine the wake-up of an idle other core costs
//! more than the call, and would be all that is measured.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::floor::{Helper, program};
use crate::report::{Goal, Report};
use crate::sample::Sample;

struct Side {
    name: &'static str,
    server: Option<Helper>,
    client: Helper,
    rates: Sample,
}

impl Side {
    /// `command` makes the server's (`true`) or the client's command line.
    fn start(name: &'static str, command: impl Fn(bool) -> Command) -> io::Result<Self> {
        let server = Helper::start(&mut command(true))?;
        let client = Helper::start(&mut command(false))?;
        Ok(Self {
            name,
            server: Some(server),
            client,
            rates: Sample::default(),
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }
}

pub fn run(report: &mut Report, quick: bool) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::Builder::new()
        .prefix("bulkhead-bench-")
        .tempdir_in("/dev/shm")?;
    for transport in ["tcp", "unix"] {
        let mut sides = sides(scratch.path(), transport)?;
        let (rounds, millis) = if quick { (10, 100) } else { (24, 400) };
        for round in 0..rounds + 2 {
            sides.rotate_left(1);
            for side in &mut sides {
                let calls = side.client.ask(&millis.to_string())?;
                if round >= 2 {
                    side.rates.push(calls as f64 * 1000.0 / f64::from(millis));
                }
            }
        }
        sides.sort_by(|a, b| b.rates.median().total_cmp(&a.rates.median()));
        let rows: Vec<_> = sides.iter().map(|side| (side.name, &side.rates)).collect();
        report.table(
            &format!("64 bytes there and back, {transport}, one core, depth 1"),
            "1/s",
            &rows,
        );
        let median = |name: &str| sides.iter().find(|s| s.name == name).map(|s| s.rates.median());
        let over = |name: &str| Some(median("bulkhead")? / median(name)?);
        // The name without a suffix is TCP.
        let (suffix, echo_goal) = if transport == "tcp" {
            ("", 0.70)
        } else {
            ("_unix", 0.70)
        };
        report.metric(
            format!("ratio_to_echo{suffix}"),
            over("bare epoll echo"),
            "ratio",
            Goal::AtLeast(echo_goal),
        );
        report.metric(
            format!("ratio_to_tokio{suffix}"),
            over("tokio"),
            "ratio",
            Goal::AtLeast(1.0),
        );
    }
    Ok(())
}

fn sides(scratch: &Path, transport: &str) -> Result<Vec<Side>, Box<dyn Error>> {
    let address = |name: &str| -> io::Result<String> {
        Ok(match transport {
            "unix" => format!("unix:{}", scratch.join(format!("{name}.sock")).display()),
            _ => format!("tcp:{}", free_port()?),
        })
    };
    let own = std::env::current_exe()?;
    let core = last_core()?;
    let pinned = |program: &Path| {
        let mut command = Command::new("taskset");
        command.args(["-c", &core]).arg(program);
        command
    };
    let bare = address("bare")?;
    let mut sides = vec![Side::start("bare epoll echo", |server| {
        let mut command = pinned(&program("echo"));
        command.arg(if server { "server" } else { "client" }).arg(&bare);
        command
    })?];
    for (name, loop_name) in [("tokio", "tokio"), ("bulkhead", "net")] {
        let address = address(loop_name)?;
        sides.push(Side::start(name, |server| {
            let mut command = pinned(&own);
            command
                .arg(if server { "ping-server" } else { "ping-client" })
                .args([loop_name, &address]);
            command
        })?);
    }
    Ok(sides)
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The highest core that this process may use: interrupts and the rest of the system prefer the lowest.
fn last_core() -> io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or("0")
        .trim();
    Ok(list.rsplit([',', '-']).next().unwrap_or("0").to_string())
}
