//! One container as a capability.

use std::os::fd::AsFd;
use std::rc::Rc;

use agent_core::{Answer, Input};
use capnp::capability::Rc as CapRc;
use model::{ContainerId, Fault, FaultKind, Limits, Millis, TerminalSize};
use wire::agent_capnp::{container, process};

use crate::exec::ExecProcess;
use crate::output::{Follow, Start};
use crate::service::{SubscriptionService, attempt};
use crate::shell::Shell;
use crate::sink::{InputService, OutputSink};

pub struct ContainerService {
    pub shell: Rc<Shell>,
    pub id: ContainerId,
}

fn out_of_place() -> Fault {
    Fault::failed("the agent gave an answer out of place")
}

/// Other limits for a running container; what the change does not name stays. All that are then in force.
pub async fn update_limits(shell: &Rc<Shell>, id: &ContainerId, mut change: Limits) -> Result<Limits, Fault> {
    let spec = shell.core().spec(id).cloned();
    let mut spec = spec.ok_or_else(|| crate::launch::unknown(id))?;
    shell.bandwidth.follow(&spec.limits, &mut change);
    spec.limits = spec.limits.merged(&change);
    shell.isolators.admit(&spec)?;
    let (id, change) = (id.clone(), Box::new(change));
    match shell.ask(|ticket| Input::Update { ticket, id, change }).await? {
        Answer::Updated(limits) => Ok(*limits),
        _ => Err(out_of_place()),
    }
}

impl ContainerService {
    fn follow(&self, follow: Follow, sink: OutputSink) -> Result<SubscriptionService, Fault> {
        let resources = crate::launch::held(&self.shell, &self.id)?;
        let following = resources.output.follow(follow, sink);
        let id = self.id.clone();
        let task = net::spawn(async move {
            if let Err(fault) = following.await {
                tracing::debug!(container = %id, "a follower ended: {fault}");
            }
        });
        Ok(SubscriptionService { _task: task })
    }

    fn input(&self) -> Option<InputService> {
        let resources = self.shell.resources(&self.id)?;
        resources.stdin.as_ref().map(|stdin| InputService(stdin.hold()))
    }
}

impl container::Server for ContainerService {
    async fn inspect(
        self: CapRc<Self>,
        _params: container::InspectParams,
        mut results: container::InspectResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let detail = crate::about::detail(&self.shell, &self.id);
        let core = self.shell.core();
        let known = core.status(&self.id).zip(core.spec(&self.id));
        let (status, spec) = attempt!(results, known.ok_or_else(|| crate::launch::unknown(&self.id)));
        let mut answer = results.get();
        wire::container::encode_status(status, answer.reborrow().init_status());
        wire::launch::encode(spec, answer.reborrow().init_spec());
        wire::agent::encode_detail(&detail, answer.init_detail(detail.len() as u32));
        Ok(())
    }

    async fn wait(
        self: CapRc<Self>,
        _params: container::WaitParams,
        mut results: container::WaitResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let id = self.id.clone();
        let asked = self.shell.ask(|ticket| Input::Wait { ticket, id }).await;
        match attempt!(results, asked) {
            Answer::Ended(termination) => {
                wire::container::encode_termination(&termination, results.get().init_termination());
            }
            _ => attempt!(results, Err(out_of_place())),
        }
        Ok(())
    }

    async fn kill(
        self: CapRc<Self>,
        params: container::KillParams,
        mut results: container::KillResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let signal = params.get_signal();
        if !(0..=64).contains(&signal) {
            attempt!(
                results,
                Err::<(), _>(Fault::invalid(
                    "signal",
                    format!("{signal} is not a signal (0 to 64)")
                ))
            );
        }
        let grace = params.get_has_grace().then(|| Millis(params.get_grace_ms()));
        let id = self.id.clone();
        attempt!(
            results,
            self.shell
                .ask(|ticket| Input::Kill {
                    ticket,
                    id,
                    signal,
                    grace
                })
                .await
        );
        Ok(())
    }

    async fn update(
        self: CapRc<Self>,
        params: container::UpdateParams,
        mut results: container::UpdateResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let change = attempt!(results, wire::limits::decode(params.get()?.get_limits()?));
        let limits = attempt!(results, update_limits(&self.shell, &self.id, change).await);
        wire::limits::encode(&limits, results.get().init_limits());
        Ok(())
    }

