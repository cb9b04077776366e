//! What finished containers leave goes in time, nothing else does, and whatever is in the way stops nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{Agent, eventually, patience, skip_unless_root};

fn entries(path: PathBuf) -> usize {
    fs::read_dir(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .count()
}

fn run(agent: &Agent, name: &str, script: &str) -> String {
    agent
        .cli(&["run", "--name", name, "--", "sh", "-c", script])
        .success();
    id_of(agent, name)
}

fn id_of(agent: &Agent, name: &str) -> String {
    agent.container(name).expect("remembered")["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

fn sandbox(agent: &Agent, id: &str) -> PathBuf {
    agent.work_dir().join("sandboxes").join(id)
}

fn events(agent: &Agent, kind: &str) -> Vec<Value> {
    let text = agent
        .cli(&["events", "--since", "0", "-o", "json"])
        .success()
        .stdout;
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|event| event["event"] == kind)
        .collect()
}

fn tool(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .status()
        .is_ok_and(|status| status.success())
}

/// As if the container had ended so long ago.
fn make_old(path: &Path, age: Duration) {
    let directory = fs::File::open(path).expect("a sandbox");
    directory
        .set_modified(SystemTime::now() - age)
        .expect("set its time");
}

/// A mount that goes with its scope.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("a mount point");
        let options = format!("size={size}");
        let path = at.to_str().expect("text");
        assert!(tool("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", path]));
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        tool("umount", &["-l", self.0.to_str().unwrap_or("")]);
    }
}

#[test]
fn what_is_too_old_goes_and_what_runs_stays() {
    if skip_unless_root() {
        return;
    }
    // Long enough for asking what the container's id was.
    let delay = format!("--gc-delay={}s", patience(1).as_secs());
    let agent = Agent::start_with(&[&delay, "--disk-watch-interval=100ms"], &[]);
    agent.background("lives", "echo x > f; sleep 100");
    let ended = run(&agent, "ended", "mkdir -p a/b; echo x > a/b/f; echo said");
    eventually("it is gone", || (!sandbox(&agent, &ended).exists()).then_some(()));
    eventually("its record is gone", || {
        agent.container("ended").is_none().then_some(())
    });
    assert!(!agent.work_dir().join("output").join(&ended).exists());
    let lives = id_of(&agent, "lives");
    assert!(sandbox(&agent, &lives).join("f").exists());
    let told = events(&agent, "sandbox_removed");
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0]["name"], told[0]["files"].as_u64()),
        (&Value::from("ended"), Some(2))
    );
    // It goes in its turn.
    agent.cli(&["kill", "lives", "--grace", "0s"]).success();
    eventually("the other is gone", || {
        (entries(agent.work_dir().join("sandboxes")) == 0).then_some(())
    });
}

