//! RPC over real sockets: honest peers, and those that are slow, greedy or hostile.

use std::cell::{Cell, RefCell};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use net::rpc::{self, CloseReason, RpcLimits};
use net::{
    Config, ConnectionLimit, Task, UnixListener, UnixStream, accept_loop, now, run, sleep, spawn, timeout,
};
use wire::agent_capnp::{agent, gate};

fn on_loop<F: Future>(root: F) -> F::Output {
    run(Config::default(), root).unwrap()
}

/// A ping with this is never answered.
const UNANSWERED: u8 = 0xee;

/// Answers pings; `drain` answers when its time has come; `version` panics. Counts itself alive.
#[derive(Clone)]
struct Echo {
    alive: Rc<Cell<u32>>,
    handle: Option<net::ConnectionHandle>,
}

impl Echo {
    fn client(alive: &Rc<Cell<u32>>, handle: Option<net::ConnectionHandle>) -> agent::Client {
        alive.set(alive.get() + 1);
        capnp_rpc::new_client(AliveEcho(Self {
            alive: Rc::clone(alive),
            handle,
        }))
    }
}

struct AliveEcho(Echo);

impl Drop for AliveEcho {
    fn drop(&mut self) {
        self.0.alive.set(self.0.alive.get() - 1);
    }
}

impl agent::Server for AliveEcho {
    async fn ping(
        self: capnp::capability::Rc<Self>,
        params: agent::PingParams,
        mut results: agent::PingResults,
    ) -> Result<(), capnp::Error> {
        let payload = params.get()?.get_payload()?;
        if payload.first() == Some(&UNANSWERED) {
            std::future::pending::<()>().await;
        }
        results.get().set_payload(payload);
        Ok(())
    }

    async fn drain(
        self: capnp::capability::Rc<Self>,
        params: agent::DrainParams,
        mut results: agent::DrainResults,
    ) -> Result<(), capnp::Error> {
        sleep(Duration::from_millis(params.get()?.get_grace_ms())).await;
        results.get().set_killed(7);
        Ok(())
    }

    async fn version(
        self: capnp::capability::Rc<Self>,
        _: agent::VersionParams,
        _: agent::VersionResults,
    ) -> Result<(), capnp::Error> {
        panic!("method panicked");
    }
}

struct Gate(Echo);

impl gate::Server for Gate {
    async fn authenticate(
        self: capnp::capability::Rc<Self>,
        _: gate::AuthenticateParams,
        mut results: gate::AuthenticateResults,
    ) -> Result<(), capnp::Error> {
        if let Some(handle) = &self.0.handle {
            handle.protect();
        }
        results.get().set_agent(Echo::client(&self.0.alive, None));
        Ok(())
    }
}

async fn ping(agent: &agent::Client, payload: &[u8]) -> Result<Vec<u8>, capnp::Error> {
    let mut request = agent.ping_request();
    request.get().set_payload(payload);
    let answer = request.send().promise.await?;
    Ok(answer.get()?.get_payload()?.to_vec())
}

/// A server on one end of a socket pair; its end, and the other end.
fn server_and_stream(limits: &RpcLimits) -> (Task<CloseReason>, UnixStream, Rc<Cell<u32>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let alive = Rc::new(Cell::new(0));
    let bootstrap = Echo::client(&alive, None);
    (
        spawn(rpc::serve_connection(ours, bootstrap.client, limits)),
        theirs,
        alive,
    )
}

fn connected(limits: &RpcLimits) -> (Task<CloseReason>, agent::Client, Task<CloseReason>) {
    let (server, stream, _) = server_and_stream(limits);
    let (connection, agent) = rpc::connect(stream, &RpcLimits::default());
    (server, agent, spawn(connection))
}

