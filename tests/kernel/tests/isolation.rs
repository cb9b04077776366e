//! What a container can see and touch.

use support::{Agent, skip_unless_root};

/// Runs a script in a container and returns what it printed.
#[track_caller]
fn inside(agent: &Agent, flags: &[&str], script: &str) -> String {
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(flags);
    arguments.extend(["--", "sh", "-c", script]);
    let answer = agent.cli(&arguments);
    assert_eq!(answer.status, 0, "{script}: {answer:?}");
    answer.stdout.trim().to_owned()
}

#[test]
fn the_root_is_read_only_and_the_rest_is_private() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let say = |script: &str| inside(&agent, &[], script);
    assert_eq!(say("touch /etc/x 2>/dev/null || echo refused"), "refused");
    assert_eq!(say("touch /usr/x 2>/dev/null || echo refused"), "refused");
    std::fs::write("/tmp/bulkhead-canary-file", "x").expect("a file on the host");
    let seen = say("ls /tmp/bulkhead-canary-file 2>/dev/null || echo unseen; touch /tmp/mine && echo made");
    std::fs::remove_file("/tmp/bulkhead-canary-file").expect("remove it again");
    assert_eq!(seen, "unseen\nmade");
    assert_eq!(say("echo data > file && cat $PWD/file"), "data");
    assert!(
        say("ls /proc | grep -c '^[0-9]'")
            .parse::<u32>()
            .expect("a count")
            < 6
    );
    assert_eq!(
        say("echo $$ > /dev/shm/x && echo $((1+1)) > /dev/null && cat /dev/shm/x | wc -l"),
        "1"
    );
}

#[test]
fn the_agents_own_directories_are_out_of_reach() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = format!(
        "ls {}/containers {} 2>&1 | grep -c agent.sock; true",
        agent.work_dir().display(),
        agent.runtime_dir().display()
    );
    assert_eq!(inside(&agent, &[], &script), "0");
    // Nothing of the agent's environment or arguments is in it either.
    assert_eq!(inside(&agent, &[], "env | grep -c BULKHEAD_AGENT; true"), "0");
}

#[test]
fn kernel_interfaces_that_reach_the_host_are_closed() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    for script in [
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "mount -t tmpfs none /mnt",
        "unshare -m true",
        "mknod /tmp/sda b 254 0 && head -c 1 /tmp/sda",
        "chroot /proc/1/root ls /work",
        "hostname other",
        "date -s 2020-01-01",
        "dmesg",
        "echo 1 > /sys/kernel/mm/ksm/run",
    ] {
        let answer = agent.cli(&["run", "--rm", "--", "sh", "-c", script]);
        assert_ne!(answer.status, 0, "{script}: {answer:?}");
    }
}

#[test]
fn privileges_are_few() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let status = inside(&agent, &[], "cat /proc/self/status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().nth(1).expect("a value").to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    let effective = u64::from_str_radix(&field("CapEff:"), 16).expect("hex");
    for (name, number) in [
        ("SYS_ADMIN", 21),
        ("SYS_PTRACE", 19),
        ("NET_ADMIN", 12),
        ("SYS_MODULE", 16),
        ("MKNOD", 27),
    ] {
        assert_eq!(effective & (1 << number), 0, "CAP_{name} is there");
    }
    assert_eq!(field("CapBnd:"), field("CapEff:"));
    let dropped = inside(&agent, &["--cap-drop", "ALL"], "grep CapEff /proc/self/status");
    assert!(dropped.ends_with("0000000000000000"), "{dropped}");
}

#[test]
fn only_three_descriptors_are_open() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // Without listing the directory: that would open one more.
    let script = "for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e /proc/$$/fd/$n ] && echo $n; done; true";
    assert_eq!(inside(&agent, &[], script), "0\n1\n2");
}

#[test]
fn user_directory_environment_and_host_name_are_as_asked() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    assert_eq!(inside(&agent, &["--user", "nobody"], "id -u"), "65534");
    assert_eq!(
        inside(&agent, &["--user", "1234:4321"], "echo $(id -u) $(id -g)"),
        "1234 4321"
    );
    assert_eq!(inside(&agent, &["--workdir", "/usr"], "pwd"), "/usr");
    assert_eq!(inside(&agent, &["--env", "A=b c"], "echo $A"), "b c");
    assert_eq!(inside(&agent, &["--hostname", "deck-9"], "uname -n"), "deck-9");
    assert_eq!(
        inside(&agent, &["--rlimit", "nofile=123:456"], "ulimit -n; ulimit -Hn"),
        "123\n456"
    );
    assert_eq!(
        inside(&agent, &["--user", "nobody"], "echo x > mine && cat mine"),
        "x"
    );
}

