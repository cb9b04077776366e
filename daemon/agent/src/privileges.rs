//! What the agent gives up at its start, before it makes a thread or a process.
//!
//! A container's capabilities come out of the agent's bounding set, so that what is gone here no container can ever
//! have: a launch that asks for one is refused at admission, and told which flag would have kept it.

use kernel::capability::{self, CapabilitySet};
use kernel::{process, procfs};
use model::Fault;

/// Each with what the agent itself, the launcher or an init does with it.
const NEEDED: &[(&str, &str)] = &[
    ("CHOWN", "give a sandbox and a terminal to the user of a command"),
    (
        "DAC_OVERRIDE",
        "read and remove what commands of other users left in their sandboxes",
    ),
    (
        "FOWNER",
        "remove files of other users from sticky directories; set times and modes of what is not ours",
    ),
    ("FSETID", "part of a container's default set"),
    ("KILL", "signal processes of other users"),
    ("SETGID", "become the group of a command"),
    ("SETUID", "become the user of a command"),
    ("SETPCAP", "take capabilities out of a container's bounding set"),
    (
        "NET_BIND_SERVICE",
        "part of a container's default set; an HTTP port below 1024",
    ),
    (
        "NET_ADMIN",
        "set the loopback of a new network namespace up; attach device programs to v2 groups",
    ),
    (
        "SYS_CHROOT",
        "join a mount namespace; part of a container's default set",
    ),
    (
        "SYS_PTRACE",
        "take back the pipes that an init keeps, and join its namespaces: inits are not dumpable",
    ),
    (
        "SYS_ADMIN",
        "mounts, namespaces, disk quotas, programs for device control",
    ),
    (
        "SYS_RESOURCE",
        "resource limits above our own, protection from the OOM killer",
    ),
    ("MKNOD", "make the device nodes of a container's /dev"),
    ("SETFCAP", "write the id map of a user namespace"),
];

/// Not needed by the agent and kept for `--cap-add`: they act within a container's own namespaces or on its own
/// processes and files.
const GRANTABLE: &[&str] = &[
    "AUDIT_WRITE",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "NET_BROADCAST",
    "NET_RAW",
    "SYS_NICE",
];

/// Below every container's and above nothing that the host itself needs first.
const OOM_SCORE_ADJUSTMENT: i32 = -999;

/// Nothing that is made without an explicit mode is for others.
const FILE_MODE_MASK: u32 = 0o077;

/// What is kept; `allowed` are names that an operator wants containers to be able to have, or `ALL`.
fn kept(allowed: &[String]) -> Result<CapabilitySet, Fault> {
    let names: Vec<&str> = NEEDED.iter().map(|(name, _)| *name).collect();
    let mut kept = CapabilitySet::of(&names).0 | CapabilitySet::of(GRANTABLE).0;
    for name in allowed {
        if name.eq_ignore_ascii_case("all") {
            return Ok(CapabilitySet(u64::MAX));
        }
        let number = capability::number(name).ok_or_else(|| {
            Fault::invalid("allow-capabilities", format!("{name:?} is not a capability"))
                .remedy("see capabilities(7), or give ALL")
        })?;
        kept |= 1 << number;
    }
    Ok(CapabilitySet(kept))
}

/// Gives up what is not kept, for good. Only while this process has one thread: capabilities belong to threads.
pub fn reduce(allowed: &[String]) -> Result<(), Fault> {
    let kept = kept(allowed)?;
    let failed = |what: &'static str| {
        move |errno: kernel::Errno| Fault::failed(format!("{what}: {}", errno.desc().to_lowercase()))
    };
    process::set_file_mode_mask(FILE_MODE_MASK);
    // Our memory holds the environments of all containers.
    process::set_dumpable(false).map_err(failed("switch core dumps off"))?;
    process::set_no_new_privileges().map_err(failed("set no_new_privs"))?;
    protect_from_oom_killer();
    let (_, permitted) = capability::own().map_err(failed("read own capabilities"))?;
    let gone = CapabilitySet(u64::MAX).without(kept);
    capability::drop_bounding(gone).map_err(|errno| {
        failed("drop capabilities from the bounding set")(errno).remedy("the agent needs CAP_SETPCAP")
    })?;
    let rest = CapabilitySet(permitted.0 & kept.0);
    capability::set(rest, rest, CapabilitySet::EMPTY).map_err(failed("drop capabilities"))
}

fn protect_from_oom_killer() {
    match procfs::own_oom_score_adjustment() {
        // Lowered for us by who started us.
        Ok(score) if score <= OOM_SCORE_ADJUSTMENT => return,
        _ => {}
    }
    if let Err(error) = procfs::set_own_oom_score_adjustment(OOM_SCORE_ADJUSTMENT) {
        tracing::info!(
            "the OOM killer may choose the agent: set oom_score_adj to {OOM_SCORE_ADJUSTMENT}: {error}; \
             give it CAP_SYS_RESOURCE, or OOMScoreAdjust={OOM_SCORE_ADJUSTMENT} in its unit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_the_whole_host_is_given_up() {
        let kept = kept(&[]).unwrap();
        for name in [
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_BOOT",
            "SYS_TIME",
            "SYSLOG",
            "BPF",
            "PERFMON",
            "MAC_ADMIN",
            "DAC_READ_SEARCH",
            "AUDIT_CONTROL",
            "CHECKPOINT_RESTORE",
        ] {
            assert!(!kept.contains(capability::number(name).unwrap()), "{name}");
        }
        assert!(!kept.contains(63), "a capability that we do not know");
    }

    #[test]
    fn a_containers_default_set_is_kept() {
        let kept = kept(&[]).unwrap();
        let missing = container::plan::default_capabilities().without(kept);
        assert_eq!(missing, CapabilitySet::EMPTY, "{}", missing.describe());
    }

    #[test]
    fn the_unit_file_grants_the_same() {
        let unit = include_str!("../../../packaging/bulkhead-agent.service");
        let lines = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let names: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        assert!(
            names.iter().all(|name| capability::number(name).is_some()),
            "{names:?}"
        );
        assert_eq!(
            CapabilitySet::of(&names).describe(),
            kept(&[]).unwrap().describe()
        );
    }

    #[test]
    fn an_operator_can_keep_more() {
        let time = capability::number("SYS_TIME").unwrap();
        assert!(super::kept(&["cap_sys_time".to_owned()]).unwrap().contains(time));
        assert!(super::kept(&["all".to_owned()]).unwrap().contains(63));
        assert!(super::kept(&["SYS_NONSENSE".to_owned()]).is_err());
    }
}
