//! Acts upon the removal of what finished containers left, and measures the disk that it is decided by.

use std::rc::Rc;

use agent_core::{Answer, Input, Which};
use kernel::removal::Step;
use model::{ContainerId, Fault, FaultKind, Millis, Removed};

use crate::launch::{blocking, failed};
use crate::leftovers::{Extent, LeftoverRemoval};
use crate::shell::{Shell, moment};

/// Tells the core what is on disk, once, at start.
pub async fn survey(shell: &Rc<Shell>) -> Result<(), Fault> {
    let directories = shell.directories.clone();
    let found = blocking(shell, move || directories.leftovers().map_err(|e| failed(&e))).await?;
    let now = net::wall_ms();
    if !found.is_empty() {
        tracing::info!(
            containers = found.len(),
            "finished containers have left something on disk"
        );
    }
    for found in found {
        shell.input(Input::Leftover {
            id: found.id,
            // A clock that went back, or a time from the future, makes it young.
            age: Millis(now.saturating_sub(found.changed_ms)),
            wanted: found.wanted,
        });
        net::yield_now().await;
    }
    Ok(())
}

/// Looks at the disk for as long as the agent runs.
pub async fn keep_watching(shell: Rc<Shell>) {
    loop {
        let work = shell.directories.work().to_owned();
        let used = shell
            .pool
            .run(move || kernel::directory::file_system_use(&work))
            .await;
        match used {
            Ok(Ok(found)) => shell.input(Input::DiskUsed { used: found.used }),
            Ok(Err(error)) => tracing::warn!("look at the disk of the work directory: {error}"),
            Err(error) => tracing::warn!("look at the disk of the work directory: {error}"),
        }
        net::sleep(shell.config.disk.disk_watch_interval.duration()).await;
    }
}

/// Removes what one container left, a slice at a time.
pub fn remove(shell: &Rc<Shell>, id: ContainerId) {
    let shell = shell.clone();
    net::spawn(async move {
        let result = remove_all(&shell, &id).await;
        match &result {
            Ok(removed) => {
                shell.metrics.removals_succeeded.increment();
                tracing::info!(
                    container = %id, bytes = removed.bytes, files = removed.files, "sandbox removed"
                );
            }
            Err(_) => shell.metrics.removals_failed.increment(),
        }
        shell.input(Input::Removed { id, result });
    })
    .detach();
}

async fn remove_all(shell: &Rc<Shell>, id: &ContainerId) -> Result<Removed, String> {
    let mut removal = LeftoverRemoval::new(&shell.directories, id, Extent::All);
    loop {
        let sliced = shell.pool.run(move || {
            let step = removal.slice();
            (removal, step)
        });
        let step;
        (removal, step) = sliced.await.map_err(|error| error.to_string())?;
        match step {
            Step::More => {}
            Step::Done => break,
            Step::Stuck(error) => return Err(failed(&error).to_string()),
        }
    }
    let freed = removal.freed();
    if shell.disk.project(id).is_some() {
        let (disk, job_id) = (shell.disk.clone(), id.clone());
        let _ = shell.pool.run(move || disk.release(&job_id)).await;
    }
    Ok(Removed {
        bytes: freed.bytes,
        files: freed.files,
        directories: freed.directories,
        ..Removed::of(id.clone())
    })
}

/// A client's request.
pub async fn serve(
    shell: &Rc<Shell>,
    params: wire::agent_capnp::agent::collect_params::Reader<'_>,
) -> Result<Vec<Removed>, Fault> {
    use wire::agent_capnp::agent::Which as Wanted;
    let which = match params.get_which() {
        Ok(Wanted::Due) => Which::Due,
        Ok(Wanted::OlderThan) => Which::OlderThan(Millis(params.get_older_than_ms())),
        Ok(Wanted::Named) => {
            let texts = wire::agent::decode_ids(params.get_ids())?;
            let ids: Result<Vec<ContainerId>, Fault> = texts.iter().map(|text| find(shell, text)).collect();
            Which::Named(ids?)
        }
        Err(_) => return Err(Fault::invalid("which", "is not known to this version")),
    };
    match params.get_dry_run() {
        true => preview(shell, &which).await,
        false => collect(shell, which).await,
    }
}

/// What would go, with what it takes on the disk.
async fn preview(shell: &Rc<Shell>, which: &Which) -> Result<Vec<Removed>, Fault> {
    let selected = shell.core().select(moment(), which)?;
    let mut all = Vec::with_capacity(selected.len());
    for (id, age) in selected {
        let directories = shell.directories.clone();
        let name = shell.core().status(&id).and_then(|s| s.name.clone());
        let measured = blocking(shell, move || Ok(directories.measure(&id))).await?;
        all.push(Removed {
            name,
            age,
            ..measured
        });
    }
    Ok(all)
}

/// Removes, and answers when everything has been tried.
async fn collect(shell: &Rc<Shell>, which: Which) -> Result<Vec<Removed>, Fault> {
    match shell.ask(|ticket| Input::Collect { ticket, which }).await? {
        Answer::Collected(removed) => Ok(removed),
        _ => Err(Fault::failed("the agent gave an answer out of place")),
    }
}

/// A container by id or name, or one that only its directories tell of.
fn find(shell: &Shell, text: &str) -> Result<ContainerId, Fault> {
    let core = shell.core();
    match core.find(text) {
        Err(fault) if fault.kind == FaultKind::NotFound => {
            let mut known = core.leftovers(moment()).into_iter().map(|(id, _)| id);
            if let Some(id) = known.find(|id| id.as_str() == text) {
                return Ok(id);
            }
            let mut begun = core
                .leftovers(moment())
                .into_iter()
                .map(|(id, _)| id)
                .filter(|id| text.len() >= 4 && id.as_str().starts_with(text));
            match (begun.next(), begun.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(fault.remedy("see `bulkhead gc --dry-run --all`")),
            }
        }
        other => other,
    }
}
