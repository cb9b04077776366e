//! The agent's Cap'n Proto service: decode, ask, encode. Decisions are the core's, deeds the shell's.

use std::rc::Rc;

use agent_core::{Answer, Input};
use capnp::capability::Rc as CapRc;
use model::{ContainerId, Fault, FaultKind, LaunchSpec, Millis};
use wire::agent_capnp::{agent, gate, subscription};

use crate::container_service::ContainerService;
use crate::output::Follow;
use crate::resources::Resources;
use crate::shell::Shell;
use crate::sink::{InputService, OutputSink};

/// A reply that large would not pass the peer's own limit.
const PING_BYTES_MAX: usize = 1 << 20;
/// Ids in one statistics request.
const IDS_MAX: usize = 65536;
/// A subscriber may not ask for samples faster than this: a sample of 1,000 containers takes 20 ms.
const INTERVAL_MIN: Millis = Millis(100);

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
    pub shell: Rc<Shell>,
    pub proof: Proof,
    pub connection: net::ConnectionHandle,
}

/// By what a client shows who it is.
pub enum Proof {
    /// The unix socket's other end, as the kernel tells.
    Peer(Option<net::Peer>),
    /// TCP: the token that lies in the runtime directory, which only root and the agent's user can read.
    Token(Rc<str>),
}

impl gate::Server for GateService {
    async fn authenticate(
        self: CapRc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let client = params.get_client()?.to_str().unwrap_or("?").to_owned();
        attempt!(results, self.admit(params.get_token()?));
        tracing::debug!(client, "client authenticated");
        // From here on it is not the first to go when connections run out.
        self.connection.protect();
        let agent: agent::Client = capnp_rpc::new_client(AgentService {
            shell: self.shell.clone(),
        });
        results.get().set_agent(agent);
        Ok(())
    }
}

impl GateService {
    /// The socket is 0600, so that only its owner and root get here; whoever was handed the descriptor
    /// by them is judged by its credentials all the same.
    fn admit(&self, token: &[u8]) -> Result<(), Fault> {
        let own = kernel::system::effective_uid();
        match &self.proof {
            // Root in a container is root to the socket as well, if the container can reach it by some path that
            // is not hidden from it; a read-only mount does not keep anybody from connecting.
            Proof::Peer(Some(peer)) if !kernel::procfs::shares_pid_namespace(peer.pid).unwrap_or(false) => {
                let message = format!("process {} is in a container, or gone", peer.pid);
                Err(Fault::new(FaultKind::Denied, message).remedy("run the client on the host"))
            }
            Proof::Peer(Some(peer)) if peer.uid == 0 || peer.uid == own => Ok(()),
            Proof::Peer(Some(peer)) => {
                let message = format!("user {} may not use this agent", peer.uid);
                Err(Fault::new(FaultKind::Denied, message).remedy("run the client as root"))
            }
            Proof::Peer(None) => Err(Fault::new(FaultKind::Denied, "the connection has no credentials")),
            Proof::Token(wanted) if equal_in_constant_time(wanted.as_bytes(), token) => Ok(()),
            Proof::Token(_) => {
                let fault = Fault::new(FaultKind::Denied, "the token is not this agent's").field("token");
                Err(fault.remedy("set BULKHEAD_TOKEN to what is in the agent's RUNTIME_DIR/token"))
            }
        }
    }
}

/// Takes the same time wherever the first difference is.
fn equal_in_constant_time(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |different, (a, b)| different | (a ^ b))
            == 0
}

pub struct AgentService {
    pub shell: Rc<Shell>,
}

impl AgentService {
    fn find(&self, text: &str) -> Result<ContainerId, Fault> {
        self.shell.core().find(text)
    }

    fn decode_ids(
        &self,
        list: capnp::Result<capnp::text_list::Reader<'_>>,
    ) -> Result<Vec<ContainerId>, Fault> {
        let texts = wire::agent::decode_ids(list)?;
        if texts.len() > IDS_MAX {
            return Err(Fault::invalid(
                "ids",
                format!("{} ids, at most {IDS_MAX} are taken", texts.len()),
            ));
        }
        texts.iter().map(|text| self.find(text)).collect()
    }

