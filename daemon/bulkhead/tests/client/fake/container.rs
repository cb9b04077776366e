//! One child process as a container: its calls, its stdin, and processes beside it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::rc::Rc;

use capnp::capability::Rc as ServerRc;
use model::{Fault, FaultKind, LaunchSpec};
use nix::sys::signal::{Signal, kill};
use wire::agent_capnp::{container, input_sink, process, subscription};

use super::{Agent, Done, Running, reap, spawn, start_pumps, status};

pub(super) struct Container {
    pub(super) agent: Rc<Agent>,
    pub(super) running: Rc<Running>,
}

impl container::Server for Container {
    async fn inspect(
        self: ServerRc<Self>,
        _: container::InspectParams,
        mut results: container::InspectResults,
    ) -> Done {
        wire::container::encode_status(&self.running.status.borrow(), results.get().init_status());
        wire::launch::encode(&LaunchSpec::default(), results.get().init_spec());
        Ok(())
    }

    async fn wait(
        self: ServerRc<Self>,
        _: container::WaitParams,
        mut results: container::WaitResults,
    ) -> Done {
        self.running.ended.wait().await;
        let status = self.running.status.borrow();
        let end = status.termination.as_ref().unwrap();
        wire::container::encode_termination(end, results.get().init_termination());
        Ok(())
    }

    async fn exec(
        self: ServerRc<Self>,
        params: container::ExecParams,
        mut results: container::ExecResults,
    ) -> Done {
        let exec = wire::launch::decode_exec(params.get()?.get_spec()?)
            .map_err(|f| capnp::Error::failed(f.to_string()))?;
        let spec = LaunchSpec {
            command: exec.command,
            terminal: exec.terminal,
            stdin: exec.stdin,
            ..LaunchSpec::default()
        };
        let spawned = spawn(&spec).unwrap();
        let pid = spawned.child.id();
        let sink = params.get()?.get_output()?;
        let running = Running::new(status(&format!("{pid:032x}"), &spec, pid), pid, Some(sink));
        running.stdin.replace(spawned.stdin);
        start_pumps(&self.agent, &running, spawned.outputs);
        net::spawn(reap(Rc::clone(&self.agent), Rc::clone(&running), spawned.child)).detach();
        let mut result = results.get();
        if let Some(input) = Input::of(&self.agent, &running) {
            result.set_input(input);
        }
        result.set_process(capnp_rpc::new_client(Process(running)));
        Ok(())
    }

    async fn attach(
        self: ServerRc<Self>,
        params: container::AttachParams,
        mut results: container::AttachResults,
    ) -> Done {
        let sink = params.get()?.get_output()?;
        self.running.sinks.borrow_mut().push(sink);
        let mut result = results.get();
        if let Some(input) = Input::of(&self.agent, &self.running) {
            result.set_input(input);
        }
        result.set_subscription(capnp_rpc::new_client(Subscription));
        Ok(())
    }

    async fn kill(
        self: ServerRc<Self>,
        params: container::KillParams,
        mut results: container::KillResults,
    ) -> Done {
        let number = match params.get()?.get_signal() {
            0 => Signal::SIGTERM as i32,
            number => number,
        };
        if self.running.ended.is_set() {
            wire::fault::encode(
                &Fault::new(FaultKind::State, "it has ended"),
                results.get().init_fault(),
            );
            return Ok(());
        }
        kill(self.running.pid, Signal::try_from(number).unwrap()).unwrap();
        Ok(())
    }

    async fn update(
        self: ServerRc<Self>,
        params: container::UpdateParams,
        mut results: container::UpdateResults,
    ) -> Done {
        let change = wire::limits::decode(params.get()?.get_limits()?).unwrap();
        let mut status = self.running.status.borrow_mut();
        status.limits = status.limits.merged(&change);
        wire::limits::encode(&status.limits, results.get().init_limits());
        Ok(())
    }
}

struct Process(Rc<Running>);

impl process::Server for Process {
    async fn wait(self: ServerRc<Self>, _: process::WaitParams, mut results: process::WaitResults) -> Done {
        self.0.ended.wait().await;
        let status = self.0.status.borrow();
        let end = status.termination.as_ref().unwrap();
        wire::container::encode_termination(end, results.get().init_termination());
        Ok(())
    }
}

pub(super) struct Input {
    agent: Rc<Agent>,
    file: RefCell<Option<File>>,
}

impl Input {
    pub(super) fn of(agent: &Rc<Agent>, running: &Rc<Running>) -> Option<input_sink::Client> {
        let file = running.stdin.take()?;
        Some(capnp_rpc::new_client(Self {
            agent: Rc::clone(agent),
            file: RefCell::new(Some(file)),
        }))
    }
}

impl input_sink::Server for Input {
    async fn write(self: ServerRc<Self>, params: input_sink::WriteParams) -> Done {
        let data = params.get()?.get_data()?.to_vec();
        let Some(mut file) = self.file.borrow_mut().take() else {
            return Err(capnp::Error::failed("stdin is closed".into()));
        };
        let written = self
            .agent
            .pool
            .run(move || file.write_all(&data).map(|()| file))
            .await
            .unwrap();
        match written {
            Ok(file) => self.file.replace(Some(file)),
            Err(error) => return Err(capnp::Error::failed(error.to_string())),
        };
        Ok(())
    }

    async fn close(self: ServerRc<Self>, _: input_sink::CloseParams, _: input_sink::CloseResults) -> Done {
        self.file.replace(None);
        Ok(())
    }
}

pub(super) struct Subscription;

impl subscription::Server for Subscription {}