async fn end_of(server: Task<CloseReason>) -> CloseReason {
    timeout(Duration::from_secs(20), server)
        .await
        .expect("the connection does not end")
        .unwrap()
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn calls_are_answered_small_large_and_many_at_once() {
    on_loop(async {
        let (server, agent, client) = connected(&RpcLimits::default());
        assert_eq!(ping(&agent, b"hello").await.unwrap(), b"hello");
        let large: Vec<u8> = (0..5_000_000_u32).map(|index| (index % 251) as u8).collect();
        assert!(ping(&agent, &large).await.unwrap() == large);
        let medium = vec![3; 100_000];
        let all = join_all((0..60).map(|_| ping(&agent, &medium))).await;
        assert!(
            all.iter()
                .all(|answer| answer.as_ref().is_ok_and(|payload| *payload == medium))
        );
        drop(agent);
        drop(client);
        assert!(matches!(end_of(server).await, CloseReason::PeerClosed));
    });
}

#[test]
fn capabilities_are_dropped_when_either_side_goes() {
    on_loop(async {
        for server_goes in [false, true] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let alive = Rc::new(Cell::new(0));
            let gate: gate::Client = capnp_rpc::new_client(Gate(Echo {
                alive: Rc::clone(&alive),
                handle: None,
            }));
            let server = spawn(rpc::serve_connection(ours, gate.client, &RpcLimits::default()));
            let (connection, gate): (_, gate::Client) = rpc::connect(theirs, &RpcLimits::default());
            let client = spawn(connection);
            let agent = gate.authenticate_request().send().pipeline.get_agent();
            assert_eq!(ping(&agent, b"x").await.unwrap(), b"x");
            assert_eq!(alive.get(), 1);
            if server_goes {
                drop(server);
                assert!(matches!(
                    end_of(client).await,
                    CloseReason::PeerClosed | CloseReason::Stream(_)
                ));
                let error = ping(&agent, b"x").await.unwrap_err();
                assert_eq!(error.kind, capnp::ErrorKind::Disconnected, "{error}");
            } else {
                drop(client);
                end_of(server).await;
            }
            sleep(Duration::from_millis(5)).await;
            assert_eq!(alive.get(), 0, "server_goes {server_goes}");
        }
    });
}

#[test]
fn a_panicking_method_ends_its_connection_only() {
    on_loop(async {
        let (bad_server, bad, _bad_client) = connected(&RpcLimits::default());
        let (_good_server, good, _good_client) = connected(&RpcLimits::default());
        assert!(bad.version_request().send().promise.await.is_err());
        assert!(matches!(end_of(bad_server).await, CloseReason::Panicked(_)));
        assert_eq!(ping(&good, b"x").await.unwrap(), b"x");
    });
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_allocation() {
    on_loop(async {
        let limits = RpcLimits {
            message_bytes_max: 1 << 20,
            ..RpcLimits::default()
        };
        for header in [
            &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x1f][..],
            &[0xff; 8],
            &[1, 0, 0, 0, 1, 0, 2, 0],
        ] {
            let before = resident_bytes();
            let (server, mut stream, alive) = server_and_stream(&limits);
            stream.write_all(header).await.unwrap();
            stream.write_all(&[0; 8]).await.unwrap();
            let reason = end_of(server).await;
            assert!(matches!(reason, CloseReason::MessageRefused { .. }), "{reason}");
            assert!(resident_bytes() < before + (4 << 20));
            let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new()))
                .await
                .unwrap();
            assert_eq!(alive.get(), 0);
        }
    });
}

