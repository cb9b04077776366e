//! Start-up and the end: the one place where everything is wired together.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use model::{Fault, FaultKind, MasterInfo};
use net::{Signal, Signals};

use crate::config::Config;
use crate::election;
use crate::leader::Leader;

/// For leaving the election.
const FAREWELL: Duration = Duration::from_secs(3);

/// Everything one master holds, leading or not.
pub struct Shell {
    pub config: Config,
    pub info: MasterInfo,
    pub started_at_ms: u64,
    pub keys: crate::keys::Keys,
    /// Read again at SIGHUP.
    pub tls: RefCell<Option<net::Tls>>,
    leader: RefCell<Option<Rc<Leader>>>,
    /// Who leads, as ZooKeeper tells.
    pub detected: RefCell<Option<model::Leader>>,
    /// All that came in by the port; replaced when a leadership ends.
    connections: RefCell<net::TaskSet>,
    /// Leave the election.
    pub stopping: net::Notify,
}

impl Shell {
    /// None: somebody else leads, or nobody.
    pub fn leader(&self) -> Option<Rc<Leader>> {
        self.leader.borrow().clone().filter(|leader| leader.holds())
    }

    pub fn lead(&self, leader: Rc<Leader>) {
        *self.leader.borrow_mut() = Some(leader);
    }

    /// Whoever got anything of this leadership loses it, and is disconnected.
    pub fn lead_no_more(&self) {
        let leader = self.leader.borrow_mut().take();
        let connections = std::mem::take(&mut *self.connections.borrow_mut());
        drop(connections);
        drop(leader);
    }

    pub fn connection(&self, task: impl Future<Output = ()> + 'static) {
        self.connections.borrow().spawn(task);
    }

    /// `host:port` of the leader, if anybody leads.
    pub fn leader_address(&self) -> Option<SocketAddr> {
        if self.leader().is_some() {
            return Some(self.info.http());
        }
        let detected = self.detected.borrow();
        let info = &detected.as_ref()?.info;
        // As ZooKeeper sees it: our own leadership is over, or has not begun.
        (info.id != self.info.id).then(|| info.http())
    }

    /// What a client is told here that wants the leader, and where that one is.
    pub fn not_leading(&self) -> (Fault, String) {
        let own = self.info.http();
        match self.leader_address() {
            Some(address) => {
                let message = format!("the master at {own} does not lead; {address} does");
                (Fault::new(FaultKind::Unavailable, message), address.to_string())
            }
            None => {
                let message = format!("the master at {own} does not lead, and knows nobody who does");
                let fault = Fault::new(FaultKind::Unavailable, message);
                (
                    fault.remedy("try again: an election takes seconds"),
                    String::new(),
                )
            }
        }
    }
}

/// Runs the master until SIGTERM or SIGINT.
pub fn run(config: Config) -> ExitCode {
    // Before any thread is made, so that none of them takes these signals.
    if let Err(error) = net::block_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]) {
        return refuse(&Fault::failed(format!("block signals: {error}")));
    }
    match net::run(net::Config::default(), serve(config)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(fault)) => refuse(&fault),
        Err(error) => refuse(&Fault::failed(format!("start the event loop: {error}"))),
    }
}

fn refuse(fault: &Fault) -> ExitCode {
    eprintln!("bulkhead: master: {fault}");
    ExitCode::from(125)
}

async fn serve(config: Config) -> Result<(), Fault> {
    let descriptors = net::raise_descriptors()
        .map_err(|error| Fault::failed(format!("raise the limit of open files: {error}")))?;
    let mut signals = Signals::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(|error| Fault::failed(format!("watch signals: {error}")))?;
    let id = net::random().map_err(|error| Fault::failed(format!("read random bytes: {error}")))?;
    let flags = &config.flags;
    let info = MasterInfo {
        id: uuid(id),
        ip: flags.ip,
        port: flags.port,
        hostname: config.hostname.clone(),
        version: crate::VERSION.to_owned(),
        rpc_port: None,
        capabilities: ["AGENT_UPDATE", "AGENT_DRAINING", "QUOTA_V2"]
            .map(str::to_owned)
            .into(),
    };
    tracing::info!(
        version = crate::VERSION,
        pid = std::process::id(),
        id = %info.id,
        address = %info.http(),
        work_dir = %flags.work_dir.display(),
        registry = %flags.registry,
        cluster = flags.cluster,
        "bulkhead master"
    );
    let shell = Rc::new(Shell {
        config: config.clone(),
        info,
        started_at_ms: net::wall_ms(),
        keys: crate::keys::load(&config)?,
        tls: RefCell::new(crate::keys::tls(&config)?),
        leader: RefCell::new(None),
        detected: RefCell::new(None),
        connections: RefCell::default(),
        stopping: net::Notify::new(),
    });
    let door = crate::door::open(&shell, descriptors)?;
    let mut electing = std::pin::pin!(election::keep_leading(shell.clone()));
    let ended = loop {
        let signal = std::pin::pin!(signals.next());
        match futures::future::select(&mut electing, signal).await {
            futures::future::Either::Left((ended, _)) => break ended,
            futures::future::Either::Right((Ok(signal), _)) if signal.is(Signal::SIGHUP) => {
                match crate::keys::tls(&config) {
                    Ok(tls) => {
                        *shell.tls.borrow_mut() = tls;
                        tracing::info!(
                            "SIGHUP: certificates are read again; the log's replica notices changed ones by itself"
                        );
                    }
                    Err(fault) => tracing::error!("SIGHUP: the old certificates stay: {fault}"),
                }
            }
            futures::future::Either::Right((Ok(signal), _)) => {
                tracing::info!(signal = signal.number, "stopping; agents and tasks run on");
                shell.lead_no_more();
                shell.stopping.set();
                // Others need not wait for the end of our session.
                let _late = net::timeout(FAREWELL, &mut electing).await;
                break Ok(());
            }
            futures::future::Either::Right((Err(error), _)) => {
                break Err(Fault::failed(format!("read signals: {error}")));
            }
        }
    };
    shell.lead_no_more();
    drop(door);
    ended
}

/// A random (version 4) UUID.
fn uuid(random: u128) -> String {
    let random = random & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{random:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_is_a_uuid_of_version_4() {
        assert_eq!(super::uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(super::uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
