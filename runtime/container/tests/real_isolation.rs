//! Real containers: what a command can see and do. The attacker is root in the container.

mod harness;

use std::fs;

use harness::{World, shell, spec};
use model::{Capabilities, Seccomp, Volume};

#[test]
fn exactly_three_descriptors_are_open() {
    let world = World::new();
    // `3` is the directory that ls itself reads.
    assert_eq!(world.output(&spec(&["ls", "/proc/self/fd"])), "0\n1\n2\n3\n");
    let null = world.output(&shell("readlink /proc/self/fd/0"));
    assert_eq!(null, "/dev/null\n");
}

#[test]
fn the_hosts_root_is_read_only_and_tmp_is_private() {
    let world = World::new();
    let marker = format!("/tmp/bulkhead-marker-{}", std::process::id());
    fs::write(&marker, "host").unwrap();
    let script = format!(
        "touch /etc/x 2>/dev/null && echo wrote /etc; touch /var/lib/x 2>/dev/null && echo wrote /var; \
         test -e {marker} && echo sees host tmp; touch /tmp/y && stat -c %a /tmp /var/tmp /dev/shm /run; \
         ls -A /tmp /run"
    );
    let output = world.output(&shell(&script));
    fs::remove_file(&marker).unwrap();
    assert_eq!(output, "1777\n1777\n1777\n755\n/run:\n\n/tmp:\ny\n");
    assert!(!std::path::Path::new("/tmp/y").exists());
}

#[test]
fn the_agents_directories_are_out_of_reach_but_for_the_sandbox() {
    let world = World::new();
    fs::write(world.work_dir().join("secret"), "s").unwrap();
    let dir = world.work_dir().display().to_string();
    let script = format!("pwd; echo hi > out; ls {dir}; cat {dir}/secret; touch {dir}/x; ls -a {dir}/c0");
    let ended = world.run(&shell(&script)).unwrap();
    let expected = format!("{dir}/c0/sandbox\nc0\n.\n..\nsandbox\n");
    assert_eq!(ended.stdout, expected);
    assert!(ended.stderr.contains("Read-only file system"), "{}", ended.stderr);
    assert_eq!(
        fs::read_to_string(world.work_dir().join("c0/sandbox/out")).unwrap(),
        "hi\n"
    );
}

#[test]
fn kernel_interfaces_are_masked_or_read_only() {
    let world = World::new();
    let output = world.output(
        &shell(
            "cat /proc/keys /proc/timer_list /proc/kpageflags /proc/kcore 2>/dev/null | wc -c; \
         ls -A /sys/firmware /proc/acpi | wc -w; \
         for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                  /sys/kernel/uevent_seqnum /sys/fs/cgroup/memory/memory.limit_in_bytes; do \
            (echo x > $f) 2>/dev/null && echo wrote $f; done; \
         ls -A /sys/fs/bpf /sys/kernel/debug | wc -w; ls /proc | grep -c '^[0-9]'; true",
        )
        .clone(),
    );
    // Two directories are named; two processes and the commands of the pipe are there.
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..2], ["0", "2"], "{output}");
    assert_eq!(lines[2], "2", "{output}");
}

#[test]
fn own_cgroups_are_visible_and_read_only() {
    let world = World::new();
    let roots = ["memory", "pids"].map(|name| format!("/sys/fs/cgroup/{name}"));
    if !roots
        .iter()
        .all(|root| std::path::Path::new(root).join("cgroup.procs").exists())
    {
        eprintln!("skipped: no v1 hierarchies");
        return;
    }
    let groups: Vec<_> = roots
        .iter()
        .map(|root| {
            std::path::Path::new(root).join(format!("bulkhead-container-test-{}", std::process::id()))
        })
        .collect();
    for group in &groups {
        fs::create_dir(group).unwrap();
    }
    fs::write(groups[0].join("memory.limit_in_bytes"), "64M").unwrap();
    let spec = shell(
        "ls /sys/fs/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; grep 'memory\\|pids' /proc/self/cgroup; \
         echo $$ > /sys/fs/cgroup/memory/cgroup.procs; echo 1 > /sys/fs/cgroup/pids/pids.max; \
         grep '/sys/fs/cgroup' /proc/self/mounts | tail -3",
    );
    let mut running = world
        .prepare_with(&spec, |request| {
            for group in &groups {
                let procs = fs::OpenOptions::new()
                    .write(true)
                    .open(group.join("cgroup.procs"))
                    .unwrap();
                request.fds.cgroup_procs.push(procs.into());
            }
        })
        .unwrap();
    running.open_gate().unwrap();
    let ended = running.wait();
    for group in &groups {
        harness::wait_until("the group is empty", || fs::remove_dir(group).is_ok());
    }
    assert!(ended.stdout.starts_with("memory\npids\n67108864\n"), "{ended:?}");
    assert!(
        ended.stdout.contains("memory:/\n") && ended.stdout.contains("pids:/\n"),
        "{ended:?}"
    );
    assert_eq!(ended.stderr.matches("Read-only").count(), 2, "{ended:?}");
    assert_eq!(
        ended.stdout.matches(" ro,nosuid,nodev,noexec").count(),
        3,
        "{ended:?}"
    );
}

