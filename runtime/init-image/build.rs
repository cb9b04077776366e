//! Builds `bulkhead-init` with a cargo of its own: another profile, and linked statically, which holds
//! for a whole build and can not be asked for one package of it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCES: [&str; 4] = ["model", "kernel", "container", "init"];

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: build scripts are run by cargo"))
}

fn build() -> Result<(), String> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    let runtime = here.parent().ok_or("the crate has no parent directory")?;
    let workspace = runtime.parent().ok_or("the crate lies in no workspace")?;
    for source in SOURCES {
        println!(
            "cargo:rerun-if-changed={}",
            runtime.join(source).join("src").display()
        );
        println!(
            "cargo:rerun-if-changed={}",
            runtime.join(source).join("Cargo.toml").display()
        );
    }
    println!(
        "cargo:rerun-if-changed={}",
        workspace.join("Cargo.toml").display()
    );
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "bulkhead-init",
            "--profile",
            "init",
        ])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target")
        .arg(&target)
        // A directory of its own: the outer build holds the lock of the usual one.
        .arg("--target-dir")
        .arg(out.join("init"))
        .current_dir(workspace);
    // What the outer cargo tells its build scripts is about the outer build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_") && !KEPT.contains(&&*text) || text.starts_with("RUSTC") {
            cargo.env_remove(&name);
        }
    }
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );
    let status = cargo.status().map_err(|error| format!("run cargo: {error}"))?;
    if !status.success() {
        return Err(format!("building bulkhead-init failed: {status}"));
    }
    let built = out
        .join("init")
        .join(Path::new(&target))
        .join("init")
        .join("bulkhead-init");
    fs::copy(&built, out.join("bulkhead-init"))
        .map_err(|error| format!("copy {}: {error}", built.display()))?;
    Ok(())
}

/// About the machine rather than the outer build.
const KEPT: [&str; 3] = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
