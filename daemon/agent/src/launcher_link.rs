//! The agent's end of the launcher: one request at a time, restarted if it dies. Called on workers: a clone takes a
//! fifth of a millisecond, and so the loop is not woken between a container's groups and its init.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use container::launcher::{self, LauncherProcess, StartError};
use container::{CloneReply, CloneRequest};
use model::{Fault, FaultKind};

use crate::resources::end_and_reap;

/// A launcher that has not answered by then is stopped or stuck, and is replaced.
const PATIENCE: Duration = Duration::from_secs(10);

/// A child that has ended and is not reaped within that time is nobody's.
const STRANGER_PATIENCE: Duration = Duration::from_secs(1);
const STRANGER_LOOKS: u32 = 20;

/// Cheap to share.
#[derive(Clone)]
pub struct LauncherLink {
    process: Arc<Mutex<Option<LauncherProcess>>>,
    instance: Arc<str>,
}

impl LauncherLink {
    /// Starts the first launcher.
    pub fn start(instance: &str) -> Result<Self, StartError> {
        let process = launcher::start_launcher(init_image::INIT, instance)?;
        Ok(Self {
            process: Arc::new(Mutex::new(Some(process))),
            instance: instance.into(),
        })
    }

    /// Clones a child. After an error of kind `Unavailable` it is not known whether there is one; it ends by itself when its
    /// channel is closed.
    pub fn clone_child(&self, request: &CloneRequest) -> Result<CloneReply, Fault> {
        let mut place = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let fresh = place.is_none();
            let process = self.running(&mut place)?;
            if let Err(error) = send(process, request) {
                // Not taken, so nothing was cloned: a successor gets it.
                bury(&mut place, &error);
                if fresh {
                    return Err(gone(&error));
                }
                continue;
            }
            return receive(process).map_err(|error| {
                bury(&mut place, &error);
                gone(&error)
            });
        }
    }

    fn running<'a>(
        &self,
        place: &'a mut MutexGuard<'_, Option<LauncherProcess>>,
    ) -> Result<&'a LauncherProcess, Fault> {
        if place.is_none() {
            let started = launcher::start_launcher(init_image::INIT, &self.instance)
                .map_err(|error| Fault::from_error(FaultKind::Failed, &error))?;
            tracing::warn!(pid = started.pid, "launcher restarted");
            **place = Some(started);
        }
        place.as_ref().ok_or_else(|| Fault::failed("no launcher"))
    }
}

fn gone(error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("the launcher went away: {error}"))
}

fn send(process: &LauncherProcess, request: &CloneRequest) -> std::io::Result<()> {
    loop {
        match launcher::send_request(process.socket.as_fd(), request) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                kernel::socket::wait_writable(process.socket.as_fd(), PATIENCE)?;
            }
            result => return result,
        }
    }
}

fn receive(process: &LauncherProcess) -> std::io::Result<CloneReply> {
    loop {
        match launcher::receive_reply(process.socket.as_fd()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                kernel::socket::wait_readable(process.socket.as_fd(), PATIENCE)?;
            }
            result => return result,
        }
    }
}

/// Ends what is left of it and reaps it.
fn bury(place: &mut MutexGuard<'_, Option<LauncherProcess>>, error: &std::io::Error) {
    tracing::error!("the launcher died: {error}");
    if let Some(process) = place.take() {
        end_and_reap(&process.pidfd);
    }
    let reaper = std::thread::Builder::new().name("reaper".into());
    if let Err(error) = reaper.spawn(reap_strangers) {
        tracing::error!("a child that the launcher may have made stays unreaped: {error}");
    }
}

/// What a launcher cloned before it could tell is our child, of which we know no pid: it ends when its channel is closed.
/// Everybody else's end is seen at once, so that whoever stays ended belongs to nobody. Looks many times: on a busy host
/// such a child may end late, and the kernel's list of children may leave one out while others come and go (proc(5)).
fn reap_strangers() {
    let mut before = Vec::new();
    for _ in 0..STRANGER_LOOKS {
        // Parked rather than asleep: whoever looks from outside sees a thread that waits.
        std::thread::park_timeout(STRANGER_PATIENCE);
        let ended = kernel::procfs::ended_children().unwrap_or_default();
        for pid in ended.iter().filter(|pid| before.contains(*pid)) {
            tracing::warn!(pid, "reaped a child that the launcher did not tell of");
            if let Ok(pidfd) = kernel::process::pidfd_open(*pid) {
                let _ = kernel::process::wait_pidfd(&pidfd, false);
            }
        }
        before = ended;
    }
}
