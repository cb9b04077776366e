//! How exact ceilings are, what they cost the limited container's other traffic, and what its neighbour feels of a flood.

use std::error::Error;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kernel::netlink::traffic::{Handle, TrafficControl};
use model::{Bandwidth, BitsPerSecond, Limit};
use serde_json::Value;
use support::network::{HOST, OUTSIDE, Running, start, within};

use super::traffic::{Until, iperf, number, questions};
use super::way::Way;
use crate::report::{Goal, Report};
use crate::sample::Sample;

const QUESTIONS: u16 = 7_777;
const SECONDS: u64 = 4;

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Egress,
    Ingress,
}

struct Flow {
    direction: Direction,
    word: &'static str,
    options: &'static str,
}

const FLOWS: [Flow; 8] = [
    flow(Direction::Egress, "egress TCP 1 (cubic)", "-P 1 -C cubic"),
    flow(Direction::Egress, "egress TCP 8 (cubic)", "-P 8 -C cubic"),
    flow(Direction::Egress, "egress TCP 8 (host's default)", "-P 8"),
    flow(Direction::Egress, "egress UDP", "-u"),
    flow(Direction::Ingress, "ingress TCP 1 (cubic)", "-P 1 -C cubic"),
    flow(Direction::Ingress, "ingress TCP 8 (cubic)", "-P 8 -C cubic"),
    flow(Direction::Ingress, "ingress TCP 8 (host's default)", "-P 8"),
    flow(Direction::Ingress, "ingress UDP", "-u"),
];

const fn flow(direction: Direction, word: &'static str, options: &'static str) -> Flow {
    Flow {
        direction,
        word,
        options,
    }
}

/// What it tells of each run goes nowhere: nobody reads the pipe, and a full one stops it.
fn server(port: u16) -> String {
    format!("iperf3 -s -p {port} --logfile /dev/null")
}

struct Found {
    /// Of the ceiling, by the kernel's own count at the interface.
    error_percent: f64,
    retransmits_percent: Option<f64>,
    own: Sample,
    neighbour: Sample,
}

/// One limited container, one that is not, and servers on both sides.
struct Scene {
    way: Way,
    _servers: Vec<Running>,
}

impl Scene {
    fn new() -> Self {
        let mut way = Way::empty("ceilings");
        way.attach(0, &Bandwidth::default());
        way.attach(1, &Bandwidth::default());
        let servers = vec![
            start(&way.world.outside, &server(5_201)),
            start(&way.members[0].netns, &server(way.port)),
        ];
        std::thread::sleep(Duration::from_millis(200));
        Self {
            way,
            _servers: servers,
        }
    }

    fn limit(&self, megabits: u64) -> Result<(), Box<dyn Error>> {
        let limit = Some(Limit::Value(BitsPerSecond(megabits * 1_000_000)));
        let bandwidth = Bandwidth {
            egress: limit,
            ingress: limit,
            ..Bandwidth::default()
        };
        let datapath = self.way.datapath.as_ref().ok_or("no data path")?;
        Ok(within(&self.way.world.host, || {
            datapath.update(&self.way.members[0].id, &bandwidth)
        })?)
    }

    /// What has gone through the ceiling of the limited container, counted by its queueing discipline at the way out.
    fn sent(&self, direction: Direction) -> Result<u64, Box<dyn Error>> {
        let member = &self.way.members[0];
        let (namespace, ifindex) = match direction {
            Direction::Egress => (&member.netns, 0),
            Direction::Ingress => (&self.way.world.host, member.attached.ifindex),
        };
        let classes = within(namespace, || {
            let ifindex = if ifindex == 0 { eth0() } else { ifindex };
            TrafficControl::open()?.classes(ifindex)
        })?;
        let ceiling = Handle::new(1, 1);
        let class = classes.into_iter().find(|class| class.handle == ceiling.0);
        Ok(class.ok_or("no ceiling")?.bytes)
    }

    /// Small questions from a container to the outside.
    fn ask(&self, member: usize, port: u16, until: &Until<'_>) -> Result<Sample, String> {
        let server = within(&self.way.world.outside, || UdpSocket::bind((OUTSIDE, port)));
        let client = within(&self.way.members[member].netns, || UdpSocket::bind((HOST, 0)));
        let (server, client) = (
            server.map_err(|e| e.to_string())?,
            client.map_err(|e| e.to_string())?,
        );
        client.connect((OUTSIDE, port)).map_err(|e| e.to_string())?;
        questions(&server, &client, until, Duration::from_millis(5), true).map_err(|e| e.to_string())
    }

