//! A master as a process: this test's program once more, which contends and writes down what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordination::{Candidacy, Contender, Settings, Tenure};
use model::MasterInfo;
use support::zookeeper::send;

pub fn master(port: u16) -> MasterInfo {
    MasterInfo {
        id: format!("run-of-{port}"),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        hostname: "localhost".to_owned(),
        version: "1.0.0".to_owned(),
        rpc_port: None,
        capabilities: vec!["AGENT_UPDATE".to_owned()],
    }
}

struct Loop;

impl spawns_core::Spawn for Loop {
    fn spawn(&self, task: spawns_core::Task) {
        net::spawn(Box::into_pin(task.future)).detach();
    }
}

/// A client without our door in front of it.
pub async fn raw(servers: &str) -> zookeeper_client::Client {
    let connecting = zookeeper_client::Client::connect(servers);
    futures::pin_mut!(connecting);
    std::future::poll_fn(|cx| {
        let _scope = spawns_core::enter(&Loop);
        connecting.as_mut().poll(cx)
    })
    .await
    .unwrap()
}

/// What one says at a moment: milliseconds since boot, what it is, and in which term.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    at: u64,
    state: String,
    term: u64,
}

pub struct Candidate {
    process: Child,
    directory: tempfile::TempDir,
}

impl Candidate {
    pub fn start(url: &str, session: Duration, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "candidate::body", "--ignored", "--nocapture"])
            .env("CANDIDATE_URL", url)
            .env("CANDIDATE_SESSION_MS", session.as_millis().to_string())
            .env("CANDIDATE_PORT", port.to_string())
            .env("CANDIDATE_LOG", directory.path().join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, directory }
    }

    pub fn kill(&mut self) {
        // Gone already is as good.
        let _gone = self.process.kill();
        self.process.wait().unwrap();
    }

    pub fn freeze(&self) {
        send(self.process.id(), "STOP");
    }

    pub fn thaw(&self) {
        send(self.process.id(), "CONT");
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        // The last one may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            let mut words = line.split(' ');
            let at = words.next()?.parse().ok()?;
            let state = words.next()?.to_owned();
            Some(Line {
                at,
                state,
                term: words.next()?.parse().ok()?,
            })
        };
        whole.lines().map(|line| parse(line).expect("a line")).collect()
    }

    /// The term, if it was elected and says nothing else since.
    pub fn elected(&self) -> Option<u64> {
        let last = self.lines().pop()?;
        (last.state == "holds").then_some(last.term)
    }

    pub fn stands_by(&self) -> bool {
        self.lines().last().is_some_and(|line| line.state == "standby")
    }

    pub fn holds(&self) -> bool {
        self.elected().is_some()
    }

    pub fn last_term(&self) -> u64 {
        self.lines()
            .iter()
            .map(|line| line.term)
            .max()
            .unwrap_or_default()
    }

    /// From when to when it held each term.
    fn held(&self) -> BTreeMap<u64, (u64, u64)> {
        let mut held: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for line in self.lines().iter().filter(|line| line.state == "holds") {
            let span = held.entry(line.term).or_insert((line.at, line.at));
            span.1 = line.at;
        }
        held
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.kill();
    }
}

/// No two terms were held at the same moment, and a later one began later.
pub fn assert_no_overlap(candidates: &[&Candidate]) {
    let mut all: Vec<(u64, u64, u64)> = Vec::new();
    for candidate in candidates {
        all.extend(
            candidate
                .held()
                .iter()
                .map(|(term, (from, to))| (*term, *from, *to)),
        );
    }
    all.sort_unstable();
    println!("terms (number, from, to): {all:?}");
    for pair in all.windows(2) {
        assert!(pair[0].0 != pair[1].0, "one term, two leaders: {all:?}");
        assert!(pair[0].2 < pair[1].1, "two leaders at one moment: {all:?}");
    }
}

/// Not a test: what a candidate's process does.
#[test]
#[ignore = "the body of a process that other tests start"]
fn body() {
    let Ok(url) = std::env::var("CANDIDATE_URL") else {
        return;
    };
    let port = std::env::var("CANDIDATE_PORT").unwrap().parse().unwrap();
    let session_ms = std::env::var("CANDIDATE_SESSION_MS").unwrap().parse().unwrap();
    let log = PathBuf::from(std::env::var("CANDIDATE_LOG").unwrap());
    let now: Arc<Mutex<(String, Option<Tenure>)>> = Arc::new(Mutex::new(("contending".to_owned(), None)));
    let shared = Arc::clone(&now);
    std::thread::spawn(move || write_down(&log, &shared));
    let settings = Settings {
        session_timeout: Duration::from_millis(session_ms),
    };
    net::run(net::Config::default(), async move {
        let mut contender = Contender::start(url.parse().unwrap(), &master(port), settings);
        loop {
            let state = match contender.changed().await {
                Candidacy::Contending => ("contending".to_owned(), None),
                Candidacy::StandBy => ("standby".to_owned(), None),
                Candidacy::Elected(tenure) => ("holds".to_owned(), Some(tenure)),
            };
            *now.lock().unwrap() = state;
        }
    })
    .unwrap();
}

/// On a thread of its own, so that it looks right after a thaw, before the loop has done anything.
fn write_down(path: &std::path::Path, now: &Mutex<(String, Option<Tenure>)>) {
    let mut log = fs::File::create(path).unwrap();
    let mut last = Line {
        at: 0,
        state: String::new(),
        term: 0,
    };
    loop {
        let (mut state, tenure) = now.lock().unwrap().clone();
        // Before it is asked: what held then held now, for a fence only moves on.
        let at = u64::try_from(net::clock::since_boot().as_millis()).unwrap();
        if tenure.as_ref().is_some_and(|tenure| !tenure.holds()) {
            state = "fenced".to_owned();
        }
        let line = Line {
            at,
            state,
            term: tenure.map_or(0, |tenure| tenure.term().0),
        };
        let changed = (&line.state, line.term) != (&last.state, last.term);
        if changed || (line.state == "holds" && line.at >= last.at + 20) {
            writeln!(log, "{} {} {}", line.at, line.state, line.term).unwrap();
            last = line;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
