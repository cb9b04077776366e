//! What an earlier agent left behind.

use std::rc::Rc;
use std::time::Duration;

use model::{ContainerId, Fault};

use crate::launch::{blocking, failed};
use crate::shell::Shell;

/// Tries of taking down one leftover before the agent starts without it.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(20);

/// Ends and removes every container of ours that no agent looks after.
pub async fn recover(shell: &Rc<Shell>) -> Result<(), Fault> {
    let (isolators, directories) = (shell.isolators.clone(), shell.directories.clone());
    let leftovers = blocking(shell, move || {
        let mut ids = isolators.orphans().map_err(|e| failed(&e))?;
        ids.extend(directories.known().map_err(|e| failed(&e))?);
        ids.sort();
        ids.dedup();
        Ok(ids)
    })
    .await?;
    for id in leftovers {
        match destroy(shell, &id).await {
            Ok(()) => tracing::warn!(container = %id, "lost: left behind by an earlier agent, removed"),
            Err(fault) => tracing::error!(container = %id, "left behind by an earlier agent: {fault}"),
        }
    }
    Ok(())
}

async fn destroy(shell: &Rc<Shell>, id: &ContainerId) -> Result<(), Fault> {
    let mut attempt = 0;
    loop {
        let (isolators, directories, job_id) = (shell.isolators.clone(), shell.directories.clone(), id.clone());
        let done = blocking(shell, move || {
            isolators.kill_all(&job_id).map_err(|e| failed(&e))?;
            match isolators.cleanup(&job_id).map_err(|e| failed(&e))? {
                isolators::Cleanup::Done => {}
                busy => return Err(Fault::failed(busy.to_string())),
            }
            directories.remove_overlay(&job_id).map_err(|e| failed(&e))?;
            directories.remove_runtime(&job_id).map_err(|e| failed(&e))
        })
        .await;
        attempt += 1;
        match done {
            Ok(()) => return Ok(()),
            Err(fault) if attempt == ATTEMPTS => return Err(fault),
            Err(_) => net::sleep(PAUSE).await,
        }
    }
}
