//! A small agent without containers: it answers what a test has put into its [`Script`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use capnp::capability::Rc as ServerRc;
use futures::channel::oneshot;
use model::{
    AgentInfo, ContainerStatus, ContainerUsage, Event, ExecSpec, Fault, FaultKind, HostReport, LaunchSpec,
    Limits, Termination,
};
use wire::agent_capnp::{agent, container, gate, input_sink, output_sink, process, subscription};

type Done = Result<(), capnp::Error>;

/// What the agent knows, and what it was asked.
#[derive(Default)]
pub struct Script {
    pub denied: Cell<bool>,
    pub statuses: RefCell<Vec<ContainerStatus>>,
    pub samples: RefCell<Vec<ContainerUsage>>,
    pub events: RefCell<Vec<Event>>,
    pub info: RefCell<AgentInfo>,
    pub host: RefCell<HostReport>,
    pub spec: RefCell<LaunchSpec>,
    pub detail: RefCell<Vec<(String, String)>>,
    pub termination: RefCell<Option<Termination>>,
    /// Refuses the next call that can be refused.
    pub fault: RefCell<Option<Fault>>,
    /// What the container writes, piece by piece.
    pub output: RefCell<Vec<(u8, Vec<u8>)>>,
    /// Output stops here as if the command were still running.
    pub output_goes_on: Cell<bool>,
    pub pieces_taken: Cell<usize>,
    pub output_error: RefCell<Option<String>>,
    pub input: RefCell<Vec<u8>>,
    pub input_closed: Cell<bool>,
    pub input_dropped: Cell<bool>,
    pub launched: RefCell<Vec<LaunchSpec>>,
    pub execed: RefCell<Vec<ExecSpec>>,
    pub kills: RefCell<Vec<(i32, Option<u64>)>>,
    pub updates: RefCell<Vec<Limits>>,
    pub sizes: RefCell<Vec<(u16, u16)>>,
    pub ids: RefCell<Vec<String>>,
    /// The launch is answered only when the pipelined wait has come in.
    pub launch_needs_wait: Cell<bool>,
    pub wait_came: RefCell<Option<oneshot::Sender<()>>>,
    pub waits: Cell<u32>,
    pub subscriptions: Cell<i32>,
    /// Waits are not answered: the container runs on.
    pub never_ends: Cell<bool>,
    pub attach_refused: Cell<bool>,
}

pub fn gate_of(script: &Rc<Script>) -> capnp::capability::Client {
    let gate: gate::Client = capnp_rpc::new_client(Gate(Rc::clone(script)));
    gate.client
}

/// Serves one stream for as long as the task is kept.
pub fn serve(script: &Rc<Script>, stream: net::UnixStream) -> net::Task<()> {
    let connection = net::rpc::serve_connection(stream, gate_of(script), &net::rpc::RpcLimits::default());
    net::spawn(async move { drop(connection.await) })
}

struct Gate(Rc<Script>);

impl gate::Server for Gate {
    async fn authenticate(
        self: ServerRc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Done {
        assert!(!params.get()?.get_version()?.is_empty());
        if self.0.denied.get() {
            let fault = Fault::new(FaultKind::Denied, "not for you").remedy("ask root");
            wire::fault::encode(&fault, results.get().init_fault());
            return Ok(());
        }
        results
            .get()
            .set_agent(capnp_rpc::new_client(Agent(Rc::clone(&self.0))));
        Ok(())
    }
}

struct Agent(Rc<Script>);

/// Answers with the scripted fault, if there is one.
macro_rules! refuse {
    ($script:expr, $results:expr) => {
        if let Some(fault) = $script.fault.borrow_mut().take() {
            wire::fault::encode(&fault, $results.get().init_fault());
            return Ok(());
        }
    };
}

impl agent::Server for Agent {
    async fn launch(
        self: ServerRc<Self>,
        params: agent::LaunchParams,
        mut results: agent::LaunchResults,
    ) -> Done {
        let script = &self.0;
        refuse!(script, results);
        let spec = wire::launch::decode(params.get()?.get_spec()?)
            .map_err(|f| capnp::Error::failed(f.to_string()))?;
        let mut result = results.get();
        result.set_container(capnp_rpc::new_client(Container(Rc::clone(script))));
        result.set_id("c0ffee01");
        result.set_existed(script.launched.borrow().contains(&spec));
        if spec.stdin {
            result.set_input(capnp_rpc::new_client(Input(Rc::clone(script))));
        }
        if params.get()?.has_output() {
            net::spawn(write_all(Rc::clone(script), params.get()?.get_output()?)).detach();
        }
        script.launched.borrow_mut().push(spec);
        if script.launch_needs_wait.get() {
            let (sender, came) = oneshot::channel();
            *script.wait_came.borrow_mut() = Some(sender);
            results.set_pipeline()?;
            came.await
                .map_err(|_| capnp::Error::failed("no wait came".into()))?;
        }
        Ok(())
    }

