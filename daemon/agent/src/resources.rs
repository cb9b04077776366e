//! What the agent holds for one container: descriptors and tasks, never decisions.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isolators::{OomWatch, UsageReader, WatchError};
use model::{LaunchSpec, ProcessIdentity, Usage};

use crate::launch::Pipes;
use crate::output::ContainerOutput;
use crate::stdin::Stdin;
use crate::turns::Turns;

/// Made when a container is admitted, dropped when it is forgotten.
pub struct Resources {
    pub output: Rc<ContainerOutput>,
    /// Between `Prepare` and `Fork`.
    pub newborn: RefCell<Option<Newborn>>,
    /// The init, from `Fork` until it has ended.
    pub init: RefCell<Option<Rc<net::Source<OwnedFd>>>>,
    /// Our end of the channel, until the command runs.
    pub channel: RefCell<Option<Rc<net::Source<OwnedFd>>>>,
    /// Present when the command has one that can be written to.
    pub stdin: Option<Rc<Stdin>>,
    /// The pseudo terminal's master.
    pub terminal: RefCell<Option<Rc<net::Source<File>>>>,
    /// Opened at the first sample: a container that is never measured costs no descriptors.
    pub usage: RefCell<Option<Arc<UsageReader>>>,
    /// Rounds of the background sampling for which its files are kept open although it does nothing.
    pub in_demand: Cell<u8>,
    /// Of the background sampling, kept for those who ask when it is over.
    pub last_usage: RefCell<Option<Usage>>,
    /// Checkpoints are written one after the other, in the order in which they were wished for.
    pub checkpoints: Turns,
    /// Its end is written down, and has to be taken away when it is forgotten.
    pub end_recorded: Cell<bool>,
    /// What that needs, opened by the worker that made the groups. None of an adopted container.
    pub memory_watch: RefCell<Option<Result<Option<OomWatch>, WatchError>>>,
    /// Watches the memory ceiling; dropped, and so cancelled, before the cgroups go.
    pub watch: RefCell<Option<net::Task<()>>>,
    pub disk: crate::disk::DiskWatch,
    /// Its place in the network's maps, while it is connected there.
    pub network_slot: Cell<Option<u32>>,
    /// Refused binds that have been told.
    pub ports_refused: Cell<u64>,
}

/// What a worker made: a child at its gate, and our ends of what it was given. Unless it is taken over, dropping it ends
/// and reaps the child, which may block.
pub struct Newborn {
    pub identity: ProcessIdentity,
    pub channel: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pidfd: Option<OwnedFd>,
}

impl Newborn {
    pub fn new(pidfd: OwnedFd, identity: ProcessIdentity, channel: OwnedFd, pipes: &mut Pipes) -> Self {
        Self {
            identity,
            channel: Some(channel),
            stdin: pipes.stdin.take(),
            stdout: pipes.stdout.take(),
            stderr: pipes.stderr.take(),
            pidfd: Some(pidfd),
        }
    }

    /// From here on somebody else waits for it.
    pub fn take_pidfd(&mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            end_and_reap(&pidfd);
        }
    }
}

/// How long to wait for a killed child. Beyond it, it sits in the kernel (a mount that hangs) and must not hold us.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// Ends a child that nobody follows, and reaps it unless the kernel does not let go of it. Blocks: for workers.
pub fn end_and_reap(pidfd: &OwnedFd) {
    let _ = kernel::process::pidfd_send_signal(pidfd, kernel::signal::KILL);
    match kernel::socket::wait_readable(pidfd.as_fd(), REAP_PATIENCE) {
        Ok(()) => drop(kernel::process::wait_pidfd(pidfd, false)),
        Err(error) => tracing::error!("a killed child has not ended: {error}"),
    }
}

impl Resources {
    pub fn new(spec: &LaunchSpec, directory: std::path::PathBuf, pool: net::Pool) -> Rc<Self> {
        Rc::new(Self {
            output: ContainerOutput::new(directory, spec.output, pool),
            newborn: RefCell::new(None),
            init: RefCell::new(None),
            channel: RefCell::new(None),
            stdin: (spec.stdin || spec.terminal.is_some()).then(Rc::default),
            terminal: RefCell::new(None),
            usage: RefCell::new(None),
            in_demand: Cell::new(0),
            last_usage: RefCell::new(None),
            checkpoints: Turns::default(),
            end_recorded: Cell::new(false),
            memory_watch: RefCell::new(None),
            watch: RefCell::new(None),
            disk: crate::disk::DiskWatch::default(),
            network_slot: Cell::new(None),
            ports_refused: Cell::new(0),
        })
    }
}
