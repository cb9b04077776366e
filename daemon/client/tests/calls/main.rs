//! The client against a server: every call, and every way in which it can be let down.

mod server;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use client::{
    Agent, Credentials, Endpoint, LogOptions, Output, OutputEnded, Reconnect, Resumable, STDERR, STDOUT,
    block_on,
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use model::*;
use server::{Script, serve};

fn endpoint() -> Endpoint {
    "unix:/test/agent.sock".parse().unwrap()
}

fn credentials() -> Credentials {
    Credentials {
        client: "test".into(),
        token: Vec::new(),
    }
}

/// An agent that plays `script`, for as long as the task is kept.
async fn connected(script: &Rc<Script>) -> (Agent, net::Task<()>) {
    let (ours, theirs) = net::UnixStream::pair().unwrap();
    let task = serve(script, theirs);
    let agent = Agent::connect_over(ours, &endpoint(), &credentials())
        .await
        .unwrap();
    (agent, task)
}

/// Runs a story on a loop; no story takes long unless it hangs.
fn story<F: Future<Output = ()>>(story: F) {
    let outcome = block_on(async {
        net::timeout(Duration::from_secs(30), story)
            .await
            .map_err(|_| Fault::failed("the story hangs"))
    });
    outcome.unwrap();
}

/// Waits for something that the other task does.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        net::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

fn status(id: &str, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        id: id.parse().unwrap(),
        name: Some("web".parse().unwrap()),
        state,
        pid: Some(42),
        command: vec!["sleep".into(), "1".into()],
        limits: Limits {
            mem: Some(Limit::Value(Bytes::mib(64))),
            ..Limits::default()
        },
        network: Network::None,
        grant: None,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        created_at_ms: 1,
        started_at_ms: Some(2),
        sandbox: Some("/s".into()),
        terminal: true,
        waits_for: None,
        termination: None,
    }
}

fn termination() -> Termination {
    Termination {
        exit_status: 3,
        signal: None,
        reason: Reason::Exited,
        message: "exited with status 3".into(),
        limitation: None,
        finished_at_ms: 5,
    }
}

fn sample() -> ContainerUsage {
    let usage = Usage {
        timestamp: 1.5,
        mem_rss_bytes: Some(0),
        processes: Some(2),
        ..Usage::default()
    };
    ContainerUsage {
        id: "c0ffee01".parse().unwrap(),
        name: None,
        usage,
    }
}

/// Keeps what it gets; can be made to stop or to fail.
#[derive(Clone, Default)]
struct Kept {
    bytes: Rc<RefCell<Vec<u8>>>,
    log: Rc<RefCell<Vec<String>>>,
    closed_gate: Rc<Cell<bool>>,
    fails: Rc<Cell<bool>>,
}

impl Output for Kept {
    fn write<'a>(&'a mut self, stream: u8, data: &'a [u8]) -> LocalBoxFuture<'a, Result<(), Fault>> {
        async move {
            while self.closed_gate.get() {
                net::sleep(Duration::from_millis(1)).await;
            }
            if self.fails.get() {
                return Err(Fault::failed("broken pipe"));
            }
            self.bytes.borrow_mut().extend_from_slice(data);
            self.log.borrow_mut().push(format!("{stream}:{}", data.len()));
            Ok(())
        }
        .boxed_local()
    }
    fn gap(&mut self, stream: u8, bytes: u64) -> LocalBoxFuture<'_, Result<(), Fault>> {
        self.log.borrow_mut().push(format!("{stream}-{bytes}"));
        async { Ok(()) }.boxed_local()
    }
    fn done(&mut self) -> LocalBoxFuture<'_, Result<(), Fault>> {
        self.log.borrow_mut().push("done".into());
        async { Ok(()) }.boxed_local()
    }
}