    async fn container(
        self: ServerRc<Self>,
        params: agent::ContainerParams,
        mut results: agent::ContainerResults,
    ) -> Done {
        refuse!(self.0, results);
        let name = params.get()?.get_id_or_name()?.to_string()?;
        if name == "nobody" {
            let fault = Fault::new(FaultKind::NotFound, format!("no container {name:?}"));
            wire::fault::encode(&fault, results.get().init_fault());
            return Ok(());
        }
        results
            .get()
            .set_container(capnp_rpc::new_client(Container(Rc::clone(&self.0))));
        results.get().set_id("c0ffee01");
        Ok(())
    }

    async fn list(self: ServerRc<Self>, params: agent::ListParams, mut results: agent::ListResults) -> Done {
        let all = params.get()?.get_all();
        let statuses = self.0.statuses.borrow();
        let wanted: Vec<_> = statuses
            .iter()
            .filter(|status| all || !status.state.is_over())
            .collect();
        let list = results.get().init_containers(wanted.len() as u32);
        wire::agent::encode_statuses(wanted, list);
        Ok(())
    }

    async fn statistics(
        self: ServerRc<Self>,
        params: agent::StatisticsParams,
        mut results: agent::StatisticsResults,
    ) -> Done {
        refuse!(self.0, results);
        *self.0.ids.borrow_mut() = wire::agent::decode_ids(params.get()?.get_ids()).unwrap();
        let samples = self.0.samples.borrow();
        let list = results.get().init_samples(samples.len() as u32);
        wire::usage::encode_list(samples.iter().map(|s| (&s.id, s.name.as_ref(), &s.usage)), list);
        Ok(())
    }

    async fn watch_statistics(
        self: ServerRc<Self>,
        params: agent::WatchStatisticsParams,
        mut results: agent::WatchStatisticsResults,
    ) -> Done {
        let sink = params.get()?.get_sink()?;
        let script = Rc::clone(&self.0);
        net::spawn(async move {
            for _ in 0..3 {
                let mut push = sink.push_request();
                {
                    let samples = script.samples.borrow();
                    let list = push.get().init_samples(samples.len() as u32);
                    wire::usage::encode_list(
                        samples.iter().map(|s| (&s.id, s.name.as_ref(), &s.usage)),
                        list,
                    );
                }
                if push.send().await.is_err() {
                    return;
                }
            }
        })
        .detach();
        results.get().set_subscription(Subscription::open(&self.0));
        Ok(())
    }

    async fn watch_events(
        self: ServerRc<Self>,
        params: agent::WatchEventsParams,
        mut results: agent::WatchEventsResults,
    ) -> Done {
        let sink = params.get()?.get_sink()?;
        let after = params.get()?.get_after_sequence();
        let events: Vec<Event> = self
            .0
            .events
            .borrow()
            .iter()
            .filter(|e| e.sequence > after)
            .cloned()
            .collect();
        let goes_on = self.0.output_goes_on.get();
        net::spawn(async move {
            for event in events {
                let mut push = sink.push_request();
                wire::event::encode(&event, push.get().init_event());
                if push.send().await.is_err() {
                    return;
                }
            }
            if goes_on {
                futures::future::pending::<()>().await;
            }
        })
        .detach();
        results.get().set_subscription(Subscription::open(&self.0));
        Ok(())
    }

