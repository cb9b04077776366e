//! What may stand in which room.

use tidy::tree::{self, forbid};

/// Where system calls are made by hand.
const UNSAFE_ROOMS: [&str; 2] = ["runtime/kernel/", "bpf/"];

#[test]
fn unsafe_stands_only_in_kernel_and_bpf() {
    let mut breaches = Vec::new();
    for (file, source) in tree::rust_files() {
        if UNSAFE_ROOMS.iter().any(|room| file.starts_with(room)) {
            continue;
        }
        breaches.extend(
            source
                .tokens
                .iter()
                .filter(|t| t.text == "unsafe")
                .map(|t| format!("{file}:{}", t.line)),
        );
    }
    forbid(
        &breaches,
        "Put a safe function with the reason for its safety into runtime/kernel (or bpf) and call that.",
    );
}

/// Files outside runtime/kernel that may spell kernel paths, and why.
const KERNEL_PATHS_ALLOWED: &[(&str, &str)] = &[];

#[test]
fn kernel_paths_are_spelled_only_in_kernel() {
    let mut breaches = Vec::new();
    for (file, source) in tree::rust_files() {
        let allowed = file.starts_with("runtime/kernel/")
            || tree::is_test(&file)
            || KERNEL_PATHS_ALLOWED.iter().any(|(path, _)| *path == file);
        for literal in source
            .literals
            .iter()
            .filter(|literal| !allowed && !literal.in_test)
        {
            let top = literal
                .text
                .strip_prefix('/')
                .and_then(|rest| rest.split('/').next())
                .unwrap_or_default();
            if ["proc", "sys", "dev"].contains(&top) {
                breaches.push(format!("{file}:{}: {:?}", literal.line, literal.text));
            }
        }
    }
    forbid(
        &breaches,
        "Give runtime/kernel a function with a name for what is read or written there. For paths as a container sees \
         them there is one file, named in KERNEL_PATHS_ALLOWED of tests/tidy/tests/rooms.rs.",
    );
}

#[test]
fn allowed_files_still_exist() {
    let files = tree::files();
    let gone = KERNEL_PATHS_ALLOWED
        .iter()
        .filter(|(path, _)| !files.iter().any(|file| file == path));
    let breaches: Vec<String> = gone.map(|(path, _)| path.to_string()).collect();
    forbid(
        &breaches,
        "Take them out of the list: an exception without a file is a hole.",
    );
}

/// What a crate that decides must not reach for: `(path in code, why)`.
const FORBIDDEN_IN_CORES: &[(&[&str], &str)] = &[
    (&["Instant", "now"], "time is an input"),
    (&["SystemTime"], "time is an input"),
    (&["std", "fs"], "a core has no files"),
    (&["std", "net"], "a core has no sockets"),
    (&["std", "os"], "a core knows no operating system"),
    (&["std", "process"], "a core starts nothing"),
    (&["std", "thread"], "a core has no threads"),
    (&["std", "env"], "configuration is an input"),
    (&["RandomState"], "randomness is an input"),
];

/// Machines that live beside the shell which drives them.
const DECIDING_FILES: [&str; 5] = [
    "daemon/coordination/src/detection.rs",
    "daemon/coordination/src/election.rs",
    "daemon/coordination/src/member.rs",
    "daemon/coordination/src/pause.rs",
    "daemon/coordination/src/place.rs",
];

#[test]
fn cores_decide_and_do_nothing() {
    let mut breaches = Vec::new();
    for (file, source) in tree::rust_files()
        .iter()
        .filter(|(file, _)| file.contains("-core/src/") || DECIDING_FILES.contains(&file.as_str()))
    {
        for (path, reason) in FORBIDDEN_IN_CORES {
            let lines = source.lines_with_path(path).into_iter();
            breaches.extend(lines.map(|line| format!("{file}:{line}: {}: {reason}", path.join("::"))));
        }
    }
    forbid(
        &breaches,
        "Make it a parameter of the input, or a wish that the shell fulfils.",
    );
}

/// What the compiler itself must refuse in a core: entries of its own clippy.toml, which replaces the root's.
const BANNED_BY_CLIPPY: [&str; 6] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::fs::read",
    "std::fs::write",
    "std::net::TcpStream",
];

#[test]
fn every_core_has_its_own_bans() {
    let files = tree::files();
    let mut breaches = Vec::new();
    for manifest in files.iter().filter(|file| file.ends_with("-core/Cargo.toml")) {
        let bans = manifest.replace("Cargo.toml", "clippy.toml");
        let text = tree::text(&bans).unwrap_or_default();
        let missing = BANNED_BY_CLIPPY
            .iter()
            .filter(|path| !text.contains(&format!("\"{path}\"")));
        breaches.extend(missing.map(|path| format!("{bans}: does not ban {path}")));
    }
    forbid(
        &breaches,
        "Add it under disallowed-methods or disallowed-types, with the reason.",
    );
}

#[test]
fn capnp_types_stop_at_wire_client_and_agent() {
    const ROOMS: [&str; 7] = [
        "capnp/",
        "daemon/net/",
        "daemon/client/",
        "daemon/agent/",
        "daemon/master/",
        // The log's messages are of its core, not of the model: it gives them their bytes itself.
        "daemon/replog/",
        "tests/bench/",
    ];
    let mut breaches = Vec::new();
    for (file, source) in tree::rust_files() {
        if tree::is_test(&file) || ROOMS.iter().any(|room| file.starts_with(room)) {
            continue;
        }
        let tokens = source
            .tokens
            .iter()
            .filter(|token| token.text.ends_with("_capnp"));
        breaches.extend(tokens.map(|token| format!("{file}:{}: {}", token.line, token.text)));
    }
    forbid(
        &breaches,
        "Use the model's types; `wire` turns them into messages.",
    );
}
