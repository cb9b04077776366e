//! What an earlier agent left: adopted if it lives, reported if it ended, removed if nobody knows it.
//!
//! ```text
//! checkpoint   init lives (pid and start time)   → adopted: pidfd, output, memory watch; nothing is started
//! checkpoint   init is gone, or another boot     → its end is reported, once, and the rest cleaned up
//! damaged or of a version that we don't know     → set aside with a warning, then as without one
//! none         groups or a directory of ours     → nobody was promised anything: removed
//! another instance's                             → left alone
//! ```

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use agent_core::{Adopted, EndReport, Input};
use model::checkpoint::Checkpoint;
use model::{ContainerId, Fault, ProcessIdentity};

use crate::checkpoint::{STDERR, STDOUT, TERMINAL};
use crate::launch::{blocking, failed, source};
use crate::resources::Resources;
use crate::shell::Shell;
use crate::work_dir::{Directories, write_atomically};

/// Tries of taking down one leftover before the agent starts without it.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// One container with a checkpoint, as the kernel has it now.
struct Found {
    checkpoint: Checkpoint,
    alive: Result<Living, EndReport>,
}

/// An init that lives, and what it kept for us.
struct Living {
    pidfd: OwnedFd,
    kept: Vec<(String, OwnedFd)>,
}

/// What a look at disk and kernel gave.
struct Survey {
    found: Vec<Found>,
    strangers: Vec<ContainerId>,
    rebooted: bool,
}

pub async fn recover(shell: &Rc<Shell>) -> Result<(), Fault> {
    let (isolators, directories, host) = (
        shell.isolators.clone(),
        shell.directories.clone(),
        shell.host.clone(),
    );
    let instance = shell.config.instance.clone();
    let survey = blocking(shell, move || {
        let orphans = isolators.orphans().map_err(|e| failed(&e))?;
        survey(&directories, orphans, &instance, &host.boot_id)
    })
    .await?;
    if survey.rebooted {
        tracing::warn!("the host was restarted: nothing is adopted");
    }
    for id in survey.strangers {
        match destroy(shell, &id).await {
            Ok(()) => tracing::warn!(container = %id, "removed: left behind without a record"),
            Err(fault) => {
                tracing::error!(container = %id, "left behind without a record, and stays: {fault}")
            }
        }
    }
    let (mut adopted, mut ended) = (0, 0);
    for found in survey.found {
        if found.alive.is_ok() {
            adopted += 1
        } else {
            ended += 1
        }
        adopt(shell, found);
    }
    if adopted + ended > 0 {
        tracing::info!(adopted, ended, "containers of an earlier agent");
    }
    Ok(())
}

/// Runs on a worker: reads everything, changes nothing but the boot id and damaged records.
fn survey(
    directories: &Directories,
    orphans: Vec<ContainerId>,
    instance: &str,
    boot_id: &str,
) -> Result<Survey, Fault> {
    let path = directories.boot_id();
    let rebooted = std::fs::read_to_string(&path).is_ok_and(|earlier| earlier.trim() != boot_id);
    let ids: BTreeSet<ContainerId> = orphans
        .into_iter()
        .chain(directories.known().map_err(|e| failed(&e))?)
        .collect();
    let mut survey = Survey {
        found: Vec::new(),
        strangers: Vec::new(),
        rebooted,
    };
    for id in ids {
        match read_checkpoint(directories, &id) {
            Some(checkpoint) if checkpoint.instance != instance => {
                tracing::warn!(container = %id, owner = checkpoint.instance, "belongs to another instance, left alone");
            }
            Some(checkpoint) => {
                let alive = match &checkpoint.init {
                    Some(init) if !rebooted && init.boot_id == boot_id => find_init(&checkpoint, init),
                    _ => Err(EndReport::UNRECORDED),
                };
                let alive = alive.map_err(|_| crate::launch::read_end(&directories.status(&id), &id));
                survey.found.push(Found { checkpoint, alive });
            }
            None => survey.strangers.push(id),
        }
    }
    write_atomically(&path, boot_id.as_bytes()).map_err(|e| failed(&e))?;
    Ok(survey)
}

fn read_checkpoint(directories: &Directories, id: &ContainerId) -> Option<Checkpoint> {
    let path = directories.checkpoint(id);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(container = %id, "read {}: {error}", path.display());
            return None;
        }
    };
    let why = match wire::checkpoint::decode(&bytes) {
        Ok(checkpoint) if checkpoint.id == *id => return Some(checkpoint),
        Ok(checkpoint) => format!("it is the record of container {}", checkpoint.id),
        Err(error) => failed(&error).to_string(),
    };
    match set_aside(directories, id, &path) {
        Ok(kept) => tracing::warn!(container = %id, kept = %kept.display(), "checkpoint set aside: {why}"),
        Err(fault) => {
            tracing::warn!(container = %id, "checkpoint {}: {why}; set it aside: {fault}", path.display())
        }
    }
    None
}