    async fn drain(self: ServerRc<Self>, _: agent::DrainParams, mut results: agent::DrainResults) -> Done {
        refuse!(self.0, results);
        results.get().set_killed(7);
        Ok(())
    }

    async fn version(
        self: ServerRc<Self>,
        _: agent::VersionParams,
        mut results: agent::VersionResults,
    ) -> Done {
        wire::agent::encode_info(&self.0.info.borrow(), results.get().init_info());
        Ok(())
    }

    async fn host(self: ServerRc<Self>, _: agent::HostParams, mut results: agent::HostResults) -> Done {
        wire::agent::encode_host(&self.0.host.borrow(), results.get().init_info());
        Ok(())
    }

    async fn ping(self: ServerRc<Self>, params: agent::PingParams, mut results: agent::PingResults) -> Done {
        results.get().set_payload(params.get()?.get_payload()?);
        Ok(())
    }
}

struct Container(Rc<Script>);

impl container::Server for Container {
    async fn inspect(
        self: ServerRc<Self>,
        _: container::InspectParams,
        mut results: container::InspectResults,
    ) -> Done {
        refuse!(self.0, results);
        let script = &self.0;
        wire::container::encode_status(&script.statuses.borrow()[0], results.get().init_status());
        wire::launch::encode(&script.spec.borrow(), results.get().init_spec());
        let detail = script.detail.borrow();
        wire::agent::encode_detail(&detail, results.get().init_detail(detail.len() as u32));
        Ok(())
    }

    async fn wait(
        self: ServerRc<Self>,
        _: container::WaitParams,
        mut results: container::WaitResults,
    ) -> Done {
        let script = &self.0;
        script.waits.set(script.waits.get() + 1);
        if let Some(came) = script.wait_came.borrow_mut().take() {
            came.send(()).unwrap();
        }
        if script.never_ends.get() {
            futures::future::pending::<()>().await;
        }
        let termination = script.termination.borrow().clone().expect("scripted");
        wire::container::encode_termination(&termination, results.get().init_termination());
        Ok(())
    }

    async fn kill(
        self: ServerRc<Self>,
        params: container::KillParams,
        mut results: container::KillResults,
    ) -> Done {
        refuse!(self.0, results);
        let kill = params.get()?;
        self.0.kills.borrow_mut().push((
            kill.get_signal(),
            kill.get_has_grace().then(|| kill.get_grace_ms()),
        ));
        Ok(())
    }

    async fn update(
        self: ServerRc<Self>,
        params: container::UpdateParams,
        mut results: container::UpdateResults,
    ) -> Done {
        refuse!(self.0, results);
        let limits = wire::limits::decode(params.get()?.get_limits()?).unwrap();
        wire::limits::encode(&limits, results.get().init_limits());
        self.0.updates.borrow_mut().push(limits);
        Ok(())
    }

    async fn exec(
        self: ServerRc<Self>,
        params: container::ExecParams,
        mut results: container::ExecResults,
    ) -> Done {
        refuse!(self.0, results);
        let spec = wire::launch::decode_exec(params.get()?.get_spec()?).unwrap();
        if spec.stdin {
            results
                .get()
                .set_input(capnp_rpc::new_client(Input(Rc::clone(&self.0))));
        }
        if params.get()?.has_output() {
            net::spawn(write_all(Rc::clone(&self.0), params.get()?.get_output()?)).detach();
        }
        self.0.execed.borrow_mut().push(spec);
        results
            .get()
            .set_process(capnp_rpc::new_client(Process(Rc::clone(&self.0))));
        Ok(())
    }

