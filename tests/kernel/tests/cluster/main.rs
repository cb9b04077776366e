//! A master and an agent as processes: tasks through both, and either one's death.

mod site;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use site::Site;
use support::{bulkhead, eventually, skip_unless_root};

fn states(task: &Value) -> Vec<String> {
    let statuses = task["statuses"].as_array().cloned().unwrap_or_default();
    statuses
        .iter()
        .map(|status| status["state"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_task_runs_through_the_master_and_ends_once() {
    if skip_unless_root() {
        return;
    }
    let site = Site::start();
    let script = "echo out; echo err >&2; exit 7";
    let run = [
        "task", "run", "--cpus", "0.1", "--mem", "32MB", "--", "sh", "-c", script,
    ];
    let answer = site.cli(&run);
    assert_eq!(
        (answer.status, answer.stdout.as_str()),
        (7, "out\n"),
        "{answer:?}"
    );
    assert!(answer.stderr.contains("err\n"), "{answer:?}");

    let id = site.task("web", "echo hello; sleep 1000");
    eventually("its output is there", || {
        site.cli(&["task", "logs", "web"])
            .stdout
            .contains("hello")
            .then_some(())
    });
    assert_eq!(
        site.cli(&["task", "exec", "web", "--", "sh", "-c", "exit 3"])
            .status,
        3
    );
    site.cli(&["task", "stats", "web"]).success();
    site.cli(&["task", "kill", "web"]).success();
    let task = site.until_task_is(&id, "killed");
    assert_eq!(states(&task), ["staging", "running", "killing", "killed"]);

    // What no agent has room for, or an agent refuses, is said at once.
    let answer = site.cli(&["task", "run", "--cpus", "5000", "--", "true"]);
    assert_eq!(answer.status, 125);
    assert!(answer.stderr.contains("has room for 5000 cpus"), "{answer:?}");
    let answer = site.cli(&["task", "run", "--cpus", "0.1", "--", "/no/such/program"]);
    assert!(
        answer.status != 0 && answer.stderr.contains("/no/such/program"),
        "{answer:?}"
    );
    let answer = site.cli(&["task", "run", "--agent", "nowhere", "--cpus", "0.1", "--", "true"]);
    assert!(answer.stderr.contains("no agent \"nowhere\""), "{answer:?}");
}

#[test]
fn tasks_outlive_the_master_and_their_ends_are_told_to_the_next() {
    if skip_unless_root() {
        return;
    }
    let mut site = Site::start();
    let long = site.task("long", "sleep 1000");
    site.until_task_is(&long, "running");
    // Other limits, and no more than there is.
    let update = [
        "task", "update", "long", "--cpus", "0.3", "--mem", "48MB", "-o", "json",
    ];
    let task = site.cli(&update).success().json();
    assert_eq!(
        (&task["used"]["cpus"], &task["used"]["mem_bytes"]),
        (&json!(0.3), &json!(48 << 20)),
        "{task}"
    );
    let limits = |site: &Site| {
        let agent = site.agent.as_ref()?;
        Some(agent.container(&long)?["limits"]["mem_bytes"].clone())
    };
    assert_eq!(limits(&site), Some(json!(48 << 20)));
    let answer = site.cli(&["task", "update", "long", "--cpus", "5000"]);
    assert!(
        answer.status != 0 && answer.stderr.contains("has no room for task"),
        "{answer:?}"
    );
    // Also what somebody changes at the agent is in the master's books.
    let agent = site.agent.as_ref().expect("the agent");
    agent.cli(&["update", &long, "--cpus", "0.2"]).success();
    let used = |site: &Site, cpus: f64| site.view(&long).filter(|task| task["used"]["cpus"] == cpus);
    eventually("the master knows it", || used(&site, 0.2));

    let short = site.task("short", "sleep 2; exit 3");
    site.until_task_is(&short, "running");
    site.kill_master();
    eventually("it has ended", || {
        let agent = site.agent.as_ref()?;
        agent.container(&short).filter(|c| c["exit_status"] == 3)
    });
    site.start_master();
    let task = site.until_task_is(&short, "failed");
    assert_eq!(task["exit_status"], 3, "{task}");
    let task = site.until_task_is(&long, "running");
    assert_eq!(
        (&task["used"]["cpus"], &task["used"]["mem_bytes"]),
        (&json!(0.2), &json!(48 << 20)),
        "{task}"
    );
}

#[test]
fn an_agent_that_dies_is_unreachable_until_it_is_back_with_its_tasks() {
    if skip_unless_root() {
        return;
    }
    let mut site = Site::start();
    let long = site.task("long", "sleep 1000");
    let short = site.task("short", "sleep 1; exit 5");
    site.until_task_is(&short, "running");
    site.agent().kill_hard();
    site.until_agent_is("unreachable");
    site.until_task_is(&long, "unreachable");
    site.agent().spawn();
    site.until_agent_is("active");
    let task = site.until_task_is(&short, "failed");
    assert_eq!(task["exit_status"], 5, "{task}");
    let task = site.until_task_is(&long, "running");
    assert_eq!(states(&task), ["staging", "running", "unreachable", "running"]);
}

/// Three of four die at the same moment: a rack's switch, as the master sees it. Only lower bounds are asserted, on the
/// times that the registry keeps (in whole seconds): a machine under load may take as long as it likes.
#[test]
fn agents_that_vanish_at_once_are_given_up_no_faster_than_the_limit_says() {
    if skip_unless_root() {
        return;
    }
    const PERIOD: u64 = 4;
    let site = Site::start_with(&[
        "--agent-ping-timeout=1s",
        "--max-agent-ping-timeouts=3",
        "--agent-removal-rate-limit=1/4s",
    ]);
    let living = site.cli(&["agents", "-q"]).success().stdout.trim().to_owned();
    let mut vanishing: Vec<_> = (0..3).map(|_| site.another_agent()).collect();
    let count = |what: &str| site.registry()[what].as_object().map_or(0, |agents| agents.len());
    eventually("all have registered", || (count("agents") == 4).then_some(()));
    for agent in &mut vanishing {
        agent.kill_hard();
    }
    for number in 1..=3 {
        eventually(&format!("{number} given up"), || {
            (count("unreachable") >= number).then_some(())
        });
    }
    let registry = site.registry();
    let given_up = registry["unreachable"].as_object().expect("by their ids");
    assert!(!given_up.contains_key(&living), "{registry}");
    assert_eq!(given_up.len(), 3, "{registry}");
    let mut at: Vec<u64> = given_up
        .values()
        .filter_map(|lost| lost["since"].as_u64())
        .collect();
    at.sort_unstable();
    assert_eq!(at.len(), 3, "{registry}");
    for pair in at.windows(2) {
        // Of moments that are cut down to whole seconds.
        assert!(pair[1] - pair[0] >= PERIOD - 1, "{registry}");
    }
    site.until_agent_is("active");
}

#[test]
fn who_is_not_of_the_cluster_is_told_to_end_its_tasks() {
    if skip_unless_root() {
        return;
    }
    let mut site = Site::start();
    let id = site.task("long", "sleep 1000");
    site.until_task_is(&id, "running");
    // A registry that knows nothing of it: strict, unless it is told otherwise.
    site.kill_master();
    site.forget_registry();
    site.start_master();
    eventually("its task is ended", || {
        let agent = site.agent.as_ref()?;
        agent.container(&id).filter(|c| c["state"] == "destroyed")
    });
    assert!(site.log().contains("knows no agent"), "{}", site.log());
    let agents = site.cli(&["agents", "-o", "json"]).json();
    assert_eq!(agents.as_array().map(Vec::len), Some(0), "{agents}");
}

#[test]
fn an_agent_marked_gone_ends_its_tasks_and_stays_out() {
    if skip_unless_root() {
        return;
    }
    let mut site = Site::start();
    let id = site.task("long", "sleep 1000");
    site.until_task_is(&id, "running");
    let name = site.cli(&["agents", "-q"]).success().stdout.trim().to_owned();
    site.cli(&["agents", "gone", &name]).success();
    site.until_task_is(&id, "gone_by_operator");
    eventually("its task is ended", || {
        let agent = site.agent.as_ref()?;
        agent.container(&id).filter(|c| c["state"] == "destroyed")
    });
    site.agent().kill_hard();
    site.agent().spawn();
    eventually("it is refused", || {
        site.log()
            .contains("was marked gone and can't come back")
            .then_some(())
    });
}

#[test]
fn without_the_secret_nobody_gets_more_than_the_gate() {
    if skip_unless_root() {
        return;
    }
    let site = Site::start();
    let none = std::path::PathBuf::from("");
    let answer = site.cli_as(&["agents"], Some(&none));
    // The default place may have one of another master: that one is wrong here.
    assert!(
        answer.status == 1 && answer.stderr.contains("secret"),
        "{answer:?}"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let wrong = directory.path().join("wrong");
    std::fs::write(&wrong, r#"{"principal":"bulkhead","secret":"not-the-secret"}"#).expect("write it");
    let answer = site.cli_as(&["task", "run", "--", "true"], Some(&wrong));
    assert!(
        answer.status == 125 && answer.stderr.contains("secret is wrong"),
        "{answer:?}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(site.credential())
            .expect("its own credential")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    // Monitoring is on the same port, with the names that Mesos' tools know.
    let get = |path: &str| site.get(path);
    for path in [
        "/state",
        "/master/state.json",
        "/slaves/",
        "/tasks",
        "/registrar(1)/registry",
    ] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    assert!(get("/state").contains("\"activated_slaves\":1"));
    assert!(get("/metrics/snapshot").contains("\"master/slaves_active\":1.0"));
    let redirect = get("/redirect").to_lowercase();
    assert!(
        redirect.starts_with("http/1.1 307") && redirect.contains("location: //127.0.0.1:"),
        "{redirect}"
    );
}

#[test]
fn a_cluster_of_one_host_starts_with_one_command() {
    if skip_unless_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("its number").port()
    };
    let place = directory.path().display().to_string();
    let log = std::fs::File::create(directory.path().join("log")).expect("log file");
    let mut dev = Command::new(bulkhead())
        .args([
            "dev",
            "--http",
            "none",
            "--directory",
            &place,
            "--port",
            &port.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start dev");
    let log = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    eventually("it is ready", || log().contains("ready; try:").then_some(()));
    let output = Command::new(bulkhead())
        .args(["task", "run", "--cpus", "0.1", "--", "echo", "hello"])
        .env("BULKHEAD_MASTER", format!("127.0.0.1:{port}"))
        .env("BULKHEAD_CREDENTIAL", directory.path().join("master/credential"))
        .output()
        .expect("run a task");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello\n",
        "{output:?}\n{}",
        log()
    );
    let pid = nix::unistd::Pid::from_raw(dev.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("stop it");
    let status = eventually("it stops", || dev.try_wait().ok().flatten());
    assert!(status.success(), "{status}\n{}", log());
}
