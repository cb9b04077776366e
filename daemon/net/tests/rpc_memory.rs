//! What peers can make the server hold: strangers, crowds of them, and greedy clients.

use std::rc::Rc;
use std::time::Duration;

use futures::AsyncWriteExt as _;
use futures::future::join_all;
use net::rpc::{self, CloseReason, RpcLimits};
use net::{
    Config, ConnectionGuard, ConnectionHandle, ConnectionLimit, Task, UnixStream, run, sleep, spawn, timeout,
};
use wire::agent_capnp::{agent, gate};

fn on_loop<F: Future>(root: F) -> F::Output {
    run(Config::default(), root).unwrap()
}

struct Gate(ConnectionHandle);

impl gate::Server for Gate {
    async fn authenticate(
        self: capnp::capability::Rc<Self>,
        params: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Result<(), capnp::Error> {
        sleep(Duration::from_millis(20)).await;
        if params.get()?.get_token()? == b"wrong" {
            return Ok(());
        }
        self.0.protect();
        results.get().set_agent(capnp_rpc::new_client(Agent));
        Ok(())
    }
}

struct Agent;

impl agent::Server for Agent {
    async fn ping(
        self: capnp::capability::Rc<Self>,
        params: agent::PingParams,
        mut results: agent::PingResults,
    ) -> Result<(), capnp::Error> {
        let payload = params.get()?.get_payload()?;
        if payload.first() == Some(&1) {
            std::future::pending::<()>().await;
        }
        results.get().set_payload(payload);
        Ok(())
    }
}

struct Server {
    task: Task<CloseReason>,
    stream: UnixStream,
}

fn serve(limit: &ConnectionLimit) -> Server {
    let (ours, stream) = UnixStream::pair().unwrap();
    let guard: ConnectionGuard = limit.admit().unwrap();
    let handle = guard.handle();
    let gate: gate::Client = capnp_rpc::new_client(Gate(handle.clone()));
    let task = spawn(async move {
        let _guard = guard;
        rpc::serve_limited(ours, gate.client, &RpcLimits::default(), handle).await
    });
    Server { task, stream }
}

fn authenticated(stream: UnixStream) -> (agent::Client, Task<CloseReason>) {
    let (connection, gate): (_, gate::Client) = rpc::connect(stream, &RpcLimits::default());
    let agent = gate.authenticate_request().send().pipeline.get_agent();
    (agent, spawn(connection))
}

async fn ping(agent: &agent::Client, payload: &[u8]) -> Result<(), capnp::Error> {
    let mut request = agent.ping_request();
    request.get().set_payload(payload);
    let answer = request.send().promise.await?;
    assert!(answer.get()?.get_payload()? == payload);
    Ok(())
}

async fn end_of(server: Task<CloseReason>) -> CloseReason {
    timeout(Duration::from_secs(20), server).await.unwrap().unwrap()
}

/// Begins a message of one segment and leaves out its end.
async fn begin_message(stream: &mut UnixStream, bytes: usize, missing: usize) {
    let words = u32::try_from(bytes / 8).unwrap().to_le_bytes();
    stream.write_all(&[[0; 4], words].concat()).await.unwrap();
    // The server may close meanwhile.
    let _ = stream.write_all(&vec![0; bytes - missing]).await;
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_stranger_may_not_send_a_large_message_and_a_client_may() {
    on_loop(async {
        let limit = ConnectionLimit::new(10);
        let mut stranger = serve(&limit);
        begin_message(&mut stranger.stream, (64 << 10) + 8, 1 << 15).await;
        let reason = end_of(stranger.task).await;
        assert!(matches!(reason, CloseReason::MessageRefused { .. }), "{reason}");

        let server = serve(&limit);
        let (agent, _client) = authenticated(server.stream);
        ping(&agent, &vec![0; 5 << 20]).await.unwrap();
        assert!(!server.task.is_finished());
        assert_eq!(limit.counters().memory, 0);
    });
}

#[test]
fn large_calls_may_follow_the_authentication_at_once() {
    on_loop(async {
        let limit = ConnectionLimit::new(10);
        let server = serve(&limit);
        let (agent, _client) = authenticated(server.stream);
        // Nothing has been sent yet: these go out together with the authentication.
        let large = vec![0; 1 << 20];
        for answer in join_all((0..4).map(|_| ping(&agent, &large))).await {
            answer.unwrap();
        }

        // Not if it fails; wherever the beginning of the large message happens to end.
        for more in [0, 8, 100_000] {
            let mut server = serve(&limit);
            let mut session = authentication(b"wrong");
            session.extend([0, 0, 0, 0, 0, 0, 2, 0]);
            session.resize(session.len() + more, 0);
            server.stream.write_all(&session).await.unwrap();
            assert!(
                timeout(Duration::from_millis(10), &mut server.task)
                    .await
                    .is_err()
            );
            assert_eq!(limit.counters().memory, 0);
            let reason = end_of(server.task).await;
            assert!(matches!(reason, CloseReason::MessageRefused { .. }), "{reason}");
        }
    });
}

/// What a client sends to authenticate.
fn authentication(token: &[u8]) -> Vec<u8> {
    use capnp_rpc::rpc_capnp::message as rpc_message;
    let mut bootstrap = capnp::message::Builder::new_default();
    bootstrap
        .init_root::<rpc_message::Builder<'_>>()
        .init_bootstrap()
        .set_question_id(0);
    let mut message = capnp::message::Builder::new_default();
    let mut call = message.init_root::<rpc_message::Builder<'_>>().init_call();
    call.set_question_id(1);
    call.set_interface_id(<gate::Client as capnp::traits::HasTypeId>::TYPE_ID);
    call.set_method_id(0);
    call.reborrow()
        .init_target()
        .init_promised_answer()
        .set_question_id(0);
    let mut params: gate::authenticate_params::Builder<'_> = call.init_params().init_content().init_as();
    params.set_token(token);
    [bootstrap, message]
        .iter()
        .flat_map(capnp::serialize::write_message_to_words)
        .collect()
}

#[test]
fn a_crowd_of_strangers_costs_a_bounded_amount_and_clients_go_on() {
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(10_000),
            maximum: Some(10_000),
        },
    )
    .unwrap();
    on_loop(async {
        let limit = ConnectionLimit::new(1024);
        let server = serve(&limit);
        let (agent, _client) = authenticated(server.stream);
        ping(&agent, b"early").await.unwrap();
        let before = resident_bytes();
        let mut strangers = Vec::new();
        for _ in 0..1000 {
            let mut stranger = serve(&limit);
            begin_message(&mut stranger.stream, 64 << 10, 8).await;
            strangers.push(stranger);
            ping(&agent, b"meanwhile").await.unwrap();
        }
        sleep(Duration::from_millis(50)).await;
        let counters = limit.counters();
        let grown = resident_bytes().saturating_sub(before);
        assert!(counters.memory <= 16 << 20, "{counters}");
        assert!(grown < 48 << 20, "grew by {grown} bytes");
        // A newcomer, and the largest message.
        let server = serve(&limit);
        let (late, _late_client) = authenticated(server.stream);
        ping(&late, &vec![0; 7 << 20]).await.unwrap();
        let mut cut = 0;
        for stranger in strangers {
            if stranger.task.is_finished() {
                let reason = end_of(stranger.task).await;
                assert!(matches!(reason, CloseReason::NoMemory { .. }), "{reason}");
                cut += 1;
            }
        }
        assert!((500..1000).contains(&cut), "{cut} were cut off");
        sleep(Duration::from_millis(50)).await;
        assert_eq!(limit.counters().memory, 0);
    });
}

