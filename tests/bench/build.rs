//! Compiles the C floor programs. They are C because they are to be as bare as a program can be, and because `unsafe`
//! Rust lives only in the runtime's own rooms.

use std::path::Path;
use std::process::Command;

const PROGRAMS: [&str; 8] = [
    "echo", "flush", "hold", "launch", "quorum", "sleeper", "spawn", "true",
];

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    println!("cargo::rerun-if-changed=floor");
    for name in PROGRAMS {
        let source = format!("floor/{name}.c");
        let target = Path::new(&out).join(name);
        let status = Command::new("gcc")
            .args([
                "-std=gnu11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-static",
                "-o",
            ])
            .arg(&target)
            .arg(&source)
            .status()
            .unwrap_or_else(|cause| panic!("run gcc (scripts/setup installs it): {cause}"));
        assert!(status.success(), "gcc {source}: {status}");
    }
    println!("cargo::rustc-env=FLOOR_DIR={out}");
}
