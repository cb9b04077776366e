//! The steps that make a container's file system.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::{device, procfs};
use model::{CgroupLayout, Controller, Fault, HostSupport, IdRange, LaunchSpec, Network};

use super::step::{OwnNetwork, Owners, Step};
use super::{PlanContext, absolute, c_path, c_text, own_directories, own_ids};

/// Writable places that every container without a rootfs has for itself. On the host `/run` holds the
/// sockets of daemons: a container must not reach them.
const PRIVATE: [(&str, u32, bool); 4] = [
    ("/tmp", 0o1777, false),
    ("/var/tmp", 0o1777, true),
    ("/run", 0o755, false),
    // A symbolic link to /run nearly everywhere; a directory of its own on old hosts.
    ("/var/run", 0o755, true),
];

/// Groups of v1 that programs size themselves by (heap, threads).
const SHOWN_CONTROLLERS: [(Controller, &str); 4] = [
    (Controller::Cpu, "cpu"),
    (Controller::Cpuacct, "cpuacct"),
    (Controller::Memory, "memory"),
    (Controller::Pids, "pids"),
];

/// More would not fit into one exec's worth of paths, and no one has that many.
const VOLUMES_MAX: usize = 256;

pub(super) fn steps(spec: &LaunchSpec, host: &HostSupport, ctx: &PlanContext) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::with_capacity(24);
    let mut attachments = Vec::new();
    let ids = own_ids::check(spec, host)?;
    if let Some(IdRange { base, count }) = ids {
        steps.push(Step::OwnIds {
            base,
            count,
            network: match spec.network {
                Network::Host => OwnNetwork::Host,
                Network::None => OwnNetwork::New,
                Network::Mapped => OwnNetwork::Given,
            },
        });
    }
    let sandbox_target = absolute("sandbox_target", &ctx.sandbox_target)?;
    if let (None, Some(resolver)) = (&spec.rootfs, &host.resolver_under_run) {
        // Name resolution of the host, when its file lies in the directory that is replaced.
        let source = (resolver.as_path(), Owners::Same);
        hold(
            &mut steps,
            &mut attachments,
            "resolver_under_run",
            source,
            (resolver, true),
        )?;
    }
    // On disk too: nothing that the container makes there is root's on the host, whatever its mode.
    let owners = if ids.is_some() {
        Owners::Given
    } else {
        Owners::Same
    };
    let source = (ctx.sandbox.as_path(), owners);
    hold(
        &mut steps,
        &mut attachments,
        "sandbox",
        source,
        (&sandbox_target, false),
    )?;
    own_directories::check(spec, ctx)?;
    volumes(spec, &mut steps, &mut attachments)?;
    for (index, rule) in spec.devices.iter().enumerate() {
        let field = format!("devices.{index}.path");
        let path = absolute(&field, &rule.path)?;
        if !path.starts_with(mount_point(device::MOUNT_POINT)) {
            return Err(Fault::invalid(
                field,
                format!("{} is not below /dev", path.display()),
            ));
        }
        steps.push(Step::HoldDevice {
            path: c_path(&field, &path)?,
        });
    }
    if host.layout != CgroupLayout::V2 {
        steps.push(Step::HoldGroups {
            hierarchies: hierarchies(host)?,
        });
    }
    root(spec, host, ctx, &mut steps)?;
    steps.push(Step::Processes);
    steps.push(Step::Devices {
        console: spec.terminal.is_some(),
    });
    if spec.rootfs.is_none() {
        for (target, mode, optional) in PRIVATE {
            steps.push(Step::PrivateDirectory {
                target: c_text("", target.as_bytes())?,
                mode,
                optional,
            });
        }
        hide(ctx, &sandbox_target, &mut steps)?;
    }
    steps.push(Step::Sysfs {
        fresh: spec.rootfs.is_some() || spec.network != Network::Host,
    });
    steps.push(Step::Cgroups {
        unified: host.layout == CgroupLayout::V2,
    });
    let texts = |paths: &[&str]| -> Result<Vec<CString>, Fault> {
        paths.iter().map(|path| c_text("", path.as_bytes())).collect()
    };
    let directories: Vec<&str> = procfs::MASKED_DIRECTORIES
        .iter()
        .chain(&device::SYSFS_MASKED)
        .copied()
        .collect();
    steps.push(Step::ReadOnly {
        targets: texts(&procfs::READ_ONLY)?,
    });
    steps.push(Step::Mask {
        files: texts(&procfs::MASKED_FILES)?,
        directories: texts(&directories)?,
    });
    steps.extend(attachments);
    steps.extend(own_directories::covers(spec, ctx)?);
    steps.push(Step::Hostname { name: hostname(ctx)? });
    if ids.is_some() {
        steps.push(Step::EnterOwnIds);
    }
    Ok(steps)
}

