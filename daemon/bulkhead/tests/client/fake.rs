//! An agent without isolation: a "container" is a plain child process of the test, with pipes. Enough
//! to see whether the client passes everything through.

mod container;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use capnp::capability::Rc as ServerRc;
use model::{
    AgentInfo, Bytes, ContainerState, ContainerStatus, Event, EventKind, Fault, FaultKind, HostReport,
    LaunchSpec, Limitation, Reason, Termination, Usage,
};
use net::{Notify, Pool};
use nix::pty::{Winsize, openpty};
use nix::unistd::Pid;
use wire::agent_capnp::{agent, gate, output_sink};

use container::{Container, Input, Subscription};

type Done = Result<(), capnp::Error>;

/// Serves on a socket, on a thread of its own, until the test ends.
pub fn start(socket: &Path) {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    drop(listener);
    std::fs::remove_file(socket).unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let path = socket.to_owned();
    std::thread::spawn(move || {
        net::run(net::Config::default(), async move {
            let listener = net::UnixListener::bind(&path, 0o600).unwrap();
            ready.send(()).unwrap();
            let agent = Rc::new(Agent {
                pool: Pool::new(32, 32).unwrap(),
                containers: RefCell::default(),
            });
            loop {
                let stream = listener.accept().await.unwrap();
                let gate: gate::Client = capnp_rpc::new_client(Gate(Rc::clone(&agent)));
                let limits = net::rpc::RpcLimits::default();
                let connection = net::rpc::serve_connection(stream, gate.client, &limits);
                net::spawn(async move { drop(connection.await) }).detach();
            }
        })
        .unwrap()
    });
    is_ready.recv().unwrap();
}

struct Agent {
    pool: Pool,
    containers: RefCell<BTreeMap<String, Rc<Running>>>,
}

/// One child and its end.
struct Running {
    status: RefCell<ContainerStatus>,
    pid: Pid,
    ended: Notify,
    /// Streams that have not ended.
    outputs: Cell<usize>,
    all_output: Notify,
    /// Kept for who attaches: nobody was attached at the start.
    stdin: RefCell<Option<File>>,
    sinks: RefCell<Vec<output_sink::Client>>,
}

impl Running {
    fn new(status: ContainerStatus, pid: u32, sink: Option<output_sink::Client>) -> Rc<Self> {
        Rc::new(Self {
            status: RefCell::new(status),
            pid: Pid::from_raw(pid as i32),
            ended: Notify::new(),
            outputs: Cell::new(0),
            all_output: Notify::new(),
            stdin: RefCell::new(None),
            sinks: RefCell::new(sink.into_iter().collect()),
        })
    }
}

struct Gate(Rc<Agent>);

