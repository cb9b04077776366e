//! What a thousand mapped containers cost to make, to measure and to remove.

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use support::network::{OUTSIDE, within};

use super::way::Way;
use crate::report::{Goal, Report};
use crate::sample::Sample;

pub fn run(report: &mut Report, mut crowd: Way) -> Result<(), Box<dyn Error>> {
    let mut made = Sample::default();
    for member in &crowd.members {
        made.push(member.took.as_secs_f64() * 1e3);
    }
    let datapath = crowd.datapath.as_ref().ok_or("no data path")?;
    let mut read = Sample::default();
    within(
        &crowd.world.host,
        || -> Result<(), Box<dyn Error + Send + Sync>> {
            for _ in 0..11 {
                let begun = Instant::now();
                let usage = datapath.usage_all()?;
                read.push(begun.elapsed().as_secs_f64() * 1e3);
                assert_eq!(usage.len(), crowd.members.len());
            }
            Ok(())
        },
    )
    .map_err(|error| error.to_string())?;
    let (connected, looked) = with_connections(&crowd)?;
    let mut removed = Sample::default();
    let members = std::mem::take(&mut crowd.members);
    within(
        &crowd.world.host,
        || -> Result<(), Box<dyn Error + Send + Sync>> {
            for member in members {
                let begun = Instant::now();
                datapath.detach(&member.id)?;
                drop(member);
                removed.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(())
        },
    )
    .map_err(|error| error.to_string())?;
    let rows = [
        ("made, namespace and all", &made),
        ("removed, its namespace let go", &removed),
        ("statistics of all", &read),
        ("the same, a TCP connection each", &connected),
        ("a look at all stacks and connections", &looked),
    ];
    report.table("A thousand mapped containers, one by one", "ms", &rows);
    report.metric("attach_ms", Some(made.median()), "ms", Goal::AtMost(5.0));
    report.metric(
        "attach_ms_p99",
        Some(made.quantile(0.99)),
        "ms",
        Goal::AtMost(20.0),
    );
    // The caller is a worker thread; the event loop waits for none of it.
    report.metric("detach_ms", Some(removed.median()), "ms", Goal::AtMost(5.0));
    report.metric(
        "usage_1000_connected_ms",
        Some(connected.median()),
        "ms",
        Goal::AtMost(10.0),
    );
    report.metric("usage_1000_ms", Some(read.median()), "ms", Goal::AtMost(10.0));
    Ok(())
}

const CONNECTED_AT: u16 = 9_000;

/// With a connection of each container to the outside: what a sample takes, and the look at all stacks behind it, which is
/// taken less often.
fn with_connections(crowd: &Way) -> Result<(Sample, Sample), Box<dyn Error>> {
    let server = within(&crowd.world.outside, || {
        TcpListener::bind((OUTSIDE, CONNECTED_AT))
    })?;
    let mut open: Vec<TcpStream> = Vec::with_capacity(crowd.members.len() * 2);
    for member in &crowd.members {
        open.push(within(&member.netns, || {
            TcpStream::connect((OUTSIDE, CONNECTED_AT))
        })?);
        open.push(server.accept()?.0);
    }
    let datapath = crowd.datapath.as_ref().ok_or("no data path")?;
    let (mut read, mut looked) = (Sample::default(), Sample::default());
    within(
        &crowd.world.host,
        || -> Result<(), Box<dyn Error + Send + Sync>> {
            for _ in 0..11 {
                let begun = Instant::now();
                datapath.measure_stacks()?;
                looked.push(begun.elapsed().as_secs_f64() * 1e3);
                let begun = Instant::now();
                let usage = datapath.usage_all()?;
                read.push(begun.elapsed().as_secs_f64() * 1e3);
                let told = usage.values().filter(|one| one.tcp_active == Some(1)).count();
                if told != crowd.members.len() {
                    return Err(format!("{told} of {} connections are told", crowd.members.len()).into());
                }
            }
            Ok(())
        },
    )
    .map_err(|error| error.to_string())?;
    Ok((read, looked))
}
