//! Many containers, clients and deaths of the agent at once, against books that are kept independently: each command writes
//! its start, and its end if it comes to it, to a file that the agent knows nothing of.
//!
//! `scripts/soak` runs the long one; a short one is part of the ordinary tests.

mod book;
mod life;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Agent, patience, skip_unless_root, traces};

use book::Book;
use life::Context;

#[derive(Debug, Clone)]
pub struct Plan {
    pub time: Duration,
    /// Most containers at one time.
    pub containers: u64,
    pub seed: u64,
}

#[test]
fn a_short_soak_loses_doubles_and_leaks_nothing() {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    run(&Plan {
        time: Duration::from_secs(15),
        containers: 40,
        seed: since_epoch.map_or(1, |d| d.as_secs()),
    });
}

/// `BULKHEAD_SOAK=minutes=10,containers=200,seed=1`
#[test]
#[ignore = "takes the time that it is given: scripts/soak"]
fn soak() {
    let text = std::env::var("BULKHEAD_SOAK").unwrap_or_default();
    let mut plan = Plan {
        time: Duration::from_secs(600),
        containers: 200,
        seed: 1,
    };
    for (key, value) in text.split(',').filter_map(|entry| entry.split_once('=')) {
        let number: f64 = value
            .parse()
            .unwrap_or_else(|e| panic!("BULKHEAD_SOAK: {key}: {e}"));
        match key {
            "minutes" => plan.time = Duration::from_secs_f64(number * 60.0),
            "containers" => plan.containers = number as u64,
            "seed" => plan.seed = number as u64,
            _ => panic!("BULKHEAD_SOAK knows minutes, containers and seed, not {key}"),
        }
    }
    run(&plan);
}

fn run(plan: &Plan) {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start_with(&["--sample-interval=1s", "--network-pool=2"], &[]);
    let shared = agent.directory().join("shared");
    std::fs::create_dir_all(&shared).expect("the shared directory");
    agent
        .cli(&["run", "--rm", "--network=none", "--", "true"])
        .success();
    // What the agent opens once, to ask for connections, is not a leak.
    agent
        .cli(&["run", "-d", "--name", "first", "--", "sleep", "1000"])
        .success();
    agent.cli(&["stats", "first"]).success();
    agent.cli(&["kill", "first", "--grace", "0s"]).success();
    agent.cli(&["wait", "first"]);
    let before = traces::descriptors(agent.pid());
    let stop = Arc::new(AtomicBool::new(false));
    let clients = {
        let (plan, stop, shared) = (plan.clone(), stop.clone(), shared.clone());
        let endpoint: client::Endpoint = agent.endpoint().parse().expect("an endpoint");
        std::thread::spawn(move || {
            net::run(net::Config::default(), async move {
                let context = Rc::new(Context::new(plan, endpoint, shared, stop));
                context.clone().live().await;
                context.book()
            })
            .expect("the clients' loop")
        })
    };
    let deaths = kill_again_and_again(&mut agent, plan, || clients.is_finished());
    stop.store(true, Ordering::Relaxed);
    let book: Book = clients.join().expect("the clients");
    let mut figures = book.compare(&shared, &agent);
    figures.agent_deaths = deaths;
    figures.adopted = adopted(&agent.log());
    figures.leaks = leaks(&agent, &before);
    println!("{}", figures.text(plan));
    println!("{}", figures.json(plan));
    assert!(figures.is_clean(), "seed {}: {}", plan.seed, figures.text(plan));
    assert!(figures.acknowledged > 0 && deaths > 0, "nothing was done");
}

/// `kill -9` every one to three seconds until the time is over. Gives the number.
fn kill_again_and_again(agent: &mut Agent, plan: &Plan, done: impl Fn() -> bool) -> u64 {
    let end = Instant::now() + plan.time;
    let mut random = life::Random::new(plan.seed ^ 0xdead);
    let mut deaths = 0;
    while Instant::now() < end && !done() {
        std::thread::sleep(Duration::from_millis(1000 + random.below(2000)));
        agent.kill_hard();
        // Mostly at once, as a service manager would; sometimes somebody has to come first.
        if random.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(800)));
        }
        agent.spawn();
        deaths += 1;
    }
    deaths
}

fn adopted(log: &str) -> u64 {
    log.lines()
        .filter(|line| line.contains("containers of an earlier agent"))
        .filter_map(|line| {
            line.split("adopted=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

/// What is there though every container is over; looked at until it is gone, or for a while.
fn leaks(agent: &Agent, before: &traces::Descriptors) -> Vec<String> {
    let deadline = Instant::now() + patience(10);
    loop {
        let found = look_for_leaks(agent, before);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn look_for_leaks(agent: &Agent, before: &traces::Descriptors) -> Vec<String> {
    let instance = agent.instance();
    let mut found: Vec<String> = traces::groups(instance)
        .iter()
        .map(|group| format!("control group {}", group.display()))
        .collect();
    let mounts = traces::read("/proc/self/mountinfo");
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(instance))
            .map(|line| format!("mount {line}")),
    );
    let mut ours = traces::children(agent.pid());
    ours.push(agent.pid());
    found.extend(
        traces::processes(instance)
            .into_iter()
            .filter(|pid| !ours.contains(pid))
            .map(|pid| format!("process {pid}")),
    );
    if ours.len() > 2 {
        found.push(format!("children of the agent {ours:?}"));
    }
    let places = [
        agent.runtime_dir().join("containers"),
        agent.work_dir().join("overlays"),
    ];
    for place in places {
        found.extend(
            traces::entries(&place)
                .iter()
                .map(|name| format!("{name} in {}", place.display())),
        );
    }
    for (kind, count) in traces::descriptors(agent.pid()) {
        let usual = before.get(&kind).copied().unwrap_or(0);
        // Two namespaces are kept ready.
        let allowed = if kind.starts_with("net:") { 2 } else { usual };
        if count > allowed {
            found.push(format!("{count} descriptors of {kind} instead of {allowed}"));
        }
    }
    found
}