/// Keeps a record that can't be read for whoever wants to know, outside the directory that is removed.
fn set_aside(directories: &Directories, id: &ContainerId, path: &std::path::Path) -> Result<PathBuf, Fault> {
    let place = directories.set_aside(id).map_err(|e| failed(&e))?;
    std::fs::copy(path, &place)
        .map_err(|e| Fault::failed(format!("copy {} to {}: {e}", path.display(), place.display())))?;
    Ok(place)
}

/// The very process of the checkpoint: its start time is compared again behind the pidfd, which holds the
/// pid from then on.
fn find_init(checkpoint: &Checkpoint, init: &ProcessIdentity) -> Result<Living, EndReport> {
    let same = || kernel::procfs::start_time(init.pid).is_ok_and(|start| start == init.start_time);
    if !same() {
        return Err(EndReport::UNRECORDED);
    }
    let Ok(pidfd) = kernel::process::pidfd_open(init.pid) else {
        return Err(EndReport::UNRECORDED);
    };
    if !same() {
        return Err(EndReport::UNRECORDED);
    }
    let mut kept = Vec::new();
    for descriptor in &checkpoint.kept {
        match kernel::descriptor::take(&pidfd, descriptor.number) {
            Ok(fd) => kept.push((descriptor.name.clone(), fd)),
            // It may be ending this moment; its end will be told in its turn.
            Err(error) => tracing::warn!(
                container = %checkpoint.id, "take {} from the init: {error}", descriptor.name
            ),
        }
    }
    Ok(Living { pidfd, kept })
}

fn adopt(shell: &Rc<Shell>, found: Found) {
    let Found { checkpoint, alive } = found;
    let id = checkpoint.id.clone();
    let directory = shell.directories.output(&id);
    let resources = Resources::new(&checkpoint.spec, directory, shell.pool.clone());
    shell.hold(&id, resources.clone());
    let alive = alive.and_then(|living| {
        take_over(&resources, living).map_err(|fault| {
            tracing::error!(container = %id, "adopt: {fault}");
            EndReport::UNRECORDED
        })
    });
    let lives = alive.is_ok();
    let adopted = Adopted {
        limits: checkpoint.limits,
        identity: checkpoint.init,
        sandbox: checkpoint.sandbox,
        created_at_ms: checkpoint.created_at_ms,
        // Written before the gate opened, a few milliseconds before the start.
        started_at_ms: checkpoint.started_at_ms.or(Some(checkpoint.created_at_ms)),
        killing: checkpoint.killing,
        spec: checkpoint.spec,
        alive,
    };
    shell.input(Input::Adopt {
        id: id.clone(),
        found: Box::new(adopted),
    });
    if lives {
        net::spawn(crate::launch::supervise(shell.clone(), id)).detach();
    }
}

fn take_over(resources: &Rc<Resources>, living: Living) -> Result<(), Fault> {
    *resources.init.borrow_mut() = Some(Rc::new(source(living.pidfd)?));
    let (mut first, mut second) = (None, None);
    for (name, fd) in living.kept {
        match name.as_str() {
            STDOUT => first = Some(fd),
            STDERR => second = Some(fd),
            TERMINAL => {
                let copy = fd
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|e| Fault::failed(format!("copy the terminal: {e}")))?;
                kernel::socket::set_nonblocking(copy.as_fd()).map_err(|e| failed(&e))?;
                let master = net::Source::new(std::fs::File::from(copy), net::Interest::Readable)
                    .map_err(|e| Fault::failed(format!("watch the terminal: {e}")))?;
                let master = Rc::new(master);
                if let Some(stdin) = &resources.stdin {
                    stdin.open_terminal(master.clone());
                }
                *resources.terminal.borrow_mut() = Some(master);
                first = Some(fd);
            }
            _ => {}
        }
    }
    // A pipe's writing end was the earlier agent's own: the command has read end of file.
    if let Some(stdin) = resources
        .stdin
        .as_ref()
        .filter(|_| resources.terminal.borrow().is_none())
    {
        stdin.close();
    }
    resources
        .output
        .start(first, second)
        .map_err(|e| Fault::failed(format!("take over the output: {e}")))
}

/// Ends and removes what has no record.
async fn destroy(shell: &Rc<Shell>, id: &ContainerId) -> Result<(), Fault> {
    let mut attempt = 0;
    loop {
        let (isolators, directories, job_id) =
            (shell.isolators.clone(), shell.directories.clone(), id.clone());
        let done = blocking(shell, move || {
            isolators.kill_all(&job_id).map_err(|e| failed(&e))?;
            match isolators.cleanup(&job_id).map_err(|e| failed(&e))? {
                isolators::Cleanup::Done => {}
                busy => return Err(Fault::failed(busy.to_string())),
            }
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
