//! Agents that are nothing but their side of the protocol.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Rc as CapRc;
use futures::stream::{self, StreamExt, TryStreamExt};
use model::Credential;
use model::registry::{AgentId, AgentRecord};
use model::resources::Scalar;
use model::task::{Hello, Need, TaskReport, TaskState, TaskStatus};
use net::scram::{Client as Scram, Remembered};
use wire::master_capnp::{gate, hall, orders, session};

use super::Failure;

const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that are being opened at the same time.
const OPENING: usize = 2000;

/// Addresses that they come from. A real agent has one of its own; of one for all of them the kernel looks for a free port among
/// twenty thousand taken ones, which took half of the processor time of a run.
const SOURCES: usize = 200;

/// One of many.
#[derive(Default)]
pub struct Simulated {
    id: RefCell<Option<AgentId>>,
    session: RefCell<Option<session::Client>>,
    term: Cell<u64>,
}

impl Simulated {
    /// It has lost its master.
    pub fn part(&self) {
        drop(self.session.borrow_mut().take());
    }
}

struct Orders;

impl orders::Server for Orders {
    async fn ping(
        self: CapRc<Self>,
        _: orders::PingParams,
        _: orders::PingResults,
    ) -> Result<(), capnp::Error> {
        Ok(())
    }
}

/// What all of them have.
fn record() -> Result<AgentRecord, Failure> {
    Ok(AgentRecord {
        resources: "cpus:16;mem:65536;disk:500000;ports:[31000-32000]".parse()?,
        attributes: "rack:r17;zone:eu-1b;kernel:6.18".parse()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: ["AGENT_DRAINING", "TASK_RESOURCE_LIMITS"]
            .map(str::to_owned)
            .into(),
        ..AgentRecord::default()
    })
}

fn hello(number: usize, agent: &Simulated, record: &AgentRecord, tasks: usize) -> Result<Hello, Failure> {
    let mut reports = Vec::with_capacity(tasks);
    for task in 0..tasks {
        reports.push(TaskReport {
            id: format!("task-{number}-{task}").parse()?,
            name: None,
            need: Need {
                cpus: Scalar::from_milli(500),
                mem: Scalar::from_milli(64_000),
                ..Need::default()
            },
            sequence: 1,
            status: TaskStatus {
                state: TaskState::Running,
                message: String::new(),
                at_ms: net::wall_ms(),
                exit_status: None,
            },
        });
    }
    let (high, middle, low) = (number >> 16, (number >> 8) & 255, number & 255);
    Ok(Hello {
        id: agent.id.borrow().clone(),
        key: format!("key-{number}"),
        record: AgentRecord {
            hostname: format!("host-{number}.example.com"),
            address: format!("10.{high}.{middle}.{low}:5051"),
            ..record.clone()
        },
        boot_id: "simulated".to_owned(),
        term: agent.term.get(),
        tasks: reports,
    })
}

/// What is held of a connection.
pub type Entered = (net::Task<()>, hall::Client);

/// The way in.
pub struct Door {
    pub port: u16,
    path: PathBuf,
    credential: RefCell<Option<Credential>>,
    /// A real agent reckons this on a processor of its own.
    remembered: Rc<Remembered>,
}

impl Door {
    pub fn new(port: u16, credential: &Path) -> Self {
        Self {
            port,
            path: credential.to_owned(),
            credential: RefCell::default(),
            remembered: Rc::default(),
        }
    }

    /// A connection through the gate, retried while no master answers.
    pub async fn enter(&self, number: usize) -> Result<Entered, Failure> {
        let deadline = net::now() + PATIENCE;
        loop {
            match self.try_enter(number).await {
                Ok(entered) => return Ok(entered),
                Err(error) if net::now() >= deadline => return Err(error),
                Err(_) => net::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn try_enter(&self, number: usize) -> Result<Entered, Failure> {
        let kept = self.credential.borrow().clone();
        let credential = match kept {
            Some(credential) => credential,
            None => api::credentials::one(&std::fs::read_to_string(&self.path)?)?,
        };
        *self.credential.borrow_mut() = Some(credential.clone());
        let source = Ipv4Addr::new(127, 1, 0, (number % SOURCES) as u8);
        let master = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        let stream = net::TcpStream::connect_from(source, master).await?;
        let limits = net::rpc::RpcLimits {
            message_bytes_max: 16 << 20,
            ..net::rpc::RpcLimits::default()
        };
        let (connection, gate): (_, gate::Client) = net::rpc::connect(stream, &limits);
        let driver = net::spawn(async move { drop(connection.await) });
        let scram = Scram::remembering(credential, net::random()?, self.remembered.clone());
        let mut request = gate.authenticate_request();
        request.get().set_client("bench");
        request.get().set_version(env!("CARGO_PKG_VERSION"));
        request.get().set_scram(scram.first());
        let answer = request.send().promise.await?;
        let begun = answer.get()?;
        wire::fault::check(begun.get_fault())?;
        let (proof, expected) = scram.prove(begun.get_challenge()?.to_str()?)?;
        let mut request = begun.get_login()?.prove_request();
        request.get().set_scram(proof);
        let answer = request.send().promise.await?;
        let result = answer.get()?;
        wire::fault::check(result.get_fault())?;
        expected.check(result.get_verifier()?.to_str()?)?;
        Ok((driver, result.get_hall()?))
    }
}

async fn register(
    hall: &hall::Client,
    number: usize,
    agent: &Simulated,
    record: &AgentRecord,
    tasks: usize,
) -> Result<(), Failure> {
    loop {
        let mut request = hall.register_request();
        wire::master::encode_hello(&hello(number, agent, record, tasks)?, request.get().init_hello());
        request.get().set_orders(capnp_rpc::new_client(Orders));
        let answer = request.send().promise.await?;
        let result = answer.get()?;
        match wire::fault::check(result.get_fault()) {
            Ok(()) => {
                let welcome = wire::master::decode_welcome(result.get_welcome()?)?;
                agent.term.set(welcome.term);
                *agent.id.borrow_mut() = Some(welcome.id);
                *agent.session.borrow_mut() = Some(result.get_session()?);
                return Ok(());
            }
            Err(fault)
                if wire::master::decode_refusal(result.get_refusal())? == model::task::Refusal::Shutdown =>
            {
                return Err(fault.into());
            }
            Err(_) => net::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// All of them, from the first connection to the last welcome.
pub async fn all_register(
    door: &Door,
    agents: &[Simulated],
    connections: usize,
    tasks: usize,
) -> Result<Vec<Entered>, Failure> {
    let record = &record()?;
    let works = stream::iter(0..connections).map(|connection| async move {
        let (driver, hall) = door.enter(connection).await?;
        let numbers = (connection..agents.len()).step_by(connections);
        let all = numbers.map(|number| register(&hall, number, &agents[number], record, tasks));
        futures::future::try_join_all(all).await?;
        Ok::<_, Failure>((driver, hall))
    });
    works.buffer_unordered(OPENING).try_collect().await
}
