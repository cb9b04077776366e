//! Ports that containers tried and do not have: told as events. The kernel only counts them, so a look a second tells
//! of many at once, and nothing is lost while no agent runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_core::Input;
use isolators::UsageReader;
use model::{ContainerId, Network};

use crate::shell::Shell;

const INTERVAL: Duration = Duration::from_secs(1);

/// What was refused before we came has been told, or nobody was there to hear it.
pub async fn take_stock(shell: &Rc<Shell>) {
    for (id, refused, _) in look(shell).await {
        if let Some(resources) = shell.resources(&id) {
            resources.ports_refused.set(refused);
        }
    }
}

pub async fn keep_watching(shell: Rc<Shell>) {
    loop {
        net::sleep(INTERVAL).await;
        for (id, refused, port) in look(&shell).await {
            let Some(resources) = shell.resources(&id) else {
                continue;
            };
            let new = refused.saturating_sub(resources.ports_refused.replace(refused));
            if new > 0 {
                shell.input(Input::PortRefused {
                    id,
                    port,
                    refused: new,
                });
            }
        }
    }
}

/// Of each container with a policy: refused binds so far, and the port of the last one.
async fn look(shell: &Rc<Shell>) -> Vec<(ContainerId, u64, u16)> {
    let with_policy: Vec<(ContainerId, Option<Arc<UsageReader>>)> = {
        let core = shell.core();
        let living = core.list(false).filter(|status| status.pid.is_some());
        living
            .filter(|status| status.network == Network::Host && status.grant.is_some())
            .filter_map(|status| {
                let resources = shell.resources(&status.id)?;
                Some((status.id.clone(), resources.usage.borrow().clone()))
            })
            .collect()
    };
    if with_policy.is_empty() {
        return Vec::new();
    }
    let isolators = shell.isolators.clone();
    let look = move || {
        let one = |(id, reader): (ContainerId, Option<Arc<UsageReader>>)| {
            let open = || isolators.usage(&id).ok().map(Arc::new);
            let reader = reader.or_else(|| open().map(crate::statistics::reduced));
            let refusals = reader.as_ref()?.refusals()?;
            Some((id, reader, refusals))
        };
        with_policy.into_iter().filter_map(one).collect::<Vec<_>>()
    };
    let found = shell.pool.run(look).await.unwrap_or_default();
    let mut told = Vec::with_capacity(found.len());
    for (id, reader, refusals) in found {
        crate::statistics::keep(shell, &id, reader);
        told.push((id, refusals.binds, refusals.last_port));
    }
    told
}
