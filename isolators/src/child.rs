//! What the container's own init sets up, told beside the isolators so that a person sees the whole.

use model::{HostSupport, IsolatorReport};

use crate::isolator::{active, missing};

/// Its line is completed by the agent, who has the ids.
pub const USER_NAMESPACES: &str = "user namespaces";

fn user_namespaces(host: &HostSupport) -> IsolatorReport {
    if host.user_namespaces == Some(false) {
        let why = "CONFIG_USER_NS, or user.max_user_namespaces above 0";
        return missing(USER_NAMESPACES, why);
    }
    let (volumes, rootfs) = (host.mapped_mounts, host.mapped_layers);
    let mut report = active(USER_NAMESPACES, "when asked (--userns)");
    report.missing = match (volumes, rootfs) {
        (true, true) => String::new(),
        (true, false) => "with --rootfs: overlays over mounts with mapped ids (Linux 5.19)".to_owned(),
        (false, _) => "with volumes or --rootfs: mounts with mapped ids (Linux 5.12)".to_owned(),
    };
    if volumes {
        report.mechanism.push_str("; volumes by mounts with mapped ids");
    }
    report
}

/// One line each for namespaces, capabilities, rlimits and seccomp.
pub fn reports(host: &HostSupport) -> Vec<IsolatorReport> {
    let capabilities = host.bounding_capabilities.count_ones();
    vec![
        active("namespaces", "pid, mount, uts, ipc, cgroup; network when asked"),
        active(
            "capabilities",
            format!("bounding and ambient sets; {capabilities} may be handed on"),
        ),
        active("rlimits", "setrlimit"),
        user_namespaces(host),
        if host.seccomp {
            active("seccomp", "filter of denied system calls, no_new_privs")
        } else {
            missing(
                "seccomp",
                "this kernel has no seccomp filter (CONFIG_SECCOMP_FILTER)",
            )
        },
    ]
}