#[test]
fn a_message_that_trickles_in_is_cut_off() {
    on_loop(async {
        let limits = RpcLimits {
            read_deadline: Duration::from_millis(300),
            ..RpcLimits::default()
        };
        let (server, mut stream, _) = server_and_stream(&limits);
        let loris = spawn(async move {
            // One segment of 100 words, a byte at a time.
            for byte in [0, 0, 0, 0, 100, 0, 0, 0].into_iter().chain(std::iter::repeat(0)) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        let began = now();
        let reason = end_of(server).await;
        assert!(matches!(reason, CloseReason::ReadDeadline { .. }), "{reason}");
        let took = now() - began;
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(3),
            "{took:?}"
        );
        timeout(Duration::from_secs(5), loris).await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_says_nothing_is_closed_and_one_that_rests_is_not() {
    on_loop(async {
        let limits = RpcLimits {
            first_message_deadline: Duration::from_millis(200),
            read_deadline: Duration::from_millis(200),
            write_deadline: Duration::from_millis(200),
            ..RpcLimits::default()
        };
        let (silent, _stream, _) = server_and_stream(&limits);
        let (_server, resting, _client) = connected(&limits);
        assert_eq!(ping(&resting, b"x").await.unwrap(), b"x");
        let mut slow = resting.drain_request();
        slow.get().set_grace_ms(900);
        let slow = slow.send().promise;
        assert!(matches!(end_of(silent).await, CloseReason::Silent { .. }));
        sleep(Duration::from_millis(700)).await;
        assert_eq!(ping(&resting, b"y").await.unwrap(), b"y");
        assert_eq!(slow.await.unwrap().get().unwrap().get_killed(), 7);
    });
}

/// The bytes that an honest client sends for a bootstrap and some pings.
fn recorded_session() -> Vec<u8> {
    on_loop(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (far, near) = UnixStream::pair().unwrap();
        let alive = Rc::new(Cell::new(0));
        let _server = spawn(rpc::serve_connection(
            ours,
            Echo::client(&alive, None).client,
            &RpcLimits::default(),
        ));
        let record = Rc::new(RefCell::new(Vec::new()));
        let (mut from_client, mut to_client) = far.split();
        let (mut from_server, mut to_server) = theirs.split();
        let recorded = Rc::clone(&record);
        let _upstream = spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                recorded.borrow_mut().extend_from_slice(&buffer[..count]);
                to_server.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let _downstream = spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                to_client.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let (connection, agent): (_, agent::Client) = rpc::connect(near, &RpcLimits::default());
        let _client = spawn(connection);
        for _ in 0..4 {
            ping(&agent, b"0123456789").await.unwrap();
        }
        record.take()
    })
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn garbage_is_answered_by_an_end_and_never_by_a_panic() {
    let session = recorded_session();
    assert!(session.len() > 300);
    on_loop(async {
        let limits = RpcLimits {
            read_deadline: Duration::from_secs(1),
            ..RpcLimits::default()
        };
        let mut random = Random(1);
        for round in 0..1500 {
            let mut bytes = session.clone();
            match round % 5 {
                0 => bytes = (0..random.below(300)).map(|_| random.below(256) as u8).collect(),
                1 => bytes.truncate(random.below(session.len())),
                2 => bytes = b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n".to_vec(),
                _ => {
                    for _ in 0..1 + random.below(6) {
                        let at = random.below(bytes.len());
                        bytes[at] = match random.below(3) {
                            0 => bytes[at] ^ (1 << random.below(8)),
                            1 => 0xff,
                            _ => random.below(256) as u8,
                        };
                    }
                }
            }
            let (server, mut stream, alive) = server_and_stream(&limits);
            let _ = stream.write_all(&bytes).await;
            let _ = stream.close().await;
            let reason = end_of(server).await;
            assert!(
                !matches!(reason, CloseReason::Panicked(_)),
                "round {round}: {reason}"
            );
            drop(stream);
            assert_eq!(
                alive.get(),
                0,
                "round {round}: the bootstrap capability leaked ({reason})"
            );
        }
        assert_eq!(net::statistics().panics, 0);
    });
}

fn bootstrap_question(id: u32) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let root = message.init_root::<capnp_rpc::rpc_capnp::message::Builder<'_>>();
    root.init_bootstrap().set_question_id(id);
    capnp::serialize::write_message_to_words(&message)
}

#[test]
fn a_client_that_never_reads_costs_little_and_is_cut_off() {
    on_loop(async {
        let limits = RpcLimits {
            write_deadline: Duration::from_millis(700),
            open_calls_max: usize::MAX,
            open_bytes_max: usize::MAX,
            ..RpcLimits::default()
        };
        let (server, mut flood, _) = server_and_stream(&limits);
        let before = resident_bytes();
        let sent = Rc::new(Cell::new(0_usize));
        let counted = Rc::clone(&sent);
        let _flood = spawn(async move {
            for question in 0.. {
                let message = bootstrap_question(question);
                if flood.write_all(&message).await.is_err() {
                    break;
                }
                counted.set(counted.get() + message.len());
            }
            // Keeps the socket open: it is not the close that ends the connection.
            sleep(Duration::from_secs(30)).await;
            drop(flood);
        });
        let peak = Rc::new(Cell::new(0));
        let seen = Rc::clone(&peak);
        let _watch = spawn(async move {
            loop {
                seen.set(seen.get().max(resident_bytes()));
                sleep(Duration::from_millis(20)).await;
            }
        });
        let reason = end_of(server).await;
        assert!(matches!(reason, CloseReason::WriteDeadline { .. }), "{reason}");
        let grown = peak.get().saturating_sub(before);
        assert!(
            grown < 16 << 20,
            "grew by {grown} bytes after {} sent",
            sent.get()
        );
        assert!(
            sent.get() < 8 << 20,
            "the server went on reading: {} bytes",
            sent.get()
        );
    });
}

#[test]
fn calls_that_are_never_answered_or_finished_are_bounded() {
    on_loop(async {
        let limits = RpcLimits {
            open_calls_max: 100,
            ..RpcLimits::default()
        };
        let (server, agent, client) = connected(&limits);
        let calls: Vec<_> = (0..101)
            .map(|_| {
                let mut request = agent.drain_request();
                request.get().set_grace_ms(60_000);
                request.send().promise
            })
            .collect();
        let reason = end_of(server).await;
        assert!(matches!(reason, CloseReason::TooManyCalls { .. }), "{reason}");
        for call in calls {
            assert!(call.await.is_err());
        }
        end_of(client).await;

        let limits = RpcLimits {
            open_bytes_max: 1 << 20,
            ..RpcLimits::default()
        };
        let (server, agent, _client) = connected(&limits);
        // Parameters hold memory until the answer.
        let payload = vec![UNANSWERED; 100_000];
        let mut calls: Vec<_> = (0..10).map(|_| Box::pin(ping(&agent, &payload))).collect();
        let all = join_all(calls.iter_mut());
        assert!(timeout(Duration::from_millis(200), all).await.is_err());
        assert!(!server.is_finished());
        let error = ping(&agent, &payload).await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected, "{error}");
        let reason = end_of(server).await;
        assert!(matches!(reason, CloseReason::TooManyCalls { .. }), "{reason}");

        // Finished ones do not count.
        let payload = vec![1; 100_000];
        let (_server, agent, _client) = connected(&limits);
        for _ in 0..100 {
            ping(&agent, &payload).await.unwrap();
        }
    });
}

/// A listener with a limit, on a thread of its own.
fn start_listener(path: &Path, connections_max: usize) -> std::thread::JoinHandle<net::ConnectionCounters> {
    let path = path.to_owned();
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        on_loop(async move {
            let listener = UnixListener::bind(&path, 0o600).unwrap();
            let limit = ConnectionLimit::new(connections_max);
            ready.send(()).unwrap();
            let stop = listen_until_removed(path);
            let serving = accept_loop(&listener, &limit, |stream, guard| {
                let handle = guard.handle();
                let alive = Rc::new(Cell::new(0));
                let gate: gate::Client = capnp_rpc::new_client(Gate(Echo {
                    alive,
                    handle: Some(handle.clone()),
                }));
                spawn(async move {
                    let _guard = guard;
                    rpc::serve_limited(stream, gate.client, &RpcLimits::default(), handle).await;
                })
                .detach();
            });
            futures::future::select(std::pin::pin!(stop), std::pin::pin!(serving)).await;
            limit.counters()
        })
    });
    started.recv().unwrap();
    thread
}

