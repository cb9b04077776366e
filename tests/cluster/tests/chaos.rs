//! Faults at random while tasks come and go. Afterwards: each task was started at most once, has one end, and the master, the agent
//! and what the command itself wrote agree on it.
//!
//! `BULKHEAD_CHAOS=SECONDS` for a longer run (900 for the figures in docs/testing.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster_tests::{Cluster, skip, until};
use serde_json::Value;

const AGENTS: usize = 5;
const TERMINAL: [&str; 6] = ["finished", "failed", "killed", "lost", "error", "gone"];
/// What a run of a quarter of an hour has.
const SHORT: u64 = 500;
const LONG: u64 = 50;
const FAULTS: [(&str, u32); 9] = [
    ("kill-leader", 3),
    ("freeze-leader", 14),
    ("partition-leader", 14),
    ("mute-leader", 14),
    ("no-zookeeper-leader", 14),
    ("stop-zookeeper", 5),
    ("freeze-zookeeper", 8),
    ("kill-agent", 2),
    ("partition-agent", 6),
];

#[derive(Debug, Default)]
struct Books {
    /// Id of an accepted launch → its token.
    accepted: BTreeMap<String, String>,
    /// Launches without an answer, or with a refusal: they may have come about.
    unanswered: u64,
    /// Id → ends that any leader told of.
    ends: BTreeMap<String, BTreeSet<String>>,
    terms: BTreeSet<u64>,
    faults: BTreeMap<&'static str, u64>,
}

#[test]
fn chaos() {
    if skip() {
        return;
    }
    let seconds = std::env::var("BULKHEAD_CHAOS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let written = tempfile::tempdir().unwrap();
    let cluster = Cluster::up(AGENTS, "");
    let books = Mutex::new(Books::default());
    let over = AtomicBool::new(false);
    let until_when = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&cluster, &books, &over));
        scope.spawn(|| harm(&cluster, &books, until_when));
        launch(&cluster, &books, written.path(), seconds, until_when);
        until("a quiet cluster", || {
            let active = cluster
                .agents()
                .iter()
                .filter(|(_, state)| state == "active")
                .count();
            (active == AGENTS && Instant::now() > until_when + Duration::from_secs(15)).then_some(())
        });
        end_all(&cluster, &books);
        // One more look at the ends.
        std::thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::SeqCst);
    });
    report(&cluster, &books.into_inner().unwrap(), written.path());
}

/// xorshift64 (Marsaglia 2003).
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn harm(cluster: &Cluster, books: &Mutex<Books>, until_when: Instant) {
    let mut chance = u64::from(std::process::id()) | 1;
    println!("seed of the faults: {chance}");
    while Instant::now() < until_when {
        let (kind, seconds) = FAULTS[(draw(&mut chance) % FAULTS.len() as u64) as usize];
        let said = cluster.fault(kind, seconds, &[]).over();
        println!("{kind}: {}", said.replace('\n', ", "));
        *books.lock().unwrap().faults.entry(kind).or_default() += 1;
        std::thread::sleep(Duration::from_millis(1000 + draw(&mut chance) % 4000));
    }
}

/// How many launches are asked for at once: while nobody leads each of them waits for up to half a minute.
const SUBMITTERS: u64 = 4;

/// Launches evenly over the time; writes of itself what the command does. What is behind because nobody led is made up for.
fn launch(cluster: &Cluster, books: &Mutex<Books>, written: &Path, seconds: u64, until_when: Instant) {
    let count = ((SHORT + LONG) * seconds / 900).max(20);
    let began = Instant::now();
    // Nothing has to be launched in the last moments for all to have been.
    let pause = Duration::from_secs(seconds).mul_f64(0.95) / u32::try_from(count).unwrap();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SUBMITTERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let due = began + pause * u32::try_from(number).unwrap();
                    if number >= count || due >= until_when {
                        return;
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if Instant::now() >= until_when {
                        return;
                    }
                    // A launch without a yes is made up for by another one.
                    for again in 0.. {
                        let token = format!("task{number}.{again}");
                        if launch_one(cluster, books, written, number, token) || Instant::now() >= until_when
                        {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            });
        }
    });
    std::thread::sleep(until_when.saturating_duration_since(Instant::now()));
}

