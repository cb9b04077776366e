//! Terminals: typing into somebody else's (CVE-2016-2568 and its kin), another's behind a name (CVE-2025-52565), and
//! escape sequences to whoever looks at a list.

use model::{ExecSpec, LaunchSpec, TerminalSize};

use crate::arena::{Arena, script};

const INJECT: &str = "
master, slave = os.openpty()
for fd in [0, 1, 2, slave]:
    attempt('type', lambda: fcntl.ioctl(fd, 0x5412, b'x'))
    attempt('console', lambda: fcntl.ioctl(fd, 0x541c, b'\\x03'))
    attempt('high half', lambda: call(16, fd, 0x100005412, b'x'))
attempt('own terminal of the host', lambda: os.open('/dev/pts/0', os.O_RDWR) if not os.ttyname(slave) == '/dev/pts/0' else os.open('/nowhere', 0))
for name in ['/dev/tty1', '/dev/console', '/dev/tty0', '/dev/vcs']:
    attempt(name, lambda: os.open(name, os.O_RDWR))
";

#[test]
fn nobody_types_into_a_terminal() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], INJECT);
}

#[test]
fn a_terminal_behind_links_is_the_containers_own() {
    let Some(arena) = Arena::new() else { return };
    let size = TerminalSize {
        rows: 24,
        columns: 80,
    };
    // Spoils the names by which a terminal could be looked for; an exec with one must not follow them.
    arena.hold("held", &[]);
    let spoil = "rm -f /dev/ptmx /dev/console /dev/tty; \
        for n in ptmx console tty; do ln -s /proc/sys/kernel/core_pattern /dev/$n; done";
    arena
        .agent
        .cli(&["exec", "held", "--", "sh", "-c", spoil])
        .success();
    let exec = ExecSpec {
        command: [
            "sh",
            "-c",
            "[ -t 0 ] && [ -t 1 ] && readlink /proc/self/fd/0 | grep -q ^/dev/pts/",
        ]
        .map(String::from)
        .into(),
        terminal: Some(size),
        ..ExecSpec::default()
    };
    let launch = LaunchSpec {
        terminal: Some(size),
        ..script("[ -t 0 ] && [ -c /dev/console ] || exit 66; readlink /proc/self/fd/0 | grep -q ^/dev/pts/")
    };
    arena.connected(|connection| async move {
        let held = connection.container("held").await.expect("it runs");
        let execution = held.exec(&exec, None).await.expect("an exec");
        assert_eq!(execution.process.wait().await.expect("its end").exit_status, 0);
        let (_, waiting) = connection
            .launch_and_wait(&launch, None, false)
            .await
            .expect("a launch");
        assert_eq!(waiting.await.expect("its end").exit_status, 0);
    });
}

/// Clears the screen, sets a title, answers back.
const SEQUENCE: &str = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}6n";

fn holds_controls(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n')
}

#[test]
fn tables_and_messages_carry_no_escape_sequences() {
    let Some(arena) = Arena::new() else { return };
    let agent = &arena.agent;
    let label = format!("note={SEQUENCE}");
    let env = format!("E={SEQUENCE}");
    agent
        .cli(&[
            "run",
            "-d",
            "--name",
            "held",
            "--label",
            &label,
            "--env",
            &env,
            "--",
            "sh",
            "-c",
            "sleep 1000",
            SEQUENCE,
        ])
        .success();
    for command in [
        &["ps", "-a"][..],
        &["ps", "-a", "-o", "json"],
        &["inspect", "held"],
        &["inspect", "held", "-o", "json"],
        &["stats", "--no-stream"],
    ] {
        let answer = agent.cli(command);
        assert!(
            !holds_controls(&answer.stdout) && !holds_controls(&answer.stderr),
            "{command:?}: {answer:?}"
        );
    }
    // What a failure quotes: a command, a directory, a name, an id, a volume.
    let volume = format!("/{SEQUENCE}:/tmp/x");
    for command in [
        &["run", "--rm", "--", SEQUENCE][..],
        &["run", "--rm", "--workdir", &format!("/{SEQUENCE}"), "--", "true"],
        &["run", "--rm", "--name", SEQUENCE, "--", "true"],
        &["run", "--rm", "--user", SEQUENCE, "--", "true"],
        &["run", "--rm", "-v", &volume, "--", "true"],
        &["run", "--rm", "--rootfs", &format!("/{SEQUENCE}"), "--", "true"],
        &["inspect", SEQUENCE],
        &["exec", "held", "--", SEQUENCE],
        &["kill", SEQUENCE],
        &["logs", SEQUENCE],
    ] {
        let answer = agent.cli(command);
        assert_ne!(answer.status, 0, "{command:?}: {answer:?}");
        assert!(
            !holds_controls(&answer.stdout) && !holds_controls(&answer.stderr),
            "{command:?}: {answer:?}"
        );
    }
    assert!(
        !holds_controls(&agent.log()),
        "the agent's log: {:?}",
        agent.log()
    );
}
