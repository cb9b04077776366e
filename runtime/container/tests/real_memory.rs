//! What an idle container costs.

mod harness;

use std::fs;

use harness::{World, spec, wait_until};

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_idle_init_owns_little_memory() {
    let world = World::new();
    let running = world.start(&spec(&["sleep", "60"])).unwrap();
    let proc = format!("/proc/{}", running.pid);
    wait_until("the init settled", || {
        fs::read_to_string(format!("{proc}/status"))
            .unwrap()
            .contains("CapEff:\t0000000000000020")
    });
    let rollup = fs::read_to_string(format!("{proc}/smaps_rollup")).unwrap();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let dirty = kilobytes(&rollup, "Private_Dirty:");
    let tables = kilobytes(&status, "VmPTE:");
    eprintln!("{rollup}\n{status}");
    assert!(
        dirty + tables < 160,
        "{dirty} kB dirty, {tables} kB of page tables"
    );
}