#[test]
fn every_answer_is_a_model_value() {
    story(async {
        let script = Rc::new(Script::default());
        script.statuses.replace(vec![
            status("c0ffee01", ContainerState::Running),
            status("c0ffee02", ContainerState::Destroyed),
        ]);
        script.samples.replace(vec![sample()]);
        script.info.replace(AgentInfo {
            version: "9".into(),
            pid: 5,
            ..AgentInfo::default()
        });
        script.host.replace(HostReport {
            cpus: 8,
            memory: Bytes::gib(1),
            ..HostReport::default()
        });
        script.spec.replace(LaunchSpec {
            command: vec!["x".into()],
            ..LaunchSpec::default()
        });
        script.detail.replace(vec![("k".into(), "v".into())]);
        let (agent, _server) = connected(&script).await;

        assert_eq!(agent.list(true).await.unwrap(), *script.statuses.borrow());
        assert_eq!(agent.list(false).await.unwrap().len(), 1);
        assert_eq!(
            agent.statistics(&["c0ffee01".parse().unwrap()]).await.unwrap(),
            [sample()]
        );
        assert_eq!(*script.ids.borrow(), ["c0ffee01"]);
        assert_eq!(agent.version().await.unwrap(), *script.info.borrow());
        assert_eq!(agent.host().await.unwrap(), *script.host.borrow());
        assert_eq!(agent.ping(b"\0\xff").await.unwrap(), b"\0\xff");
        assert_eq!(agent.drain(Millis::secs(1)).await.unwrap(), 7);

        let container = agent.container("web").await.unwrap();
        assert_eq!(container.id().as_str(), "c0ffee01");
        let inspection = container.inspect().await.unwrap();
        assert_eq!(inspection.status, script.statuses.borrow()[0]);
        assert_eq!(inspection.spec, *script.spec.borrow());
        assert_eq!(inspection.detail, *script.detail.borrow());
        assert_eq!(container.statistics().await.unwrap(), sample().usage);
        container.kill(0, Some(Millis(0))).await.unwrap();
        container.kill(15, None).await.unwrap();
        assert_eq!(*script.kills.borrow(), [(0, Some(0)), (15, None)]);
        let change = Limits {
            pids: Some(Limit::Max),
            ..Limits::default()
        };
        assert_eq!(container.update(&change).await.unwrap(), change);
        container
            .resize(TerminalSize { rows: 3, columns: 4 })
            .await
            .unwrap();
        assert_eq!(*script.sizes.borrow(), [(3, 4)]);
        script.termination.replace(Some(termination()));
        assert_eq!(container.wait().await.unwrap(), termination());
    });
}

#[test]
fn a_refusal_arrives_whole() {
    story(async {
        let script = Rc::new(Script::default());
        let (agent, _server) = connected(&script).await;
        let refusal = Fault::unsupported("limits.cpu_burst", "needs cpu.max.burst").remedy("use kernel 5.14");
        script.fault.replace(Some(refusal.clone()));
        assert_eq!(
            agent.launch(&LaunchSpec::default(), None, false).await.err(),
            Some(refusal.clone())
        );
        script.fault.replace(Some(refusal.clone()));
        let refused = agent
            .launch_and_wait(&LaunchSpec::default(), Some(Box::new(Kept::default())), false)
            .await;
        assert_eq!(refused.err(), Some(refusal.clone()));
        let container = agent.container("web").await.unwrap();
        script.fault.replace(Some(refusal.clone()));
        assert_eq!(
            container.exec(&ExecSpec::default(), None).await.err(),
            Some(refusal.clone())
        );
        script.fault.replace(Some(refusal.clone()));
        assert_eq!(container.kill(9, None).await, Err(refusal));
        assert_eq!(
            agent.container("nobody").await.err().map(|fault| fault.kind),
            Some(FaultKind::NotFound)
        );
        assert_eq!(agent.ping(b"still there").await.unwrap(), b"still there");
    });
}

