//! Processes that are not the container's: the host's, the runtime's; and capabilities that come along by mistake
//! (CVE-2022-29162, CVE-2022-27650, CVE-2022-24769).

use std::process::{Command, Stdio};

use model::ExecSpec;

use crate::arena::Arena;

#[test]
fn no_process_outside_can_be_signalled_or_traced() {
    let Some(arena) = Arena::new() else { return };
    let mut victim = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .expect("a process of the host");
    let (pid, agent) = (victim.id(), arena.agent.pid());
    let attack = format!(
        "
for pid in [{pid}, {agent}, os.getppid() or 99999]:
    attempt('signal', lambda: os.kill(pid, signal.SIGKILL) if pid != 1 else os.kill(99999, 9))
    attempt('group', lambda: os.killpg(pid if pid != 1 else 99999, signal.SIGKILL))
    attempt('pidfd', lambda: call(434, pid if pid != 1 else 99999, 0))
for pid in [1, {pid}, {agent}]:
    attempt('trace', lambda: call(101, 16, pid, 0, 0))
    attempt('seize', lambda: call(101, 0x4206, pid, 0, 0))
    buffer = ctypes.create_string_buffer(8)
    part = struct.pack('QQ', ctypes.addressof(buffer), 8)
    attempt('read memory', lambda: call(310, pid, part, 1, part, 1, 0))
    attempt('memory file', lambda: os.open('/proc/%d/mem' % pid, os.O_RDWR))
    attempt('environment', lambda: len(open('/proc/%d/environ' % pid, 'rb').read()))
    attempt('descriptors', lambda: os.readlink('/proc/%d/fd/4' % pid))
    attempt('root', lambda: os.listdir('/proc/%d/root' % pid))
    attempt('directory', lambda: os.listdir('/proc/%d/cwd' % pid))
pidfd = call(434, 1, 0)
for number in range(6): attempt('take descriptor', lambda: call(438, pidfd, number, 0))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# As a group to all: neither the init nor anything outside.
if os.fork() == 0:
    for number in [signal.SIGSTOP, signal.SIGKILL]: os.kill(1, number)
    os._exit(0)
os.wait()
"
    );
    arena.attack_everywhere(&[], &attack);
    assert!(
        victim.try_wait().expect("wait").is_none(),
        "the host's process has ended"
    );
    victim.kill().expect("end it");
    victim.wait().expect("reap it");
}

#[test]
fn a_signal_to_all_reaches_the_container_alone() {
    let Some(arena) = Arena::new() else { return };
    let mut victim = Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("a process of the host");
    arena.hold("neighbour", &[]);
    // Ends the attacker itself too: no END.
    let answer = arena.agent.cli(&[
        "run",
        "--rm",
        "--",
        "/usr/bin/python3",
        "-c",
        "import os; os.kill(-1, 9); os.abort()",
    ]);
    assert_ne!(answer.status, 0);
    assert!(victim.try_wait().expect("wait").is_none());
    assert_eq!(
        arena.agent.container("neighbour").expect("known")["state"],
        "running"
    );
    victim.kill().expect("end it");
    victim.wait().expect("reap it");
}

fn status_field(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a field");
    line.split_whitespace().nth(1).expect("a value").to_owned()
}