    pub(crate) async fn launch(
        &self,
        spec: LaunchSpec,
        output: Option<OutputSink>,
        lossless: bool,
    ) -> Result<(ContainerId, bool, Option<InputService>), Fault> {
        let shell = &self.shell;
        let id = match &spec.id {
            Some(id) => id.clone(),
            None => new_id()?,
        };
        let mut spec = crate::admission::resolve_paths(shell, spec).await?;
        spec.limits.bandwidth = shell.bandwidth.fill(spec.network, &spec.limits);
        crate::admission::admit(shell, &id, &spec)?;
        let known = shell.core().status(&id).is_some();
        if !known {
            let directory = shell.directories.output(&id);
            let resources = Resources::new(&spec, directory, shell.pool.clone());
            resources.output.mark_fresh();
            shell.hold(&id, resources);
        }
        // Held before the command starts: a client that goes away meanwhile lets go of its stdin. Without output
        // nobody is attached, and stdin waits for whoever attaches.
        let resources = crate::launch::held(shell, &id)?;
        let attached = output.is_some();
        let mut input = resources
            .stdin
            .as_ref()
            .filter(|_| attached && !known)
            .map(|s| InputService(s.hold()));
        // Followed from before the command starts, so that no byte is missed. If the launch is refused, the task is
        // dropped, and with it the client's sink.
        let mut follower = None;
        let mut output = output;
        if !known {
            follower = output.take().map(|sink| follow_all(&resources, lossless, sink));
        }
        let asked = shell
            .ask(|ticket| Input::Launch {
                ticket,
                id: id.clone(),
                spec: Box::new(spec),
            })
            .await;
        let existed = match asked {
            Ok(Answer::Launched { existed, .. }) => existed,
            Ok(_) => return Err(Fault::failed("the agent gave an answer out of place")),
            Err(fault) => {
                shell.release_if_unknown(&id);
                return Err(fault);
            }
        };
        if known {
            follower = output.take().map(|sink| follow_all(&resources, lossless, sink));
            input = resources
                .stdin
                .as_ref()
                .filter(|_| attached)
                .map(|s| InputService(s.hold()));
        }
        if let Some(task) = follower {
            task.detach();
        }
        Ok((id, existed, input))
    }
}

fn follow_all(resources: &Rc<Resources>, lossless: bool, sink: OutputSink) -> net::Task<()> {
    let following = resources.output.follow(Follow::all_from_start(lossless), sink);
    net::spawn(async move {
        if let Err(fault) = following.await {
            tracing::debug!("an attached client went away: {fault}");
        }
    })
}

impl agent::Server for AgentService {
    async fn launch(
        self: CapRc<Self>,
        params: agent::LaunchParams,
        mut results: agent::LaunchResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let spec = attempt!(results, wire::launch::decode(params.get_spec()?));
        let output = params
            .has_output()
            .then(|| params.get_output())
            .transpose()?
            .map(OutputSink::new);
        let launched = AgentService::launch(&self, spec, output, params.get_lossless()).await;
        let (id, existed, input) = attempt!(results, launched);
        let mut answer = results.get();
        answer.set_id(id.as_str());
        answer.set_existed(existed);
        answer.set_container(capnp_rpc::new_client(ContainerService {
            shell: self.shell.clone(),
            id,
        }));
        if let Some(input) = input {
            answer.set_input(capnp_rpc::new_client(input));
        }
        Ok(())
    }

    async fn container(
        self: CapRc<Self>,
        params: agent::ContainerParams,
        mut results: agent::ContainerResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let text = wire::agent::decode_text("container", params.get()?.get_id_or_name());
        let id = attempt!(results, text.and_then(|text| self.find(&text)));
        let mut answer = results.get();
        answer.set_id(id.as_str());
        answer.set_container(capnp_rpc::new_client(ContainerService {
            shell: self.shell.clone(),
            id,
        }));
        Ok(())
    }

    async fn list(
        self: CapRc<Self>,
        params: agent::ListParams,
        mut results: agent::ListResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let all = params.get()?.get_all();
        let core = self.shell.core();
        let statuses: Vec<_> = core.list(all).collect();
        let list = results.get().init_containers(statuses.len() as u32);
        wire::agent::encode_statuses(statuses, list);
        Ok(())
    }

    async fn statistics(
        self: CapRc<Self>,
        params: agent::StatisticsParams,
        mut results: agent::StatisticsResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let ids = attempt!(results, self.decode_ids(params.get()?.get_ids()));
        let samples = attempt!(results, crate::statistics::sample(&self.shell, &ids).await);
        let list = results.get().init_samples(samples.len() as u32);
        encode_samples(&self.shell, &samples, list);
        Ok(())
    }

    async fn watch_statistics(
        self: CapRc<Self>,
        params: agent::WatchStatisticsParams,
        mut results: agent::WatchStatisticsResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let ids = attempt!(results, self.decode_ids(params.get_ids()));
        let interval = Millis(u64::from(params.get_interval_ms()));
        if interval < INTERVAL_MIN {
            let message = format!("{interval} is too short, the least is {INTERVAL_MIN}");
            attempt!(results, Err::<(), _>(Fault::invalid("interval_ms", message)));
        }
        let sink = params.get_sink()?;
        let shell = self.shell.clone();
        let task = net::spawn(async move {
            loop {
                // A watched container that has ended is no reason to end the others' watch.
                let living: Vec<ContainerId> = ids.iter().filter(|id| lives(&shell, id)).cloned().collect();
                let samples = match ids.is_empty() || !living.is_empty() {
                    true => crate::statistics::sample(&shell, &living)
                        .await
                        .unwrap_or_default(),
                    false => Vec::new(),
                };
                let mut request = sink.push_request();
                encode_samples(&shell, &samples, request.get().init_samples(samples.len() as u32));
                if request.send().await.is_err() {
                    return;
                }
                net::sleep(interval.duration()).await;
            }
        });
        results
            .get()
            .set_subscription(capnp_rpc::new_client(SubscriptionService { _task: task }));
        Ok(())
    }