#[test]
fn volumes_are_mounted_as_asked() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let host = agent.directory().join("shared");
    std::fs::create_dir(&host).expect("a directory");
    std::fs::write(host.join("in"), "from the host").expect("a file");
    let volume = format!("{}:/tmp/shared", host.display());
    assert_eq!(
        inside(
            &agent,
            &["-v", &volume],
            "cat /tmp/shared/in; echo back > /tmp/shared/out"
        ),
        "from the host"
    );
    assert_eq!(
        std::fs::read_to_string(host.join("out")).expect("written inside"),
        "back\n"
    );
    let read_only = format!("{volume}:ro");
    assert_eq!(
        inside(
            &agent,
            &["-v", &read_only],
            "touch /tmp/shared/x 2>/dev/null || echo refused"
        ),
        "refused"
    );
}

#[test]
fn a_root_file_system_stays_untouched() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let root = agent.directory().join("rootfs");
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("busybox-static is installed by scripts/setup --tests");
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("a link");
    let path = root.display().to_string();
    let answer = agent.cli(&[
        "run", "--rm", "--rootfs", &path, "--", "sh", "-c",
        "busybox touch /made && busybox rm /bin/sh && busybox ls / && busybox cat /proc/self/cgroup >/dev/null && echo ok",
    ]);
    assert!(answer.success().stdout.contains("ok"));
    let left: Vec<_> = std::fs::read_dir(&root)
        .expect("the root")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["bin"]);
    assert!(root.join("bin/sh").exists());
}

#[test]
fn a_container_without_network_has_loopback_only() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let seen = inside(
        &agent,
        &["--network", "none"],
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '",
    );
    assert_eq!(seen, "lo");
}

#[test]
fn a_tree_too_deep_for_a_stack_ends_nobody() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let deep = "import os\nfor i in range(60000): os.mkdir('d'); os.chdir('d')\nprint('made')";
    let answer = agent.cli(&["run", "--rm", "--", "/usr/bin/python3", "-c", deep]);
    assert_eq!((answer.status, answer.stdout.trim()), (0, "made"), "{answer:?}");
    assert_eq!(inside(&agent, &[], "echo still here"), "still here");
}

#[test]
fn a_container_is_no_client_of_the_agent() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // The operator himself puts the socket within reach: its peer is still in a container.
    let linked = agent.directory().join("linked");
    std::fs::create_dir(&linked).expect("a directory");
    std::fs::hard_link(agent.socket(), linked.join("agent.sock")).expect("another name");
    let directory = linked.display().to_string();
    let program = support::bulkhead();
    let program_directory = program.parent().expect("a directory").display().to_string();
    let answer = agent.cli(&[
        "run",
        "--rm",
        "-v",
        &format!("{directory}:/tmp/socket"),
        "-v",
        &format!("{program_directory}:/tmp/program:ro"),
        "--",
        "/tmp/program/bulkhead",
        "ps",
        "--agent",
        "unix:/tmp/socket/agent.sock",
    ]);
    assert_ne!(answer.status, 0, "{answer:?}");
    assert!(answer.stderr.contains("in a container"), "{answer:?}");
}

#[test]
fn a_link_in_a_volumes_source_is_not_followed_after_admission() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let (real, shared) = (agent.directory().join("real"), agent.directory().join("shared"));
    std::fs::create_dir(&real).expect("a directory");
    std::fs::create_dir_all(shared.join("sub")).expect("a directory");
    std::fs::write(shared.join("sub/mark"), "inside").expect("a file");
    // A living container that may change the directory.
    let holder = format!("{}:/tmp/v", shared.display());
    agent
        .cli(&[
            "run", "-d", "--name", "holder", "-v", &holder, "--", "sleep", "1000",
        ])
        .success();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (sub, link) = (shared.join("sub"), shared.join("link"));
    std::os::unix::fs::symlink("/", &link).expect("a link");
    std::thread::scope(|scope| {
        // As a container that shares the parent directory could: the name is now a directory, now a link to the root.
        scope.spawn(|| {
            let aside = shared.join("aside");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = std::fs::rename(&sub, &aside);
                let _ = std::fs::rename(&link, &sub);
                let _ = std::fs::rename(&sub, &link);
                let _ = std::fs::rename(&aside, &sub);
            }
        });
        let volume = format!("{}:/tmp/v", sub.display());
        let probe = "touch /tmp/v/etc/probe 2>/dev/null && echo ESCAPED; true";
        let run = ["run", "--rm", "-v", &volume, "--", "sh", "-c", probe];
        let escaped = (0..support::repetitions(60))
            .find_map(|_| Some(agent.cli(&run)).filter(|a| a.stdout.contains("ESCAPED")));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(escaped.is_none(), "{escaped:?}");
    });
    assert!(!std::path::Path::new("/etc/probe").exists());
}

#[test]
fn an_exec_without_stdin_does_not_open_the_containers_null_device() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent.background("c", "rm -f /dev/null; ln -s /proc/1/mem /dev/null; sleep 100");
    let link = agent.cli(&["exec", "c", "--", "readlink", "/proc/self/fd/0"]);
    assert!(!link.stdout.contains("mem"), "{link:?}");
}