async fn listen_until_removed(path: PathBuf) {
    while path.exists() {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn authenticated(path: &Path) -> (agent::Client, Task<CloseReason>) {
    let stream = UnixStream::connect(path).await.unwrap();
    let (connection, gate): (_, gate::Client) = rpc::connect(stream, &RpcLimits::default());
    let task = spawn(connection);
    let answer = gate.authenticate_request().send().promise.await.unwrap();
    (answer.get().unwrap().get_agent().unwrap(), task)
}

#[test]
fn ten_thousand_idle_connections_neither_exhaust_nor_starve() {
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(20_000),
            maximum: Some(20_000),
        },
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.socket");
    let listener = start_listener(&path, 1024);
    let before = resident_bytes();
    on_loop(async {
        let (early, _early_connection) = authenticated(&path).await;
        let mut idle = Vec::new();
        for number in 0..10_000 {
            idle.push(
                timeout(Duration::from_secs(10), UnixStream::connect(&path))
                    .await
                    .unwrap()
                    .unwrap(),
            );
            if number % 1000 == 0 {
                // Half of them say something first.
                ping(&early, b"x").await.unwrap();
            }
        }
        let (late, _late_connection) = timeout(Duration::from_secs(5), authenticated(&path))
            .await
            .unwrap();
        for agent in [&early, &late] {
            let answer = timeout(Duration::from_secs(1), ping(agent, b"still here"))
                .await
                .unwrap();
            assert_eq!(answer.unwrap(), b"still here");
        }
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 120 << 20, "grew by {grown} bytes");
    });
    drop(std::fs::remove_file(&path));
    let counters = listener.join().unwrap();
    assert_eq!(counters.refused, 0, "{counters}");
    assert!(counters.evicted >= 8_900, "{counters}");
    assert!(counters.to_string().contains("evicted"));
}

