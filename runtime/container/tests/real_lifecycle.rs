//! Real containers: how they begin and end, and who survives whom.

mod harness;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use harness::{World, shell, spec, wait_until};
use kernel::process::{self, Exit};
use model::{ExecSpec, FaultKind, Rlimit, TerminalSize};

#[test]
fn the_exit_status_is_the_commands_own() {
    let world = World::new();
    for status in [0, 1, 42, 255] {
        let ended = world.run(&shell(&format!("exit {status}"))).unwrap();
        assert_eq!(ended.record.unwrap().exit_status(), status);
        assert_eq!(ended.init, Exit::Exited(status));
    }
}

#[test]
fn a_signal_is_told_from_a_status() {
    let world = World::new();
    let record = world.run(&shell("kill -SEGV $$")).unwrap().record.unwrap();
    assert_eq!((record.exit_status(), record.signal()), (139, Some(11)));
    let record = world.run(&shell("exit 139")).unwrap().record.unwrap();
    assert_eq!((record.exit_status(), record.signal()), (139, None));
}

#[test]
fn output_arrives() {
    let world = World::new();
    assert_eq!(world.output(&spec(&["echo", "hello"])), "hello\n");
}

#[test]
fn a_missing_command_is_127_and_one_that_can_not_run_126() {
    let world = World::new();
    for (command, kind, status) in [
        ("no-such-command", FaultKind::CommandNotFound, 127),
        ("/no/such/command", FaultKind::CommandNotFound, 127),
        ("/etc/passwd", FaultKind::CommandNotExecutable, 126),
        ("/etc", FaultKind::CommandNotExecutable, 126),
    ] {
        let mut running = world.prepare(&spec(&[command])).unwrap();
        let fault = running.open_gate().unwrap_err();
        assert_eq!(fault.kind, kind, "{command}: {fault}");
        let ended = running.wait();
        assert_eq!(ended.record.unwrap().exit_status(), status, "{command}");
    }
}

#[test]
fn nothing_runs_when_the_agent_goes_away_before_the_gate() {
    let world = World::new();
    let mut running = world.prepare(&shell("touch ran")).unwrap();
    running.channel = None;
    assert_eq!(running.reap(), Exit::Exited(0));
    assert!(!running.context.sandbox.join("ran").exists());
    let ended = running.wait();
    assert!(ended.record.is_none());
}

#[test]
fn a_running_container_does_not_notice_the_launchers_death() {
    let mut world = World::new();
    {
        let mut running = world.prepare(&shell("sleep 0.2; exit 7")).unwrap();
        running.open_gate().unwrap();
        process::pidfd_send_signal(&world.launcher.pidfd, 9).unwrap();
        process::wait_pidfd(&world.launcher.pidfd, true).unwrap();
        assert_eq!(running.wait().record.unwrap().exit_status(), 7);
    }
    world.launcher = container::launcher::start_launcher(init_image::INIT, "again").unwrap();
    assert_eq!(world.output(&spec(&["echo", "again"])), "again\n");
}

#[test]
fn the_launcher_ends_with_its_socket_and_answers_nonsense() {
    let world = World::new();
    let nonsense = kernel::socket::send(world.launcher.socket.as_fd(), b"nonsense", &[]);
    assert!(nonsense.is_ok());
    let reply = harness::block(|| container::launcher::receive_reply(world.launcher.socket.as_fd())).unwrap();
    assert!(reply.result.is_err());
    assert_eq!(world.output(&spec(&["echo", "still"])), "still\n");
    let other = container::launcher::start_launcher(init_image::INIT, "other").unwrap();
    drop(other.socket);
    assert_eq!(
        process::wait_pidfd(&other.pidfd, true).unwrap(),
        Some(Exit::Exited(0))
    );
}

#[test]
fn signals_to_the_init_reach_the_command_and_orphans_are_reaped() {
    let world = World::new();
    let mut running = world
        .start(&shell("trap 'echo got; exit 3' TERM; (sleep 0.01 & ) ; sleep 0.05; touch ready; while :; do sleep 0.01; done"))
        .unwrap();
    let ready = running.context.sandbox.join("ready");
    wait_until("the command is ready", || ready.exists());
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid)).unwrap();
    assert!(children.split_whitespace().count() <= 2, "zombies: {children}");
    process::pidfd_send_signal(&running.pidfd, 15).unwrap();
    assert_eq!(running.reap(), Exit::Exited(3));
    let ended = running.wait();
    assert_eq!(ended.stdout, "got\n");
}

