//! Many agents at one master: they register, the master is killed, they register again with their tasks. The agents are
//! simulated, many over one connection, and speak the real protocol.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use capnp::capability::Rc as CapRc;
use model::registry::AgentId;
use model::resources::Scalar;
use model::task::{Hello, Need, TaskReport, TaskState, TaskStatus};
use net::scram::Client as Scram;
use wire::master_capnp::{gate, hall, orders, session};

use crate::proc;
use crate::report::{Goal, Report};

/// Connections that the agents share: a process of this machine may open 20,000 files.
const CONNECTIONS: usize = 100;
const TASKS_EACH: usize = 2;
const PATIENCE: Duration = Duration::from_secs(120);

type Failure = Box<dyn std::error::Error>;

struct Master {
    child: Child,
    port: u16,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Master {
    fn start(directory: &Path, port: u16) -> Result<Self, Failure> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let program = std::env::current_exe()?.with_file_name("bulkhead");
        let child = Command::new(program)
            .args(["master", "--log=warn", &format!("--port={port}")])
            .arg(format!("--work-dir={}", directory.join("master").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child, port })
    }
}

/// One of many.
#[derive(Default)]
struct Simulated {
    id: RefCell<Option<AgentId>>,
    session: RefCell<Option<session::Client>>,
    term: Cell<u64>,
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

fn hello(number: usize, agent: &Simulated, tasks: usize) -> Result<Hello, Failure> {
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
    Ok(Hello {
        id: agent.id.borrow().clone(),
        key: format!("key-{number}"),
        record: model::registry::AgentRecord {
            hostname: format!("host-{number}.example.com"),
            address: format!(
                "10.{}.{}.{}:5051",
                number >> 16,
                (number >> 8) & 255,
                number & 255
            ),
            resources: "cpus:16;mem:65536;disk:500000;ports:[31000-32000]".parse()?,
            attributes: "rack:r17;zone:eu-1b;kernel:6.18".parse()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: ["AGENT_DRAINING", "TASK_RESOURCE_LIMITS"]
                .map(str::to_owned)
                .into(),
        },
        boot_id: "simulated".to_owned(),
        term: agent.term.get(),
        tasks: reports,
    })
}

/// A connection through the gate, retried while no master answers.
async fn enter(port: u16, credential: &Path) -> Result<(net::Task<()>, hall::Client), Failure> {
    let deadline = net::now() + PATIENCE;
    loop {
        match try_enter(port, credential).await {
            Ok(entered) => return Ok(entered),
            Err(error) if net::now() >= deadline => return Err(error),
            Err(_) => net::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn try_enter(port: u16, credential: &Path) -> Result<(net::Task<()>, hall::Client), Failure> {
    let credential = api::credentials::one(&std::fs::read_to_string(credential)?)?;
    let stream = net::TcpStream::connect(([127, 0, 0, 1], port).into()).await?;
    let limits = net::rpc::RpcLimits {
        message_bytes_max: 16 << 20,
        ..net::rpc::RpcLimits::default()
    };
    let (connection, gate): (_, gate::Client) = net::rpc::connect(stream, &limits);
    let driver = net::spawn(async move { drop(connection.await) });
    let scram = Scram::new(credential, net::random()?);
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

async fn register(
    hall: &hall::Client,
    number: usize,
    agent: &Simulated,
    tasks: usize,
) -> Result<(), Failure> {
    loop {
        let mut request = hall.register_request();
        wire::master::encode_hello(&hello(number, agent, tasks)?, request.get().init_hello());
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
async fn all_register(
    port: u16,
    credential: &Path,
    agents: &Rc<Vec<Simulated>>,
    tasks: usize,
) -> Result<Vec<(net::Task<()>, hall::Client)>, Failure> {
    let share = agents.len().div_ceil(CONNECTIONS);
    let works = (0..CONNECTIONS).map(|connection| {
        let agents = agents.clone();
        async move {
            let (driver, hall) = enter(port, credential).await?;
            let first = connection * share;
            let last = (first + share).min(agents.len());
            let mut all = Vec::new();
            for number in first..last {
                all.push(register(&hall, number, &agents[number], tasks));
            }
            futures::future::try_join_all(all).await?;
            Ok::<_, Failure>((driver, hall))
        }
    });
    futures::future::try_join_all(works).await
}

pub fn run(report: &mut Report, quick: bool) -> Result<(), Failure> {
    let count = if quick { 5_000 } else { 50_000 };
    let figures = net::run(net::Config::default(), measure(count))??;
    for (name, value) in &figures.notes {
        report.note(&format!("{name}: {value}"));
    }
    report.metric("agents", Some(count as f64), "agents", Goal::AtLeast(50_000.0));
    report.metric(
        "reregister_s",
        Some(figures.again.as_secs_f64()),
        "s",
        Goal::AtMost(15.0),
    );
    report.metric("rss_mb", Some(figures.resident_mb), "MB", Goal::AtMost(1000.0));
    Ok(())
}

struct Figures {
    again: Duration,
    resident_mb: f64,
    notes: BTreeMap<&'static str, String>,
}

async fn measure(count: usize) -> Result<Figures, Failure> {
    let directory = tempfile::tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let credential = directory.path().join("master/credential");
    let agents: Rc<Vec<Simulated>> = Rc::new((0..count).map(|_| Simulated::default()).collect());
    let mut notes = BTreeMap::new();

    let master = Master::start(directory.path(), port)?;
    let (driver, hall) = enter(master.port, &credential).await?;
    drop((driver, hall));
    let began = Instant::now();
    let held = all_register(port, &credential, &agents, 0).await?;
    let took = began.elapsed();
    notes.insert(
        "first registration",
        format!(
            "{took:.2?}, {:.0} agents a second",
            count as f64 / took.as_secs_f64()
        ),
    );
    let resident = proc::resident_kb(master.child.id())? as f64 / 1024.0;
    notes.insert("master's memory after it", format!("{resident:.0} MB"));
    drop(master);
    drop(held);
    agents
        .iter()
        .for_each(|agent| drop(agent.session.borrow_mut().take()));

    let began = Instant::now();
    let master = Master::start(directory.path(), port)?;
    let (driver, hall) = enter(master.port, &credential).await?;
    notes.insert(
        "from the start of a successor to its gate open",
        format!("{:.2?}", began.elapsed()),
    );
    drop((driver, hall));
    let held = all_register(port, &credential, &agents, TASKS_EACH).await?;
    let again = began.elapsed();
    notes.insert(
        "registered again with tasks",
        format!(
            "{again:.2?} from the successor's start, {} tasks",
            count * TASKS_EACH
        ),
    );
    let cpu = proc::cpu_time(master.child.id())?;
    notes.insert("the successor's processor time for it", format!("{cpu:.2?}"));
    let resident_mb = proc::resident_kb(master.child.id())? as f64 / 1024.0;
    drop(held);
    Ok(Figures {
        again,
        resident_mb,
        notes,
    })
}
