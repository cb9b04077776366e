//! What the container's own init sets up, told beside the isolators so that a person sees the whole.

use model::{HostSupport, IsolatorReport};

use crate::isolator::{active, missing};

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