#[test]
fn when_everybody_works_the_newcomer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.socket");
    let listener = start_listener(&path, 3);
    on_loop(async {
        let first = authenticated(&path).await;
        let second = authenticated(&path).await;
        let third = authenticated(&path).await;
        let mut refused = UnixStream::connect(&path).await.unwrap();
        let read = timeout(Duration::from_secs(5), refused.read(&mut [0]))
            .await
            .unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
        assert_eq!(ping(&first.0, b"1").await.unwrap(), b"1");
        drop(second);
        sleep(Duration::from_millis(50)).await;
        let fourth = authenticated(&path).await;
        assert_eq!(ping(&third.0, b"3").await.unwrap(), b"3");
        assert_eq!(ping(&fourth.0, b"4").await.unwrap(), b"4");
    });
    drop(std::fs::remove_file(&path));
    let counters = listener.join().unwrap();
    assert_eq!(
        (counters.refused, counters.evicted, counters.accepted),
        (1, 0, 4),
        "{counters}"
    );
}

#[test]
fn a_blocking_stranger_sees_the_reason_of_an_abort() {
    on_loop(async {
        let (ours, mut theirs) = StdStream::pair().unwrap();
        let alive = Rc::new(Cell::new(0));
        let bootstrap = Echo::client(&alive, None);
        let stream = UnixStream::from_std(ours).unwrap();
        let server = spawn(rpc::serve_connection(
            stream,
            bootstrap.client,
            &RpcLimits::default(),
        ));
        // A message of one segment of no words: capnp-rpc takes it as broken and says so.
        let stranger = std::thread::spawn(move || {
            theirs.write_all(&[0; 8]).unwrap();
            let mut answer = Vec::new();
            let _ = theirs.read_to_end(&mut answer);
            answer
        });
        let reason = end_of(server).await;
        assert!(matches!(reason, CloseReason::Protocol { .. }), "{reason}");
        assert!(!stranger.join().unwrap().is_empty());
    });
}