fn mount_point(path: &std::ffi::CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

fn hold(
    steps: &mut Vec<Step>,
    attachments: &mut Vec<Step>,
    field: &str,
    (source, owners): (&Path, Owners),
    (target, read_only): (&Path, bool),
) -> Result<(), Fault> {
    let number = attachments.len() as u32;
    steps.push(Step::HoldSource {
        path: c_path(field, source)?,
        owners,
    });
    attachments.push(Step::Attach {
        source: number,
        target: c_path(field, target)?,
        read_only,
    });
    Ok(())
}

fn volumes(spec: &LaunchSpec, steps: &mut Vec<Step>, attachments: &mut Vec<Step>) -> Result<(), Fault> {
    if spec.volumes.len() > VOLUMES_MAX {
        return Err(Fault::invalid(
            "volumes",
            format!("more than {VOLUMES_MAX} volumes"),
        ));
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("volumes.{index}.target");
        let target = absolute(&field, &volume.target)?;
        if target == Path::new("/") {
            return Err(Fault::invalid(field, "the root can not be a volume").remedy("use a rootfs"));
        }
        let kernels = [
            procfs::MOUNT_POINT,
            device::SYSFS_MOUNT_POINT,
            device::MOUNT_POINT,
        ];
        if let Some(kernel) = kernels
            .into_iter()
            .map(mount_point)
            .find(|kernel| target.starts_with(kernel))
        {
            let message = format!(
                "{} lies in {}, which every container has of its own",
                target.display(),
                kernel.display()
            );
            return Err(Fault::invalid(field, message));
        }
        if let Some(earlier) = spec.volumes[..index]
            .iter()
            .find(|other| absolute("", &other.target).is_ok_and(|other| other == target))
        {
            return Err(Fault::invalid(
                field,
                format!("{} is the target of two volumes", earlier.target.display()),
            ));
        }
        let field = format!("volumes.{index}.source");
        let source = absolute(&field, &volume.source)?;
        let owners = match spec.userns {
            Some(_) => Owners::Mapped,
            None => Owners::Same,
        };
        hold(
            steps,
            attachments,
            &field,
            (&source, owners),
            (&target, volume.read_only),
        )?;
    }
    Ok(())
}

fn root(
    spec: &LaunchSpec,
    host: &HostSupport,
    ctx: &PlanContext,
    steps: &mut Vec<Step>,
) -> Result<(), Fault> {
    let Some(rootfs) = &spec.rootfs else {
        steps.push(Step::HostRoot);
        return Ok(());
    };
    if !host.overlay {
        return Err(Fault::unsupported(
            "rootfs",
            "the kernel has no overlay file system (CONFIG_OVERLAY_FS)",
        ));
    }
    let layers = ctx
        .overlay_dir
        .as_ref()
        .ok_or_else(|| Fault::failed("no directory for the writable layer of the rootfs"))?;
    let layer = |field: &str, path: &PathBuf| -> Result<CString, Fault> {
        let path = absolute(field, path)?;
        // They separate layers and options in overlay's mount options.
        if path
            .as_os_str()
            .as_bytes()
            .iter()
            .any(|byte| b":,\\".contains(byte))
        {
            let message = format!(
                "{:?} holds ':', ',' or '\\', which overlay mounts can not take",
                path.display()
            );
            return Err(Fault::invalid(field, message));
        }
        c_path(field, &path)
    };
    let lower = layer("rootfs", rootfs)?;
    steps.push(Step::OverlayRoot {
        lower,
        layers: layer("overlay_dir", layers)?,
        mapped: spec.userns.is_some(),
    });
    Ok(())
}

/// Covers the agent's directories, unless a private directory has already replaced them.
fn hide(ctx: &PlanContext, sandbox_target: &Path, steps: &mut Vec<Step>) -> Result<(), Fault> {
    let hidden: Vec<PathBuf> = ctx
        .hidden
        .iter()
        .map(|path| absolute("hidden", path))
        .collect::<Result<_, _>>()?;
    for (index, path) in hidden.iter().enumerate() {
        if path == Path::new("/") {
            return Err(Fault::invalid("hidden", "the root can not be hidden"));
        }
        let inside_another = hidden
            .iter()
            .enumerate()
            .any(|(at, other)| path.starts_with(other) && (path != other || at < index));
        let replaced = PRIVATE
            .iter()
            .any(|(private, _, optional)| !optional && path.starts_with(private));
        if inside_another || replaced {
            continue;
        }
        let inner = match sandbox_target.strip_prefix(path) {
            Ok(inner) if !inner.as_os_str().is_empty() => {
                Some(c_text("sandbox_target", inner.as_os_str().as_bytes())?)
            }
            _ => None,
        };
        steps.push(Step::Hide {
            target: c_path("hidden", path)?,
            inner,
        });
    }
    Ok(())
}

/// Roots of the v1 hierarchies that a container is shown, and the name of each there.
fn hierarchies(host: &HostSupport) -> Result<Vec<(CString, CString)>, Fault> {
    // Controllers that are mounted together (`cpu,cpuacct`) have one root.
    let mut shown: Vec<(PathBuf, String)> = Vec::new();
    for (controller, name) in SHOWN_CONTROLLERS {
        let Some(mount) = host
            .controllers
            .get(&controller)
            .filter(|mount| mount.version == 1)
        else {
            continue;
        };
        match shown.iter_mut().find(|(root, _)| *root == mount.root) {
            Some((_, names)) => {
                names.push(',');
                names.push_str(name);
            }
            None => shown.push((mount.root.clone(), name.to_owned())),
        }
    }
    shown
        .iter()
        .map(|(root, names)| {
            Ok((
                c_path("controllers", root)?,
                c_text("controllers", names.as_bytes())?,
            ))
        })
        .collect()
}

/// `HOST_NAME_MAX` of Linux.
const HOSTNAME_BYTES_MAX: usize = 64;

fn hostname(ctx: &PlanContext) -> Result<String, Fault> {
    let name = &ctx.hostname;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > HOSTNAME_BYTES_MAX || !name.chars().all(fits) {
        let message = format!(
            "{name:?} is not a host name: 1 to {HOSTNAME_BYTES_MAX} letters, digits, '.', '-' and '_'"
        );
        return Err(Fault::invalid("hostname", message));
    }
    Ok(name.clone())
}
