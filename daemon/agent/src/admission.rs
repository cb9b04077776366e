//! What is refused before anything is made.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use container::plan;
use kernel::Errno;
use model::{ContainerId, Fault, IdRange, LaunchSpec, UserNamespace};

use crate::launch::{failed, plan_context};
use crate::shell::Shell;

/// Refuses what is wrong in itself or not enforceable here, before anything is made.
pub fn admit(shell: &Shell, id: &ContainerId, spec: &LaunchSpec) -> Result<(), Fault> {
    shell.core().port_pool().admit(spec)?;
    shell.network.admit(spec.network, &spec.limits.bandwidth)?;
    if spec.output.files == 0 || spec.output.file_bytes.get() < OUTPUT_BYTES_MIN {
        let message = format!("needs at least 1 file of at least {OUTPUT_BYTES_MIN} bytes");
        return Err(Fault::invalid("output", message));
    }
    shell.isolators.admit(spec)?;
    shell.disk.admit(&spec.limits)?;
    let context = plan_context(shell, id, spec);
    let Some(userns) = spec.userns else {
        return plan::launch_plan(spec, &shell.host, &context).map(|_| ());
    };
    if userns.base.is_some() {
        return Err(Fault::invalid("userns.base", "the agent chooses the ids"));
    }
    let pool = shell.ids.require()?;
    if userns.count > pool.count {
        let message = format!("{} ids are more than the whole pool {pool} has", userns.count);
        return Err(Fault::invalid("userns", message).remedy("ask for fewer, or raise --userns-range"));
    }
    // As if it had got the first ones: which they are changes nothing.
    let mut sample = spec.clone();
    sample.userns = Some(UserNamespace {
        base: Some(pool.base),
        ..userns
    });
    plan::launch_plan(&sample, &shell.host, &context).map(|_| ())
}

/// Tries on a copy of each mount whether its ids can be mapped: what can't is refused, never shown under wrong ids.
fn check_mapping(spec: &LaunchSpec, pool: IdRange) -> Result<(), Fault> {
    let volumes = spec
        .volumes
        .iter()
        .enumerate()
        .map(|(index, volume)| (format!("volumes.{index}.source"), volume.source.as_path(), true));
    // Only the rootfs' own mount becomes a layer.
    let rootfs = spec
        .rootfs
        .iter()
        .map(|path| ("rootfs".to_owned(), path.as_path(), false));
    let mut users = None;
    for (field, path, recursive) in rootfs.chain(volumes) {
        if users.is_none() {
            let made = kernel::user_namespace::make(pool.base, 1, false);
            users = Some(made.map_err(|error| failed(&error).field("userns"))?.user);
        }
        let Some(users) = &users else { continue };
        let tree = kernel::mount::clone_tree(None, path, recursive).map_err(|errno| {
            Fault::invalid(&field, format!("copy the mount of {}: {errno}", path.display()))
        })?;
        kernel::mount::map_ids(tree.as_fd(), users.as_fd(), recursive)
            .map_err(|errno| unmappable(&field, path, recursive, errno))?;
    }
    Ok(())
}

fn unmappable(field: &str, path: &Path, recursive: bool, errno: Errno) -> Fault {
    let shown = path.display();
    let message = match errno {
        Errno::EINVAL if recursive => format!(
            "{shown}: its file system, or one mounted below it, has no mounts with mapped ids on this kernel"
        ),
        Errno::EINVAL => {
            format!("{shown}: its file system has no mounts with mapped ids on this kernel")
        }
        Errno::EPERM => format!("{shown}: its ids are mapped already"),
        errno => format!("map the ids of {shown}: {errno}"),
    };
    Fault::unsupported(field, message)
        .remedy("use another file system (ext4, xfs, btrfs), or run without --userns")
}

/// Looks at what the request names on the host: a wrong path is told before anything is made, and a right one is
/// kept without links, so that none can be changed under us afterwards (the child follows none).
pub async fn resolve_paths(shell: &Shell, mut spec: LaunchSpec) -> Result<LaunchSpec, Fault> {
    if spec.timeout == Some(model::Millis(0)) {
        return Err(Fault::invalid(
            "timeout",
            "0 would end it before it began; leave it out for no timeout",
        ));
    }
    if spec.rootfs.is_none() && spec.volumes.is_empty() && spec.user.is_none() {
        return Ok(spec);
    }
    let writable = writable_by_containers(shell);
    let pool = spec
        .userns
        .and(shell.ids.usable())
        .filter(|_| shell.host.mapped_mounts);
    let work = shell.directories.work().to_owned();
    crate::paths::look(shell, crate::paths::named(&spec), move || {
        if let Some(rootfs) = &mut spec.rootfs {
            refuse_overlay_on_overlay(&work)?;
            *rootfs = resolve("rootfs", rootfs, &writable)?;
            if !rootfs.is_dir() {
                return Err(Fault::invalid(
                    "rootfs",
                    format!("{} is not a directory", rootfs.display()),
                ));
            }
        }
        for (index, volume) in spec.volumes.iter_mut().enumerate() {
            volume.source = resolve(&format!("volumes.{index}.source"), &volume.source, &writable)?;
        }
        refuse_writable_controls(&spec.volumes)?;
        if let (Some(user), None) = (&spec.user, &spec.rootfs) {
            check_user(user)?;
        }
        if let Some(pool) = pool {
            check_mapping(&spec, pool)?;
        }
        Ok(spec)
    })
    .await
}

