//! The agent's end of the launcher: one request at a time, restarted if it dies.

use std::os::fd::{AsFd, OwnedFd};

use container::launcher;
use container::{CloneReply, CloneRequest};
use model::{Fault, FaultKind};
use net::queue::{OneshotSender, Receiver, Sender, bounded, oneshot};

/// Requests waiting for the launcher. Each is a launch that a client waits for; the launcher takes a fifth
/// of a millisecond for one, so a full queue is a quarter of a second of work.
const WAITING_MAX: usize = 1024;

type Asked = (CloneRequest, OneshotSender<Result<CloneReply, Fault>>);

/// Sends clone requests; cheap to share.
#[derive(Clone)]
pub struct LauncherLink {
    requests: Sender<Asked>,
}

impl LauncherLink {
    /// Starts the first launcher and the task that talks to it.
    pub fn start(instance: &str) -> Result<Self, launcher::StartError> {
        let process = launcher::start_launcher(init_image::INIT, instance)?;
        let (requests, waiting) = bounded(WAITING_MAX);
        net::spawn(drive(waiting, process, instance.to_owned())).detach();
        Ok(Self { requests })
    }

    /// Clones a child. An error of kind `Unavailable` means that the launcher died; whether the child
    /// exists is not known, but it ends by itself when its channel is closed.
    pub async fn clone_child(&self, request: CloneRequest) -> Result<CloneReply, Fault> {
        let (sender, receiver) = oneshot();
        if self.requests.push((request, sender)).await.is_err() {
            return Err(gone("the agent is stopping"));
        }
        receiver.await.unwrap_or_else(|_| Err(gone("the launcher went away")))
    }
}

fn gone(why: &str) -> Fault {
    Fault::new(FaultKind::Unavailable, why)
}

async fn drive(mut waiting: Receiver<Asked>, first: launcher::LauncherProcess, instance: String) {
    let mut process = Some(first);
    // Asked for, but the launcher died before it took it: nothing was cloned, so its successor gets it.
    let mut untaken = None;
    loop {
        let Some(current) = process.take() else {
            match launcher::start_launcher(init_image::INIT, &instance) {
                Ok(started) => {
                    tracing::warn!(pid = started.pid, "launcher restarted");
                    process = Some(started);
                }
                Err(error) => {
                    let fault = Fault::from_error(FaultKind::Failed, &error);
                    tracing::error!("restart the launcher: {fault}");
                    // Whoever waits learns why; the next request tries again.
                    let Some((_, asker)) = next(&mut untaken, &mut waiting).await else { return };
                    drop(asker.send(Err(fault)));
                }
            }
            continue;
        };
        let death = serve(&mut untaken, &mut waiting, current.socket).await;
        reap(current.pidfd).await;
        match death {
            Some(error) => tracing::error!("the launcher died: {error}"),
            None => return,
        }
    }
}

async fn next(untaken: &mut Option<Asked>, waiting: &mut Receiver<Asked>) -> Option<Asked> {
    match untaken.take() {
        Some(asked) => Some(asked),
        None => waiting.pop().await,
    }
}

/// Serves requests until the launcher dies (then: why) or the queue is closed.
async fn serve(
    untaken: &mut Option<Asked>,
    waiting: &mut Receiver<Asked>,
    socket: OwnedFd,
) -> Option<std::io::Error> {
    let socket = match net::Source::new(socket, net::Interest::Readable) {
        Ok(source) => source,
        Err(error) => return Some(error),
    };
    loop {
        let (wanted, asker) = next(untaken, waiting).await?;
        if let Err(error) = socket.write_with(|fd| launcher::send_request(fd.as_fd(), &wanted)).await {
            *untaken = Some((wanted, asker));
            return Some(error);
        }
        drop(wanted);
        match socket.read_with(|fd| launcher::receive_reply(fd.as_fd())).await {
            Ok(reply) => drop(asker.send(Ok(reply))),
            Err(error) => {
                drop(asker.send(Err(gone(&format!("the launcher went away: {error}")))));
                return Some(error);
            }
        }
    }
}

async fn reap(pidfd: OwnedFd) {
    if let Ok(source) = net::Source::new(pidfd, net::Interest::Readable) {
        let _ = net::wait_pidfd(&source).await;
    }
}
