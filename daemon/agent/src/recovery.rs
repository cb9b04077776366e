//! What an earlier agent left: adopted if it lives, reported if it ended, removed if nobody knows it.
//!
//! ```text
//! checkpoint   init lives (pid and start time)   → adopted: pidfd, output, memory watch; nothing is started
//! checkpoint   an update of its limits under way → the limits before it are put in force
//! checkpoint   its command was never started     → as without one
//! checkpoint   init is gone, or another boot     → its end is reported, once, and the rest cleaned up
//! its end written down                           → remembered; reported if that had not been done
//! damaged or of a version that we don't know     → set aside with a warning, then as without one
//! none         groups or a directory of ours     → nobody was promised anything: removed
//! another instance's                             → left alone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use agent_core::{Adopted, EndReport, Input, Remembered};
use isolators::IsolatorSet;
use isolators::disk::DiskIsolator;
use kernel::removal::Step;
use model::checkpoint::Checkpoint;
use model::{ContainerId, Fault, ProcessIdentity, Termination};

use crate::checkpoint::{STDERR, STDOUT, TERMINAL};
use crate::launch::{blocking, failed, source};
use crate::leftovers::{Extent, LeftoverRemoval};
use crate::resources::Resources;
use crate::shell::Shell;
use crate::work_dir::{Directories, write_atomically, write_if_changed};

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

/// One whose end is written down. `news`: the earlier agent died before it could tell.
struct Ended {
    checkpoint: Checkpoint,
    termination: Termination,
    news: bool,
}

/// What a look at disk and kernel gave.
struct Survey {
    found: Vec<Found>,
    ended: Vec<Ended>,
    strangers: Vec<ContainerId>,
    rebooted: bool,
}

