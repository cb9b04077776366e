//! What goes over the wire while a contestant is measured.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::network::{HOST, OUTSIDE, run, within};

use super::way::Way;
use crate::sample::Sample;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUND_TRIPS: usize = 2_000;
/// An idle core costs 25 us to wake, more than the path; so both ends share one (docs/benchmarks.md, "Traps").
const CORE: &str = "1";
/// Sender and receiver on a core each: what the host does with a packet is done on the sender's. Where the scheduler puts them
/// makes a factor of two otherwise.
const APART: &str = "-A 0,1";

/// iperf3 in a namespace, as its JSON. A server that has just finished refuses the next client for a moment.
pub fn iperf(from: &OwnedFd, command: &str) -> Outcome<Value> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer: Value = serde_json::from_slice(&run(from, command).stdout)?;
        match answer["error"].as_str() {
            None => return Ok(answer),
            Some(error) if Instant::now() > deadline => return Err(format!("{command}: {error}").into()),
            Some(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Payload of one TCP stream from outside, in megabits a second.
pub fn stream(way: &Way) -> Outcome<f64> {
    let command = format!("iperf3 -c {HOST} -p {} -J -t 1 -O 0.2 {APART}", way.port);
    let answer = iperf(&way.world.outside, &command)?;
    Ok(number(&answer["end"]["sum_received"]["bits_per_second"]) / 1e6)
}

/// Small datagrams from outside that reach the server, a second.
pub fn small_packets(way: &Way) -> Outcome<f64> {
    let command = format!("iperf3 -c {HOST} -p {} -J -t 1 -u -b 0 -l 64 {APART}", way.port);
    let answer = iperf(&way.world.outside, &command)?;
    let sum = &answer["end"]["sum"];
    Ok((number(&sum["packets"]) - number(&sum["lost_packets"])) / number(&sum["seconds"]).max(0.001))
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn share_a_core() {
    let Ok(thread) = std::fs::read_link("/proc/thread-self") else {
        return;
    };
    let id = thread.file_name().unwrap_or_default().to_owned();
    // Without it the figures are merely noisier.
    let _ = Command::new("taskset").args(["-cp", CORE]).arg(id).output();
}

/// Microseconds from a byte to its answer over an open connection; median.
pub fn tcp_round_trip(way: &Way) -> Outcome<f64> {
    let port = way.port + 1;
    let listener = within(way.server(), || TcpListener::bind(("0.0.0.0", port)))?;
    let mut client = within(&way.world.outside, || TcpStream::connect((HOST, port)))?;
    client.set_nodelay(true)?;
    let (mut server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            share_a_core();
            let mut byte = [0; 1];
            while matches!(server.read(&mut byte), Ok(1)) && server.write_all(&byte).is_ok() {}
        });
        let asking = scope.spawn(move || -> Outcome2 {
            share_a_core();
            let mut sample = Sample::default();
            let mut byte = [0; 1];
            for _ in 0..ROUND_TRIPS {
                let begun = Instant::now();
                client.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                sample.push(begun.elapsed().as_nanos() as f64 / 1e3);
            }
            Ok(sample.median())
        });
        asking
            .join()
            .map_err(|_| "a client has panicked")?
            .map_err(Into::into)
    })
}

type Outcome2 = std::io::Result<f64>;

/// The same with datagrams.
pub fn udp_round_trip(way: &Way) -> Outcome<f64> {
    let port = way.port + 2;
    let server = within(way.server(), || UdpSocket::bind(("0.0.0.0", port)))?;
    let client = within(&way.world.outside, || UdpSocket::bind((OUTSIDE, 0)))?;
    client.connect((HOST, port))?;
    let sample = questions(&server, &client, &Until::Count(ROUND_TRIPS), Duration::ZERO, true)?;
    Ok(sample.median())
}

/// How long questions are asked.
pub enum Until<'a> {
    Count(usize),
    Flag(&'a AtomicBool),
}

/// Round trips of small datagrams in microseconds. One that is lost counts as a fifth of a second.
pub fn questions(
    server: &UdpSocket,
    client: &UdpSocket,
    until: &Until<'_>,
    pause: Duration,
    one_core: bool,
) -> Outcome<Sample> {
    for socket in [server, client] {
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    }
    let ended = AtomicBool::new(false);
    let sample = std::thread::scope(|scope| {
        scope.spawn(|| {
            if one_core {
                share_a_core();
            }
            let mut bytes = [0; 128];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut bytes) {
                    let _ = server.send_to(&bytes[..length], from);
                }
            }
        });
        let asking = scope.spawn(|| {
            if one_core {
                share_a_core();
            }
            let mut sample = Sample::default();
            let mut bytes = [0; 128];
            loop {
                let done = match until {
                    Until::Count(count) => sample.len() >= *count,
                    Until::Flag(flag) => flag.load(Ordering::Relaxed),
                };
                if done {
                    break;
                }
                let begun = Instant::now();
                let _ = client.send(&[7; 64]);
                let _ = client.recv(&mut bytes);
                sample.push(begun.elapsed().as_nanos() as f64 / 1e3);
                std::thread::sleep(pause);
            }
            ended.store(true, Ordering::Relaxed);
            sample
        });
        asking.join()
    });
    sample.map_err(|_| "a client has panicked".into())
}
