//! A log of a million entries: how soon a replica serves after a start, and how fast one without a disk comes back.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::{Outcome, addresses, driver, patiently, product, replica};
use crate::floor::Helper;
use crate::report::{Goal, Report};

const MEGABYTES: u64 = 1 << 20;

pub fn run(report: &mut Report, disk: &mut Helper, directory: &Path, quick: bool) -> Outcome<()> {
    let entries: u64 = if quick { 100_000 } else { 1_000_000 };
    fs::create_dir_all(directory)?;
    let addresses = addresses(3)?;
    let mut servers = vec![
        replica(directory, 2, &addresses)?,
        replica(directory, 3, &addresses)?,
    ];
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("log-own")
        .arg(directory.join("replica-1"))
        .args(&addresses);
    let mut writer = Helper::start(&mut command)?;
    let (mut written, began) = (0, Instant::now());
    while written < entries {
        written += writer.ask_all("512 500")?.first().copied().unwrap_or_default();
    }
    let took = began.elapsed().as_secs_f64();
    report.note(&format!(
        "\n{written} entries of 1 KiB written in {took:.1} s, 512 in flight"
    ));
    let end = learned(&addresses[1])?;

    // Neither the last flushes nor what the kernel still holds of the files.
    drop(servers.pop());
    forget(&directory.join("replica-3"))?;
    let began = Instant::now();
    servers.push(replica(directory, 3, &addresses)?);
    patiently_often("the replica serves", || TcpStream::connect(&addresses[2]).is_ok())?;
    let cold = began.elapsed().as_secs_f64();
    report.metric("cold_start_s", Some(cold), "s", Goal::AtMost(2.0));

    let before = disk.ask(&format!(
        "stream {}",
        written * driver::ENTRY_BYTES as u64 / MEGABYTES
    ))? as f64
        / 1024.0;
    drop(servers.pop());
    fs::remove_dir_all(directory.join("replica-3"))?;
    let began = Instant::now();
    servers.push(replica(directory, 3, &addresses)?);
    patiently("the wiped replica has caught up", || {
        learned(&addresses[2]).is_ok_and(|learned| learned >= end)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = written as f64 * driver::ENTRY_BYTES as f64 / MEGABYTES as f64 / seconds;
    report.note(&format!(
        "caught up in {seconds:.1} s; the disk by itself streams {before:.0} MB/s"
    ));
    report.metric(
        "catch_up_mb_s",
        Some(rate),
        "MB/s",
        Goal::AtLeast(before.min(100.0)),
    );
    drop(writer);
    Ok(())
}

/// How far a replica knows the log to be agreed.
fn learned(address: &str) -> Outcome<u64> {
    let mut command = Command::new(product()?);
    let said = command
        .args(["log", "status", "-o", "json", "--at", address])
        .output()?;
    let status: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    status["learned"]
        .as_u64()
        .ok_or_else(|| format!("no learned in {status}").into())
}

/// Takes the files out of the page cache.
fn forget(directory: &Path) -> Outcome<()> {
    for entry in fs::read_dir(directory)? {
        let mut of = std::ffi::OsString::from("if=");
        of.push(entry?.path());
        let mut command = Command::new("dd");
        command.arg(of).args(["iflag=nocache", "count=0", "status=none"]);
        command.status()?;
    }
    Ok(())
}

fn patiently_often(what: &str, met: impl Fn() -> bool) -> Outcome<()> {
    let began = Instant::now();
    while !met() {
        if began.elapsed().as_secs() > 60 {
            return Err(format!("{what}: not within a minute").into());
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    Ok(())
}