#[test]
fn the_connection_that_asks_for_more_than_is_left_is_cut_off() {
    on_loop(async {
        let limit = ConnectionLimit::with_memory(10, 8 << 20);
        let servers: Vec<_> = (0..4).map(|_| serve(&limit)).collect();
        let mut tasks = Vec::new();
        let mut clients = Vec::new();
        for Server { task, stream } in servers {
            tasks.push(task);
            clients.push(authenticated(stream));
        }
        let unanswered = Rc::new(vec![1; 3 << 20]);
        let mut calls = Vec::new();
        for (agent, _) in &clients[..2] {
            let (agent, payload) = (agent.clone(), Rc::clone(&unanswered));
            calls.push(spawn(async move { ping(&agent, &payload).await }));
        }
        sleep(Duration::from_millis(200)).await;
        assert!(limit.counters().memory > 6_000_000, "{}", limit.counters());
        let error = ping(&clients[2].0, &unanswered).await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected, "{error}");
        let reason = end_of(tasks.remove(2)).await;
        assert!(matches!(reason, CloseReason::NoMemory { .. }), "{reason}");
        assert!(reason.is_misbehaviour());
        // The others go on, and what is held by those who leave comes back.
        ping(&clients[3].0, &[0; 1 << 20]).await.unwrap();
        drop(clients.remove(0));
        end_of(tasks.remove(0)).await;
        sleep(Duration::from_millis(50)).await;
        ping(&clients[2].0, &[0; 3 << 20]).await.unwrap();
        assert!(tasks.iter().all(|task| !task.is_finished()));
        drop(calls);
        drop(clients);
        join_all(tasks).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(limit.counters().memory, 0);
    });
}

#[test]
fn answers_that_are_not_taken_are_counted() {
    on_loop(async {
        let limit = ConnectionLimit::with_memory(10, 4 << 20);
        let server = serve(&limit);
        let (agent, client) = authenticated(server.stream);
        ping(&agent, b"x").await.unwrap();
        let payload = vec![0; 1 << 20];
        let calls = join_all((0..16).map(|_| ping(&agent, &payload)));
        assert!(
            calls.await.iter().all(Result::is_ok),
            "a client that takes its answers"
        );
        drop(agent);
        drop(client);
        end_of(server.task).await;
    });
}
