//! Three replicas of the log as processes in network namespaces of their own, while a client appends numbered entries all
//! the time. Each fault that the log has to survive is made, once; after and during each of them, entries go on being
//! acknowledged. In the end all replicas have the same log, every acknowledged entry once, in order, and the host is as
//! it was.
//!
//! `BULKHEAD_LOG_ROUNDS=20` goes through them so often.

mod client;
mod site;

use client::Writer;
use site::Site;
use support::{eventually, skip_unless_root};

#[test]
fn no_acknowledged_entry_is_lost_whatever_happens_to_one_replica() {
    if skip_unless_root() {
        return;
    }
    let rounds: usize = std::env::var("BULKHEAD_LOG_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut site = Site::new(3);
    let (name, directory) = (site.name().to_owned(), site.directory());
    for id in 1..=3 {
        site.start(id);
    }
    for id in 1..=3 {
        site.votes(id, 0);
    }
    let writer = Writer::start(site.hub(), site.addresses());
    writer.goes_on("all is well");
    for round in 0..rounds {
        eprintln!("round {round}: {} entries so far", writer.acknowledged());
        killed_and_stopped(&mut site, &writer);
        partitioned(&site, &writer);
        wiped(&mut site, &writer);
        full(&mut site, &writer);
    }
    replaced(&mut site, &writer);
    let (acknowledged, pause) = writer.stop();
    eprintln!("{acknowledged} entries acknowledged; the longest pause was {pause:.1?}");
    // What all know positions of is more than entries: elections and changes of members have positions too.
    let logs = eventually("every replica has every acknowledged entry", || {
        let logs = [1, 2, 4].map(|id| site.log_of(id));
        let shortest = logs.iter().map(Vec::len).min().unwrap_or(0) as u64;
        eprintln!("the shortest log has {shortest} of {acknowledged} entries");
        (shortest >= acknowledged).then_some(logs)
    });
    // What was under way when the writer stopped, one may have learned before another; what both know is the same.
    for log in &logs[1..] {
        let differs = logs[0].iter().zip(log).find(|(one, other)| one != other);
        assert!(differs.is_none(), "replicas disagree: {differs:?}");
    }
    let numbers: Vec<u64> = logs[0].iter().map(|(_, number)| *number).collect();
    let expected: Vec<u64> = (0..numbers.len() as u64).collect();
    assert!(
        numbers == expected,
        "an entry is missing, twice there, or in the wrong place"
    );
    assert!(
        numbers.len() as u64 >= acknowledged,
        "{} of {acknowledged}",
        numbers.len()
    );
    for id in [1, 2, 4] {
        site.end(id);
        site.verify(id);
    }
    drop(site);
    site::assert_nothing_left(&name, &directory);
}

fn killed_and_stopped(site: &mut Site, writer: &Writer) {
    for id in 1..=3 {
        site.kill(id);
        writer.goes_on(&format!("replica {id} is killed"));
        site.start(id);
        site.knows(id, writer.acknowledged());
    }
    for id in 1..=3 {
        site.pause(id);
        writer.goes_on(&format!("replica {id} is stopped"));
        site.resume(id);
        site.knows(id, writer.acknowledged());
    }
    // All at once: nothing goes on, and nothing is lost.
    for id in 1..=3 {
        site.kill(id);
    }
    for id in 1..=3 {
        site.start(id);
    }
    writer.goes_on("all were killed");
}

fn partitioned(site: &Site, writer: &Writer) {
    for id in 1..=3 {
        for direction in ["ingress", "egress"] {
            let cut = site.cut(id, &[direction]);
            writer.goes_on(&format!("replica {id} is without {direction}"));
            drop(cut);
            site.knows(id, writer.acknowledged());
        }
    }
    let cut = site.cut(1, &["ingress", "egress"]);
    writer.goes_on("replica 1 is alone");
    drop(cut);
    site.knows(1, writer.acknowledged());
}

fn wiped(site: &mut Site, writer: &Writer) {
    for id in [1, 3] {
        site.kill(id);
        site.wipe(id);
        writer.goes_on(&format!("the disk of replica {id} is lost"));
        site.start(id);
        site.votes(id, writer.acknowledged());
    }
}

/// Replica 3 has a small disk.
fn full(site: &mut Site, writer: &Writer) {
    let filler = site.fill();
    eventually("replica 3 says that its disk is full", || {
        writer.goes_on("the disk of replica 3 is full");
        site.complains(3, "until there is room").then_some(())
    });
    writer.goes_on("it has said so");
    std::fs::remove_file(filler).unwrap();
    if site.has_ended(3) {
        site.start(3);
    }
    site.knows(3, writer.acknowledged());
}

fn replaced(site: &mut Site, writer: &Writer) {
    site.add(4);
    // A replica speaks to those whose addresses it was started with.
    for id in 1..=3 {
        site.kill(id);
        site.start_joined(id);
        site.knows(id, writer.acknowledged());
    }
    site.start(4);
    // A change needs a writer that stays: both ask the same replica.
    writer.asks(site.addresses_of(&[1]));
    for attempt in 0.. {
        let changed = site.tool(&["replace", "3", "4", "--at", &site.address(1)]);
        if changed.status.success() || site.members(1) == [1, 2, 4] {
            break;
        }
        let why = String::from_utf8_lossy(&changed.stderr);
        assert!(attempt < 1, "{why}");
        eprintln!("replace 3 by 4: {why}");
    }
    writer.goes_on("the members have changed");
    writer.asks(site.addresses_of(&[1, 2, 4]));
    site.kill(3);
    writer.goes_on("replica 3 is replaced");
    site.votes(4, writer.acknowledged());
    site.kill(2);
    writer.goes_on("the new one counts");
    site.start_joined(2);
    site.knows(2, writer.acknowledged());
}