#[test]
fn the_gate_may_refuse() {
    story(async {
        let script = Rc::new(Script::default());
        script.denied.set(true);
        let (ours, theirs) = net::UnixStream::pair().unwrap();
        let _server = serve(&script, theirs);
        let fault = Agent::connect_over(ours, &endpoint(), &credentials())
            .await
            .err()
            .unwrap();
        assert_eq!(
            (fault.kind, fault.to_string().as_str()),
            (FaultKind::Denied, "not for you; ask root")
        );
    });
}

#[test]
fn a_launch_and_its_wait_take_one_round_trip() {
    story(async {
        let script = Rc::new(Script::default());
        script.launch_needs_wait.set(true); // not answered before the wait has come in
        script.termination.replace(Some(termination()));
        script
            .output
            .replace(vec![(STDOUT, b"out".to_vec()), (STDERR, b"err".to_vec())]);
        let (agent, _server) = connected(&script).await;
        let kept = Kept::default();
        let spec = LaunchSpec {
            command: vec!["a".into()],
            stdin: true,
            ..LaunchSpec::default()
        };
        let (launched, waiting) = agent
            .launch_and_wait(&spec, Some(Box::new(kept.clone())), true)
            .await
            .unwrap();
        assert_eq!(waiting.await.unwrap(), termination());
        assert_eq!(launched.output.unwrap().await.unwrap(), OutputEnded::Complete);
        assert_eq!(*kept.log.borrow(), ["1:3", "2:3", "done"]);
        assert!(launched.input.is_some());
        assert!(!launched.existed);
        assert_eq!(*script.launched.borrow(), [spec]);
    });
}

#[test]
fn output_keeps_its_order_and_waits_for_its_taker() {
    const PIECES: usize = 1000;
    const PIECE: usize = 4096;
    story(async {
        let script = Rc::new(Script::default());
        let pieces: Vec<_> = (0..PIECES)
            .map(|n| (STDOUT, vec![(n % 251) as u8; PIECE]))
            .collect();
        script.output.replace(pieces.clone());
        let (agent, _server) = connected(&script).await;
        let kept = Kept::default();
        kept.closed_gate.set(true);
        let launched = agent
            .launch(&LaunchSpec::default(), Some(Box::new(kept.clone())), true)
            .await
            .unwrap();
        net::sleep(Duration::from_millis(100)).await;
        let ahead = script.pieces_taken.get() * PIECE;
        assert!(
            ahead <= 128 << 10,
            "{ahead} bytes were sent to a taker that takes nothing"
        );
        assert_eq!(
            agent.ping(b"x").await.unwrap(),
            b"x",
            "a slow taker does not hold up other calls"
        );
        kept.closed_gate.set(false);
        assert_eq!(launched.output.unwrap().await.unwrap(), OutputEnded::Complete);
        let expected: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        assert!(
            *kept.bytes.borrow() == expected,
            "bytes are missing or out of order"
        );
    });
}

#[test]
fn a_taker_that_fails_stops_the_sending() {
    story(async {
        let script = Rc::new(Script::default());
        script.output.replace(vec![(STDOUT, vec![0; 1000]); 500]);
        let (agent, _server) = connected(&script).await;
        let kept = Kept::default();
        kept.fails.set(true);
        let container = agent.container("web").await.unwrap();
        let end = container
            .logs(Box::new(kept), LogOptions::default())
            .await
            .unwrap();
        assert_eq!(end.await, Err(Fault::failed("broken pipe")));
        until("the agent is told", || script.output_error.borrow().is_some()).await;
        assert!(script.pieces_taken.get() < 500);
    });
}

#[test]
fn dropping_the_end_detaches() {
    story(async {
        let script = Rc::new(Script::default());
        script.output.replace(vec![(STDOUT, b"x".to_vec())]);
        script.output_goes_on.set(true);
        let (agent, _server) = connected(&script).await;
        let kept = Kept::default();
        let attached = agent
            .container("web")
            .await
            .unwrap()
            .attach(Box::new(kept.clone()), true)
            .await
            .unwrap();
        until("output", || !kept.bytes.borrow().is_empty()).await;
        assert_eq!(script.subscriptions.get(), 1);
        drop(attached);
        until("the subscription ends", || script.subscriptions.get() == 0).await;
    });
}