#[test]
fn age_is_known_to_the_next_agent() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start_with(&["--gc-delay=2h", "--disk-watch-interval=100ms"], &[]);
    let young = run(&agent, "young", "touch -d 2000-01-01 .");
    let old = run(&agent, "old", "touch -d 2100-01-01 .");
    let promised = run(&agent, "promised", "echo x > f");
    agent.kill_hard();
    make_old(&sandbox(&agent, &old), Duration::from_secs(7200));
    fs::write(agent.work_dir().join("removals").join(&promised), b"").expect("a note");
    let aside = agent.work_dir().join("set-aside");
    fs::create_dir_all(&aside).expect("a directory");
    fs::write(aside.join("unreadable.checkpoint"), b"x").expect("a record");
    make_old(&aside.join("unreadable.checkpoint"), Duration::from_secs(7200));
    agent.spawn();
    eventually("the old ones are gone", || {
        let left = [sandbox(&agent, &old), sandbox(&agent, &promised)];
        let notes = entries(agent.work_dir().join("removals")) + entries(aside.clone());
        (notes == 0 && !left.iter().any(|path| path.exists())).then_some(())
    });
    // Its own time was set when it ended, whatever it had set itself.
    assert!(sandbox(&agent, &young).exists());
    let listed = agent.cli(&["gc", "--all", "--dry-run", "-o", "json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    agent.cli(&["gc", &young[..8]]).success();
    assert!(!sandbox(&agent, &young).exists());
}

#[test]
fn a_full_disk_takes_all_that_has_ended() {
    if skip_unless_root() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let disk = scratch.path().join("disk");
    let mount = Mount::tmpfs(&disk, "16m");
    let work = format!("--work-dir={}", disk.join("work").display());
    let agent = Agent::start_with(&[&work, "--disk-watch-interval=100ms"], &[]);
    let place = |id: &str| disk.join("work/sandboxes").join(id);
    let first = run(&agent, "first", "head -c 4000000 /dev/zero > f");
    let second = run(&agent, "second", "head -c 4000000 /dev/zero > f");
    std::thread::sleep(Duration::from_millis(400));
    assert!(place(&first).exists() && place(&second).exists());
    agent.background("big", "head -c 7500000 /dev/zero > f; sleep 100");
    eventually("room is made", || {
        (!place(&first).exists() && !place(&second).exists()).then_some(())
    });
    assert!(place(&id_of(&agent, "big")).join("f").exists());
    let told = events(&agent, "sandbox_removed");
    let names: Vec<_> = told
        .iter()
        .map(|event| event["name"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(names, ["first", "second"], "the oldest first");
    agent.finish();
    drop(mount);
}

#[test]
fn a_dangling_mount_is_not_deleted_through() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&["--gc-delay=0s", "--disk-watch-interval=100ms"], &[]);
    agent.background("c", "mkdir -p deep/er/m; echo x > deep/f; sleep 100");
    let id = id_of(&agent, "c");
    let point = sandbox(&agent, &id).join("deep/er/m");
    eventually("the mount point", || point.exists().then_some(()));
    // A bind mount: the same file system, so that its device tells nothing.
    let outside = agent.directory().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("precious"), b"x").expect("a file");
    let (from, to) = (outside.to_str().expect("text"), point.to_str().expect("text"));
    assert!(tool("mount", &["--bind", from, to]));
    let mount = Mount(point.clone());
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
    let trouble = eventually("it is told", || events(&agent, "cleanup_retry").pop());
    assert!(
        trouble["message"].as_str().is_some_and(|m| m.contains("mounted")),
        "{trouble}"
    );
    let asked = agent.cli(&["gc", "c"]);
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stdout.contains("unmount it first"), "{asked:?}");
    assert!(outside.join("precious").exists() && sandbox(&agent, &id).join("deep/f").exists());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(events(&agent, "cleanup_retry").len(), 1, "told once");
    drop(mount);
    agent.cli(&["gc", "c"]).success();
    assert!(!sandbox(&agent, &id).exists() && outside.join("precious").exists());
    assert!(agent.container("c").is_none());
}

#[test]
fn links_lead_nowhere_and_a_huge_tree_holds_nobody_up() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let outside = agent.directory().join("outside");
    fs::create_dir_all(outside.join("sub")).expect("a directory");
    fs::write(outside.join("sub/kept"), b"x").expect("a file");
    let script = "ln -s / root; ln -s .. up; mkdir d; ln -s ../../../../outside d/out
        mkdir many; cd many; for d in 0 1 2 3 4 5 6 7 8 9; do mkdir $d; (cd $d; seq 2000 | xargs touch); done
        for d in $(seq 300); do mkdir -p x; cd x; done";
    let id = run(&agent, "big", script);
    std::os::unix::fs::symlink(&outside, sandbox(&agent, &id).join("absolute")).expect("a link");
    let mut removing = agent.command(&["gc", "big"]).spawn().expect("a client");
    agent.cli(&["run", "--rm", "--", "true"]).success();
    assert!(removing.wait().expect("its end").success());
    assert!(!sandbox(&agent, &id).exists());
    assert!(outside.join("sub/kept").exists());
    // The same at once, at its end.
    agent.cli(&["run", "--rm", "--", "sh", "-c", script]).success();
    eventually("all is gone", || {
        (entries(agent.work_dir().join("sandboxes")) == 0).then_some(())
    });
}

