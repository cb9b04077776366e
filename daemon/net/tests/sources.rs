//! Sockets, pidfd, signalfd, arbitrary descriptors, the worker pool: against the real kernel.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use net::{
    BindError, Config, ExitInfo, Interest, Pool, PoolError, Signal, Signals, Source, TcpListener, TcpStream,
    UnixListener, UnixStream, now, run, sleep, spawn, timeout, wait_pidfd,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

fn on_loop<F: Future>(root: F) -> F::Output {
    run(Config::default(), root).unwrap()
}

fn pidfd_of(pid: u32) -> Source<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    Source::new(pidfd_open(pid, PidfdFlags::empty()).unwrap(), Interest::Readable).unwrap()
}

#[test]
#[allow(clippy::zombie_processes)] // reaped through the pidfd
fn ends_of_children_come_as_events() {
    on_loop(async {
        for (script, expected) in [
            ("exit 0", ExitInfo::Exited(0)),
            ("sleep 0.02; exit 3", ExitInfo::Exited(3)),
            (
                "kill -9 $$",
                ExitInfo::Signaled {
                    signal: 9,
                    core_dumped: false,
                },
            ),
            // A real-time signal has no name, only a number.
            (
                "kill -40 $$",
                ExitInfo::Signaled {
                    signal: 40,
                    core_dumped: false,
                },
            ),
        ] {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let ended = timeout(Duration::from_secs(10), wait_pidfd(&pidfd_of(child.id()))).await;
            assert_eq!(ended.unwrap().unwrap(), expected, "{script}");
        }
    });
}

#[test]
fn a_child_that_somebody_else_reaped_is_over_all_the_same() {
    on_loop(async {
        let mut child = Command::new("true").spawn().unwrap();
        let pidfd = pidfd_of(child.id());
        child.wait().unwrap();
        let ended = timeout(Duration::from_secs(10), wait_pidfd(&pidfd)).await;
        assert_eq!(ended.unwrap().unwrap(), ExitInfo::Unknown);
    });
}

/// Kernels since 6.15 report the end of a traced child once, when it can not be reaped yet.
#[test]
#[allow(clippy::zombie_processes)] // reaped through the pidfd
fn a_child_that_somebody_traces_is_reaped_when_he_lets_go_of_it() {
    let state = |pid: u32, key: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().to_owned()
    };
    let until = |what: &str, met: &dyn Fn() -> bool| {
        for _ in 0..1000 {
            if met() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what}");
    };
    let signal =
        |pid: u32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let traced = child.id();
    let mut tracer = match Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-p", &traced.to_string()])
        .spawn()
    {
        Ok(tracer) => tracer,
        Err(error) => {
            signal(traced, Signal::SIGKILL);
            eprintln!("SKIPPED: strace: {error}");
            return;
        }
    };
    until("it is traced", &|| {
        state(traced, "TracerPid:") == tracer.id().to_string()
    });
    signal(tracer.id(), Signal::SIGSTOP);
    until("the tracer has stopped", &|| {
        state(tracer.id(), "State:").starts_with('T')
    });
    on_loop(async move {
        let pidfd = pidfd_of(traced);
        signal(traced, Signal::SIGKILL);
        let early = timeout(Duration::from_millis(100), wait_pidfd(&pidfd)).await;
        assert!(early.is_err(), "{early:?}");
        signal(tracer.id(), Signal::SIGCONT);
        let ended = timeout(Duration::from_secs(10), wait_pidfd(&pidfd)).await;
        let expected = ExitInfo::Signaled {
            signal: 9,
            core_dumped: false,
        };
        assert_eq!(ended.unwrap().unwrap(), expected);
        tracer.wait().unwrap();
    });
}

#[test]
fn signals_come_as_events() {
    on_loop(async {
        let mut signals = Signals::new(&[Signal::SIGUSR1, Signal::SIGUSR2]).unwrap();
        // To this thread only: the other tests' threads do not block it.
        nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
        let received = timeout(Duration::from_secs(5), signals.next())
            .await
            .unwrap()
            .unwrap();
        assert!(received.is(Signal::SIGUSR2));
        assert_eq!(received.pid, std::process::id());
        assert!(timeout(Duration::from_millis(5), signals.next()).await.is_err());
    });
}

#[test]
fn a_pipe_is_a_source_in_both_directions() {
    on_loop(async {
        let (read, write) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let read = Source::new(File::from(read), Interest::Readable).unwrap();
        let write = Source::new(File::from(write), Interest::Writable).unwrap();
        let writer = spawn(async move {
            for _ in 0..100 {
                let mut block = &[5; 8192][..];
                while !block.is_empty() {
                    let count = write.write_with(|mut file| file.write(block)).await.unwrap();
                    block = &block[count..];
                }
            }
        });
        let mut total = 0;
        let mut buffer = [0; 10_000];
        loop {
            match read.read_with(|mut file| file.read(&mut buffer)).await.unwrap() {
                0 => break,
                count => total += count,
            }
        }
        assert_eq!(total, 819_200);
        writer.await.unwrap();
    });
}

