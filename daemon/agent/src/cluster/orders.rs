//! What a master may ask of this agent, and for how long: each order is of a term, and each session ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use capnp::capability::Rc as CapRc;
use model::task::{TaskId, TaskState, TaskStatus, state_of_refusal};
use model::{Fault, FaultKind, Millis};
use wire::agent_capnp::agent;
use wire::master_capnp::orders;

use crate::cluster::Cluster;
use crate::service::{AgentService, attempt};

/// One session with one master.
pub struct Line {
    pub cluster: Rc<Cluster>,
    /// As long as it is the one with the leader that we know.
    pub open: Cell<bool>,
    /// Of its welcome, once that is on disk.
    pub term: Cell<Option<u64>>,
    pub welcomed: net::Notify,
    pub heard: Cell<Instant>,
    /// The master has ended it.
    pub released: net::Notify,
    pub shutdown: Cell<bool>,
}

impl Line {
    pub fn new(cluster: Rc<Cluster>) -> Rc<Self> {
        Rc::new(Self {
            cluster,
            open: Cell::new(true),
            term: Cell::new(None),
            welcomed: net::Notify::new(),
            heard: Cell::new(net::now()),
            released: net::Notify::new(),
            shutdown: Cell::new(false),
        })
    }

    /// An order counts only from the leader that we know, and from none before the latest.
    async fn admit(&self, term: u64) -> Result<(), Fault> {
        self.welcomed.wait().await;
        self.heard.set(net::now());
        let highest = self.cluster.term.get();
        if !self.open.get() {
            return Err(Fault::new(FaultKind::Denied, "this agent has left this master"));
        }
        if self.term.get() != Some(term) || term < highest {
            let message =
                format!("an order of term {term}, and this agent has seen a leader of term {highest}");
            return Err(Fault::new(FaultKind::Denied, message));
        }
        Ok(())
    }
}

pub struct OrdersService(pub Rc<Line>);

impl orders::Server for OrdersService {
    async fn launch(
        self: CapRc<Self>,
        params: orders::LaunchParams,
        mut results: orders::LaunchResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        attempt!(results, self.0.admit(params.get_term()).await);
        let spec = attempt!(results, wire::launch::decode(params.get_spec()?));
        attempt!(results, launch(&self.0.cluster, spec).await);
        Ok(())
    }

    async fn kill(
        self: CapRc<Self>,
        params: orders::KillParams,
        mut results: orders::KillResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        attempt!(results, self.0.admit(params.get_term()).await);
        let id = attempt!(results, wire::master::decode_id(params.get_id()));
        let grace = params.get_has_grace().then(|| Millis(params.get_grace_ms()));
        self.0.cluster.kill(&id, grace).await;
        Ok(())
    }

    async fn update(
        self: CapRc<Self>,
        params: orders::UpdateParams,
        mut results: orders::UpdateResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        attempt!(results, self.0.admit(params.get_term()).await);
        let id = attempt!(results, wire::master::decode_id(params.get_id()));
        let change = attempt!(results, wire::limits::decode(params.get_limits()?));
        let may = wire::master::decode_need(params.get_need()?);
        let report = attempt!(results, self.0.cluster.update(id, change, may).await);
        wire::master::encode_report(&report, results.get().init_report());
        Ok(())
    }

    async fn ping(
        self: CapRc<Self>,
        params: orders::PingParams,
        mut results: orders::PingResults,
    ) -> Result<(), capnp::Error> {
        attempt!(results, self.0.admit(params.get()?.get_term()).await);
        Ok(())
    }

    async fn shutdown(
        self: CapRc<Self>,
        params: orders::ShutdownParams,
        mut results: orders::ShutdownResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        attempt!(results, self.0.admit(params.get_term()).await);
        let message = params.get_message()?.to_str().unwrap_or_default();
        tracing::error!("the master ends this agent's membership: {message}");
        self.0.shutdown.set(true);
        self.0.released.set();
        Ok(())
    }

    async fn reach(
        self: CapRc<Self>,
        params: orders::ReachParams,
        mut results: orders::ReachResults,
    ) -> Result<(), capnp::Error> {
        attempt!(results, self.0.admit(params.get()?.get_term()).await);
        let agent: agent::Client = capnp_rpc::new_client(AgentService {
            shell: self.0.cluster.shell.clone(),
        });
        results.get().set_agent(agent);
        Ok(())
    }

    async fn release(
        self: CapRc<Self>,
        params: orders::ReleaseParams,
        mut results: orders::ReleaseResults,
    ) -> Result<(), capnp::Error> {
        attempt!(results, self.0.admit(params.get()?.get_term()).await);
        self.0.released.set();
        Ok(())
    }
}

/// Goes to its end when whoever asked does not wait for it: a connection that breaks drops the calls that came over it, and
/// a launch that stopped half-way would be neither begun nor refused.
async fn launch(cluster: &Rc<Cluster>, spec: model::LaunchSpec) -> Result<(), Fault> {
    let (tell, told) = futures::channel::oneshot::channel();
    let cluster = cluster.clone();
    net::spawn(async move {
        let _ = tell.send(launch_to_its_end(&cluster, spec).await);
    })
    .detach();
    told.await.unwrap_or_else(|_| {
        Err(Fault::failed(
            "the launch was given up within the agent; see its log",
        ))
    })
}

/// Once for each id, whatever happens: the record is there before the container is.
async fn launch_to_its_end(cluster: &Rc<Cluster>, spec: model::LaunchSpec) -> Result<(), Fault> {
    let Some(id) = spec.id.clone() else {
        return Err(Fault::invalid("id", "a task has one"));
    };
    match cluster.begin(&id, &spec).await {
        Ok(true) => {}
        // It was ordered before.
        Ok(false) => return Ok(()),
        Err(fault) => {
            cluster.refused(&id, &fault);
            cluster.launched(&id).await;
            return Err(fault);
        }
    }
    let service = AgentService {
        shell: cluster.shell.clone(),
    };
    let launched = service.launch(spec, None, false).await;
    let result = match launched {
        Ok(_) => Ok(()),
        Err(fault) => {
            cluster.refused(&id, &fault);
            Err(fault)
        }
    };
    cluster.launched(&id).await;
    result
}

pub fn refusal(fault: &Fault) -> TaskStatus {
    TaskStatus {
        state: state_of_refusal(fault),
        message: fault.to_string(),
        at_ms: net::wall_ms(),
        exit_status: None,
    }
}

/// How a container is, as a task's status: none for what a master need not know.
pub fn observed(shell: &crate::shell::Shell, id: &TaskId) -> Option<TaskStatus> {
    let core = shell.core();
    let status = core.status(id)?;
    match &status.termination {
        Some(end) if status.state.is_over() => Some(TaskStatus {
            state: model::task::state_of(end),
            message: end.message.clone(),
            at_ms: end.finished_at_ms,
            exit_status: Some(end.exit_status),
        }),
        _ if status.state == model::ContainerState::Running => Some(TaskStatus {
            state: TaskState::Running,
            message: String::new(),
            at_ms: status.started_at_ms.unwrap_or_else(net::wall_ms),
            exit_status: None,
        }),
        _ => None,
    }
}
