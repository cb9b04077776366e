//! A whole RPC server, fed with a peer's bytes: framing, limits, the RPC system, and the decoding of every request.
//!
//! Rules: the connection ends when the peer has gone; nothing of ours panics. Behind the gate stands an agent that
//! decodes as the real one does and has no containers.

use std::time::Duration;

use capnp::capability::Rc as ServerRc;
use model::{Fault, FaultKind};
use net::rpc::RpcLimits;
use wire::agent_capnp::{agent, container, gate, input_sink, output_sink, process, subscription};

use crate::feed::{self, Feed};

type Done = Result<(), capnp::Error>;

pub fn run(data: &[u8]) {
    feed::watch_panics();
    let feed = Feed::new(data);
    let limits = RpcLimits {
        message_bytes_max: 256 << 10,
        open_calls_max: 64,
        open_bytes_max: 1 << 20,
        ..RpcLimits::default()
    };
    let ended = net::run(net::Config::default(), async move {
        let connection = net::rpc::serve_connection(feed, bootstrap(), &limits);
        net::timeout(Duration::from_secs(5), connection).await.is_ok()
    });
    assert!(ended.expect("a loop"), "the connection was kept");
    assert!(!feed::contained(), "a panic was caught");
}

/// What the peer gets first.
pub fn bootstrap() -> capnp::capability::Client {
    let gate: gate::Client = capnp_rpc::new_client(Gate);
    gate.client
}

/// Answers with the fault of a request that can't be decoded.
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

struct Gate;

impl gate::Server for Gate {
    async fn authenticate(
        self: ServerRc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Done {
        let params = params.get()?;
        attempt!(results, wire::agent::decode_text("client", params.get_client()));
        attempt!(results, wire::agent::decode_text("version", params.get_version()));
        let _ = params.get_token()?.len();
        results.get().set_agent(capnp_rpc::new_client(Agent));
        Ok(())
    }
}

struct Agent;

/// What a command would say.
async fn write_output(sink: output_sink::Client) {
    for stream in [1, 2] {
        let mut write = sink.write_request();
        write.get().set_stream(stream);
        write.get().set_data(b"some output\n");
        if write.send().await.is_err() {
            return;
        }
    }
    let _ = sink.done_request().send().promise.await;
}

impl agent::Server for Agent {
    async fn launch(
        self: ServerRc<Self>,
        params: agent::LaunchParams,
        mut results: agent::LaunchResults,
    ) -> Done {
        let params = params.get()?;
        let spec = attempt!(results, wire::launch::decode(params.get_spec()?));
        if params.has_output() {
            net::spawn(write_output(params.get_output()?)).detach();
        }
        // Others may do something meanwhile, as where a launch takes its time.
        net::yield_now().await;
        let mut answer = results.get();
        answer.set_id("c0ffee01");
        answer.set_container(capnp_rpc::new_client(Container));
        if spec.stdin {
            answer.set_input(capnp_rpc::new_client(Input));
        }
        Ok(())
    }

    async fn container(
        self: ServerRc<Self>,
        params: agent::ContainerParams,
        mut results: agent::ContainerResults,
    ) -> Done {
        let text = attempt!(
            results,
            wire::agent::decode_text("container", params.get()?.get_id_or_name())
        );
        results.get().set_id(&*text);
        results.get().set_container(capnp_rpc::new_client(Container));
        Ok(())
    }

    async fn statistics(
        self: ServerRc<Self>,
        params: agent::StatisticsParams,
        mut results: agent::StatisticsResults,
    ) -> Done {
        let ids = attempt!(results, wire::agent::decode_ids(params.get()?.get_ids()));
        results.get().init_samples(ids.len().min(16) as u32);
        Ok(())
    }

    async fn watch_events(
        self: ServerRc<Self>,
        params: agent::WatchEventsParams,
        mut results: agent::WatchEventsResults,
    ) -> Done {
        let sink = params.get()?.get_sink()?;
        let task = net::spawn(async move {
            for _ in 0..2 {
                let push = sink.push_request();
                if push.send().await.is_err() {
                    return;
                }
            }
        });
        results
            .get()
            .set_subscription(capnp_rpc::new_client(Subscription { _task: task }));
        Ok(())
    }

    async fn ping(self: ServerRc<Self>, params: agent::PingParams, mut results: agent::PingResults) -> Done {
        results.get().set_payload(params.get()?.get_payload()?);
        Ok(())
    }
}

struct Container;

impl container::Server for Container {
    async fn wait(
        self: ServerRc<Self>,
        _: container::WaitParams,
        mut results: container::WaitResults,
    ) -> Done {
        net::yield_now().await;
        results.get().init_termination().set_exit_status(7);
        Ok(())
    }

    async fn kill(
        self: ServerRc<Self>,
        params: container::KillParams,
        mut results: container::KillResults,
    ) -> Done {
        let signal = params.get()?.get_signal();
        if !(0..=64).contains(&signal) {
            let fault = Fault::new(FaultKind::Invalid, format!("{signal} is not a signal"));
            wire::fault::encode(&fault, results.get().init_fault());
        }
        Ok(())
    }

    async fn update(
        self: ServerRc<Self>,
        params: container::UpdateParams,
        mut results: container::UpdateResults,
    ) -> Done {
        let limits = attempt!(results, wire::limits::decode(params.get()?.get_limits()?));
        wire::limits::encode(&limits, results.get().init_limits());
        Ok(())
    }

    async fn exec(
        self: ServerRc<Self>,
        params: container::ExecParams,
        mut results: container::ExecResults,
    ) -> Done {
        let params = params.get()?;
        let spec = attempt!(results, wire::launch::decode_exec(params.get_spec()?));
        if params.has_output() {
            net::spawn(write_output(params.get_output()?)).detach();
        }
        results.get().set_process(capnp_rpc::new_client(Process));
        if spec.stdin {
            results.get().set_input(capnp_rpc::new_client(Input));
        }
        Ok(())
    }

    async fn resize(
        self: ServerRc<Self>,
        params: container::ResizeParams,
        _: container::ResizeResults,
    ) -> Done {
        let _ = wire::launch::decode_terminal(params.get()?.get_size()?);
        Ok(())
    }
}

struct Process;

impl process::Server for Process {
    async fn wait(self: ServerRc<Self>, _: process::WaitParams, mut results: process::WaitResults) -> Done {
        results.get().init_termination().set_exit_status(0);
        Ok(())
    }
}

struct Input;

impl input_sink::Server for Input {
    async fn write(self: ServerRc<Self>, params: input_sink::WriteParams) -> Done {
        let _ = params.get()?.get_data()?.len();
        Ok(())
    }
}

struct Subscription {
    _task: net::Task<()>,
}

impl subscription::Server for Subscription {}
