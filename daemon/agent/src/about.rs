//! What the agent says of itself, of its host and, beyond the status, of a container.

use model::agent::{AgentInfo, HostReport};
use model::{CgroupLayout, ContainerId, Network};

use crate::shell::Shell;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Set by a release build; empty in a build from a tree.
pub const GIT_SHA: &str = match option_env!("BULKHEAD_GIT_SHA") {
    Some(sha) => sha,
    None => "",
};
pub const BUILD_DATE: &str = match option_env!("BULKHEAD_BUILD_DATE") {
    Some(date) => date,
    None => "",
};

pub fn info(shell: &Shell) -> AgentInfo {
    AgentInfo {
        version: VERSION.to_owned(),
        git_sha: GIT_SHA.to_owned(),
        build_date: BUILD_DATE.to_owned(),
        started_at_ms: shell.started_at_ms,
        pid: std::process::id() as i32,
        instance: match shell.config.instance.as_str() {
            "" => "default".to_owned(),
            name => name.to_owned(),
        },
        http_address: shell.http_address.borrow().map(|a| a.to_string()),
        work_dir: shell.directories.work().display().to_string(),
        runtime_dir: shell.directories.runtime().display().to_string(),
    }
}

pub fn host(shell: &Shell) -> HostReport {
    let roots: Vec<String> = shell
        .isolators
        .roots()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let groups = model::IsolatorReport {
        name: "groups".to_owned(),
        active: true,
        mechanism: format!("below {}", roots.join(", ")),
        missing: String::new(),
    };
    let mut described = shell.isolators.describe();
    described.iter_mut().for_each(|line| shell.ids.complete(line));
    let isolators = std::iter::once(groups)
        .chain(described)
        .chain([shell.disk.report(), shell.network.report()]);
    HostReport {
        isolators: isolators.collect(),
        kernel_release: shell.host.kernel_release.clone(),
        cgroup_layout: layout(shell.host.layout).to_owned(),
        cpus: shell.host.cpus,
        memory: shell.host.memory,
    }
}

pub fn layout(layout: CgroupLayout) -> &'static str {
    match layout {
        CgroupLayout::V1 => "v1",
        CgroupLayout::Hybrid => "hybrid",
        CgroupLayout::V2 => "v2",
    }
}

fn bandwidth_held_by(shell: &Shell, id: &ContainerId) -> Option<String> {
    let core = shell.core();
    let limited = core
        .status(id)
        .is_some_and(|status| status.limits.bandwidth.limits_anything());
    match core.spec(id)?.network {
        Network::Host if limited => Some(isolators::bandwidth::MECHANISM.to_owned()),
        Network::Mapped if limited => shell.network.ceilings_held_by(),
        _ => None,
    }
}

/// Things worth knowing when a container misbehaves: where it is in every hierarchy, what it runs as.
pub fn detail(shell: &Shell, id: &ContainerId) -> Vec<(String, String)> {
    let mut detail = vec![
        (
            "output_directory".to_owned(),
            shell.directories.output(id).display().to_string(),
        ),
        (
            "runtime_directory".to_owned(),
            shell.directories.container_runtime(id).display().to_string(),
        ),
    ];
    for (controller, path) in shell.isolators.paths(id) {
        detail.push((format!("cgroup.{controller}"), path.display().to_string()));
    }
    // Under the controller's own name too, where several share one group.
    for (controller, path) in shell.isolators.controllers(id) {
        let key = format!("cgroup.{controller}");
        if !detail.iter().any(|(known, _)| *known == key) {
            detail.push((key, path.display().to_string()));
        }
    }
    if let Some(by) = bandwidth_held_by(shell, id) {
        detail.push(("bandwidth.held_by".to_owned(), by));
    }
    if let Some(by) = crate::disk::detail(shell, id) {
        detail.push(("disk.held_by".to_owned(), by));
    }
    if let Some(usage) = shell.resources(id).and_then(|r| r.last_usage.borrow().clone()) {
        let figures = [
            ("cpus_user_time_secs", usage.cpus_user_time_secs),
            ("cpus_system_time_secs", usage.cpus_system_time_secs),
            ("cpus_throttled_time_secs", usage.cpus_throttled_time_secs),
            ("mem_total_bytes", usage.mem_total_bytes.map(|v| v as f64)),
            ("mem_peak_bytes", usage.mem_peak_bytes.map(|v| v as f64)),
            ("mem_limit_hits", usage.mem_limit_hits.map(|v| v as f64)),
            ("processes", usage.processes.map(f64::from)),
        ];
        detail.push((
            "last_sample.timestamp".to_owned(),
            format!("{:.3}", usage.timestamp),
        ));
        let known = figures
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        detail.extend(known.map(|(name, value)| (format!("last_sample.{name}"), value.to_string())));
    }
    if let Some(identity) = shell.core().identity(id) {
        detail.push((
            "init.start_time_ticks".to_owned(),
            identity.start_time.to_string(),
        ));
        detail.push(("init.boot_id".to_owned(), identity.boot_id.clone()));
    }
    detail
}
