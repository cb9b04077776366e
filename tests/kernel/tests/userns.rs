//! Containers with user ids of their own, through agent and command line.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Agent, eventually, skip_unless_root};

/// Three containers' worth, where no other test looks.
const SMALL_POOL: &str = "--userns-range=2000000000:3000";

fn base_of(agent: &Agent, name: &str) -> u64 {
    let inspection = agent.cli(&["inspect", name, "-o", "json"]).json();
    inspection["spec"]["userns"]["base"]
        .as_u64()
        .unwrap_or_else(|| panic!("no ids: {inspection}"))
}

fn pid_of(agent: &Agent, name: &str) -> i64 {
    agent.container(name).expect("running")["pid"]
        .as_i64()
        .expect("a pid")
}

fn run_detached(agent: &Agent, name: &str, flags: &[&str], script: &str) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(flags);
    arguments.extend(["--", "sh", "-c", script]);
    agent.cli(&arguments).success();
}

fn sandbox(agent: &Agent, name: &str) -> String {
    agent.container(name).expect("known")["sandbox"]
        .as_str()
        .expect("a sandbox")
        .to_owned()
}

/// A command on the host under an id that is some container's root: what whoever breaks out of its namespaces is.
fn as_host_id(id: u64, command: &[&str]) -> bool {
    let id = id.to_string();
    Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .args(command)
        .output()
        .expect("setpriv of util-linux")
        .status
        .success()
}

#[test]
fn its_ids_are_shown_and_are_those_of_its_processes() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    run_detached(&agent, "one", &["--userns"], "sleep 100");
    let base = base_of(&agent, "one");
    let pid = pid_of(&agent, "one");
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("its map");
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", base.to_string().as_str(), "65536"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    assert!(
        status.contains(&format!("Uid:\t{base}\t{base}\t{base}\t{base}")),
        "{status}"
    );
    let text = agent.cli(&["inspect", "one"]).success().stdout;
    assert!(
        text.contains(&format!("{base} to {} on the host", base + 65535)),
        "{text}"
    );
    let host = agent.cli(&["inspect", "--host", "-o", "json"]).json();
    let lines = host["isolators"].as_array().expect("lines");
    let line = lines
        .iter()
        .find(|line| line["name"] == "user namespaces")
        .expect("told");
    assert_eq!(line["active"], Value::Bool(true));
    assert!(
        line["mechanism"]
            .as_str()
            .is_some_and(|m| m.contains("pool of ids 2000224256:"))
    );
    // Without the flag, none.
    run_detached(&agent, "plain", &[], "sleep 100");
    let plain = agent.cli(&["inspect", "plain", "-o", "json"]).json();
    assert_eq!(plain["spec"]["userns"], Value::Null);
    let plain_pid = pid_of(&agent, "plain");
    let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).expect("a namespace");
    assert_eq!(own(&plain_pid.to_string()), own("self"));
}

#[test]
fn two_of_them_have_nothing_in_common() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    for name in ["left", "right"] {
        let script = "umask 077; echo secret > file; sleep 100";
        run_detached(&agent, name, &["--userns"], script);
    }
    let bases = ["left", "right"].map(|name| base_of(&agent, name));
    assert!(bases[0].abs_diff(bases[1]) >= 65536, "{bases:?}");
    let file = format!("{}/file", sandbox(&agent, "right"));
    eventually("it is written", || Path::new(&file).exists().then_some(()));
    assert_eq!(u64::from(fs::metadata(&file).expect("there").uid()), bases[1]);
    // Within: not even in sight.
    let right = pid_of(&agent, "right").to_string();
    let attack = format!("kill -9 {right}; cat {file}; cat /proc/{right}/environ; ls /proc/{right}/root");
    let tried = agent.cli(&["exec", "left", "--", "sh", "-c", &attack]);
    assert_ne!(tried.status, 0, "{tried:?}");
    assert_eq!(tried.stdout, "", "{tried:?}");
    // Outside, under the id of its root: a stranger to the other, to the host, and no better to its own files.
    let copy = agent.directory().join("passable");
    fs::set_permissions(agent.directory(), fs::Permissions::from_mode(0o755)).expect("passable");
    fs::write(&copy, "x").expect("a file of the host");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("mode");
    let environ = format!("/proc/{right}/environ");
    let agent_pid = agent.pid().to_string();
    for command in [
        vec!["kill", "-0", &right],
        vec!["cat", &environ],
        vec!["kill", "-0", &agent_pid],
        vec!["cat", &file],
        vec!["cat", copy.to_str().expect("UTF-8")],
    ] {
        assert!(!as_host_id(bases[0], &command), "{command:?}");
    }
    // The probe itself works: to its own processes it is no stranger.
    let own: Vec<String> = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid_of(&agent, "left")))
        .expect("its children")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert!(as_host_id(bases[0], &["kill", "-0", &own[0]]));
    assert_eq!(
        agent
            .cli(&["exec", "right", "--", "cat", "file"])
            .success()
            .stdout,
        "secret\n"
    );
}

