//! A cluster's leading master.

use std::rc::Rc;
use std::time::Duration;

use model::registry::AgentId;
use model::task::{AgentView, LeaderView, TaskId, TaskView};
use model::{Credential, Fault, FaultKind, LaunchSpec, Limits, Millis};
use net::scram::{Client as Scram, ScramError};
use wire::master_capnp::{gate, hall, operator};

use crate::agent::{Agent, CALL_DEADLINE, LAUNCH_DEADLINE};
use crate::connection::{self, Connection};
use crate::endpoint::Endpoint;
use crate::error::{self, Peer};

/// Names the master that a command talks to.
pub const MASTER_VARIABLE: &str = "BULKHEAD_MASTER";
/// Where a master is that was started without flags.
pub const MASTER_DEFAULT: &str = "127.0.0.1:5050";
/// Names a file with the credential for a master.
pub const CREDENTIAL_VARIABLE: &str = "BULKHEAD_CREDENTIAL";
/// What a master that was started without flags lets people of its own host in by.
pub const CREDENTIAL_DEFAULT: &str = "/var/lib/bulkhead-master/credential";
/// From one that does not lead to the one that does, and once more if that one has just lost it.
const REDIRECTS_MAX: usize = 3;
/// An election takes a session's time-out; between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

fn random() -> Result<u128, Fault> {
    net::random().map_err(|error| Fault::from_error(FaultKind::Failed, &error))
}

fn denied(error: &ScramError) -> Fault {
    Fault::from_error(FaultKind::Denied, error).field("credential")
}

/// That we know the secret, and that the master does.
async fn prove(
    connection: &Connection,
    scram: &Scram,
    begun: gate::authenticate_results::Reader<'_>,
) -> Result<hall::Client, Fault> {
    let challenge = wire::agent::decode_text("challenge", begun.get_challenge())?;
    let (proof, expected) = scram.prove(&challenge).map_err(|error| denied(&error))?;
    let login = begun.get_login().map_err(|error| connection.unreadable(error))?;
    let mut request = login.prove_request();
    request.get().set_scram(proof);
    let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
    let result = answer.get().map_err(|error| connection.unreadable(error))?;
    wire::fault::check(result.get_fault())?;
    let verifier = wire::agent::decode_text("verifier", result.get_verifier())?;
    expected.check(&verifier).map_err(|error| denied(&error))?;
    result.get_hall().map_err(|error| connection.unreadable(error))
}

/// What we show a master.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub credential: Option<Credential>,
    /// Certificates; without them in plain text, which a master takes from its own host.
    pub tls: Option<net::Tls>,
}

/// The leader of a cluster, that has let us in.
#[derive(Clone)]
pub struct Master {
    connection: Rc<Connection>,
    client: operator::Client,
}

