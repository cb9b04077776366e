//! Acts upon the wishes of an ending: signal, kill everything, clean up.

use std::os::fd::AsFd;
use std::rc::Rc;

use agent_core::{CleanupOutcome, Input};
use model::{ContainerId, Limitation};

use crate::failpoint;
use crate::shell::Shell;

/// How long a cleanup waits for the last output before it goes on without: the pipes are at their end
/// as soon as the last process is gone, unless a follower that must not lose bytes holds them back.
const OUTPUT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(50);

pub fn signal(shell: &Rc<Shell>, id: &ContainerId, signal: i32) {
    let Some(init) = shell.resources(id).and_then(|r| r.init.borrow().clone()) else {
        return;
    };
    if let Err(error) = kernel::process::pidfd_send_signal(init.as_fd(), signal) {
        tracing::debug!(container = %id, signal, "signal the init: {error}");
    }
}

pub fn kill_all(shell: &Rc<Shell>, id: ContainerId) {
    // The end of a pid namespace's first process ends all of it, at once and in the kernel; the cgroup
    // then gets what is not in the namespace.
    signal(shell, &id, 9);
    let shell = shell.clone();
    net::spawn(async move {
        let (isolators, job_id) = (shell.isolators.clone(), id.clone());
        let killed = shell
            .pool
            .run(move || {
                failpoint::pass("kill.all").map_err(|f| f.to_string())?;
                isolators.kill_all(&job_id).map_err(|e| e.to_string())
            })
            .await;
        match killed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(container = %id, "kill all processes: {error}"),
            Err(error) => tracing::error!(container = %id, "kill all processes: {error}"),
        }
    })
    .detach();
}

pub fn cleanup(shell: &Rc<Shell>, id: ContainerId, remove: bool) {
    let shell = shell.clone();
    net::spawn(async move {
        let (outcome, limitation) = take_down(&shell, &id, remove).await;
        if let CleanupOutcome::Busy { message } = &outcome {
            shell.metrics.cleanup_retries.increment();
            tracing::debug!(container = %id, "cleanup to be tried again: {message}");
        }
        shell.input(Input::Cleaned {
            id,
            outcome,
            limitation,
        });
    })
    .detach();
}

async fn take_down(
    shell: &Rc<Shell>,
    id: &ContainerId,
    remove: bool,
) -> (CleanupOutcome, Option<Limitation>) {
    let resources = shell.resources(id);
    if let Some(resources) = &resources {
        resources.watch.borrow_mut().take();
        resources.usage.borrow_mut().take();
        resources.channel.borrow_mut().take();
        resources.init.borrow_mut().take();
        if let Some(stdin) = &resources.stdin {
            stdin.end_for_good();
        }
        resources.terminal.borrow_mut().take();
    }
    let finished = match &resources {
        Some(resources) => net::timeout(OUTPUT_PATIENCE, wait_for_output(&resources.output, remove))
            .await
            .is_ok(),
        None => true,
    };
    let (isolators, directories, job_id) = (shell.isolators.clone(), shell.directories.clone(), id.clone());
    let limits = shell.core().limits(id).cloned().unwrap_or_default();
    let remove_now = remove && finished;
    // A child that was never let through its gate is ended on the worker: it may be stuck in a mount that hangs.
    let newborn = resources.as_ref().and_then(|r| r.newborn.borrow_mut().take());
    let job = move || {
        drop(newborn);
        let limitation = isolators.limitation(&job_id, &limits).ok().flatten();
        let done = (|| {
            failpoint::pass("cleanup.groups").map_err(|f| f.to_string())?;
            match isolators.cleanup(&job_id) {
                Ok(isolators::Cleanup::Done) => {}
                Ok(busy) => {
                    // Nothing may be in it by now: what got in some other way goes as well.
                    let _ = isolators.kill_all(&job_id);
                    return Err(busy.to_string());
                }
                Err(error) => return Err(crate::launch::failed(&error).to_string()),
            }
            failpoint::pass("cleanup.runtime").map_err(|f| f.to_string())?;
            directories
                .remove_overlay(&job_id)
                .map_err(|e| crate::launch::failed(&e).to_string())?;
            if remove_now {
                failpoint::pass("cleanup.work").map_err(|f| f.to_string())?;
                directories
                    .remove_work(&job_id)
                    .map_err(|e| crate::launch::failed(&e).to_string())?;
            }
            if remove && !remove_now {
                directories
                    .mark_for_removal(&job_id)
                    .map_err(|e| crate::launch::failed(&e).to_string())?;
            }
            // Last: as long as it is there, a restarted agent knows that there is something to clean.
            directories
                .remove_runtime(&job_id)
                .map_err(|e| crate::launch::failed(&e).to_string())
        })();
        (done, limitation)
    };
    if remove && !finished {
        remove_when_read(shell, id);
    }
    match shell.pool.run(job).await {
        Ok((Ok(()), limitation)) => (CleanupOutcome::Done, limitation),
        Ok((Err(message), limitation)) => (CleanupOutcome::Busy { message }, limitation),
        Err(error) => (
            CleanupOutcome::Busy {
                message: error.to_string(),
            },
            None,
        ),
    }
}

async fn wait_for_output(output: &crate::output::ContainerOutput, remove: bool) {
    output.close_if_silent();
    if remove {
        output.finished().await;
    } else {
        output.drained().await;
    }
}

/// A follower is still reading the output of a container that asked to be removed: the files go when it is done or
/// gone, or with the next agent.
fn remove_when_read(shell: &Rc<Shell>, id: &ContainerId) {
    let (shell, id) = (shell.clone(), id.clone());
    net::spawn(async move {
        let Some(resources) = shell.resources(&id) else {
            return;
        };
        resources.output.finished().await;
        drop(resources);
        for attempt in 0..REMOVAL_ATTEMPTS {
            let (directories, job_id) = (shell.directories.clone(), id.clone());
            match shell.pool.run(move || directories.remove_marked(&job_id)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(container = %id, attempt, "remove the sandbox: {error}"),
                Err(error) => tracing::error!(container = %id, attempt, "remove the sandbox: {error}"),
            }
            net::sleep(REMOVAL_PAUSE).await;
        }
    })
    .detach();
}

const REMOVAL_ATTEMPTS: u32 = 10;
const REMOVAL_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
