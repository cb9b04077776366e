//! Acts upon the wishes of an ending: signal, kill everything, clean up.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use agent_core::{CleanupOutcome, Ending, Input};
use isolators::disk::DiskIsolator;
use kernel::removal::Step;
use model::checkpoint::Checkpoint;
use model::{ContainerId, ContainerState, Limitation};

use crate::failpoint;
use crate::leftovers::{Extent, LeftoverRemoval};
use crate::shell::Shell;
use crate::work_dir::{Directories, write_once};

/// How long a cleanup waits for the last output before it goes on without: the pipes are at their end
/// as soon as the last process is gone, unless a follower that must not lose bytes holds them back.
const OUTPUT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(50);
/// By then whoever waited for an end has its answer: on the connection, which outlives us.
const TOLD: std::time::Duration = std::time::Duration::from_secs(1);

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
        tell_what_stays(&shell, id).await;
    })
    .detach();
}

/// A killed process ends within milliseconds, unless it is in the kernel and can't be interrupted there.
const DEATH_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
/// Processes that are told by name.
const STUCK_TOLD_MAX: usize = 5;

/// Whatever keeps a killed container from ending is told: a person can remove the cause, we can't.
async fn tell_what_stays(shell: &Rc<Shell>, id: ContainerId) {
    net::sleep(DEATH_PATIENCE).await;
    let dying = |shell: &Shell| {
        let core = shell.core();
        core.status(&id)
            .is_some_and(|status| status.state == model::ContainerState::Killing)
    };
    if !dying(shell) {
        return;
    }
    let (isolators, job_id) = (shell.isolators.clone(), id.clone());
    let stuck = shell.pool.run(move || stuck_in(&isolators, &job_id)).await;
    if let (Ok(Some(message)), true) = (stuck, dying(shell)) {
        tracing::warn!(container = %id, "killed and has not ended: {message}");
        shell.input(Input::Unkilled { id, message });
    }
}

fn stuck_in(isolators: &isolators::IsolatorSet, id: &ContainerId) -> Option<String> {
    let pids = isolators.pids(id).ok()?;
    let mut stuck: Vec<String> = pids
        .into_iter()
        .filter_map(kernel::procfs::describe_stuck)
        .collect();
    let more = stuck.len().saturating_sub(STUCK_TOLD_MAX);
    stuck.truncate(STUCK_TOLD_MAX);
    if more > 0 {
        stuck.push(format!("and {more} more"));
    }
    (!stuck.is_empty()).then(|| stuck.join("; "))
}

pub fn cleanup(shell: &Rc<Shell>, id: ContainerId, remove: bool) {
    let shell = shell.clone();
    net::spawn(async move {
        let TakenDown {
            outcome,
            limitation,
            rest,
            ended_at_ms,
        } = take_down(&shell, &id, remove).await;
        if let CleanupOutcome::Busy { message } = &outcome {
            shell.metrics.cleanup_retries.increment();
            tracing::debug!(container = %id, "cleanup to be tried again: {message}");
        }
        let told_once = outcome == CleanupOutcome::Done && shell.core().is_told_once(&id);
        shell.input(Input::Cleaned {
            id: id.clone(),
            outcome,
            limitation,
            ended_at_ms,
        });
        if rest {
            remove_rest(&shell, id.clone());
        }
        if told_once {
            net::sleep(TOLD).await;
            forget_end(&shell, id);
        }
    })
    .detach();
}

/// A container whose end was written down is remembered no longer.
pub fn forget_end(shell: &Rc<Shell>, id: ContainerId) {
    let (directories, pool) = (shell.directories.clone(), shell.pool.clone());
    net::spawn(async move {
        let job_id = id.clone();
        if let Ok(Err(error)) = pool.run(move || directories.forget_end(&job_id)).await {
            tracing::error!(container = %id, "forget its end: {}", crate::launch::failed(&error));
        }
    })
    .detach();
}

