//! A client that appends 0, 1, 2, … for ever. When it does not know what became of an entry it looks into the log, as the
//! writer that nobody else can be any more, and goes on behind what it finds.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use support::patience;
use wire::replog_capnp::{entry, log};

/// Entries of one call.
const TOGETHER: u64 = 4;
/// An entry is a number and this.
const REST: [u8; 248] = [b'.'; 248];
/// How many have to be acknowledged to prove that it goes on.
const PROOF: u64 = 40;

#[derive(Default)]
struct Shared {
    acknowledged: AtomicU64,
    stop: AtomicBool,
    addresses: Mutex<Vec<String>>,
    longest_pause: Mutex<Duration>,
}

pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Appends from within that network namespace.
    pub fn start(namespace: &Path, addresses: Vec<String>) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.addresses.lock().unwrap() = addresses;
        let namespace = std::fs::File::open(namespace).unwrap();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // Of this thread alone.
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            net::run(net::Config::default(), write(&of_thread)).unwrap();
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    pub fn asks(&self, addresses: Vec<String>) {
        *self.shared.addresses.lock().unwrap() = addresses;
    }

    /// Further entries are acknowledged.
    #[track_caller]
    pub fn goes_on(&self, when: &str) {
        let (before, began) = (self.acknowledged(), Instant::now());
        while self.acknowledged() < before + PROOF {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the client has ended, {when}");
            assert!(
                began.elapsed() < patience(30),
                "nothing is acknowledged within {:?}: {when}",
                patience(30)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{when}: goes on after {:.1?}", began.elapsed());
    }

    /// How many were acknowledged, and the longest time without one.
    pub fn stop(mut self) -> (u64, Duration) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread
            .take()
            .unwrap()
            .join()
            .expect("the client found nothing wrong");
        (self.acknowledged(), *self.shared.longest_pause.lock().unwrap())
    }
}

struct Progress {
    /// To be appended next.
    number: u64,
    /// All before it in the log was looked at.
    position: u64,
    last: Instant,
}

async fn write(shared: &Shared) {
    let mut progress = Progress {
        number: 0,
        position: 1,
        last: Instant::now(),
    };
    for turn in 0.. {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let address = {
            let addresses = shared.addresses.lock().unwrap();
            addresses[turn % addresses.len()].clone()
        };
        if let Some(log) = begin(&address, shared, &mut progress).await {
            while !shared.stop.load(Ordering::SeqCst) && append(&log, shared, &mut progress).await.is_some() {
                net::sleep(Duration::from_millis(2)).await;
            }
        }
        net::sleep(Duration::from_millis(20)).await;
    }
}

/// Becomes the writer at this replica, and reads what the log has got behind what is known.
async fn begin(address: &str, shared: &Shared, progress: &mut Progress) -> Option<log::Client> {
    let connecting = net::TcpStream::connect(address.parse().unwrap());
    let stream = net::timeout(Duration::from_secs(1), connecting)
        .await
        .ok()?
        .ok()?;
    let (connection, log): (_, log::Client) = net::rpc::connect(stream, &net::rpc::RpcLimits::default());
    net::spawn(async move { drop(connection.await) }).detach();
    let electing = log.elect_request().send().promise;
    let answer = net::timeout(Duration::from_secs(4), electing).await.ok()?.ok()?;
    let end = answer.get().ok()?.get_position();
    while progress.position <= end {
        let mut request = log.read_request();
        request.get().set_first(progress.position);
        request.get().set_last(end);
        let answer = net::timeout(Duration::from_secs(4), request.send().promise)
            .await
            .ok()?
            .ok()?;
        let entries = answer.get().ok()?.get_entries().ok()?;
        if entries.is_empty() {
            return None;
        }
        for entry in entries {
            progress.position += 1;
            if let entry::Append(bytes) = entry.which().ok()? {
                let number = u64::from_le_bytes(*bytes.ok()?.first_chunk().unwrap());
                assert_eq!(number, progress.number, "in the log at {}", progress.position - 1);
                progress.number += 1;
            }
        }
    }
    let acknowledged = shared.acknowledged.load(Ordering::SeqCst);
    assert!(
        progress.number >= acknowledged,
        "{acknowledged} were acknowledged, the log has {}",
        progress.number
    );
    Some(log)
}

async fn append(log: &log::Client, shared: &Shared, progress: &mut Progress) -> Option<()> {
    let mut request = log.append_request();
    let mut list = request.get().init_entries(TOGETHER as u32);
    for at in 0..TOGETHER {
        let entry = [&(progress.number + at).to_le_bytes()[..], &REST].concat();
        list.set(at as u32, &entry);
    }
    let answer = net::timeout(Duration::from_secs(2), request.send().promise)
        .await
        .ok()?
        .ok()?;
    for position in answer.get().ok()?.get_positions().ok()? {
        assert!(
            position >= progress.position,
            "{position} was another entry's place"
        );
        progress.position = position + 1;
    }
    progress.number += TOGETHER;
    shared.acknowledged.store(progress.number, Ordering::SeqCst);
    let mut longest = shared.longest_pause.lock().unwrap();
    *longest = longest.max(progress.last.elapsed());
    progress.last = Instant::now();
    Some(())
}