#[test]
fn a_pool_that_is_used_up_says_so_and_gives_again() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[SMALL_POOL], &[]);
    let too_many = agent.cli(&["run", "--userns", "--", "true"]);
    assert_eq!(too_many.status, 125);
    assert!(
        too_many
            .stderr
            .contains("65536 ids are more than the whole pool 2000000000:3000"),
        "{too_many:?}"
    );
    let mut bases: Vec<u64> = ["c1", "c2", "c3"]
        .into_iter()
        .map(|name| {
            run_detached(&agent, name, &["--userns=1000"], "sleep 100");
            base_of(&agent, name)
        })
        .collect();
    bases.sort_unstable();
    assert_eq!(bases, [2_000_000_000, 2_000_001_000, 2_000_002_000]);
    let full = agent.cli(&["run", "--name", "c4", "--userns=1000", "--", "true"]);
    assert_eq!(full.status, 125);
    assert!(
        full.stderr.contains("no 1000 ids in a row are free") && full.stderr.contains("--userns-range"),
        "{full:?}"
    );
    // Nothing of it stays: neither its name nor anything else; and who needs no ids is not concerned.
    assert!(agent.container("c4").is_none());
    agent.cli(&["run", "--name", "c4", "--", "true"]).success();
    agent.cli(&["kill", "c2", "--grace", "0s"]).success();
    agent.cli(&["wait", "c2"]).success();
    run_detached(&agent, "c5", &["--userns=1000"], "sleep 100");
    assert_eq!(base_of(&agent, "c5"), 2_000_001_000);
}

#[test]
fn ids_stay_reserved_while_no_agent_is_there() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start_with(&[SMALL_POOL], &[]);
    run_detached(&agent, "old", &["--userns=2000"], "echo up; sleep 100");
    let (base, pid) = (base_of(&agent, "old"), pid_of(&agent, "old"));
    agent.kill_hard();
    agent.spawn();
    assert_eq!((base_of(&agent, "old"), pid_of(&agent, "old")), (base, pid));
    assert_eq!(agent.cli(&["logs", "old"]).success().stdout, "up\n");
    let full = agent.cli(&["run", "--userns=2000", "--", "true"]);
    assert!(full.stderr.contains("no 2000 ids in a row are free"), "{full:?}");
    run_detached(&agent, "new", &["--userns=1000"], "sleep 100");
    let new = base_of(&agent, "new");
    assert!(new >= base + 2000 || new + 1000 <= base, "{base} {new}");
    let again = agent
        .cli(&["exec", "old", "--", "cat", "/proc/self/uid_map"])
        .success()
        .stdout;
    assert_eq!(again.split_whitespace().nth(1), Some(base.to_string().as_str()));
    agent.cli(&["kill", "old", "--grace", "0s"]).success();
    assert_eq!(agent.cli(&["wait", "old"]).success().stdout, "137\n");
}

#[test]
fn volumes_of_a_host_keep_their_owners() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // Not below /tmp, which may be a tmpfs.
    let data = tempfile::tempdir_in("/var/lib").expect("a directory");
    fs::write(data.path().join("users"), "before").expect("a file");
    chown(data.path().join("users"), Some(1000), Some(1000)).expect("its owner");
    let spec = format!("{}:/srv", data.path().display());
    let script = "stat -c '%u %g' users && echo >> users && touch roots && chown 33:34 roots && cat users";
    let answer = agent.cli(&[
        "run", "--userns", "-v", &spec, "-w", "/srv", "--", "sh", "-c", script,
    ]);
    if answer.stderr.contains("no mounts with mapped ids") {
        eprintln!("SKIPPED: {}", answer.stderr);
        return;
    }
    assert_eq!(answer.success().stdout, "1000 1000\nbefore\n");
    let facts = |name: &str| fs::metadata(data.path().join(name)).expect("there");
    assert_eq!((facts("roots").uid(), facts("roots").gid()), (33, 34));
    assert_eq!((facts("users").uid(), facts("users").len()), (1000, 7));
}

