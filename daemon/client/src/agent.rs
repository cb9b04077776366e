//! One agent.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use capnp::capability::RemotePromise;
use futures::future::LocalBoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use model::network::{PacketExplanation, PacketQuestion};
use model::{
    AgentInfo, ContainerId, ContainerStatus, ContainerUsage, Fault, FaultKind, HostReport, LaunchSpec,
    Millis, Removed, Termination,
};
use wire::agent_capnp::{agent, gate};

use crate::connection::{self, Connection};
use crate::container::{self, Container};
use crate::endpoint::{Credentials, Endpoint};
use crate::inbox::{Events, Samples};
use crate::input::Input;
use crate::output::{self, Output, OutputEnd};

/// For calls that an agent answers from memory. Far beyond a busy second, short enough for a person
/// to wait.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// For calls that wait for the kernel: a launch may mount hundreds of volumes.
pub const LAUNCH_DEADLINE: Duration = Duration::from_secs(120);

/// An agent that has let us in. Clones share the connection.
#[derive(Clone)]
pub struct Agent {
    pub(crate) connection: Rc<Connection>,
    client: agent::Client,
}

/// A container that runs.
pub struct Launched {
    pub container: Container,
    pub id: ContainerId,
    /// The same id had been launched before: nothing new was started.
    pub existed: bool,
    /// If the spec asked for stdin.
    pub input: Option<Input>,
    /// If an output was given.
    pub output: Option<OutputEnd>,
}