impl Master {
    /// Asks the masters in their order until one leads, or says who does.
    pub async fn connect(endpoints: &[Endpoint], access: &Access) -> Result<Self, Fault> {
        let mut last = Fault::invalid("master", "no address was given");
        for endpoint in endpoints {
            match Self::follow(endpoint.clone(), access).await {
                Ok(master) => return Ok(master),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// As [`Self::connect`], trying again while nobody leads.
    pub async fn connect_retry(
        endpoints: &[Endpoint],
        access: &Access,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let deadline = net::now() + patience;
        loop {
            match Self::connect(endpoints, access).await {
                Err(fault) if fault.kind == FaultKind::Unavailable && net::now() < deadline => {
                    net::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn follow(mut endpoint: Endpoint, access: &Access) -> Result<Self, Fault> {
        let mut redirects = 0;
        loop {
            let peer = Peer {
                noun: "master",
                endpoint: endpoint.clone(),
            };
            let (connection, gate): (_, gate::Client) =
                connection::open_as(peer, access.tls.as_ref()).await?;
            let mut request = gate.authenticate_request();
            request.get().set_client("bulkhead");
            request.get().set_version(env!("CARGO_PKG_VERSION"));
            let scram = match &access.credential {
                Some(credential) => Some(Scram::new(credential.clone(), random()?)),
                None => None,
            };
            if let Some(scram) = &scram {
                request.get().set_scram(scram.first());
            }
            let answer = match connection.answer_soon(request.send(), CALL_DEADLINE).await {
                // Nothing that a master does when it is asked for the first time.
                Err(fault) if fault == connection.gone() => {
                    return Err(error::strange(&connection.peer, access.tls.is_some()));
                }
                answer => answer?,
            };
            let result = answer.get().map_err(|error| connection.unreadable(error))?;
            if let Err(fault) = wire::fault::check(result.get_fault()) {
                let leader = result.get_leader().ok().and_then(|text| text.to_str().ok());
                match leader.and_then(|text| text.parse().ok()) {
                    Some(other) if redirects < REDIRECTS_MAX && other != endpoint => endpoint = other,
                    _ => return Err(fault),
                }
                redirects += 1;
                continue;
            }
            let hall = match scram {
                Some(scram) => prove(&connection, &scram, result).await?,
                None => result.get_hall().map_err(|error| connection.unreadable(error))?,
            };
            let answer = connection
                .answer_soon(hall.operate_request().send(), CALL_DEADLINE)
                .await?;
            let result = answer.get().map_err(|error| connection.unreadable(error))?;
            wire::fault::check(result.get_fault())?;
            let client = result
                .get_operator()
                .map_err(|error| connection.unreadable(error))?;
            return Ok(Self { connection, client });
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.connection.peer.endpoint
    }

    pub async fn leader(&self) -> Result<LeaderView, Fault> {
        let connection = &self.connection;
        let call = self.client.leader_request().send();
        let answer = connection.answer_soon(call, CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let leader = result
            .get_leader()
            .map_err(|error| connection.unreadable(error))?;
        wire::master::decode_leader(leader).map_err(|fault| connection.unreadable(fault))
    }

    /// All of them, in the order of their ids.
    pub async fn agents(&self) -> Result<Vec<AgentView>, Fault> {
        let connection = &self.connection;
        let mut all: Vec<AgentView> = Vec::new();
        loop {
            let mut request = self.client.agents_request();
            if let Some(last) = all.last() {
                request.get().set_after(&last.id.0);
            }
            let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
            let result = answer.get().map_err(|error| connection.unreadable(error))?;
            wire::fault::check(result.get_fault())?;
            let page = wire::master::decode_agents(result.get_agents())
                .map_err(|fault| connection.unreadable(fault))?;
            let more = result.get_more() && !page.is_empty();
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }

    /// All that it remembers, in the order of their ids.
    pub async fn tasks(&self) -> Result<Vec<TaskView>, Fault> {
        let connection = &self.connection;
        let mut all: Vec<TaskView> = Vec::new();
        loop {
            let mut request = self.client.tasks_request();
            if let Some(last) = all.last() {
                request.get().set_after(last.id.as_str());
            }
            let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
            let result = answer.get().map_err(|error| connection.unreadable(error))?;
            wire::fault::check(result.get_fault())?;
            let page = wire::master::decode_tasks(result.get_tasks())
                .map_err(|fault| connection.unreadable(fault))?;
            let more = result.get_more() && !page.is_empty();
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }

    /// By id, name, or an id's beginning.
    pub async fn task(&self, id_or_name: &str) -> Result<TaskView, Fault> {
        let connection = &self.connection;
        let mut request = self.client.task_request();
        request.get().set_id_or_name(id_or_name);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let task = result.get_task().map_err(|error| connection.unreadable(error))?;
        wire::master::decode_task(task).map_err(|fault| connection.unreadable(fault))
    }

    /// Resolves when an agent has it. With the id of a task that is known nothing new is started.
    pub async fn launch(
        &self,
        id: &TaskId,
        agent: Option<&AgentId>,
        spec: &LaunchSpec,
    ) -> Result<TaskView, Fault> {
        wire::launch::check_size(spec)?;
        let connection = &self.connection;
        let mut request = self.client.launch_request();
        let mut params = request.get();
        params.set_id(id.as_str());
        if let Some(agent) = agent {
            params.set_agent(&agent.0);
        }
        wire::launch::encode(spec, params.init_spec());
        let answer = connection.answer_soon(request.send(), LAUNCH_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let task = result.get_task().map_err(|error| connection.unreadable(error))?;
        wire::master::decode_task(task).map_err(|fault| connection.unreadable(fault))
    }

    /// Other limits for a running task; what is not named stays. Resolves when they are in force. Safe to ask again.
    pub async fn update(&self, id_or_name: &str, limits: &Limits) -> Result<TaskView, Fault> {
        let connection = &self.connection;
        let mut request = self.client.update_request();
        let mut params = request.get();
        params.set_id(id_or_name);
        wire::limits::encode(limits, params.init_limits());
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let task = result.get_task().map_err(|error| connection.unreadable(error))?;
        wire::master::decode_task(task).map_err(|fault| connection.unreadable(fault))
    }

    /// Resolves when it is ordered: the task's status tells when it has ended.
    pub async fn kill(&self, id_or_name: &str, grace: Option<Millis>) -> Result<(), Fault> {
        let mut request = self.client.kill_request();
        let mut params = request.get();
        params.set_id(id_or_name);
        if let Some(grace) = grace {
            params.set_has_grace(true);
            params.set_grace_ms(grace.get());
        }
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }

    /// The agent that has a task, through the master, and the task's whole id.
    pub async fn reach(&self, id_or_name: &str) -> Result<(Agent, TaskId), Fault> {
        let connection = &self.connection;
        let mut request = self.client.reach_request();
        request.get().set_id_or_name(id_or_name);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let id = wire::master::decode_id(result.get_id()).map_err(|fault| connection.unreadable(fault))?;
        let client = result.get_agent().map_err(|error| connection.unreadable(error))?;
        Ok((Agent::through(Rc::clone(connection), client), id))
    }

    /// It is never let in again, and its tasks are over.
    pub async fn mark_gone(&self, agent: &str) -> Result<(), Fault> {
        let mut request = self.client.mark_gone_request();
        request.get().set_agent(agent);
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }

    /// Whether it gets new tasks.
    pub async fn set_active(&self, agent: &str, active: bool) -> Result<(), Fault> {
        let mut request = self.client.set_active_request();
        request.get().set_agent(agent);
        request.get().set_active(active);
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }

    /// It gets no new tasks, and those that it has are killed. Resolves when that is ordered.
    pub async fn drain(&self, agent: &str, grace: Option<Millis>, mark_gone: bool) -> Result<(), Fault> {
        let mut request = self.client.drain_request();
        let mut params = request.get();
        params.set_agent(agent);
        params.set_mark_gone(mark_gone);
        if let Some(grace) = grace {
            params.set_has_grace(true);
            params.set_grace_ms(grace.get());
        }
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }
}