    async fn exec(
        self: CapRc<Self>,
        params: container::ExecParams,
        mut results: container::ExecResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let spec = attempt!(results, wire::launch::decode_exec(params.get_spec()?));
        let sink = params
            .has_output()
            .then(|| params.get_output())
            .transpose()?
            .map(OutputSink::new);
        let started = crate::exec::start(&self.shell, &self.id, spec, sink).await;
        let process = attempt!(results, started);
        let mut answer = results.get();
        if let Some(stdin) = process.stdin() {
            answer.set_input(capnp_rpc::new_client(InputService(stdin.hold())));
        }
        answer.set_process(capnp_rpc::new_client(ProcessService(process)));
        Ok(())
    }

    async fn attach(
        self: CapRc<Self>,
        params: container::AttachParams,
        mut results: container::AttachResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let start = if params.get_from_start() {
            Start::Beginning
        } else {
            Start::Now
        };
        let follow = Follow {
            stdout: true,
            stderr: true,
            start,
            live: true,
            lossless: false,
        };
        let subscription = attempt!(
            results,
            self.follow(follow, OutputSink::new(params.get_output()?))
        );
        if let Some(input) = self.input() {
            results.get().set_input(capnp_rpc::new_client(input));
        }
        results
            .get()
            .set_subscription(capnp_rpc::new_client(subscription));
        Ok(())
    }

    async fn logs(
        self: CapRc<Self>,
        params: container::LogsParams,
        mut results: container::LogsResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let params = params.get()?;
        let start = match params.get_tail_lines() {
            0 => Start::Beginning,
            lines => Start::LastLines(lines),
        };
        let (stdout, stderr) = (params.get_stdout(), params.get_stderr());
        if !stdout && !stderr {
            attempt!(
                results,
                Err::<(), _>(Fault::invalid("stdout", "neither stdout nor stderr is asked for"))
            );
        }
        let follow = Follow {
            stdout,
            stderr,
            start,
            live: params.get_follow(),
            lossless: false,
        };
        let subscription = attempt!(
            results,
            self.follow(follow, OutputSink::new(params.get_output()?))
        );
        results
            .get()
            .set_subscription(capnp_rpc::new_client(subscription));
        Ok(())
    }

    async fn statistics(
        self: CapRc<Self>,
        _params: container::StatisticsParams,
        mut results: container::StatisticsResults,
    ) -> Result<(), capnp::Error> {
        self.shell.metrics.calls.increment();
        let samples = crate::statistics::sample(&self.shell, std::slice::from_ref(&self.id)).await;
        let samples = attempt!(results, samples);
        let (_, usage) = attempt!(
            results,
            samples.first().ok_or_else(|| crate::launch::unknown(&self.id))
        );
        wire::usage::encode(usage, results.get().init_usage());
        Ok(())
    }

    async fn resize(
        self: CapRc<Self>,
        params: container::ResizeParams,
        mut results: container::ResizeResults,
    ) -> Result<(), capnp::Error> {
        let size = wire::launch::decode_terminal(params.get()?.get_size()?);
        let terminal = self
            .shell
            .resources(&self.id)
            .and_then(|r| r.terminal.borrow().clone());
        attempt!(results, resize(terminal.as_deref(), size));
        Ok(())
    }
}

fn resize(terminal: Option<&net::Source<std::fs::File>>, size: TerminalSize) -> Result<(), Fault> {
    let terminal = terminal.ok_or_else(|| Fault::new(FaultKind::State, "there is no terminal to resize"))?;
    kernel::pty::set_size(terminal.as_fd(), size).map_err(|e| {
        Fault::failed(format!(
            "resize the terminal to {}x{}: {e}",
            size.columns, size.rows
        ))
    })
}

/// A process started by exec.
struct ProcessService(Rc<ExecProcess>);

impl process::Server for ProcessService {
    async fn wait(
        self: CapRc<Self>,
        _params: process::WaitParams,
        mut results: process::WaitResults,
    ) -> Result<(), capnp::Error> {
        let termination = self.0.wait().await;
        wire::container::encode_termination(&termination, results.get().init_termination());
        Ok(())
    }

    async fn signal(
        self: CapRc<Self>,
        params: process::SignalParams,
        mut results: process::SignalResults,
    ) -> Result<(), capnp::Error> {
        attempt!(results, self.0.signal(params.get()?.get_signal()));
        Ok(())
    }

    async fn resize(
        self: CapRc<Self>,
        params: process::ResizeParams,
        mut results: process::ResizeResults,
    ) -> Result<(), capnp::Error> {
        let size = wire::launch::decode_terminal(params.get()?.get_size()?);
        attempt!(results, resize(self.0.terminal().as_deref(), size));
        Ok(())
    }
}