#[test]
fn inheritable_sets_are_empty_and_bounding_sets_are_what_was_granted() {
    let Some(arena) = Arena::new() else { return };
    let expect = |granted: &str| {
        format!(
            "
for line in open('/proc/self/status'):
    name, _, value = line.partition(':')
    value = value.strip()
    if name in ('CapInh', 'CapAmb') and int(value, 16): print('DONE', line)
    if name in ('CapPrm', 'CapEff', 'CapBnd') and int(value, 16) & ~{granted}: print('DONE', line)
    if name == 'NoNewPrivs' and value != '1': print('DONE', line)
    if name == 'Groups' and value not in ('', '0'): print('DONE', line)
"
        )
    };
    let default = container::plan::default_capabilities().0;
    arena.attack_everywhere(&[], &expect(&format!("{default:#x}")));
    arena.attack(&["--cap-drop", "ALL"], &expect("0"));
    arena.attack(
        &["--user", "nobody"],
        &expect(&format!("{default:#x}")).replace("('', '0')", "('', '0', '65534')"),
    );
    arena.hold("held", &[]);
    let init = arena.init_of("held");
    support::eventually("the init keeps only CAP_KILL", || {
        (status_field(init, "CapEff") == "0000000000000020"
            && status_field(init, "CapPrm") == "0000000000000020")
            .then_some(())
    });
    assert_eq!(status_field(init, "CapInh"), "0000000000000000");
    assert_eq!(status_field(init, "CapBnd"), format!("{default:016x}"));
    assert_eq!(status_field(init, "NoNewPrivs"), "1");
    assert_eq!(status_field(init, "Seccomp"), "2");
}

/// Whoever may trace looks at every process of the runtime between its birth and its exec; none may have more than a
/// command gets, and none of its descriptors may lead to the host.
const WATCH: &str = "
most = 0
while True:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or int(pid) == os.getpid(): continue
        try:
            text = open('/proc/%s/status' % pid).read()
            for line in text.splitlines():
                if line.startswith(('CapPrm', 'CapEff', 'CapBnd')):
                    extra = int(line.split()[1], 16) & ~GRANTED
                    if extra: print('DONE pid', pid, line, text.splitlines()[0], flush=True)
                if line.startswith('Seccomp:') and line.split()[1] != '2': print('DONE no filter', pid, flush=True)
                if line.startswith('NoNewPrivs:') and line.split()[1] != '1': print('DONE new privileges', pid, flush=True)
            ours = lambda: 'bulkhead-init' in os.readlink('/proc/%s/exe' % pid)
            for fd in os.listdir('/proc/%s/fd' % pid) if ours() else []:
                link = os.readlink('/proc/%s/fd/%s' % (pid, fd))
                if link.startswith('/') and link not in ('/', '/dev/null') and ours(): print('DONE descriptor', pid, link, flush=True)
        except (OSError, ValueError): pass
";

#[test]
fn a_tracer_finds_no_more_rights_while_others_are_launched_into_its_container() {
    let Some(arena) = Arena::new() else { return };
    let kept =
        kernel::capability::CapabilitySet::of(&["SYS_PTRACE"]).0 | container::plan::default_capabilities().0;
    let watch = WATCH.replace("GRANTED", &format!("{kept:#x}"));
    arena.hold_attack("watcher", &["--cap-add", "SYS_PTRACE"], &watch);
    let exec = ExecSpec {
        command: vec!["/bin/true".into()],
        ..ExecSpec::default()
    };
    arena.race_execs("watcher", &exec, |answer| {
        assert_eq!(answer.expect("an exec").exit_status, 0);
    });
    assert!(
        !arena.printed("watcher").contains("DONE"),
        "{}",
        arena.printed("watcher")
    );
    // Through its init it writes to no file of the host.
    let status = "
for name in os.listdir('/proc/1/fd'):
    if not os.readlink('/proc/1/fd/' + name).startswith('pipe:'): print('DONE', name)
for line in open('/proc/1/status'):
    if line.startswith('CapPrm') and int(line.split()[1], 16) != 0x20: print('DONE', line)
";
    arena.attack_in("watcher", status);
}

/// Who was protected before could make the host kill others in its place.
#[test]
fn nobody_makes_itself_unkillable_for_the_oom_killer() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
if int(open('/proc/self/oom_score_adj').read()) < 0: print('DONE it begins protected')
for value in [b'-1', b'-900', b'-1000']: attempt('protect', lambda: write('/proc/self/oom_score_adj', value))
attempt('priority', lambda: os.nice(-5))
attempt('real time', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)))
";
    arena.attack_everywhere(&[], attack);
}