    fn measure(&self, megabits: u64, flow: &Flow) -> Result<Found, Box<dyn Error>> {
        let (from, address, port): (&OwnedFd, _, _) = match flow.direction {
            Direction::Egress => (&self.way.members[0].netns, OUTSIDE, 5_201),
            Direction::Ingress => (&self.way.world.outside, HOST, self.way.port),
        };
        let options = match flow.options {
            "-u" => format!("-u -l 1448 -b {}M", megabits * 3 / 2),
            tcp => tcp.to_owned(),
        };
        // Questions have the other core to themselves, as far as the flood can be made on one: what is asked is what the network
        // does to a neighbour, not what a scheduler does.
        let cores = if megabits <= 1_000 { "0,0" } else { "0,1" };
        let command = format!("iperf3 -c {address} -p {port} -J -t {SECONDS} -A {cores} {options}");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| iperf(from, &command).map_err(|error| error.to_string()));
            // The first second belongs to slow start.
            std::thread::sleep(Duration::from_millis(1_300));
            let own = scope.spawn(|| self.ask(0, QUESTIONS, &Until::Flag(&ended)));
            let neighbour = scope.spawn(|| self.ask(1, QUESTIONS + 1, &Until::Flag(&ended)));
            let (before, begun) = (self.sent(flow.direction)?, Instant::now());
            std::thread::sleep(Duration::from_millis(SECONDS * 1_000 - 1_800));
            let (after, took) = (self.sent(flow.direction)?, begun.elapsed());
            ended.store(true, Ordering::Relaxed);
            let panicked = |_| "a thread has panicked";
            let own = own.join().map_err(panicked)??;
            let neighbour = neighbour.join().map_err(panicked)??;
            let answer: Value = running.join().map_err(panicked)??;
            let rate = (after - before) as f64 * 8.0 / took.as_secs_f64() / 1e6;
            let sent = &answer["end"]["sum_sent"];
            let segments = number(&sent["bytes"]) / 1448.0;
            Ok(Found {
                error_percent: (rate / megabits as f64 - 1.0) * 100.0,
                retransmits_percent: sent["retransmits"]
                    .as_f64()
                    .map(|count| 100.0 * count / segments.max(1.0)),
                own,
                neighbour,
            })
        })
    }
}

/// In the namespace of the calling thread.
fn eth0() -> u32 {
    let socket = kernel::netlink::RouteSocket::open();
    let link = socket.and_then(|mut socket| socket.link("eth0"));
    link.ok().flatten().map_or(0, |link| link.index)
}

pub fn run(report: &mut Report, quick: bool, only: Option<u64>) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new();
    let idle = {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| scene.ask(1, QUESTIONS + 1, &Until::Flag(&ended)));
            std::thread::sleep(Duration::from_secs(3));
            ended.store(true, Ordering::Relaxed);
            asking.join().map_err(|_| "a thread has panicked")?
        })?
    };
    let rates: &[u64] = match only.as_ref() {
        Some(rate) => std::slice::from_ref(rate),
        None if quick => &[10, 100, 1_000],
        None => &[10, 100, 1_000, 5_000],
    };
    report.note(&format!(
        "\nCeilings: error of the rate on the wire, retransmits, what a question of the container waits, and its neighbour's \
         (idle: p50 {:.0} us, p99 {:.0} us)",
        idle.median(),
        idle.quantile(0.99)
    ));
    let mut worst_error: f64 = 0.0;
    let mut worst_retransmits: f64 = 0.0;
    let mut neighbour = Sample::default();
    for megabits in rates {
        scene.limit(*megabits)?;
        let mut own = Sample::default();
        for flow in &FLOWS {
            let found = scene.measure(*megabits, flow)?;
            report.note(&format!(
                "  {megabits:>5} Mbit/s {:<30} {:>7.2} %  retransmits {:>6}  own p50 {:>7.2} p99 {:>7.2} ms  neighbour p99 {:>6.0} us",
                flow.word,
                found.error_percent,
                found.retransmits_percent.map_or("-".to_owned(), |p| format!("{p:.3} %")),
                found.own.median() / 1e3,
                found.own.quantile(0.99) / 1e3,
                found.neighbour.quantile(0.99),
            ));
            // Above, a sender of datagrams on two cores does not reach the ceiling: that says nothing about it.
            if flow.options != "-u" || *megabits <= 100 {
                worst_error = worst_error.max(found.error_percent.abs());
            }
            worst_retransmits = worst_retransmits.max(found.retransmits_percent.unwrap_or(0.0));
            own.push(found.own.median() / 1e3);
            neighbour.push(found.neighbour.quantile(0.99));
        }
        let goal = Goal::AtMost(if *megabits < 100 { 25.0 } else { 5.0 });
        report.metric(
            format!("own_delay_ms_{megabits}"),
            Some(own.quantile(1.0)),
            "ms",
            goal,
        );
    }
    report.metric(
        "shaping_error_max",
        Some(worst_error),
        "percent",
        Goal::AtMost(2.0),
    );
    report.metric(
        "retransmits_max",
        Some(worst_retransmits),
        "percent",
        Goal::AtMost(0.5),
    );
    let ratio = neighbour.median() / idle.quantile(0.99);
    report.metric("neighbour_p99_ratio", Some(ratio), "ratio", Goal::AtMost(1.5));
    Ok(())
}
