//! Where the agent's groups go on a host with one v2 tree: below what the service manager has delegated to it, below a
//! group named by flag, or at the top. Nothing is written outside of it.
//!
//! On v1 and hybrid the groups are at the top of each hierarchy: systemd leaves alone there what it did not make.

use std::path::{Path, PathBuf};

use kernel::cgroup::delegation;
use model::{CgroupLayout, Fault, FaultKind, HostSupport};

use crate::config::{CgroupPlace, Config};
use crate::launch::failed;
use crate::work_dir::{Directories, write_if_changed};

/// Finds the place, moves this process into its leaf there if need be, and changes the facts to those of the place.
/// Before any thread or child is made.
pub fn take(config: &Config, directories: &Directories, host: &mut HostSupport) -> Result<(), Fault> {
    let top = match (&host.unified, host.layout) {
        (Some(top), CgroupLayout::V2) => top.clone(),
        _ => return refuse_elsewhere(config, host),
    };
    let place = match &config.cgroup_place {
        CgroupPlace::Auto => where_containers_are(config, directories)
            .or_else(|| delegation::delegated(&top))
            .unwrap_or_else(|| top.clone()),
        CgroupPlace::At(path) => named(&top, path)?,
    };
    refuse_to_leave_containers(config, directories, &top, &place)?;
    if place != top {
        delegation::settle(&place).map_err(|e| failed(&e))?;
        let before: Vec<_> = host.controllers.keys().copied().collect();
        delegation::rebase(host, &place).map_err(|e| failed(&e))?;
        let lost = before.iter().filter(|c| !host.controllers.contains_key(c));
        let lost: Vec<String> = lost.map(|c| format!("{c:?}").to_lowercase()).collect();
        if !lost.is_empty() {
            tracing::warn!(
                group = %place.display(),
                controllers = lost.join(" "),
                "not delegated to this agent; a unit has all of them with Delegate=yes"
            );
        }
    }
    let noted = directories.cgroup_place();
    write_if_changed(&noted, place.as_os_str().as_encoded_bytes()).map_err(|e| failed(&e))
}

/// A delegated group that holds containers of an earlier agent: they stay there, whatever else has been delegated since.
fn where_containers_are(config: &Config, directories: &Directories) -> Option<PathBuf> {
    let place = PathBuf::from(std::fs::read_to_string(directories.cgroup_place()).ok()?);
    let holds = delegation::is_delegated(&place) && delegation::has_groups(&place.join(config.cgroup_root()));
    holds.then_some(place)
}

fn refuse_elsewhere(config: &Config, host: &HostSupport) -> Result<(), Fault> {
    match &config.cgroup_place {
        CgroupPlace::At(path) if !path.as_os_str().is_empty() => {
            let message = format!(
                "a place in the v2 tree needs the controllers there; on this host (layout {}) they are on cgroup v1",
                crate::about::layout(host.layout)
            );
            Err(Fault::unsupported("cgroup_root", message).remedy("leave --cgroup-root out"))
        }
        _ => Ok(()),
    }
}

fn named(top: &Path, path: &Path) -> Result<PathBuf, Fault> {
    let place = top.join(path);
    if place.join("cgroup.procs").exists() {
        return Ok(place);
    }
    let message = format!("there is no control group {}", place.display());
    Err(Fault::invalid("cgroup_root", message).remedy("make it first, or use --cgroup-root=auto"))
}

/// Containers of an earlier agent that are in another place would be nobody's: not measured, not limited, not killed.
fn refuse_to_leave_containers(
    config: &Config,
    directories: &Directories,
    top: &Path,
    place: &Path,
) -> Result<(), Fault> {
    // Before there was a note, all was at the top.
    let earlier = match std::fs::read_to_string(directories.cgroup_place()) {
        Ok(noted) => PathBuf::from(noted),
        Err(_) => top.to_owned(),
    };
    if earlier == place || !delegation::has_groups(&earlier.join(config.cgroup_root())) {
        return Ok(());
    }
    let message = format!(
        "containers of an earlier agent are in the control group {}, this one would work in {}",
        earlier.join(config.cgroup_root()).display(),
        place.display()
    );
    let flag = Path::new("/").join(earlier.strip_prefix(top).unwrap_or(&earlier));
    let fault = Fault::new(FaultKind::Conflict, message).field("cgroup_root");
    Err(fault.remedy(format!(
        "end them with an agent started as before, or start this one with --cgroup-root={}",
        flag.display()
    )))
}