/// What one try of taking a container down came to.
struct TakenDown {
    outcome: CleanupOutcome,
    limitation: Option<Limitation>,
    /// Something is still there, and goes in its turn.
    rest: bool,
    ended_at_ms: Option<u64>,
}

impl TakenDown {
    fn busy(message: impl ToString, limitation: Option<Limitation>) -> Self {
        let message = message.to_string();
        Self {
            outcome: CleanupOutcome::Busy { message },
            limitation,
            rest: false,
            ended_at_ms: None,
        }
    }
}

async fn take_down(shell: &Rc<Shell>, id: &ContainerId, remove: bool) -> TakenDown {
    let resources = shell.resources(id);
    if let Some(resources) = &resources {
        resources.memory_watch.borrow_mut().take();
        resources.watch.borrow_mut().take();
        resources.disk.stop();
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
    let limits = shell.core().limits(id).cloned().unwrap_or_default();
    // A child that was never let through its gate is ended on the worker: it may be stuck in a mount that hangs.
    let newborn = resources.as_ref().and_then(|r| r.newborn.borrow_mut().take());
    let fate = match (remove, finished) {
        (false, _) => Fate::Kept,
        (true, true) => Fate::Removed,
        (true, false) => Fate::RemovedWhenRead,
    };
    let isolators = shell.isolators.clone();
    let network = shell.network.clone();
    let mut taking = TakingDown::new(shell, id, fate);
    let job = move || {
        drop(newborn);
        let limitation = isolators.limitation(&taking.id, &limits).ok().flatten();
        taking.limitation.clone_from(&limitation);
        let done = end_groups(&isolators, &taking.id)
            .and_then(|()| network.detach(&taking.id).map_err(|fault| fault.to_string()))
            .and_then(|()| taking.slice());
        (taking, done, limitation)
    };
    let (mut taking, mut done, limitation) = match shell.pool.run(job).await {
        Ok(ended) => ended,
        Err(error) => return TakenDown::busy(error, None),
    };
    // A large tree goes in slices, so that launches get their turn on the workers.
    while let Ok(Slice::More) = done {
        let slice = move || {
            let done = taking.slice();
            (taking, done)
        };
        match shell.pool.run(slice).await {
            Ok(result) => (taking, done) = result,
            Err(error) => return TakenDown::busy(error, limitation),
        }
    }
    match done {
        Ok(done) => {
            if let (Some(resources), Some(_)) = (&resources, taking.ended_at_ms) {
                resources.end_recorded.set(true);
            }
            TakenDown {
                outcome: CleanupOutcome::Done,
                limitation,
                rest: matches!(done, Slice::Done { noted: true }),
                ended_at_ms: taking.ended_at_ms,
            }
        }
        Err(message) => TakenDown::busy(message, limitation),
    }
}

fn end_groups(isolators: &isolators::IsolatorSet, id: &ContainerId) -> Result<(), String> {
    failpoint::pass("cleanup.groups").map_err(|f| f.to_string())?;
    match isolators.cleanup(id) {
        Ok(isolators::Cleanup::Done) => Ok(()),
        Ok(busy) => {
            // Nothing may be in it by now: what got in some other way goes as well.
            let _ = isolators.kill_all(id);
            Err(busy.to_string())
        }
        Err(error) => Err(crate::launch::failed(&error).to_string()),
    }
}

/// What becomes of a container's sandbox and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Removed,
    /// A follower still reads the output.
    RemovedWhenRead,
}

enum Slice {
    More,
    /// `noted`: something is still there, and goes in its turn.
    Done {
        noted: bool,
    },
}

/// Taking down one container's directories, on workers.
struct TakingDown {
    id: ContainerId,
    directories: Directories,
    disk: Arc<DiskIsolator>,
    fate: Fate,
    removal: LeftoverRemoval,
    begun: bool,
    /// To be written down with how it ended; `None`: nobody is to ask for it later.
    end: Option<(Checkpoint, Ending)>,
    limitation: Option<Limitation>,
    ended_at_ms: Option<u64>,
}