#[test]
fn input_goes_in_order_and_ends() {
    story(async {
        let script = Rc::new(Script::default());
        script.termination.replace(Some(termination()));
        let (agent, _server) = connected(&script).await;
        let container = agent.container("web").await.unwrap();
        let spec = ExecSpec {
            command: vec!["cat".into()],
            stdin: true,
            ..ExecSpec::default()
        };
        let execution = container
            .exec(&spec, Some(Box::new(Kept::default())))
            .await
            .unwrap();
        let input = execution.input.unwrap();
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
        input.write(&data).await.unwrap();
        input.close().await.unwrap();
        assert!(*script.input.borrow() == data);
        assert!(script.input_closed.get());
        execution.process.signal(2).await.unwrap();
        execution
            .process
            .resize(TerminalSize { rows: 1, columns: 2 })
            .await
            .unwrap();
        assert_eq!(execution.process.wait().await.unwrap(), termination());
        assert_eq!(*script.execed.borrow(), [spec]);
    });
}

#[test]
fn dropped_input_is_let_go_and_closed_input_says_so() {
    story(async {
        let script = Rc::new(Script::default());
        let (agent, _server) = connected(&script).await;
        let spec = LaunchSpec {
            stdin: true,
            ..LaunchSpec::default()
        };
        let input = agent.launch(&spec, None, false).await.unwrap().input.unwrap();
        drop(input);
        until("stdin is let go", || script.input_dropped.get()).await;
        script.input_closed.set(true);
        let input = agent.launch(&spec, None, false).await.unwrap().input.unwrap();
        let mut last = Ok(());
        for _ in 0..100 {
            // A stream's error comes with a later write.
            last = input.write(&[0; 4096]).await;
            if last.is_err() {
                break;
            }
        }
        assert_eq!(last.unwrap_err().kind, FaultKind::State);
    });
}

#[test]
fn subscriptions_deliver_in_order() {
    story(async {
        let script = Rc::new(Script::default());
        let event = |sequence| Event {
            sequence,
            at_ms: 1,
            container: "c0ffee01".parse().unwrap(),
            name: None,
            kind: EventKind::Updated,
        };
        script.events.replace((1..=500).map(event).collect());
        script.samples.replace(vec![sample()]);
        let (agent, _server) = connected(&script).await;
        let mut events = agent.watch_events(100).await.unwrap();
        for sequence in 101..=500 {
            assert_eq!(events.next().await, Some(Ok(event(sequence))));
        }
        assert_eq!(events.next().await, None, "the agent has let go");
        assert_eq!(events.next().await, None);
        let mut samples = agent.watch_statistics(&[], Millis(10)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(samples.next().await, Some(Ok(vec![sample()])));
        }
        assert_eq!(samples.next().await, None);
        drop((events, samples));
        until("subscriptions end", || script.subscriptions.get() == 0).await;
    });
}

#[test]
fn an_agent_that_goes_away_is_unavailable() {
    story(async {
        let script = Rc::new(Script::default());
        script.never_ends.set(true);
        script.output_goes_on.set(true);
        let (agent, server) = connected(&script).await;
        let container = agent.container("web").await.unwrap();
        let waiting = container.wait();
        let mut events = agent.watch_events(0).await.unwrap();
        let attached = container.attach(Box::new(Kept::default()), false).await.unwrap();
        until("the wait has come", || script.waits.get() == 1).await;
        drop(server);
        let fault = waiting.await.unwrap_err();
        assert_eq!(
            (fault.kind, fault.message.as_str()),
            (
                FaultKind::Unavailable,
                "the agent at unix:/test/agent.sock went away"
            )
        );
        assert_eq!(events.next().await, Some(Err(fault.clone())));
        assert_eq!(events.next().await, None);
        assert_eq!(attached.output.await, Ok(OutputEnded::Cut));
        agent.disconnected().await;
        agent.disconnected().await;
        assert_eq!(agent.ping(b"x").await, Err(fault));
    });
}

