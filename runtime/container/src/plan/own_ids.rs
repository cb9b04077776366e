//! What a user namespace of the container's own asks of the host.

use model::{Fault, HostSupport, IdRange, LaunchSpec};

/// The ids outside, when there are any of the container's own; refused when this kernel can not give them.
pub(super) fn check(spec: &LaunchSpec, host: &HostSupport) -> Result<Option<IdRange>, Fault> {
    let Some(wanted) = spec.userns else {
        return Ok(None);
    };
    if wanted.count == 0 {
        return Err(Fault::invalid("userns", "a container needs at least one id"));
    }
    if host.user_namespaces == Some(false) {
        let message = "the kernel has no user namespaces (CONFIG_USER_NS), or user.max_user_namespaces is 0";
        return Err(Fault::unsupported("userns", message));
    }
    let missing = |field: &str, message: &str| {
        Err(Fault::unsupported(field, message).remedy("leave it out, or run without --userns"))
    };
    if !spec.volumes.is_empty() && !host.mapped_mounts {
        return missing(
            "volumes",
            "with --userns they need mounts with mapped ids (Linux 5.12)",
        );
    }
    if spec.rootfs.is_some() && !host.mapped_layers {
        return missing(
            "rootfs",
            "with --userns it needs an overlay over mounts with mapped ids (Linux 5.19)",
        );
    }
    let range = wanted.range();
    range
        .map(Some)
        .ok_or_else(|| Fault::failed("the container has been given no ids"))
}