#[test]
fn a_source_given_back_is_out_of_the_loop() {
    on_loop(async {
        let (read, write) = std::io::pipe().unwrap();
        let source = Source::new(OwnedFd::from(read), Interest::Readable).unwrap();
        assert_eq!(net::statistics().sources, 1);
        let mut write = File::from(OwnedFd::from(write));
        write.write_all(b"x").unwrap();
        source.readable().await;
        let mut read = File::from(source.into_inner());
        assert_eq!(net::statistics().sources, 0);
        read.read_exact(&mut [0]).unwrap();
        assert!(
            Source::new(tempfile::tempfile().unwrap(), Interest::Readable).is_err(),
            "a regular file is refused"
        );
        assert_eq!(net::statistics().sources, 0);
    });
}

#[test]
fn several_tasks_may_wait_for_one_source() {
    on_loop(async {
        let (read, mut write) = std::io::pipe().unwrap();
        let source = Rc::new(Source::new(OwnedFd::from(read), Interest::Readable).unwrap());
        let woken = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (source, woken) = (Rc::clone(&source), Rc::clone(&woken));
                spawn(async move {
                    source.readable().await;
                    woken.set(woken.get() + 1);
                })
            })
            .collect();
        sleep(Duration::from_millis(5)).await;
        write.write_all(b"x").unwrap();
        for task in tasks {
            timeout(Duration::from_secs(5), task)
                .await
                .expect("a waiting task was forgotten")
                .unwrap();
        }
        assert_eq!(woken.get(), 40);
    });
}

#[test]
fn unix_sockets_know_their_peer_and_their_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.socket");
    on_loop(async {
        let listener = UnixListener::bind(&path, 0o600).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let client = spawn({
            let path = path.clone();
            async move { UnixStream::connect(&path).await.unwrap() }
        });
        let server = listener.accept().await.unwrap();
        let mut client = client.await.unwrap();
        let peer = server.peer().unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        let (mut read, mut write) = net::buffered(server);
        write.write_all(b"hello").await.unwrap();
        write.flush().await.unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");
        client.close().await.unwrap();
        assert_eq!(read.read(&mut word).await.unwrap(), 0);
    });
}

#[test]
fn a_socket_path_is_taken_over_from_the_dead_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.socket");
    on_loop(async {
        let first = UnixListener::bind(&path, 0o600).unwrap();
        assert!(matches!(
            UnixListener::bind(&path, 0o600),
            Err(BindError::InUse { .. })
        ));
        drop(first);
        let _second = UnixListener::bind(&path, 0o666).unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "precious").unwrap();
        assert!(matches!(
            UnixListener::bind(&plain, 0o600),
            Err(BindError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read(&plain).unwrap(), b"precious");
        let missing = folder.path().join("no/such/folder");
        let error = UnixListener::bind(&missing, 0o600).err().unwrap();
        assert!(error.to_string().contains("no/such/folder"), "{error}");
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    });
}

#[test]
fn tcp_connects_echoes_and_reports_refusal() {
    on_loop(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_address();
        let server = spawn(async move {
            let mut stream = listener.accept().await.unwrap();
            let mut block = vec![0; 1 << 20];
            stream.read_exact(&mut block).await.unwrap();
            stream.write_all(&block).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(nix::sys::socket::getsockopt(&client.as_fd(), nix::sys::socket::sockopt::KeepAlive).unwrap());
        let block: Vec<u8> = (0..1_u32 << 20).map(|index| (index % 251) as u8).collect();
        client.write_all(&block).await.unwrap();
        let mut back = vec![0; block.len()];
        client.read_exact(&mut back).await.unwrap();
        assert!(back == block);
        server.await.unwrap();
        let refused = TcpStream::connect(address).await.err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn the_pool_runs_jobs_bounded_and_contains_panics() {
    on_loop(async {
        let pool = Pool::new(3, 4).unwrap();
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let tasks: Vec<_> = (0..40_u32)
            .map(|number| {
                let pool = pool.clone();
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                spawn(async move {
                    pool.run(move || {
                        let now_running = running.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now_running, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(2));
                        running.fetch_sub(1, Ordering::SeqCst);
                        number * 2
                    })
                    .await
                })
            })
            .collect();
        sleep(Duration::from_millis(1)).await;
        let (waiting, _) = pool.load();
        assert!(waiting <= 4, "{waiting} jobs in a queue of four");
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap().unwrap(), u32::try_from(number).unwrap() * 2);
        }
        assert!(most.load(Ordering::SeqCst) <= 3);
        let panicked = pool.run(|| -> u8 { panic!("disk on fire") }).await.unwrap_err();
        assert!(matches!(&panicked, PoolError::Panicked(inner) if inner.message == "disk on fire"));
        assert_eq!(pool.run(|| 5).await.unwrap(), 5);
    });
}

#[test]
fn a_blocked_job_does_not_stop_the_loop_and_shutdown_waits_for_it() {
    on_loop(async {
        let pool = Pool::new(1, 10).unwrap();
        let done = Arc::new(AtomicU32::new(0));
        for _ in 0..3 {
            let (pool, done) = (pool.clone(), Arc::clone(&done));
            // Dropped callers: what was accepted still runs.
            let _ = timeout(
                Duration::from_millis(1),
                pool.run(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    done.fetch_add(1, Ordering::SeqCst);
                }),
            )
            .await;
        }
        let began = now();
        sleep(Duration::from_millis(1)).await;
        assert!(now() - began < Duration::from_millis(15));
        timeout(Duration::from_secs(10), pool.shutdown()).await.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 3);
        assert!(matches!(pool.run(|| ()).await, Err(PoolError::ShutDown)));
    });
}