#[test]
fn too_large_a_request_is_refused_here_and_the_connection_lives() {
    story(async {
        let script = Rc::new(Script::default());
        let (agent, _server) = connected(&script).await;
        let huge = "x".repeat(20 << 20);
        let spec = LaunchSpec {
            env: vec![("A".into(), huge.clone())],
            ..LaunchSpec::default()
        };
        let fault = agent.launch(&spec, None, false).await.err().unwrap();
        assert_eq!(
            (fault.kind, fault.field.as_deref()),
            (FaultKind::Exhausted, Some("env"))
        );
        let container = agent.container("web").await.unwrap();
        let spec = ExecSpec {
            command: vec![huge],
            ..ExecSpec::default()
        };
        assert_eq!(
            container.exec(&spec, None).await.err().unwrap().kind,
            FaultKind::Exhausted
        );
        assert_eq!(agent.ping(b"x").await.unwrap(), b"x");
    });
}

#[test]
fn the_last_handle_closes_the_connection() {
    story(async {
        let script = Rc::new(Script::default());
        let (agent, server) = connected(&script).await;
        let container = agent.container("web").await.unwrap();
        drop(agent);
        container.kill(15, None).await.unwrap();
        assert!(!server.is_finished());
        drop(container);
        until("the server sees the end", || server.is_finished()).await;
    });
}

#[test]
fn no_agent_is_told_with_a_remedy() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let endpoint: Endpoint = format!("unix:{}", path.display()).parse().unwrap();
        let fault = Agent::connect_as(&endpoint, &credentials()).await.err().unwrap();
        assert_eq!(fault.kind, FaultKind::Unavailable);
        assert_eq!(
            fault.to_string(),
            format!("no agent at {endpoint}; start one with: bulkhead agent")
        );

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // what a killed agent leaves behind
        let fault = Agent::connect_as(&endpoint, &credentials()).await.err().unwrap();
        assert_eq!(fault.kind, FaultKind::Unavailable);
        assert!(fault.message.contains("left over"), "{fault}");

        let fault = Agent::connect_as(&"127.0.0.1:1".parse().unwrap(), &credentials())
            .await
            .err()
            .unwrap();
        assert_eq!(fault.kind, FaultKind::Unavailable);
    });
}

#[test]
fn something_else_behind_the_socket_is_no_agent() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client may be gone before all is written.
            let _ = std::io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 400 Bad Request\r\n\r\nwhatever this may be",
            );
        });
        let endpoint = Endpoint::Unix(path);
        let fault = Agent::connect_as(&endpoint, &credentials()).await.err().unwrap();
        assert!(
            matches!(fault.kind, FaultKind::Unavailable | FaultKind::Failed),
            "{fault}"
        );
        other.join().unwrap();
    });
}

/// Serves a socket as one agent after another would.
async fn serve_at(path: &std::path::Path, script: &Rc<Script>) -> net::Task<()> {
    let _ = std::fs::remove_file(path);
    let listener = net::UnixListener::bind(path, 0o600).unwrap();
    let script = Rc::clone(script);
    net::spawn(async move {
        let mut connections = Vec::new();
        loop {
            let stream = listener.accept().await.unwrap();
            connections.push(serve(&script, stream));
        }
    })
}

