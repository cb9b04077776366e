//! The record that a successor reads: who a container is.

use container::init;
use model::ContainerId;
use model::checkpoint::{Checkpoint, KeptDescriptor};

use crate::shell::Shell;

/// Encoded, for the runtime directory. `None` when the container is gone.
pub fn record(shell: &Shell, id: &ContainerId) -> Option<Vec<u8>> {
    Some(wire::checkpoint::encode(&facts(shell, id)?))
}

/// As the core knows it now.
pub fn facts(shell: &Shell, id: &ContainerId) -> Option<Checkpoint> {
    let core = shell.core();
    let status = core.status(id)?;
    Some(Checkpoint {
        instance: shell.config.instance.clone(),
        id: id.clone(),
        spec: core.spec(id)?.clone(),
        state: status.state,
        limits: core.limits(id)?.clone(),
        updating: core.updating(id).cloned(),
        init: core.identity(id).cloned(),
        start_marked: true,
        kept: kept(status.terminal),
        sandbox: status.sandbox.clone(),
        created_at_ms: status.created_at_ms,
        started_at_ms: status.started_at_ms,
        killing: core.killing(id),
        kill_at_ms: None,
        termination: status.termination.clone(),
        network_slot: shell
            .resources(id)
            .and_then(|resources| resources.network_slot.get()),
    })
}

fn kept(terminal: bool) -> Vec<KeptDescriptor> {
    let named = |name: &str, number: i32| KeptDescriptor {
        name: name.to_owned(),
        number,
    };
    if terminal {
        return vec![named(TERMINAL, init::KEPT_STDOUT_FD)];
    }
    vec![
        named(STDOUT, init::KEPT_STDOUT_FD),
        named(STDERR, init::KEPT_STDERR_FD),
    ]
}

pub const TERMINAL: &str = "terminal";
pub const STDOUT: &str = "stdout";
pub const STDERR: &str = "stderr";
