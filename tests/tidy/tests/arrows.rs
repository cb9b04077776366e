//! Which crate may use which: the arrows of ARCHITECTURE.md, and one door for each foreign crate.

use tidy::crates::{self, Kind};
use tidy::tree::{self, forbid};

/// Crate → the crates of ours that it may use. Crates below `tests/` may use all and are not listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("kernel", &["model"]),
    ("bpf", &["model"]),
    ("container", &["model", "kernel"]),
    ("bulkhead-init", &["container", "kernel"]),
    // Holds the built bulkhead-init as bytes; what it is built from is not linked in.
    ("init-image", &[]),
    ("network", &["model", "kernel", "bpf"]),
    ("isolators", &["model", "kernel", "bpf", "container", "network"]),
    ("wire", &["model"]),
    ("api", &["model"]),
    ("net", &["model"]),
    ("agent-core", &["model"]),
    ("replog-core", &["model"]),
    (
        "agent",
        &[
            "model",
            "agent-core",
            "isolators",
            "container",
            "kernel",
            "wire",
            "api",
            "net",
            "init-image",
            "network",
            "coordination",
        ],
    ),
    ("client", &["model", "wire", "net"]),
    ("replog", &["model", "replog-core", "wire", "net"]),
    ("coordination", &["model", "api", "net"]),
    ("master-core", &["model"]),
    (
        "registrar",
        &["model", "master-core", "replog-core", "replog", "wire", "net"],
    ),
    (
        "master",
        &[
            "model",
            "master-core",
            "registrar",
            "replog",
            "replog-core",
            "coordination",
            "wire",
            "api",
            "net",
        ],
    ),
    ("cli", &["model", "client", "net", "api", "coordination"]),
    ("bulkhead", &["agent", "cli", "master", "replog", "registrar"]),
];

/// Foreign crate → the crates of ours that may name it. Those not listed are vocabulary (serde, thiserror, tracing, ...).
const DOORS: &[(&str, &[&str])] = &[
    ("async-task", &["net"]),
    ("capnp", &["wire", "net", "client", "agent", "master", "replog"]),
    ("capnp-rpc", &["net", "client", "agent", "master", "replog"]),
    ("capnpc", &["wire"]),
    ("caps", &["kernel"]),
    ("cgroups-rs", &[]),
    (
        "clap",
        &["cli", "agent", "bulkhead", "master", "replog", "registrar"],
    ),
    ("clap_complete", &["cli"]),
    ("comfy-table", &["cli"]),
    ("crossterm", &["cli"]),
    ("futures-rustls", &["net"]),
    ("http-body-util", &["net", "agent"]),
    ("hyper", &["net", "agent"]),
    ("libbpf-cargo", &["bpf"]),
    ("libbpf-rs", &["bpf"]),
    ("libbpf-sys", &["bpf"]),
    ("libc", &["kernel", "bpf", "net"]),
    ("mio", &["net"]),
    // cli: the terminal in front of it, which no other crate of ours knows.
    ("netlink-packet-core", &["kernel"]),
    ("netlink-packet-route", &["kernel"]),
    ("netlink-sys", &["kernel"]),
    ("nix", &["kernel", "net", "cli"]),
    ("postcard", &["container", "agent"]),
    ("ratatui", &["cli"]),
    ("rcgen", &["cli"]),
    ("ring", &["net"]),
    ("rtnetlink", &["kernel"]),
    ("rustls", &["net"]),
    ("slab", &["net"]),
    ("spawns-core", &["coordination"]),
    ("tokio", &[]),
    ("tokio-util", &[]),
    ("toml", &["agent"]),
    ("zookeeper", &[]),
    ("zookeeper-client", &["coordination"]),
];

#[test]
fn crates_use_only_what_their_arrows_allow() {
    let mut breaches = Vec::new();
    for one in crates::all().iter().filter(|one| !one.is_test()) {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == one.name) else {
            breaches.push(format!("{} ({}): not in the table", one.name, one.directory));
            continue;
        };
        for used in one.dependencies.iter().filter(|d| d.ours && d.kind != Kind::Dev) {
            if !allowed.contains(&used.name.as_str()) {
                breaches.push(format!("{} --> {}", one.name, used.name));
            }
        }
    }
    forbid(
        &breaches,
        "Move what is needed towards `model`, or hand it in as a parameter. A new arrow is a decision: write it into \
         ARCHITECTURE.md, DECISIONS.md and the table in tests/tidy/tests/arrows.rs.",
    );
}

#[test]
fn nothing_depends_on_tests() {
    let all = crates::all();
    let test_crates: Vec<&str> = all
        .iter()
        .filter(|one| one.is_test())
        .map(|one| one.name.as_str())
        .collect();
    let breaches: Vec<String> = all
        .iter()
        .filter(|one| !one.is_test())
        .flat_map(|one| one.dependencies.iter().map(move |used| (one, used)))
        // A crate's own root tests may lean on tests/support: that never reaches the product.
        .filter(|(_, used)| used.kind != Kind::Dev && test_crates.contains(&used.name.as_str()))
        .map(|(one, used)| format!("{} --> {}", one.name, used.name))
        .collect();
    forbid(
        &breaches,
        "Make it a dev-dependency, or move the code out of tests/.",
    );
}

#[test]
fn a_foreign_crate_has_one_door() {
    let mut breaches = Vec::new();
    for one in crates::all().iter().filter(|one| !one.is_test()) {
        for used in one.dependencies.iter().filter(|d| !d.ours && d.kind != Kind::Dev) {
            let door = DOORS.iter().find(|(name, _)| *name == used.name);
            if door.is_some_and(|(_, allowed)| !allowed.contains(&one.name.as_str())) {
                breaches.push(format!("{} names {}", one.name, used.name));
            }
        }
    }
    forbid(
        &breaches,
        "Ask the crate that has the door (table in tests/tidy/tests/arrows.rs) for what is needed; its types and errors \
         stop there.",
    );
}

#[test]
fn every_dependency_has_one_version_in_the_workspace() {
    let mut breaches = Vec::new();
    // fuzz/ is a workspace of its own, since it needs a nightly compiler.
    let manifests = tree::files()
        .into_iter()
        .filter(|file| file.ends_with("/Cargo.toml") && !file.starts_with("fuzz/"));
    for manifest in manifests {
        let manifest = &manifest;
        let text = tree::text(manifest).unwrap_or_default();
        let mut in_dependencies = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.starts_with('[') {
                in_dependencies = line.trim_matches(['[', ']']).ends_with("dependencies");
            } else if in_dependencies && !line.is_empty() && !line.contains("workspace = true") {
                breaches.push(format!("{manifest}:{}: {line}", number + 1));
            }
        }
    }
    forbid(
        &breaches,
        "Put the version into [workspace.dependencies] of the root and say `.workspace = true` here.",
    );
}