#[test]
fn what_can_not_map_ids_is_refused_before_anything_is_made() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let answer = agent.cli(&[
        "run",
        "--name",
        "x",
        "--userns",
        "-v",
        "/proc/fs:/srv:ro",
        "--",
        "true",
    ]);
    assert_eq!(answer.status, 125);
    assert!(
        answer.stderr.contains("/proc/fs") && answer.stderr.contains("mapped ids"),
        "{answer:?}"
    );
    assert!(agent.container("x").is_none());
    for wrong in ["--userns=0", "--userns=many", "--userns=-1"] {
        assert_ne!(agent.cli(&["run", wrong, "--", "true"]).status, 0, "{wrong}");
    }
}

#[test]
fn ids_of_somebody_else_are_never_given() {
    if skip_unless_root() {
        return;
    }
    // The host's own accounts are below; an account in the pool is simulated by a pool around one.
    let passwd = fs::read_to_string("/etc/passwd").expect("accounts");
    let Some(high) = passwd
        .lines()
        .filter_map(|line| line.split(':').nth(2)?.parse::<u64>().ok())
        .find(|id| *id >= 65536)
    else {
        let refused = Command::new(support::bulkhead())
            .args(["agent", "--userns-range=1000:65536"])
            .output()
            .expect("the agent");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && text.contains("own accounts"),
            "{text}"
        );
        return;
    };
    let agent = Agent::start_with(&[&format!("--userns-range={high}:65536")], &[]);
    let answer = agent.cli(&["run", "--userns", "--", "true"]);
    assert!(answer.stderr.contains("/etc/passwd"), "{answer:?}");
}

#[test]
fn a_real_service_serves_and_owners_change_as_package_managers_change_them() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "umask 022; mkdir -p usr/bin var/cache; cp /bin/true usr/bin/tool; chown -R 100:101 var; \
         chmod 4755 usr/bin/tool; tar cf all.tar usr var; mkdir copy; tar xpf all.tar -C copy --same-owner; \
         stat -c '%u:%g %a' copy/var copy/usr/bin/tool; rm -r usr var copy";
    let owners = agent.cli(&[
        "run", "--rm", "--userns", "--mem", "64MB", "--pids", "20", "--", "sh", "-c", script,
    ]);
    assert_eq!(owners.success().stdout, "100:101 755\n0:0 4755\n");
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    let serve = "echo served > index.html; exec python3 -u -m http.server 8000 --bind 127.0.0.1";
    run_detached(
        &agent,
        "web",
        &["--userns", "--network", "none", "--mem", "128MB"],
        serve,
    );
    let fetch =
        "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/').read().decode(), end='')";
    let page = eventually("it serves", || {
        let answer = agent.cli(&["exec", "web", "--", "python3", "-c", fetch]);
        (answer.status == 0).then_some(answer.stdout)
    });
    assert_eq!(page, "served\n");
    let usage = agent.cli(&["stats", "web", "-o", "json"]).json();
    assert!(
        usage[0]["statistics"]["mem_total_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    );
    let ended = agent.cli(&["kill", "web", "--grace", "1s"]);
    assert_eq!(ended.status, 0, "{ended:?}");
}

#[test]
fn limits_hold_in_it() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let eat = "x=a; while :; do x=$x$x; done";
    let eaten = agent.cli(&["run", "--userns", "--mem", "32MB", "--", "sh", "-c", eat]);
    assert_eq!(eaten.status, 137, "{eaten:?}");
    assert!(eaten.stderr.contains("memory limit"), "{eaten:?}");
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait";
    let refused = agent.cli(&[
        "run",
        "--userns",
        "--pids",
        "5",
        "--timeout",
        "1s",
        "--",
        "sh",
        "-c",
        forks,
    ]);
    assert!(refused.stderr.to_lowercase().contains("fork"), "{refused:?}");
}