/// A file system of the kernel's that a container could write to is the host: `core_pattern` and `release_agent` name
/// programs that the kernel runs as root outside (the class of CVE-2022-0492). Bind mounts bring what is mounted below.
fn refuse_writable_controls(volumes: &[model::Volume]) -> Result<(), Fault> {
    let mut writable = volumes
        .iter()
        .enumerate()
        .filter(|(_, volume)| !volume.read_only)
        .peekable();
    if writable.peek().is_none() {
        return Ok(());
    }
    let table =
        kernel::mount_table::read().map_err(|error| Fault::failed(format!("read the mounts: {error}")))?;
    for (index, volume) in writable {
        if let Some(control) = kernel::mount_table::control_within(&table, &volume.source) {
            let message = format!(
                "{} holds the host's {} at {}, and who writes there rules the host",
                volume.source.display(),
                control.kind,
                control.path.display()
            );
            let fault = Fault::invalid(format!("volumes.{index}.source"), message);
            return Err(fault.remedy("mount it read-only (SOURCE:TARGET:ro), or a directory without it"));
        }
    }
    Ok(())
}

/// Changes to a root file system are kept below the work directory, in the upper layer of an overlay; the kernel takes
/// none that is itself on one, and says only EINVAL.
fn refuse_overlay_on_overlay(work: &Path) -> Result<(), Fault> {
    if !kernel::system::is_on_overlay(work) {
        return Ok(());
    }
    let message = format!(
        "the agent's work directory {} is on overlayfs, which can not hold another overlay's changes",
        work.display()
    );
    Err(Fault::unsupported("rootfs", message).remedy("start the agent with --work_dir on a disk or a tmpfs"))
}

/// Directories of the host that some living container can change.
fn writable_by_containers(shell: &Shell) -> Vec<PathBuf> {
    let core = shell.core();
    let ids: Vec<ContainerId> = core.list(false).map(|status| status.id.clone()).collect();
    let mut writable = vec![shell.directories.work().to_owned()];
    for spec in ids.iter().filter_map(|id| core.spec(id)) {
        writable.extend(
            spec.volumes
                .iter()
                .filter(|v| !v.read_only)
                .map(|v| v.source.clone()),
        );
    }
    writable
}

/// The path without links. A link that a container may have put there is refused: it would choose what of the host
/// the next container gets (the class of CVE-2017-1002101).
fn resolve(field: &str, path: &Path, writable: &[PathBuf]) -> Result<PathBuf, Fault> {
    if !path.is_absolute() {
        return Err(Fault::invalid(
            field,
            format!("{} is not an absolute path", path.display()),
        ));
    }
    let mut real = PathBuf::from("/");
    for component in path.components().skip(1) {
        let next = real.join(component);
        let found = next
            .canonicalize()
            .map_err(|error| Fault::invalid(field, format!("{}: {error}", path.display())))?;
        let in_reach = writable.iter().any(|directory| real.starts_with(directory));
        if in_reach && found != next {
            let message = format!(
                "{}: {} is a link within reach of a container",
                path.display(),
                next.display()
            );
            return Err(Fault::invalid(field, message).remedy("name the place itself"));
        }
        real = found;
    }
    // The walk itself asks no file system for anything: one that hangs would be met only by the child.
    std::fs::metadata(&real)
        .map_err(|error| Fault::invalid(field, format!("{}: {error}", path.display())))?;
    Ok(real)
}

/// Names are looked up in the container's own root; only the host's is known before the launch.
fn check_user(user: &str) -> Result<(), Fault> {
    let (name, group) = user
        .split_once(':')
        .map_or((user, None), |(name, group)| (name, Some(group)));
    let numeric = |text: &str| text.parse::<u32>().is_ok();
    let missing = |what: &str, text: &str, file: &str| {
        Fault::invalid("user", format!("there is no {what} {text:?} in {file}"))
            .remedy("give a number, or an existing name")
    };
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    if !numeric(name) && kernel::account::find_account(&read(PASSWD), |known, _| known == name).is_none() {
        return Err(missing("user", name, PASSWD));
    }
    match group {
        Some(group) if !numeric(group) && kernel::account::find_group(&read(GROUP), group).is_none() => {
            Err(missing("group", group, GROUP))
        }
        _ => Ok(()),
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Below a page a file would be rotated at every line.
const OUTPUT_BYTES_MIN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_only_where_no_container_could_have_put_them() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("shared/sub")).unwrap();
        std::os::unix::fs::symlink("/", base.join("shared/evil")).unwrap();
        std::os::unix::fs::symlink(base.join("shared"), base.join("alias")).unwrap();
        let none: &[PathBuf] = &[];
        let writable = &[base.join("shared")];
        assert_eq!(
            resolve("f", &base.join("shared/evil"), none).unwrap(),
            Path::new("/")
        );
        assert_eq!(
            resolve("f", &base.join("alias/sub"), writable).unwrap(),
            base.join("shared/sub")
        );
        for path in [
            "shared/evil",
            "alias/evil",
            "shared/evil/etc",
            "shared/../shared/evil",
        ] {
            assert!(resolve("f", &base.join(path), writable).is_err(), "{path}");
        }
        assert!(resolve("f", Path::new("relative"), none).is_err());
        assert!(resolve("f", &base.join("missing"), none).is_err());
    }
}
