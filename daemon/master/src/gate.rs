//! The master's door: who comes, and what he gets. A stranger gets nothing but the gate.

use std::rc::{Rc, Weak};

use capnp::capability::Rc as CapRc;
use master_core::Input;
use model::{Fault, FaultKind};
use net::scram::{Exchange, ScramError};
use wire::master_capnp::{gate, hall, login, session};

use crate::door::Caller;
use crate::leader::{Leader, SessionGuard};
use crate::operator::OperatorService;
use crate::server::Shell;

/// Of what a client calls itself, in the log.
const CLIENT_CHARACTERS: usize = 64;

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
    /// It has a certificate of our authority.
    pub certified: bool,
    pub caller: Caller,
}

impl gate::Server for GateService {
    async fn authenticate(
        self: CapRc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let client = params.get_client()?.to_str().unwrap_or("?");
        let client: String = client.chars().take(CLIENT_CHARACTERS).collect();
        let Some(shell) = self.shell.upgrade() else {
            return Err(capnp::Error::disconnected("this master stops".into()));
        };
        let scram = params.get_scram()?.to_str().unwrap_or_default().to_owned();
        let Some(leader) = shell.leader() else {
            let (fault, address) = shell.not_leading();
            results.get().set_leader(&address);
            wire::fault::encode(&fault, results.get().init_fault());
            return Ok(());
        };
        results.get().set_leader(&leader.view.address);
        if scram.is_empty() {
            let is_known = shell.keys.open || (self.certified && shell.keys.certificates);
            if !is_known {
                let fault = Fault::new(FaultKind::Denied, "this master lets nobody in without a secret");
                let remedy = "give --credential=FILE (BULKHEAD_CREDENTIAL); on the master's own host that is \
                              credential in its --work_dir";
                attempt!(results, Err::<(), _>(fault.remedy(remedy)));
            }
            self.connection.protect();
            results.get().set_hall(hall_of(&leader));
            return Ok(());
        }
        let nonce = attempt!(results, crate::keys::random());
        let begun = shell.keys.scram.challenge(&scram, nonce);
        let (challenge, exchange) = attempt!(
            results,
            begun.map_err(|error| denied(&client, &self.caller, &error))
        );
        results.get().set_challenge(&challenge);
        results.get().set_login(capnp_rpc::new_client(LoginService {
            shell: self.shell.clone(),
            leader: Rc::downgrade(&leader),
            connection: self.connection.clone(),
            client,
            caller: self.caller.clone(),
            exchange: std::cell::RefCell::new(Some(exchange)),
        }));
        Ok(())
    }
}

fn hall_of(leader: &Rc<Leader>) -> hall::Client {
    capnp_rpc::new_client(HallService {
        leader: Rc::downgrade(leader),
    })
}

fn denied(client: &str, caller: &Caller, error: &ScramError) -> Fault {
    let why = format_args!("not let in: {error}");
    if let Some(line) = caller.refusals.first(Some(caller.peer), why) {
        tracing::warn!(client, peer = %caller.peer, "{line}");
    }
    Fault::new(FaultKind::Denied, error.to_string())
        .field("credential")
        .remedy("--credential names a file with a principal and a secret that are in the master's --credentials, or the one in its --work_dir")
}

/// One exchange of proofs, that has begun.
struct LoginService {
    shell: Weak<Shell>,
    leader: Weak<Leader>,
    connection: net::ConnectionHandle,
    client: String,
    caller: Caller,
    /// For one try.
    exchange: std::cell::RefCell<Option<Exchange>>,
}

impl login::Server for LoginService {
    async fn prove(
        self: CapRc<Self>,
        params: login::ProveParams,
        mut results: login::ProveResults,
    ) -> Result<(), capnp::Error> {
        let last = params.get()?.get_scram()?.to_str().unwrap_or_default().to_owned();
        let (Some(shell), Some(leader)) = (self.shell.upgrade(), self.leader.upgrade()) else {
            return Err(capnp::Error::disconnected("this master leads no more".into()));
        };
        let exchange = self.exchange.borrow_mut().take();
        let verified = match &exchange {
            Some(exchange) => shell.keys.scram.verify(exchange, &last),
            None => Err(ScramError::Refused),
        };
        let (verifier, principal) = attempt!(
            results,
            verified.map_err(|error| denied(&self.client, &self.caller, &error))
        );
        tracing::debug!(client = self.client, principal, "authenticated");
        // From here on it is not the first to go when connections run out.
        self.connection.protect();
        results.get().set_verifier(&verifier);
        results.get().set_hall(hall_of(&leader));
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
        let version = hello.record.version.clone();
        let (entry, guard) = leader.register(hello, params.get_orders()?).await;
        match entry {
            Ok(welcome) => {
                let again = known.is_some();
                tracing::info!(agent = %welcome.id.0, hostname, again, version, "agent registered");
                wire::master::encode_welcome(&welcome, results.get().init_welcome());
                results
                    .get()
                    .set_session(capnp_rpc::new_client(SessionService { guard }));
            }
            Err((refusal, fault)) => {
                tracing::warn!(
                    agent = known.map(|id| id.0),
                    hostname,
                    version,
                    "agent refused: {fault}"
                );
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