pub async fn recover(shell: &Rc<Shell>) -> Result<(), Fault> {
    let (isolators, directories, host) = (
        shell.isolators.clone(),
        shell.directories.clone(),
        shell.host.clone(),
    );
    let (instance, disk) = (shell.config.instance.clone(), shell.disk.clone());
    let survey = blocking(shell, move || {
        let orphans = isolators.orphans().map_err(|e| failed(&e))?;
        survey(&directories, &isolators, &disk, orphans, &instance, &host.boot_id)
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
    for ended in survey.ended {
        remember(shell, ended);
        net::yield_now().await;
    }
    adopt_networks(shell, &survey.found).await;
    let (mut adopted, mut ended) = (0, 0);
    for found in survey.found {
        if found.alive.is_ok() {
            adopted += 1
        } else {
            ended += 1
        }
        adopt(shell, found);
        net::yield_now().await;
    }
    if adopted + ended > 0 {
        tracing::info!(adopted, ended, "containers of an earlier agent");
    }
    Ok(())
}

/// Containers with a network of their own are connected still; what nobody has is removed. No trouble with it keeps the agent
/// from its containers.
async fn adopt_networks(shell: &Rc<Shell>, found: &[Found]) {
    let living = found.iter().filter(|found| found.alive.is_ok());
    let known = living.filter_map(|found| {
        let Checkpoint {
            id,
            network_slot,
            spec,
            limits,
            init,
            ..
        } = &found.checkpoint;
        let netns = match (&found.alive, init) {
            // Its pid is held by the pidfd.
            (Ok(_), Some(init)) => kernel::namespace::network_of(init.pid).ok(),
            _ => None,
        };
        Some(isolators::network::Known {
            id: id.clone(),
            slot: (*network_slot)?,
            grant: spec.grant.clone().unwrap_or_default(),
            bandwidth: shell.network.weighed(limits),
            netns,
        })
    });
    let known: Vec<_> = known.collect();
    let living = found.iter().filter(|found| found.alive.is_ok());
    let groups = living.filter_map(|found| {
        let Checkpoint { id, spec, limits, .. } = &found.checkpoint;
        (spec.network == model::Network::Host).then_some(())?;
        Some(isolators::network::KnownGroup {
            id: id.clone(),
            group: shell.isolators.unified_group(id)?,
            bandwidth: shell.network.weighed(limits),
        })
    });
    let groups: Vec<_> = groups.collect();
    let network = shell.network.clone();
    if let Err(fault) = blocking(shell, move || network.adopt(known, groups)).await {
        tracing::error!(
            "the network of an earlier agent's containers is not taken over yet: they stay connected, new ones are refused: {fault}"
        );
    }
}

/// Runs on a worker: reads everything, changes nothing but the boot id, damaged records and halves of what was begun.
fn survey(
    directories: &Directories,
    isolators: &IsolatorSet,
    disk: &DiskIsolator,
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
    let mut ended = read_ends(directories)?;
    let mut survey = Survey {
        found: Vec::new(),
        ended: Vec::new(),
        strangers: Vec::new(),
        rebooted,
    };
    for id in ids {
        if let Some(end) = ended.get_mut(&id) {
            // All else had been taken down when it was written.
            directories.remove_runtime(&id).map_err(|e| failed(&e))?;
            end.news = true;
            continue;
        }
        match read_checkpoint(directories, &id) {
            Some(checkpoint) if checkpoint.instance != instance => {
                tracing::warn!(container = %id, owner = checkpoint.instance, "belongs to another instance, left alone");
            }
            Some(mut checkpoint) => {
                let alive = match &checkpoint.init {
                    Some(init) if !rebooted && init.boot_id == boot_id => find_init(&checkpoint, init),
                    _ => Err(EndReport::UNRECORDED),
                };
                let alive = alive.map_err(|_| crate::launch::read_end(&directories.status(&id), &id));
                if checkpoint.start_marked && !has_started(&directories.status(&id)) {
                    // Nobody was promised anything, and nobody else can open its gate.
                    if let Ok(living) = alive {
                        let _ = kernel::process::pidfd_send_signal(&living.pidfd, kernel::signal::KILL);
                    }
                    survey.strangers.push(id);
                    continue;
                }
                if alive.is_ok() {
                    undo_update(directories, isolators, disk, &mut checkpoint);
                }
                survey.found.push(Found { checkpoint, alive });
            }
            None => survey.strangers.push(id),
        }
    }
    write_if_changed(&path, boot_id.as_bytes()).map_err(|e| failed(&e))?;
    survey.ended = ended.into_values().collect();
    survey.ended.sort_by_key(|end| end.termination.finished_at_ms);
    Ok(survey)
}

/// Whether the command ever ran. What can't be read does not say no.
fn has_started(status: &std::path::Path) -> bool {
    let read = std::fs::File::open(status).map(|file| container::status::has_started(&file));
    !matches!(read, Ok(Ok(false)))
}

/// Ends that an earlier agent wrote down. What can't be read was being written: the checkpoint is still there.
fn read_ends(directories: &Directories) -> Result<BTreeMap<ContainerId, Ended>, Fault> {
    let mut ended = BTreeMap::new();
    for id in directories.ended().map_err(|e| failed(&e))? {
        let path = directories.end_record(&id);
        let record = std::fs::read(&path).ok();
        match record.map(|bytes| wire::checkpoint::decode(&bytes)) {
            Some(Ok(mut checkpoint)) if checkpoint.id == id => {
                if let Some(termination) = checkpoint.termination.take() {
                    let end = Ended {
                        checkpoint,
                        termination,
                        news: false,
                    };
                    ended.insert(id, end);
                    continue;
                }
            }
            Some(Err(error)) => tracing::warn!(container = %id, "{}: {}", path.display(), failed(&error)),
            _ => {}
        }
        directories.forget_end(&id).map_err(|e| failed(&e))?;
    }
    Ok(ended)
}

/// Nobody knows how much of an update came into force before the earlier agent died; nobody was promised any of it.
fn undo_update(
    directories: &Directories,
    isolators: &IsolatorSet,
    disk: &DiskIsolator,
    checkpoint: &mut Checkpoint,
) {
    let Some(begun) = checkpoint.updating.take() else {
        return;
    };
    let id = &checkpoint.id;
    let undone = isolators
        .update(id, &begun, &checkpoint.limits)
        .map_err(Fault::from)
        .and_then(|()| crate::disk::update_last(disk, isolators, id, &begun, &checkpoint.limits));
    if let Err(fault) = undone {
        tracing::error!(container = %id, "take back an update that was not completed: {fault}");
        return;
    }
    tracing::warn!(container = %id, "an update of its limits was not completed and has been taken back");
    let record = wire::checkpoint::encode(checkpoint);
    if let Err(error) = write_atomically(&directories.checkpoint(id), &record) {
        // Then it is taken back again by the next agent, which changes nothing.
        tracing::error!(container = %id, "{}", failed(&error));
    }
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

fn remember(shell: &Rc<Shell>, ended: Ended) {
    let Ended {
        checkpoint,
        termination,
        news,
    } = ended;
    let id = checkpoint.id.clone();
    let directory = shell.directories.output(&id);
    let resources = Resources::new(&checkpoint.spec, directory, shell.pool.clone());
    resources.end_recorded.set(true);
    // All of it is in the files: whoever follows it is to come to an end.
    resources.output.close_if_silent();
    shell.hold(&id, resources);
    let ended = Remembered {
        spec: checkpoint.spec,
        limits: checkpoint.limits,
        sandbox: checkpoint.sandbox,
        created_at_ms: checkpoint.created_at_ms,
        started_at_ms: checkpoint.started_at_ms,
        termination,
        news,
    };
    shell.input(Input::Remember {
        id,
        ended: Box::new(ended),
    });
}

fn adopt(shell: &Rc<Shell>, found: Found) {
    let Found { checkpoint, alive } = found;
    let id = checkpoint.id.clone();
    let directory = shell.directories.output(&id);
    let resources = Resources::new(&checkpoint.spec, directory, shell.pool.clone());
    resources.network_slot.set(checkpoint.network_slot);
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
            let mut overlay = LeftoverRemoval::new(&directories, &job_id, Extent::Overlay);
            while let Step::More = overlay.slice() {}
            directories
                .remove_unused_sandbox(&job_id)
                .map_err(|e| failed(&e))?;
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
