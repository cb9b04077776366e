//! Out of descriptors: accepting survives. Alone in its file, since the limit holds for the whole process.

use std::cell::RefCell;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use futures::AsyncWriteExt as _;
use net::{
    Config, ConnectionLimit, TaskSet, UnixListener, UnixStream, accept_loop, run, sleep, spawn, timeout,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn accepting_survives_running_out_of_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.socket");
    run(Config::default(), async {
        let listener = UnixListener::bind(&path, 0o600).unwrap();
        // They wait in the backlog; each accept needs a descriptor.
        let mut clients: Vec<StdStream> = (0..60).map(|_| StdStream::connect(&path).unwrap()).collect();
        let before = getrlimit(Resource::Nofile);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(open + 10),
                maximum: before.maximum,
            },
        )
        .unwrap();

        let limit = ConnectionLimit::new(1000);
        let served = Rc::new(RefCell::new(0));
        let accepting = spawn({
            let (limit, served) = (limit.clone(), Rc::clone(&served));
            async move {
                let connections = TaskSet::new();
                accept_loop(&listener, &limit, |stream, guard| {
                    let served = Rc::clone(&served);
                    connections.spawn(answer(stream, guard, served));
                })
                .await
            }
        });
        // Idle connections are closed for waiting ones, a few each time, so all get through.
        let all = timeout(Duration::from_secs(20), async {
            while *served.borrow() < 60 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let all = all.await;
        setrlimit(Resource::Nofile, before).unwrap();
        let counters = limit.counters();
        assert!(all.is_ok(), "{counters}");
        assert!(counters.exhausted > 0 && counters.evicted > 0, "{counters}");
        assert!(!accepting.is_finished());
        clients.clear();
        let mut late = UnixStream::connect(&path).await.unwrap();
        late.write_all(b"x").await.unwrap();
    })
    .unwrap();
}

async fn answer(stream: UnixStream, guard: net::ConnectionGuard, served: Rc<RefCell<u32>>) {
    *served.borrow_mut() += 1;
    guard.handle().evicted().await;
    drop(stream);
}
