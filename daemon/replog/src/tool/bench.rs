//! Appends as fast as they are acknowledged.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    at: super::At,
    /// Appends in flight.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    writers: usize,
    /// Connections that they share. What is appended on one while a call is on its way goes with the next call.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    connections: usize,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// How long.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("write 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{text:?} is no number")),
    }
}

/// Prints one JSON object.
pub async fn run(args: BenchArgs) -> Result<(), String> {
    let mut logs = Vec::new();
    for _ in 0..args.connections.min(args.writers) {
        logs.push(args.at.connect().await?);
    }
    logs[0].elect(0).await?;
    let took = Rc::new(RefCell::new(Vec::new()));
    let failed = Rc::new(Cell::new(None));
    let began = net::now();
    let end = began + Duration::from_secs(args.seconds);
    join_all((0..args.writers).map(|writer| {
        let (log, took, failed) = (logs[writer % logs.len()].clone(), took.clone(), failed.clone());
        let entry = [vec![writer as u8; args.bytes]];
        net::spawn(async move {
            while net::now() < end {
                let asked = net::now();
                if let Err(error) = log.append(&entry).await {
                    failed.set(Some(error));
                    return;
                }
                took.borrow_mut().push((net::now() - asked).as_micros());
            }
        })
    }))
    .await;
    if let Some(error) = failed.take() {
        return Err(error);
    }
    let seconds = (net::now() - began).as_secs_f64();
    let mut took = took.take();
    took.sort_unstable();
    let at = |part: f64| {
        took.get(((took.len() as f64 - 1.0) * part) as usize)
            .copied()
            .unwrap_or_default() as u64
    };
    let result = serde_json::json!({
        "writers": args.writers,
        "connections": logs.len(),
        "entry_bytes": args.bytes,
        "appends": took.len(),
        "appends_per_second": took.len() as f64 / seconds,
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "max_us": at(1.0),
    });
    println!("{result}");
    Ok(())
}