fn status_line(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("{name}: {status}"));
    line.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn capabilities_are_few_and_never_inheritable() {
    let world = World::new();
    let status = world.output(&spec(&["cat", "/proc/self/status"]));
    let expected = container::plan::default_capabilities().0;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(
            u64::from_str_radix(&status_line(&status, set), 16).unwrap(),
            expected,
            "{set}"
        );
    }
    assert_eq!(status_line(&status, "CapInh"), "0000000000000000");
    assert_eq!(status_line(&status, "CapAmb"), "0000000000000000");
    assert_eq!(
        (
            status_line(&status, "NoNewPrivs"),
            status_line(&status, "Seccomp:")
        ),
        ("1".into(), "2".into())
    );
    assert_eq!(status_line(&status, "SigBlk"), "0000000000000000");
    assert_eq!(status_line(&status, "SigIgn"), "0000000000000000");
    assert_eq!(status_line(&status, "Umask"), "0022");
}

#[test]
fn a_user_has_no_capabilities_unless_they_are_added() {
    let world = World::new();
    let mut spec = spec(&["cat", "/proc/self/status"]);
    spec.user = Some("nobody".into());
    spec.workdir = Some("/".into());
    let status = world.output(&spec);
    assert_eq!(status_line(&status, "Uid"), "65534");
    assert_eq!(status_line(&status, "CapEff"), "0000000000000000");
    spec.capabilities = Capabilities {
        add: vec!["NET_BIND_SERVICE".into()],
        drop: vec!["ALL".into()],
    };
    let status = world.output(&spec);
    for set in ["CapEff", "CapAmb", "CapBnd", "CapPrm"] {
        assert_eq!(status_line(&status, set), "0000000000000400", "{set}");
    }
}

#[test]
fn users_are_looked_up_in_the_container() {
    let world = World::new();
    let mut spec = spec(&["sh", "-c", "id -u; id -g; id -G; echo $HOME"]);
    spec.workdir = Some("/".into());
    for (user, expected) in [
        ("daemon", "1\n1\n1\n/usr/sbin\n"),
        ("1:2", "1\n2\n2\n/usr/sbin\n"),
        ("4242:tty", "4242\n5\n5\n/\n"),
        ("4242", "4242\n0\n0\n/\n"),
        ("0", "0\n0\n0\n/root\n"),
    ] {
        spec.user = Some(user.into());
        assert_eq!(world.output(&spec), expected, "{user}");
    }
    spec.user = Some("no-such-user".into());
    let fault = world.run(&spec).unwrap_err();
    assert!(fault.message.contains("no user \"no-such-user\""), "{fault}");
}

#[test]
fn the_system_call_filter_denies_mounts_and_namespaces() {
    let world = World::new();
    let script =
        "unshare -U true 2>&1; unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; umount /tmp 2>&1; true";
    let output = world.output(&shell(script));
    let refusals = ["not permitted", "denied", "must be superuser"];
    assert_eq!(
        refusals
            .map(|text| output.matches(text).count())
            .iter()
            .sum::<usize>(),
        4,
        "{output}"
    );
    let mut open = shell("unshare -U true && echo made");
    open.seccomp = Seccomp::Unconfined;
    assert_eq!(world.output(&open), "made\n");
}