#[test]
fn a_restarted_agent_is_found_again() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let endpoint = Endpoint::Unix(path.clone());
        let early = net::spawn({
            let endpoint = endpoint.clone();
            async move { Agent::connect_retry(&endpoint, Duration::from_secs(10)).await }
        });
        net::sleep(Duration::from_millis(50)).await;
        let script = Rc::new(Script::default());
        script.never_ends.set(true);
        script.output_goes_on.set(true);
        script
            .output
            .replace(vec![(STDOUT, b"one ".to_vec()), (STDOUT, b"two ".to_vec())]);
        script.termination.replace(Some(termination()));
        let first = serve_at(&path, &script).await;
        let agent = early.await.unwrap().unwrap();

        let kept = Kept::default();
        let output = Resumable::new(Box::new(kept.clone()));
        let launched = agent
            .launch(&LaunchSpec::default(), Some(Box::new(output.clone())), true)
            .await
            .unwrap();
        until("first output", || kept.bytes.borrow().len() == 8).await;
        drop(first);
        agent.disconnected().await;

        let reconnect = Reconnect {
            patience: Duration::from_secs(10),
        };
        let inputs = Rc::new(Cell::new(0));
        let following = net::spawn({
            let (endpoint, id, inputs) = (endpoint.clone(), launched.id.clone(), Rc::clone(&inputs));
            async move {
                let count =
                    |input: Option<client::Input>| inputs.set(inputs.get() + u32::from(input.is_some()));
                reconnect.follow(&endpoint, &id, &output, count).await
            }
        });
        net::sleep(Duration::from_millis(50)).await;
        script.output.borrow_mut().push((STDOUT, b"three ".to_vec()));
        let second = serve_at(&path, &script).await;
        until("more output", || kept.bytes.borrow().len() == 14).await;
        until("the wait", || script.waits.get() == 1).await;
        drop(second);
        net::sleep(Duration::from_millis(20)).await;

        // The third agent finds it ended: what was written is kept, nothing can be attached.
        script.output.borrow_mut().push((STDERR, b"four".to_vec()));
        script.output_goes_on.set(false);
        script.never_ends.set(false);
        script.attach_refused.set(true);
        let _third = serve_at(&path, &script).await;
        assert_eq!(
            following.await.unwrap(),
            Ok((termination(), OutputEnded::Complete))
        );
        assert_eq!(
            String::from_utf8_lossy(&kept.bytes.borrow()),
            "one two three four"
        );
        assert_eq!(inputs.get(), 1);
        assert_eq!(reconnect.wait(&endpoint, &launched.id).await, Ok(termination()));
    });
}

#[test]
fn output_that_was_cut_after_the_end_was_known_is_fetched_from_the_successor() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let endpoint = Endpoint::Unix(path.clone());
        let script = Rc::new(Script::default());
        // It answers the wait; the output stops in the middle.
        script.output_goes_on.set(true);
        script.output.replace(vec![(STDOUT, b"one ".to_vec())]);
        script.termination.replace(Some(termination()));
        let first = serve_at(&path, &script).await;

        let kept = Kept::default();
        let output = Resumable::new(Box::new(kept.clone()));
        let following = net::spawn({
            let (endpoint, id) = (endpoint.clone(), "c0ffee01".parse().unwrap());
            async move { Reconnect::default().follow(&endpoint, &id, &output, |_| {}).await }
        });
        until("first output", || kept.bytes.borrow().len() == 4).await;
        until("the wait", || script.waits.get() == 1).await;
        drop(first);

        script.output.borrow_mut().push((STDOUT, b"two".to_vec()));
        script.output_goes_on.set(false);
        script.attach_refused.set(true);
        let _second = serve_at(&path, &script).await;
        assert_eq!(
            following.await.unwrap(),
            Ok((termination(), OutputEnded::Complete))
        );
        assert_eq!(String::from_utf8_lossy(&kept.bytes.borrow()), "one two");
    });
}

#[test]
fn patience_ends() {
    story(async {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(directory.path().join("agent.sock"));
        let fault = Agent::connect_retry(&endpoint, Duration::from_millis(50))
            .await
            .err()
            .unwrap();
        assert_eq!(fault.kind, FaultKind::Unavailable);
        let reconnect = Reconnect {
            patience: Duration::from_millis(20),
        };
        let fault = reconnect
            .wait(&endpoint, &"c0ffee01".parse().unwrap())
            .await
            .unwrap_err();
        assert!(fault.message.contains("no agent"), "{fault}");
    });
}