/// Resolves when the container is over and everything of it is cleaned up.
#[must_use = "futures do nothing unless awaited"]
pub struct Waiting(LocalBoxFuture<'static, Result<Termination, Fault>>);

impl Waiting {
    pub(crate) fn new(future: impl Future<Output = Result<Termination, Fault>> + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl Future for Waiting {
    type Output = Result<Termination, Fault>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

/// Which of what finished containers left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collect {
    /// What the agent would remove by itself now.
    Due,
    OlderThan(Millis),
    /// By id, beginning of an id, or name.
    Named(Vec<String>),
}

impl Agent {
    /// Connects and authenticates as the program `bulkhead`, over TCP with the token of
    /// `BULKHEAD_TOKEN`.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Fault> {
        Self::connect_as(endpoint, &Credentials::from_env()).await
    }

    pub async fn connect_as(endpoint: &Endpoint, credentials: &Credentials) -> Result<Self, Fault> {
        let (connection, gate) = connection::open(endpoint).await?;
        Self::authenticate(connection, gate, credentials).await
    }

    /// As [`Self::connect_as`], over a stream that is already there; `endpoint` is its name in faults.
    pub async fn connect_over<S>(
        stream: S,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<Self, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (connection, gate) = connection::over(crate::error::Peer::agent(endpoint), stream);
        Self::authenticate(connection, gate, credentials).await
    }

    /// Tries again while no agent answers, until `patience` is over: for the moments of an agent's
    /// start or restart. A refusal is final at once.
    pub async fn connect_retry(endpoint: &Endpoint, patience: Duration) -> Result<Self, Fault> {
        const PAUSE_MIN: Duration = Duration::from_millis(5); // an agent adopts its containers within 100 ms
        const PAUSE_MAX: Duration = Duration::from_millis(500);
        let deadline = net::now() + patience;
        let mut pause = PAUSE_MIN;
        loop {
            match Self::connect(endpoint).await {
                Err(fault) if fault.kind == FaultKind::Unavailable => {
                    let left = deadline.saturating_duration_since(net::now());
                    if left.is_zero() {
                        return Err(fault);
                    }
                    net::sleep(pause.min(left)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                result => return result,
            }
        }
    }

    /// One that somebody else has let us through to.
    pub(crate) fn through(connection: Rc<Connection>, client: agent::Client) -> Self {
        Self { connection, client }
    }

    async fn authenticate(
        connection: Rc<Connection>,
        gate: gate::Client,
        credentials: &Credentials,
    ) -> Result<Self, Fault> {
        let mut request = gate.authenticate_request();
        let mut params = request.get();
        params.set_client(&credentials.client);
        params.set_version(env!("CARGO_PKG_VERSION"));
        params.set_token(&credentials.token);
        let answer = connection
            .answer_soon(request.send(), connection::CONNECT_DEADLINE)
            .await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let client = result.get_agent().map_err(|error| connection.unreadable(error))?;
        Ok(Self { connection, client })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.connection.peer.endpoint
    }

    /// Resolves when the connection is over: the agent ended, or cut us off.
    pub async fn disconnected(&self) {
        self.connection.closed().await;
    }

    /// Starts a container. `output` is attached before the command runs, so it gets every byte; with
    /// `lossless` the command waits for it.
    pub async fn launch(
        &self,
        spec: &LaunchSpec,
        output: Option<Box<dyn Output>>,
        lossless: bool,
    ) -> Result<Launched, Fault> {
        let (call, end) = self.send_launch(spec, output, lossless)?;
        self.launched(call, end).await
    }

    /// As [`Self::launch`]; the wait goes out with it, so that a short command costs one round trip.
    pub async fn launch_and_wait(
        &self,
        spec: &LaunchSpec,
        output: Option<Box<dyn Output>>,
        lossless: bool,
    ) -> Result<(Launched, Waiting), Fault> {
        let (call, end) = self.send_launch(spec, output, lossless)?;
        // Sent to the container that the launch will answer with. If the launch is refused there is
        // none, this fails too, and the refusal is what the caller gets.
        let waiting = container::wait(&self.connection, &call.pipeline.get_container());
        Ok((self.launched(call, end).await?, waiting))
    }

    fn send_launch(
        &self,
        spec: &LaunchSpec,
        output: Option<Box<dyn Output>>,
        lossless: bool,
    ) -> Result<(LaunchCall, Option<OutputEnd>), Fault> {
        wire::launch::check_size(spec)?;
        let mut request = self.client.launch_request();
        let mut params = request.get();
        wire::launch::encode(spec, params.reborrow().init_spec());
        params.set_lossless(lossless);
        let end = output.map(|output| {
            let (sink, end) = output::sink(output);
            params.set_output(sink);
            end
        });
        Ok((request.send(), end))
    }

    async fn launched(&self, call: LaunchCall, output: Option<OutputEnd>) -> Result<Launched, Fault> {
        let connection = &self.connection;
        let answer = connection.answer_soon(call, LAUNCH_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let id = self.id(result.get_id())?;
        let client = result
            .get_container()
            .map_err(|error| connection.unreadable(error))?;
        let input = match result.has_input() {
            false => None,
            true => {
                let sink = result.get_input().map_err(|error| connection.unreadable(error))?;
                Some(Input::new(Rc::clone(connection), sink))
            }
        };
        let container = Container::new(Rc::clone(connection), client, id.clone());
        Ok(Launched {
            container,
            id,
            existed: result.get_existed(),
            input,
            output,
        })
    }

    /// By id, unambiguous beginning of an id, or name.
    pub async fn container(&self, id_or_name: &str) -> Result<Container, Fault> {
        let connection = &self.connection;
        let mut request = self.client.container_request();
        request.get().set_id_or_name(id_or_name);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let id = self.id(result.get_id())?;
        let client = result
            .get_container()
            .map_err(|error| connection.unreadable(error))?;
        Ok(Container::new(Rc::clone(connection), client, id))
    }

    /// Those that live; with `all` also those that have ended and are still remembered.
    pub async fn list(&self, all: bool) -> Result<Vec<ContainerStatus>, Fault> {
        let connection = &self.connection;
        let mut request = self.client.list_request();
        request.get().set_all(all);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        wire::agent::decode_statuses(result.get_containers()).map_err(|fault| connection.unreadable(fault))
    }

    /// One sample of each; of every running container if `ids` is empty.
    pub async fn statistics(&self, ids: &[ContainerId]) -> Result<Vec<ContainerUsage>, Fault> {
        let connection = &self.connection;
        let mut request = self.client.statistics_request();
        encode_ids(ids, request.get().init_ids(ids.len() as u32));
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        wire::usage::decode_list(result.get_samples()).map_err(|fault| connection.unreadable(fault))
    }

    /// Samples every `interval`, until dropped; of every running container if `ids` is empty.
    pub async fn watch_statistics(&self, ids: &[ContainerId], interval: Millis) -> Result<Samples, Fault> {
        let connection = &self.connection;
        let (sink, mut samples) = Samples::open(Rc::clone(connection));
        let mut request = self.client.watch_statistics_request();
        let mut params = request.get();
        encode_ids(ids, params.reborrow().init_ids(ids.len() as u32));
        // 49 days: nobody means a longer one.
        params.set_interval_ms(u32::try_from(interval.get()).unwrap_or(u32::MAX));
        params.set_sink(sink);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        samples.hold(result.get_subscription().ok());
        Ok(samples)
    }

    /// Events after that sequence number as far as they are remembered, then live ones, until dropped.
    pub async fn watch_events(&self, after: u64) -> Result<Events, Fault> {
        let connection = &self.connection;
        let (sink, mut events) = Events::open(Rc::clone(connection));
        let mut request = self.client.watch_events_request();
        request.get().set_after_sequence(after);
        request.get().set_sink(sink);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        events.hold(result.get_subscription().ok());
        Ok(events)
    }

    /// Refuses further launches and ends every container gracefully. Resolves when all are gone, with
    /// their number.
    pub async fn drain(&self, grace: Millis) -> Result<u32, Fault> {
        let connection = &self.connection;
        let mut request = self.client.drain_request();
        request.get().set_grace_ms(grace.get());
        let answer = connection.answer(request.send()).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        Ok(result.get_killed())
    }

    /// Removes what finished containers left on disk, or, with `dry_run`, only tells what would go. Resolves when all of
    /// it has been tried.
    pub async fn collect(&self, which: &Collect, dry_run: bool) -> Result<Vec<Removed>, Fault> {
        let connection = &self.connection;
        let mut request = self.client.collect_request();
        let mut params = request.get();
        params.set_dry_run(dry_run);
        match which {
            Collect::Due => params.set_which(agent::Which::Due),
            Collect::OlderThan(age) => {
                params.set_which(agent::Which::OlderThan);
                params.set_older_than_ms(age.get());
            }
            Collect::Named(names) => {
                params.set_which(agent::Which::Named);
                let mut list = params.init_ids(names.len() as u32);
                for (index, name) in names.iter().enumerate() {
                    list.set(index as u32, name);
                }
            }
        }
        let answer = connection.answer(request.send()).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        wire::removed::decode_list(result.get_removed()).map_err(|fault| connection.unreadable(fault))
    }

    /// What would happen to a packet, and why.
    pub async fn explain(&self, question: &PacketQuestion) -> Result<PacketExplanation, Fault> {
        let connection = &self.connection;
        let mut request = self.client.explain_request();
        wire::question::encode(question, request.get().init_question());
        let answer = connection.answer(request.send()).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        wire::question::decode_answer(result).map_err(|fault| connection.unreadable(fault))
    }

    pub async fn version(&self) -> Result<AgentInfo, Fault> {
        let connection = &self.connection;
        let answer = connection
            .answer_soon(self.client.version_request().send(), CALL_DEADLINE)
            .await?;
        let info = answer
            .get()
            .and_then(|result| result.get_info())
            .map_err(|error| connection.unreadable(error))?;
        wire::agent::decode_info(info).map_err(|fault| connection.unreadable(fault))
    }

    pub async fn host(&self) -> Result<HostReport, Fault> {
        let connection = &self.connection;
        let answer = connection
            .answer_soon(self.client.host_request().send(), CALL_DEADLINE)
            .await?;
        let info = answer
            .get()
            .and_then(|result| result.get_info())
            .map_err(|error| connection.unreadable(error))?;
        wire::agent::decode_host(info).map_err(|fault| connection.unreadable(fault))
    }

    /// Comes back as it went.
    pub async fn ping(&self, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        let connection = &self.connection;
        let mut request = self.client.ping_request();
        request.get().set_payload(payload);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let payload = answer
            .get()
            .and_then(|result| result.get_payload())
            .map_err(|error| connection.unreadable(error))?;
        Ok(payload.to_vec())
    }

    fn id(&self, text: capnp::Result<capnp::text::Reader<'_>>) -> Result<ContainerId, Fault> {
        let text = wire::agent::decode_text("id", text).map_err(|fault| self.connection.unreadable(fault))?;
        ContainerId::try_from(text).map_err(|error| self.connection.unreadable(format!("id {error}")))
    }
}

type LaunchCall = RemotePromise<agent::launch_results::Owned>;

fn encode_ids(ids: &[ContainerId], mut builder: capnp::text_list::Builder<'_>) {
    for (index, id) in ids.iter().enumerate() {
        builder.set(index as u32, id.as_str());
    }
}