/// Whether it was accepted.
fn launch_one(cluster: &Cluster, books: &Mutex<Books>, written: &Path, number: u64, token: String) -> bool {
    let sleep = if number.is_multiple_of(SHORT / LONG + 1) {
        3600.0
    } else {
        (number % 7) as f64 / 2.0
    };
    let file = written.join(&token);
    let script = format!(
        "echo start >> {0}; sleep {sleep}; echo end >> {0}",
        file.display()
    );
    let volume = format!("--volume={0}:{0}", written.display());
    let launched = cluster.launch(&[&volume, &format!("--name={token}")], &["sh", "-c", &script]);
    let mut books = books.lock().unwrap();
    match launched {
        Ok(id) => books.accepted.insert(id, token).is_none(),
        Err(_) => {
            books.unanswered += 1;
            false
        }
    }
}

fn watch(cluster: &Cluster, books: &Mutex<Books>, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        if let Some((term, _)) = cluster.leader() {
            books.lock().unwrap().terms.insert(term);
        }
        note_ends(&cluster.tasks().unwrap_or_default(), books);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn note_ends(tasks: &[Value], books: &Mutex<Books>) {
    let mut books = books.lock().unwrap();
    for task in tasks {
        if let (Some(id), Some(state)) = (task["id"].as_str(), task["state"].as_str())
            && TERMINAL.contains(&state)
        {
            books
                .ends
                .entry(id.to_owned())
                .or_default()
                .insert(state.to_owned());
        }
    }
}

fn end_all(cluster: &Cluster, books: &Mutex<Books>) {
    until("the end of all tasks", || {
        let tasks = cluster.tasks()?;
        note_ends(&tasks, books);
        let left: Vec<&str> = tasks
            .iter()
            .filter(|task| {
                !task["state"]
                    .as_str()
                    .is_some_and(|state| TERMINAL.contains(&state))
            })
            .filter_map(|task| task["id"].as_str())
            .collect();
        for id in &left {
            cluster.client(&["task", "kill", id, "--grace", "0s"]);
        }
        left.is_empty().then_some(())
    });
}

fn report(cluster: &Cluster, books: &Books, written: &Path) {
    let mut wrong = Vec::new();
    let mut at_agents: BTreeMap<String, Value> = BTreeMap::new();
    for number in 1..=AGENTS {
        for container in cluster.containers(&format!("a{number}")) {
            let id = container["id"].as_str().unwrap_or_default().to_owned();
            if at_agents.insert(id.clone(), container).is_some() {
                wrong.push(format!("{id} is known to two agents"));
            }
        }
    }
    let (mut unseen, mut finished, mut twice_told) = (0, 0, 0);
    for (id, token) in &books.accepted {
        let text = std::fs::read_to_string(written.join(token)).unwrap_or_default();
        let starts = text.lines().filter(|line| *line == "start").count();
        let ended = text.lines().any(|line| line == "end");
        if starts > 1 {
            wrong.push(format!("{token} ({id}) was started {starts} times"));
        }
        let Some(ends) = books.ends.get(id) else {
            unseen += 1;
            continue;
        };
        if ends.len() > 1 {
            twice_told += 1;
            wrong.push(format!("{token} ({id}) has ended as {ends:?}"));
        }
        finished += usize::from(ends.contains("finished"));
        if ends.contains("finished") && !ended {
            wrong.push(format!(
                "{token} ({id}) is told as finished, and did not come to its end"
            ));
        }
        let status = at_agents
            .get(id)
            .and_then(|container| container["exit_status"].as_i64());
        if status.is_some_and(|status| (status == 0) != ends.contains("finished")) {
            wrong.push(format!(
                "{token} ({id}): the agent says status {status:?}, the master {ends:?}"
            ));
        }
    }
    for (id, container) in &at_agents {
        if container["state"] == "running" {
            wrong.push(format!("{id} runs, and no leader knows of it"));
        }
    }
    println!(
        "{} terms, faults {:?}; {} launches accepted, {} without a yes; {finished} finished, {} with an end that was seen, {unseen} \
         ended while nobody led or looked, {twice_told} with two ends; {} wrong",
        books.terms.len(),
        books.faults,
        books.accepted.len(),
        books.unanswered,
        books.accepted.len() - unseen,
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
