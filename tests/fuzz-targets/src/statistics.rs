//! Statistics and limitation of a container, from the files of its groups, in every layout.
//!
//! Rules: a sample is read whatever the files hold. The first byte is the layout; texts between null bytes go into the
//! files of the groups in the order of their paths.

use std::fs;
use std::path::{Path, PathBuf};

use isolators::{IsolatorSet, UsageReader};
use kernel::fake::cgroups::FakeCgroups;
use model::{Bytes, CgroupLayout, ContainerId, Cpus, LaunchSpec, Limit, Limits};

struct World {
    set: IsolatorSet,
    reader: UsageReader,
    id: ContainerId,
    limits: Limits,
    files: Vec<PathBuf>,
    _directory: tempfile::TempDir,
}

thread_local! {
    static WORLDS: [World; 3] = [CgroupLayout::V1, CgroupLayout::Hybrid, CgroupLayout::V2].map(world);
}

fn world(layout: CgroupLayout) -> World {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let cgroups = FakeCgroups::default();
    let host = cgroups.host(directory.path(), layout).expect("a host");
    let set = IsolatorSet::on_trees(&host, "bulkhead", &|mount, root, version| {
        cgroups.make_root(mount, root, version)
    })
    .expect("isolators");
    let id: ContainerId = "c1".parse().expect("an id");
    let limits = Limits {
        cpus: Some(Cpus::from_milli(1500)),
        cpu_limit: Some(Limit::Value(Cpus::from_milli(2000))),
        mem: Some(Limit::Value(Bytes::mib(64))),
        pids: Some(Limit::Value(10)),
        ..Limits::default()
    };
    let spec = LaunchSpec {
        limits: limits.clone(),
        ..LaunchSpec::default()
    };
    set.prepare(&id, &spec).expect("groups");
    let reader = set.usage(&id).expect("statistics");
    let mut files = Vec::new();
    for (_, path) in set.paths(&id) {
        list(&path, &mut files);
    }
    files.sort();
    World {
        set,
        reader,
        id,
        limits,
        files,
        _directory: directory,
    }
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a group").flatten() {
        if entry.path().is_file() {
            files.push(entry.path());
        }
    }
}

/// Files of one world, for whoever makes a corpus.
pub fn files(layout: usize) -> Vec<PathBuf> {
    WORLDS.with(|worlds| worlds[layout].files.clone())
}

pub fn run(data: &[u8]) {
    let (layout, rest) = crate::choice(data);
    WORLDS.with(|worlds| {
        let world = &worlds[usize::from(layout) % worlds.len()];
        let mut texts = rest.split(|byte| *byte == 0);
        for file in &world.files {
            fs::write(file, texts.next().unwrap_or_default()).expect("write");
        }
        let mut buffer = Vec::new();
        let usage = world.reader.sample(&mut buffer);
        let _ = format!("{usage:?}");
        if let Ok(Some(limitation)) = world.set.limitation(&world.id, &world.limits) {
            assert!(!limitation.message.is_empty());
        }
    });
}