#[test]
fn what_can_not_be_removed_is_told_once_and_holds_no_end_up() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let mut command = agent.command(&[
        "run",
        "--rm",
        "--name",
        "c",
        "--",
        "sh",
        "-c",
        "mkdir d; echo x > d/f; sleep 100",
    ]);
    let mut client = command.spawn().expect("a client");
    let file = eventually("the file", || {
        let id = agent.container("c")?["id"].as_str()?.to_owned();
        Some(sandbox(&agent, &id).join("d/f")).filter(|path| path.exists())
    });
    let path = file.to_str().expect("text");
    if !tool("chattr", &["+i", path]) {
        eprintln!("SKIPPED: chattr +i does not work here");
        agent.cli(&["kill", "c", "--grace", "0s"]);
        let _ = client.wait();
        return;
    }
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
    assert_eq!(client.wait().expect("its end").code(), Some(137));
    let told = eventually("it is told", || events(&agent, "cleanup_retry").pop());
    assert!(
        told["message"].as_str().is_some_and(|m| m.contains("chattr")),
        "{told}"
    );
    assert!(tool("chattr", &["-i", path]));
    eventually("it goes by itself", || {
        (entries(agent.work_dir().join("sandboxes")) == 0).then_some(())
    });
    assert_eq!(events(&agent, "cleanup_retry").len(), 1);
}

#[test]
fn a_directory_that_was_given_to_another_container_stays() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&["--gc-delay=0s", "--disk-watch-interval=1h"], &[]);
    let id = run(&agent, "first", "echo x > f");
    let volume = format!("{}:/mnt", sandbox(&agent, &id).display());
    let other = agent.cli(&["run", "-d", "--name", "user", "-v", &volume, "--", "sleep", "100"]);
    if other.status != 0 {
        // Not offered: then nothing can be lost either.
        return;
    }
    let refused = agent.cli(&["gc", "first"]);
    assert!(
        refused.status != 0 && refused.stderr.contains("given"),
        "{refused:?}"
    );
    assert_eq!(
        agent.cli(&["gc", "--all", "--dry-run", "-o", "json"]).json(),
        Value::Array(vec![])
    );
    assert!(sandbox(&agent, &id).join("f").exists());
    agent.cli(&["kill", "user", "--grace", "0s"]).success();
    eventually("both go", || {
        agent.cli(&["gc", "--all"]);
        (entries(agent.work_dir().join("sandboxes")) == 0).then_some(())
    });
}

/// Launches under an id of our own choice, and waits: its exit status, or why it was refused.
fn launch_as(agent: &Agent, id: &str, script: &str) -> Result<i32, model::Fault> {
    let endpoint: client::Endpoint = agent.endpoint().parse().expect("an endpoint");
    let spec = model::LaunchSpec {
        id: Some(id.parse().expect("an id")),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..model::LaunchSpec::default()
    };
    let launched = net::run(net::Config::default(), async move {
        let agent = client::Agent::connect(&endpoint).await?;
        let (_launched, waiting) = agent.launch_and_wait(&spec, None, false).await?;
        waiting.await.map(|end| end.exit_status)
    });
    launched.expect("a loop")
}

#[test]
fn an_id_is_free_again_when_its_sandbox_is_gone() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let script = "test ! -e f && echo x > f";
    assert_eq!(launch_as(&agent, "again", script), Ok(0));
    agent.kill_hard();
    agent.spawn();
    let refused = launch_as(&agent, "again", script).expect_err("a refusal");
    let remedy = refused.remedy.clone().unwrap_or_default();
    assert!(remedy.contains("bulkhead gc again"), "{refused:?}");
    assert!(sandbox(&agent, "again").join("f").exists());
    agent.cli(&["gc", "--dry-run", "again"]).success();
    assert!(sandbox(&agent, "again").join("f").exists());
    let gone = agent.cli(&["gc", "again", "-o", "json"]).json();
    assert_eq!(
        (gone[0]["files"].as_u64(), gone[0]["trouble"].is_null()),
        (Some(1), true),
        "{gone}"
    );
    assert_eq!(launch_as(&agent, "again", script), Ok(0));
    for line in [
        &["gc", "nobody"][..],
        &["gc", "--all", "x"],
        &["gc", "--older-than", "1h", "--all"],
    ] {
        assert_ne!(agent.cli(line).status, 0, "{line:?}");
    }
}