#[test]
fn the_init_can_not_be_looked_into_or_killed_from_inside() {
    let world = World::new();
    let ended = world
        .run(&shell("cat /proc/1/environ; cat /proc/1/exe; readlink /proc/1/exe; for f in 3 4 5; do readlink /proc/1/fd/$f; cat /proc/1/fd/$f; done; echo x > /proc/1/mem; kill -9 1; sleep 0.05; echo alive"))
        .unwrap();
    assert_eq!(ended.stdout, "alive\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("Permission denied"), "{}", ended.stderr);
}

#[test]
fn devices_are_the_usual_ones() {
    let world = World::new();
    let output = world.output(&shell("ls /dev; echo x > /dev/null; head -c 4 /dev/zero | wc -c; ls -l /dev/ptmx; grep ' /dev' /proc/self/mounts"));
    let names: Vec<&str> = output.lines().take(13).collect();
    assert_eq!(
        names,
        [
            "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero"
        ],
        "{output}"
    );
    let ended = world.run(&shell("mknod /tmp/x c 1 3")).unwrap();
    assert_ne!(ended.record.unwrap().exit_status(), 0);
}

#[test]
fn hostname_environment_and_directory_are_the_containers() {
    let world = World::new();
    let mut spec = shell("hostname; env | grep -v '^_=\\|^PWD=\\|^SHLVL=\\|^OLDPWD' | sort; pwd");
    spec.env = vec![
        ("A".into(), "b=c".into()),
        ("PATH".into(), "/usr/bin:/bin".into()),
    ];
    spec.workdir = Some("/usr".into());
    let sandbox = format!("{}/c0/sandbox", world.work_dir().display());
    let expected = format!(
        "host0\nA=b=c\nBULKHEAD_CONTAINER_ID=c0\nBULKHEAD_SANDBOX={sandbox}\nHOME=/root\nHOSTNAME=host0\n\
         MESOS_SANDBOX={sandbox}\nPATH=/usr/bin:/bin\n/usr\n"
    );
    assert_eq!(world.output(&spec), expected);
}

#[test]
fn volumes_are_seen_read_only_or_writable() {
    let world = World::new();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "content").unwrap();
    let volume = |target: &str, read_only| Volume {
        source: source.path().to_owned(),
        target: target.into(),
        read_only,
    };
    let mut spec = shell(
        "cat /tmp/a/b/file /mnt/file; touch /tmp/a/b/x 2>/dev/null || echo ro; touch /mnt/new; grep -c 'nosuid,nodev.*' /proc/self/mounts > /dev/null",
    );
    spec.volumes = vec![volume("/tmp/a/b", true), volume("/mnt", false)];
    assert_eq!(world.output(&spec), "contentcontentro\n");
    assert!(source.path().join("new").exists() && !source.path().join("x").exists());
    spec.volumes = vec![volume("/no/such/place", true)];
    let fault = world.run(&spec).unwrap_err();
    assert!(fault.message.contains("mount point does not exist"), "{fault}");
    spec.volumes = vec![Volume {
        source: "/no/such/source".into(),
        target: "/mnt".into(),
        read_only: true,
    }];
    let fault = world.run(&spec).unwrap_err();
    assert!(fault.message.contains("open source /no/such/source"), "{fault}");
}

#[test]
fn a_network_namespace_from_the_pool_has_loopback_up_and_nothing_else() {
    let world = World::new();
    let mut spec = shell("ls /sys/class/net; cat /sys/class/net/lo/flags");
    spec.network = model::Network::None;
    let mut running = world
        .prepare_with(&spec, |request| {
            request.fds.netns = Some(container::netpool::make_empty_netns().unwrap())
        })
        .unwrap();
    running.open_gate().unwrap();
    assert_eq!(running.wait().stdout, "lo\n0x9\n");
    let mut running = world
        .prepare_with(&spec, |request| request.namespaces.net = true)
        .unwrap();
    running.open_gate().unwrap();
    assert_eq!(running.wait().stdout, "lo\n0x9\n");
}

#[test]
fn a_null_device_that_the_container_replaced_is_not_opened_for_an_exec() {
    let world = World::new();
    let parent = shell("rm /dev/null; ln -s /proc/kmsg /dev/null; touch ready; sleep 60 < /dev/zero");
    let running = world.start(&parent).unwrap();
    let ready = running.context.sandbox.join("ready");
    harness::wait_until("the command is ready", || ready.exists());
    let exec = model::ExecSpec {
        command: vec!["readlink".into(), "/proc/self/fd/0".into()],
        ..Default::default()
    };
    let (_, output) = running.exec(&parent, &exec).unwrap();
    assert!(!output.contains("kmsg"), "{output}");
}