impl gate::Server for Gate {
    async fn authenticate(
        self: ServerRc<Self>,
        _: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Done {
        results
            .get()
            .set_agent(capnp_rpc::new_client(Service(Rc::clone(&self.0))));
        Ok(())
    }
}

struct Service(Rc<Agent>);

/// A child and our ends of its streams.
struct Spawned {
    child: Child,
    stdin: Option<File>,
    outputs: Vec<(u8, File)>,
}

fn spawn(spec: &LaunchSpec) -> Result<Spawned, Fault> {
    let mut command = Command::new(&spec.command[0]);
    command.args(&spec.command[1..]).envs(spec.env.iter().cloned());
    let not_found = |error: std::io::Error| {
        Fault::new(
            FaultKind::CommandNotFound,
            format!("execute {:?}: {error}", spec.command[0]),
        )
    };
    if let Some(size) = spec.terminal {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .map_err(not_found)?;
        let master = File::from(pty.master);
        return Ok(Spawned {
            child,
            stdin: Some(master.try_clone().unwrap()),
            outputs: vec![(1, master)],
        });
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(not_found)?;
    let stdin = child.stdin.take().map(|stdin| OwnedFd::from(stdin).into());
    let stdout = OwnedFd::from(child.stdout.take().unwrap()).into();
    let stderr = OwnedFd::from(child.stderr.take().unwrap()).into();
    Ok(Spawned {
        child,
        stdin,
        outputs: vec![(1, stdout), (2, stderr)],
    })
}

fn status(id: &str, spec: &LaunchSpec, pid: u32) -> ContainerStatus {
    ContainerStatus {
        id: id.parse().unwrap(),
        name: spec.name.clone(),
        state: ContainerState::Running,
        pid: Some(pid as i32),
        command: spec.command.clone(),
        limits: spec.limits.clone(),
        network: spec.network,
        grant: spec.grant.clone(),
        labels: spec.labels.clone(),
        created_at_ms: 1,
        started_at_ms: Some(1),
        sandbox: None,
        terminal: spec.terminal.is_some(),
        waits_for: None,
        termination: None,
    }
}

impl agent::Server for Service {
    async fn launch(
        self: ServerRc<Self>,
        params: agent::LaunchParams,
        mut results: agent::LaunchResults,
    ) -> Done {
        let spec = wire::launch::decode(params.get()?.get_spec()?)
            .map_err(|f| capnp::Error::failed(f.to_string()))?;
        let Spawned {
            child,
            stdin,
            outputs,
        } = match spawn(&spec) {
            Ok(spawned) => spawned,
            Err(fault) => {
                wire::fault::encode(&fault, results.get().init_fault());
                return Ok(());
            }
        };
        let agent = &self.0;
        let id = format!("{:032x}", child.id());
        let sink = if params.get()?.has_output() {
            Some(params.get()?.get_output()?)
        } else {
            None
        };
        let attached = sink.is_some();
        if let (Some(times), Some(sink)) = (spec.labels.get("gaps"), &sink) {
            for _ in 0..times.parse().unwrap() {
                let mut gap = sink.gap_request();
                gap.get().set_stream(1);
                gap.get().set_bytes(1000);
                gap.send().promise.await?;
            }
        }
        let running = Running::new(status(&id, &spec, child.id()), child.id(), sink);
        agent
            .containers
            .borrow_mut()
            .insert(id.clone(), Rc::clone(&running));
        start_pumps(agent, &running, outputs);
        let mut result = results.get();
        running.stdin.replace(stdin);
        // Without output nobody is attached, and stdin waits for whoever attaches.
        if attached && let Some(input) = Input::of(agent, &running) {
            result.set_input(input);
        }
        net::spawn(reap(Rc::clone(agent), Rc::clone(&running), child)).detach();
        result.set_container(capnp_rpc::new_client(Container {
            agent: Rc::clone(agent),
            running,
        }));
        result.set_id(&id);
        Ok(())
    }

    async fn container(
        self: ServerRc<Self>,
        params: agent::ContainerParams,
        mut results: agent::ContainerResults,
    ) -> Done {
        let wanted = params.get()?.get_id_or_name()?.to_string()?;
        let containers = self.0.containers.borrow();
        let found = containers.values().find(|running| {
            let status = running.status.borrow();
            status.id.as_str() == wanted || status.name.as_ref().is_some_and(|name| name.as_str() == wanted)
        });
        match found {
            Some(running) => {
                results.get().set_id(running.status.borrow().id.as_str());
                let (agent, running) = (Rc::clone(&self.0), Rc::clone(running));
                results
                    .get()
                    .set_container(capnp_rpc::new_client(Container { agent, running }));
            }
            None => {
                let fault = Fault::new(FaultKind::NotFound, "no such container")
                    .remedy("list them with: bulkhead ps -a");
                wire::fault::encode(&fault, results.get().init_fault());
            }
        }
        Ok(())
    }

    async fn list(self: ServerRc<Self>, params: agent::ListParams, mut results: agent::ListResults) -> Done {
        let all = params.get()?.get_all();
        let statuses: Vec<ContainerStatus> = self
            .0
            .containers
            .borrow()
            .values()
            .map(|r| r.status.borrow().clone())
            .collect();
        let wanted: Vec<_> = statuses
            .iter()
            .filter(|status| all || !status.state.is_over())
            .collect();
        let list = results.get().init_containers(wanted.len() as u32);
        wire::agent::encode_statuses(wanted, list);
        Ok(())
    }

    async fn watch_events(
        self: ServerRc<Self>,
        params: agent::WatchEventsParams,
        mut results: agent::WatchEventsResults,
    ) -> Done {
        let sink = params.get()?.get_sink()?;
        let after = params.get()?.get_after_sequence();
        net::spawn(async move {
            for sequence in after + 1..=after + 3 {
                let mut push = sink.push_request();
                let kind = EventKind::State {
                    state: ContainerState::Running,
                };
                let event = Event {
                    sequence,
                    at_ms: 0,
                    container: "c1".parse().unwrap(),
                    name: None,
                    kind,
                };
                wire::event::encode(&event, push.get().init_event());
                if push.send().await.is_err() {
                    return;
                }
            }
            futures::future::pending::<()>().await;
        })
        .detach();
        results
            .get()
            .set_subscription(capnp_rpc::new_client(Subscription));
        Ok(())
    }

    async fn watch_statistics(
        self: ServerRc<Self>,
        params: agent::WatchStatisticsParams,
        mut results: agent::WatchStatisticsResults,
    ) -> Done {
        let sink = params.get()?.get_sink()?;
        let interval = u64::from(params.get()?.get_interval_ms());
        let agent = Rc::clone(&self.0);
        net::spawn(async move {
            for second in 0_u32.. {
                let mut push = sink.push_request();
                {
                    let containers = agent.containers.borrow();
                    let running: Vec<_> = containers
                        .values()
                        .filter(|running| !running.ended.is_set())
                        .collect();
                    let usage = Usage {
                        timestamp: f64::from(second),
                        cpus_user_time_secs: Some(f64::from(second) * 0.25),
                        ..Usage::default()
                    };
                    let statuses: Vec<_> = running.iter().map(|running| running.status.borrow()).collect();
                    let list = push.get().init_samples(running.len() as u32);
                    wire::usage::encode_list(statuses.iter().map(|s| (&s.id, s.name.as_ref(), &usage)), list);
                }
                if push.send().await.is_err() {
                    return;
                }
                net::sleep(std::time::Duration::from_millis(interval)).await;
            }
        })
        .detach();
        results
            .get()
            .set_subscription(capnp_rpc::new_client(Subscription));
        Ok(())
    }

    async fn host(self: ServerRc<Self>, _: agent::HostParams, mut results: agent::HostResults) -> Done {
        let report = HostReport {
            cpus: 4,
            memory: Bytes::gib(8),
            ..HostReport::default()
        };
        wire::agent::encode_host(&report, results.get().init_info());
        Ok(())
    }

    async fn version(
        self: ServerRc<Self>,
        _: agent::VersionParams,
        mut results: agent::VersionResults,
    ) -> Done {
        let info = AgentInfo {
            version: "9.9.9".into(),
            ..AgentInfo::default()
        };
        wire::agent::encode_info(&info, results.get().init_info());
        Ok(())
    }
}

/// Passes on what the child writes; the sink is gone when the client is, then it is read and dropped.
async fn pump(agent: Rc<Agent>, running: Rc<Running>, number: u8, pipe: File) {
    // The files of a real agent: what is read is kept, however slow the client is.
    // As many pieces as there may be: who reads as fast as the child writes gets small ones.
    let (kept, mut next) = net::queue::bounded::<Vec<u8>>(1 << 20);
    let sender = Rc::clone(&running);
    net::spawn(async move {
        while let Some(piece) = next.pop().await {
            let sinks = sender.sinks.borrow().clone();
            for sink in sinks {
                let mut request = sink.write_request();
                request.get().set_stream(number);
                request.get().set_data(&piece);
                let _ = request.send().await;
            }
        }
        sender.outputs.set(sender.outputs.get() - 1);
        if sender.outputs.get() == 0 {
            sender.all_output.set();
        }
    })
    .detach();
    let mut pipe = pipe;
    loop {
        let read = agent.pool.run(move || {
            let mut piece = vec![0; 64 << 10];
            let length = pipe.read(&mut piece).unwrap_or(0);
            piece.truncate(length);
            (pipe, piece)
        });
        let (back, piece) = read.await.unwrap();
        pipe = back;
        if piece.is_empty() || kept.push(piece).await.is_err() {
            return;
        }
    }
}

fn start_pumps(agent: &Rc<Agent>, running: &Rc<Running>, outputs: Vec<(u8, File)>) {
    running.outputs.set(outputs.len());
    for (number, pipe) in outputs {
        net::spawn(pump(Rc::clone(agent), Rc::clone(running), number, pipe)).detach();
    }
    let running = Rc::clone(running);
    net::spawn(async move {
        running.all_output.wait().await;
        let sinks = running.sinks.take();
        for sink in sinks {
            let _ = sink.done_request().send().promise.await;
        }
    })
    .detach();
}

/// The end is known at once, whoever still reads the output or writes to it.
async fn reap(agent: Rc<Agent>, running: Rc<Running>, mut child: Child) {
    let end = agent.pool.run(move || child.wait().unwrap()).await.unwrap();
    // A child that says so with this status is taken for one that hit its memory limit.
    let limitation = (end.code() == Some(99)).then(|| Limitation {
        reason: Reason::MemoryLimit,
        message: "memory".into(),
        limit: Some(Bytes::mib(64)),
        peak: Some(Bytes::mib(65)),
        statistics: BTreeMap::new(),
    });
    {
        let mut status = running.status.borrow_mut();
        status.state = ContainerState::Destroyed;
        status.termination = Some(Termination {
            exit_status: end.code().unwrap_or(128 + end.signal().unwrap_or(0)),
            signal: end.signal(),
            reason: if limitation.is_some() {
                Reason::MemoryLimit
            } else {
                Reason::Exited
            },
            message: String::new(),
            limitation,
            finished_at_ms: 2,
        });
    }
    running.ended.set();
}
