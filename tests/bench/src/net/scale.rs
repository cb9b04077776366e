//! What a thousand mapped containers cost to make, to measure and to remove.

use std::error::Error;
use std::time::Instant;

use support::network::within;

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
    report.metric("usage_1000_ms", Some(read.median()), "ms", Goal::AtMost(10.0));
    Ok(())
}