    async fn watch_events(
        self: CapRc<Self>,
        params: agent::WatchEventsParams,
        mut results: agent::WatchEventsResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let sink = params.get_sink()?;
        let mut after = params.get_after_sequence();
        let shell = self.shell.clone();
        let task = net::spawn(async move {
            loop {
                for event in shell.events.after(after).await {
                    after = event.sequence;
                    let mut request = sink.push_request();
                    wire::event::encode(&event, request.get().init_event());
                    if request.send().await.is_err() {
                        return;
                    }
                }
            }
        });
        results
            .get()
            .set_subscription(capnp_rpc::new_client(SubscriptionService { _task: task }));
        Ok(())
    }

    async fn drain(
        self: CapRc<Self>,
        params: agent::DrainParams,
        mut results: agent::DrainResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let grace = Some(Millis(params.get()?.get_grace_ms()));
        tracing::info!("draining");
        match attempt!(
            results,
            self.shell.ask(|ticket| Input::Drain { ticket, grace }).await
        ) {
            Answer::Drained { killed } => results.get().set_killed(killed),
            _ => attempt!(
                results,
                Err(Fault::failed("the agent gave an answer out of place"))
            ),
        }
        Ok(())
    }

    async fn version(
        self: CapRc<Self>,
        _params: agent::VersionParams,
        mut results: agent::VersionResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        wire::agent::encode_info(&crate::about::info(&self.shell), results.get().init_info());
        Ok(())
    }

    async fn host(
        self: CapRc<Self>,
        _params: agent::HostParams,
        mut results: agent::HostResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let mut host = crate::about::host(&self.shell);
        let network = self.shell.network.clone();
        // Asks the kernel, and waits for whoever changes the network now.
        let health = self.shell.pool.run(move || network.health()).await;
        host.isolators.extend(health.unwrap_or_default());
        wire::agent::encode_host(&host, results.get().init_info());
        Ok(())
    }

    async fn collect(
        self: CapRc<Self>,
        params: agent::CollectParams,
        mut results: agent::CollectResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let removed = attempt!(results, crate::gc::serve(&self.shell, params.get()?).await);
        wire::removed::encode_list(&removed, results.get().init_removed(removed.len() as u32));
        Ok(())
    }

    async fn explain(
        self: CapRc<Self>,
        params: agent::ExplainParams,
        mut results: agent::ExplainResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let question = attempt!(results, wire::question::decode(params.get()?.get_question()?));
        let answer = attempt!(results, crate::explain::explain(&self.shell, &question).await);
        wire::question::encode_answer(&answer, results.get());
        Ok(())
    }

    async fn ping(
        self: CapRc<Self>,
        params: agent::PingParams,
        mut results: agent::PingResults,
    ) -> Result<(), capnp::Error> {
        let payload = params.get()?.get_payload()?;
        if payload.len() > PING_BYTES_MAX {
            return Err(capnp::Error::failed(format!(
                "payload: more than {PING_BYTES_MAX} bytes"
            )));
        }
        results.get().set_payload(payload);
        Ok(())
    }
}

fn lives(shell: &Shell, id: &ContainerId) -> bool {
    shell.core().status(id).is_some_and(|s| !s.state.is_over())
}

fn encode_samples(
    shell: &Shell,
    samples: &[(ContainerId, model::Usage)],
    list: capnp::struct_list::Builder<'_, wire::value_capnp::container_usage::Owned>,
) {
    let core = shell.core();
    let named = samples
        .iter()
        .map(|(id, usage)| (id, core.status(id).and_then(|s| s.name.as_ref()), usage));
    wire::usage::encode_list(named, list);
}

/// 128 random bits in hex.
fn new_id() -> Result<ContainerId, Fault> {
    let text = kernel::system::random_hex().map_err(|e| Fault::failed(format!("read random bytes: {e}")))?;
    text.parse()
        .map_err(|e| Fault::failed(format!("make a container id: {e}")))
}

/// Ends its task when the client lets go of it.
pub struct SubscriptionService {
    pub _task: net::Task<()>,
}

impl subscription::Server for SubscriptionService {}
