//! What the agent holds for one container: descriptors and tasks, never decisions.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use isolators::UsageReader;
use model::LaunchSpec;

use crate::output::ContainerOutput;
use crate::stdin::Stdin;
use crate::turns::Turns;

/// Made when a container is admitted, dropped when it is forgotten.
pub struct Resources {
    pub output: Rc<ContainerOutput>,
    /// Between `Prepare` and `Fork`.
    pub prepared: RefCell<Option<Prepared>>,
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
    /// Checkpoints are written one after the other, in the order in which they were wished for.
    pub checkpoints: Turns,
    /// Watches the memory ceiling; dropped, and so cancelled, before the cgroups go.
    pub watch: RefCell<Option<net::Task<()>>>,
}

/// What a worker made for the fork.
pub struct Prepared {
    pub status: std::fs::File,
    pub groups: isolators::Prepared,
}

impl Resources {
    pub fn new(spec: &LaunchSpec, directory: std::path::PathBuf, pool: net::Pool) -> Rc<Self> {
        Rc::new(Self {
            output: ContainerOutput::new(directory, spec.output, pool),
            prepared: RefCell::new(None),
            init: RefCell::new(None),
            channel: RefCell::new(None),
            stdin: (spec.stdin || spec.terminal.is_some()).then(Rc::default),
            terminal: RefCell::new(None),
            usage: RefCell::new(None),
            checkpoints: Turns::default(),
            watch: RefCell::new(None),
        })
    }
}