impl TakingDown {
    fn new(shell: &Shell, id: &ContainerId, fate: Fate) -> Self {
        let extent = match fate {
            Fate::Removed => Extent::All,
            Fate::Kept | Fate::RemovedWhenRead => Extent::Overlay,
        };
        Self {
            id: id.clone(),
            directories: shell.directories.clone(),
            disk: shell.disk.clone(),
            fate,
            removal: LeftoverRemoval::new(&shell.directories, id, extent),
            begun: false,
            end: crate::checkpoint::facts(shell, id).zip(shell.core().ending(id)),
            limitation: None,
            ended_at_ms: None,
        }
    }

    fn slice(&mut self) -> Result<Slice, String> {
        if !self.begun {
            failpoint::pass("cleanup.runtime").map_err(|f| f.to_string())?;
            if self.fate == Fate::Removed {
                failpoint::pass("cleanup.work").map_err(|f| f.to_string())?;
            }
            self.begun = true;
        }
        let stuck = match self.removal.slice() {
            Step::More => return Ok(Slice::More),
            Step::Done => false,
            // Nobody waits for a person's hand: it is tried again later, and told then.
            Step::Stuck(_) => true,
        };
        let noted = self.fate == Fate::RemovedWhenRead || (stuck && self.fate == Fate::Removed);
        if noted {
            self.directories
                .mark_for_removal(&self.id)
                .map_err(|e| crate::launch::failed(&e).to_string())?;
        }
        if self.fate == Fate::Removed && !stuck {
            self.disk.release(&self.id);
        }
        if self.fate == Fate::Kept {
            self.directories.note_end(&self.id);
        }
        self.record_end()?;
        // Last: as long as it is there, a restarted agent knows that there is something to clean or to tell.
        self.directories
            .remove_runtime(&self.id)
            .map(|()| Slice::Done { noted })
            .map_err(|e| crate::launch::failed(&e).to_string())
    }

    /// Before anybody is told: whoever asks a successor has to hear the same.
    fn record_end(&mut self) -> Result<(), String> {
        let Some((checkpoint, ending)) = &self.end else {
            return Ok(());
        };
        let at_ms = net::wall_ms();
        let record = wire::checkpoint::encode(&Checkpoint {
            state: ContainerState::Destroyed,
            init: None,
            kept: Vec::new(),
            updating: None,
            killing: None,
            termination: Some(ending.clone().termination(self.limitation.clone(), at_ms)),
            ..checkpoint.clone()
        });
        // Not atomically: as long as half of it is there, so is the checkpoint.
        let path = self.directories.end_record(&self.id);
        match write_once(&path, &record) {
            // A full disk must not keep a container from ending.
            Err(error) if error.is_full() => self
                .directories
                .write_end_over_status(&self.id, &record)
                .map_err(|_| crate::launch::failed(&error).to_string())?,
            written => written.map_err(|e| crate::launch::failed(&e).to_string())?,
        }
        self.ended_at_ms = Some(at_ms);
        Ok(())
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

/// A container that was to be removed has left something: a follower is still reading its output, or a removal is stuck.
/// The core is told that it is in the way, and that it may go when nobody reads any more; a successor finds the note.
fn remove_rest(shell: &Rc<Shell>, id: ContainerId) {
    let shell = shell.clone();
    shell.input(Input::Leftover {
        id: id.clone(),
        age: model::Millis(0),
        wanted: false,
    });
    net::spawn(async move {
        let resources = shell.resources(&id);
        if let Some(resources) = &resources {
            resources.output.finished().await;
        }
        // Unless the id means another container by now.
        let now = shell.resources(&id);
        if now.is_none()
            || now
                .zip(resources)
                .is_some_and(|(now, then)| Rc::ptr_eq(&now, &then))
        {
            shell.input(Input::LeftoverFree { id });
        }
    })
    .detach();
}