#[test]
fn the_init_keeps_only_what_it_needs() {
    let world = World::new();
    let mut spec = spec(&["sleep", "60"]);
    spec.user = Some("nobody".into());
    spec.workdir = Some("/".into());
    let mut running = world.start(&spec).unwrap();
    let list = || {
        let mut names: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", running.pid))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    wait_until("the init settled", || list() == ["4", "5"]);
    let status = || std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
    wait_until("the init dropped its capabilities", || {
        status().contains("CapEff:\t0000000000000020")
    });
    // The command is another user's: only CAP_KILL lets the signal through.
    process::pidfd_send_signal(&running.pidfd, 15).unwrap();
    running.reap();
    assert_eq!(running.wait().record.unwrap().signal(), Some(15));
}

#[test]
fn resource_limits_are_set_and_raising_a_hard_one_is_refused() {
    let world = World::new();
    let mut spec = shell("ulimit -n; ulimit -c");
    let limit = |name: &str, soft, hard| Rlimit {
        name: name.into(),
        soft: Some(soft),
        hard: Some(hard),
    };
    spec.rlimits = vec![limit("nofile", 100, 200), limit("core", 0, 0)];
    assert_eq!(world.output(&spec), "100\n0\n");
    spec.rlimits = vec![limit("nofile", 1 << 30, 1 << 30)];
    let fault = world.run(&spec).unwrap_err();
    assert!(fault.message.contains("nofile"), "{fault}");
}

#[test]
fn a_working_directory_must_exist() {
    let world = World::new();
    let mut spec = shell("true");
    spec.workdir = Some("/no/such/directory".into());
    let fault = world.run(&spec).unwrap_err();
    assert!(
        fault
            .message
            .starts_with("change directory to /no/such/directory"),
        "{fault}"
    );
}

#[test]
fn exec_joins_the_container() {
    let world = World::new();
    let parent = shell("echo mark > /tmp/mark; touch ready; sleep 60");
    let running = world.start(&parent).unwrap();
    let ready = running.context.sandbox.join("ready");
    wait_until("the command is ready", || ready.exists());
    let words = |script: &str| ExecSpec {
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..ExecSpec::default()
    };
    let (exit, output) = running.exec(&parent, &words("cat /tmp/mark; hostname; pwd; ls /proc/self/fd; grep -E 'CapEff|CapInh|Seccomp:|NoNew' /proc/self/status; exit 5")).unwrap();
    assert_eq!(exit, Exit::Exited(5));
    let sandbox = running.context.sandbox.display();
    let caps = container::plan::default_capabilities().0;
    let expected = format!(
        "mark\nhost0\n{sandbox}\n0\n1\n2\n3\nCapInh:\t0000000000000000\nCapEff:\t{caps:016x}\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    );
    assert_eq!(output, expected);
    let fault = running
        .exec(
            &parent,
            &ExecSpec {
                command: vec!["nope".into()],
                ..ExecSpec::default()
            },
        )
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::CommandNotFound);
}

#[test]
fn a_terminal_is_the_commands_own() {
    let world = World::new();
    let mut spec = shell(
        "stty size; tty; test -c /dev/console && echo console; echo > /dev/tty; read line; echo got $line; ps -o tty= -p $$",
    );
    spec.terminal = Some(TerminalSize {
        rows: 33,
        columns: 101,
    });
    let mut running = world.start(&spec).unwrap();
    let mut master = running.terminal.take().unwrap();
    master.write_all(b"typed\n").unwrap();
    let exit = running.reap();
    kernel::socket::set_nonblocking(master.as_fd()).unwrap();
    let mut bytes = vec![0; 4096];
    let mut text = String::new();
    while let Ok(count) = std::io::Read::read(&mut master, &mut bytes) {
        if count == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    for expected in ["33 101", "/dev/pts/0", "console", "got typed", "pts/0"] {
        assert!(text.contains(expected), "{expected:?} in {text:?}");
    }
    assert_eq!(exit, Exit::Exited(0));
    std::thread::sleep(Duration::from_millis(1));
}
