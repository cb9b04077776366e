//! Looks at places of the host that a client named. They take microseconds, and for ever on a mount whose server is
//! gone: so they have threads of their own, and launches that name nothing never notice.

use std::time::Duration;

use model::{Fault, FaultKind, LaunchSpec};

use crate::shell::Shell;

/// Threads that may be stuck in mounts that hang before every launch with volumes is refused.
pub const THREADS: usize = 4;

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `job` on such a thread. One that is stuck keeps it until the mount answers, or goes.
pub async fn look<T: Send + 'static>(
    shell: &Shell,
    named: String,
    job: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match net::timeout(PATIENCE, shell.paths.run(job)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Fault::from_error(FaultKind::Failed, &error)),
        Err(_) => {
            let (waiting, stuck) = shell.paths.load();
            let message = format!(
                "no answer from the host about {named} within {} s ({stuck} look-ups hang, {waiting} wait for their turn)",
                PATIENCE.as_secs()
            );
            let fault = Fault::new(FaultKind::Unavailable, message).field("volumes");
            Err(fault.remedy(
                "a mount has lost its server: find it with `ls`, end it with `umount -f` or `umount -l`",
            ))
        }
    }
}

/// The paths of a launch, for people.
pub fn named(spec: &LaunchSpec) -> String {
    let volumes = spec.volumes.iter().map(|volume| &volume.source);
    let all: Vec<String> = spec
        .rootfs
        .iter()
        .chain(volumes)
        .map(|path| path.display().to_string())
        .collect();
    all.join(", ")
}
