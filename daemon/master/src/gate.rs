//! The master's door: who comes, and what he gets. A stranger gets nothing but the gate.

use std::rc::{Rc, Weak};

use capnp::capability::Rc as CapRc;
use master_core::Input;
use model::{Fault, FaultKind};
use wire::master_capnp::{gate, hall, session};

use crate::leader::{Leader, SessionGuard};
use crate::operator::OperatorService;
use crate::server::Shell;

/// Answers `fault` in a result and ends the method.
macro_rules! attempt {
    ($results:expr, $value:expr) => {
        match $value {
            Ok(value) => value,
            Err(fault) => {
                wire::fault::encode(&fault, $results.get().init_fault());
                return Ok(());
            }
        }
    };
}
pub(crate) use attempt;

/// The bootstrap capability of one connection.
pub struct GateService {
    pub shell: Weak<Shell>,
    pub connection: net::ConnectionHandle,
}

impl gate::Server for GateService {
    async fn authenticate(
        self: CapRc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let client = params.get_client()?.to_str().unwrap_or("?").to_owned();
        let Some(shell) = self.shell.upgrade() else {
            return Err(capnp::Error::disconnected("this master stops".into()));
        };
        let Some(leader) = shell.leader() else {
            let (fault, address) = shell.not_leading();
            results.get().set_leader(&address);
            wire::fault::encode(&fault, results.get().init_fault());
            return Ok(());
        };
        tracing::debug!(client, "authenticated");
        // From here on it is not the first to go when connections run out.
        self.connection.protect();
        results.get().set_leader(&leader.view.address);
        results.get().set_hall(capnp_rpc::new_client(HallService {
            leader: Rc::downgrade(&leader),
        }));
        Ok(())
    }
}

/// What a peer may have whom this leadership has let in.
struct HallService {
    leader: Weak<Leader>,
}

impl HallService {
    fn leader(&self) -> Result<Rc<Leader>, Fault> {
        let leader = self.leader.upgrade().filter(|leader| leader.holds());
        leader.ok_or_else(|| Fault::new(FaultKind::Unavailable, "this master leads no more"))
    }
}

impl hall::Server for HallService {
    async fn register(
        self: CapRc<Self>,
        params: hall::RegisterParams,
        mut results: hall::RegisterResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let leader = attempt!(results, self.leader());
        let hello = attempt!(results, wire::master::decode_hello(params.get_hello()?));
        let (hostname, known) = (hello.record.hostname.clone(), hello.id.clone());
        let (entry, guard) = leader.register(hello, params.get_orders()?).await;
        match entry {
            Ok(welcome) => {
                let again = known.is_some();
                tracing::info!(agent = %welcome.id.0, hostname, again, "agent registered");
                wire::master::encode_welcome(&welcome, results.get().init_welcome());
                results
                    .get()
                    .set_session(capnp_rpc::new_client(SessionService { guard }));
            }
            Err((refusal, fault)) => {
                tracing::warn!(agent = known.map(|id| id.0), hostname, "agent refused: {fault}");
                results.get().set_refusal(wire::master::encode_refusal(refusal));
                wire::fault::encode(&fault, results.get().init_fault());
            }
        }
        Ok(())
    }

    async fn operate(
        self: CapRc<Self>,
        _params: hall::OperateParams,
        mut results: hall::OperateResults,
    ) -> Result<(), capnp::Error> {
        attempt!(results, self.leader());
        results.get().set_operator(capnp_rpc::new_client(OperatorService {
            leader: self.leader.clone(),
        }));
        Ok(())
    }
}

/// One agent's session, held by the agent.
struct SessionService {
    guard: SessionGuard,
}

impl session::Server for SessionService {
    async fn update(
        self: CapRc<Self>,
        params: session::UpdateParams,
        mut results: session::UpdateResults,
    ) -> Result<(), capnp::Error> {
        let report = attempt!(results, wire::master::decode_report(params.get()?.get_report()?));
        let over = || Fault::new(FaultKind::Unavailable, "this master leads no more");
        let leader = attempt!(results, self.guard.leader().ok_or_else(over));
        let link = self.guard.link;
        let told = leader.ask(|ticket| Input::Update { ticket, link, report });
        attempt!(results, told.await);
        Ok(())
    }
}