    async fn attach(
        self: ServerRc<Self>,
        params: container::AttachParams,
        mut results: container::AttachResults,
    ) -> Done {
        if self.0.attach_refused.get() {
            wire::fault::encode(
                &Fault::new(FaultKind::State, "it has ended"),
                results.get().init_fault(),
            );
            return Ok(());
        }
        net::spawn(write_all(Rc::clone(&self.0), params.get()?.get_output()?)).detach();
        results.get().set_subscription(Subscription::open(&self.0));
        results
            .get()
            .set_input(capnp_rpc::new_client(Input(Rc::clone(&self.0))));
        Ok(())
    }

    async fn logs(
        self: ServerRc<Self>,
        params: container::LogsParams,
        mut results: container::LogsResults,
    ) -> Done {
        refuse!(self.0, results);
        net::spawn(write_all(Rc::clone(&self.0), params.get()?.get_output()?)).detach();
        results.get().set_subscription(Subscription::open(&self.0));
        Ok(())
    }

    async fn statistics(
        self: ServerRc<Self>,
        _: container::StatisticsParams,
        mut results: container::StatisticsResults,
    ) -> Done {
        wire::usage::encode(&self.0.samples.borrow()[0].usage, results.get().init_usage());
        Ok(())
    }

    async fn resize(
        self: ServerRc<Self>,
        params: container::ResizeParams,
        mut results: container::ResizeResults,
    ) -> Done {
        refuse!(self.0, results);
        let size = params.get()?.get_size()?;
        self.0
            .sizes
            .borrow_mut()
            .push((size.get_rows(), size.get_columns()));
        Ok(())
    }
}

struct Process(Rc<Script>);

impl process::Server for Process {
    async fn wait(self: ServerRc<Self>, _: process::WaitParams, mut results: process::WaitResults) -> Done {
        let termination = self.0.termination.borrow().clone().expect("scripted");
        wire::container::encode_termination(&termination, results.get().init_termination());
        Ok(())
    }

    async fn signal(self: ServerRc<Self>, params: process::SignalParams, _: process::SignalResults) -> Done {
        self.0.kills.borrow_mut().push((params.get()?.get_signal(), None));
        Ok(())
    }

    async fn resize(self: ServerRc<Self>, params: process::ResizeParams, _: process::ResizeResults) -> Done {
        let size = params.get()?.get_size()?;
        self.0
            .sizes
            .borrow_mut()
            .push((size.get_rows(), size.get_columns()));
        Ok(())
    }
}

async fn write_all(script: Rc<Script>, sink: output_sink::Client) {
    let pieces = script.output.borrow().clone();
    script.pieces_taken.set(0);
    for (stream, piece) in pieces {
        let mut request = sink.write_request();
        request.get().set_stream(stream);
        request.get().set_data(&piece);
        if let Err(error) = request.send().await {
            *script.output_error.borrow_mut() = Some(error.to_string());
            return;
        }
        script.pieces_taken.set(script.pieces_taken.get() + 1);
    }
    if script.output_goes_on.get() {
        futures::future::pending::<()>().await;
    }
    if let Err(error) = sink.done_request().send().promise.await {
        *script.output_error.borrow_mut() = Some(error.to_string());
    }
}

struct Input(Rc<Script>);

impl input_sink::Server for Input {
    async fn write(self: ServerRc<Self>, params: input_sink::WriteParams) -> Done {
        if self.0.input_closed.get() {
            return Err(capnp::Error::failed("stdin is closed".into()));
        }
        self.0
            .input
            .borrow_mut()
            .extend_from_slice(params.get()?.get_data()?);
        Ok(())
    }

    async fn close(self: ServerRc<Self>, _: input_sink::CloseParams, _: input_sink::CloseResults) -> Done {
        self.0.input_closed.set(true);
        Ok(())
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.0.input_dropped.set(true);
    }
}

struct Subscription(Rc<Script>);

impl Subscription {
    fn open(script: &Rc<Script>) -> subscription::Client {
        script.subscriptions.set(script.subscriptions.get() + 1);
        capnp_rpc::new_client(Self(Rc::clone(script)))
    }
}

impl subscription::Server for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.subscriptions.set(self.0.subscriptions.get() - 1);
    }
}
