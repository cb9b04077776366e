//! Overwriting the program that launches containers, through a link to it in procfs (CVE-2019-5736, CVE-2019-0204).
//! It is a sealed memory file, the same for launches and execs, and nobody but a tracer can even open it.

use model::{Capabilities, ExecSpec, LaunchSpec};

use crate::arena::{Arena, script};

pub const OPEN_EACH: &str = "
for path in ['/proc/1/exe', '/proc/self/exe', '/proc/thread-self/exe', '/proc/1/root/proc/1/exe']:
    for flags in [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC]:
        attempt('open ' + path, lambda: os.close(os.open(path, flags)))
    attempt('through O_PATH', lambda: os.open('/proc/self/fd/%d' % os.open(path, os.O_PATH), os.O_WRONLY))
";

#[test]
fn no_program_can_be_opened_for_writing() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], OPEN_EACH);
}

#[test]
fn a_tracer_reaches_the_program_and_can_not_change_it() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
path = '/proc/1/exe'
assert 'bulkhead-init' in os.readlink(path)
def through(flags):
    fd = os.open(path, flags)
    try: return os.write(fd, b'x')
    finally: os.close(fd)
attempt('write', lambda: through(os.O_RDWR))
attempt('truncate', lambda: os.truncate(path, 0))
attempt('punch', lambda: call(285, os.open(path, os.O_RDWR), 3, 0, 4096))
attempt('unseal', lambda: fcntl.fcntl(os.open(path, os.O_RDONLY), 1033, 0))
";
    arena.attack(&["--cap-add", "SYS_PTRACE"], attack);
}

#[test]
fn the_first_instructions_of_a_launch_reach_no_program() {
    let Some(arena) = Arena::new() else { return };
    // The redirection fails before the command of the group runs.
    let spec = script(
        "{ echo x; } 2>/dev/null >/proc/1/exe && exit 66; { echo x; } 2>/dev/null >>/proc/self/exe && exit 66; exit 7",
    );
    arena.race_launches(&spec, |answer| {
        assert_eq!(answer.expect("a launch").1.exit_status, 7);
    });
    arena.host_is_unchanged();
}

/// Every process that appears is opened the moment it does: the runtime's own, between clone and exec, among them.
const HUNT: &str = "
seen = 0
while True:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or int(pid) == os.getpid(): continue
        try:
            link = os.readlink('/proc/%s/exe' % pid)
            if 'bulkhead-init' not in link: continue
            if pid != '1': seen += 1
            fd = os.open('/proc/%s/exe' % pid, os.O_RDWR)
            os.write(fd, b'x')
            print('DONE overwrote', pid, flush=True)
        except OSError: pass
";

#[test]
fn the_program_is_out_of_reach_during_execs_too() {
    let Some(arena) = Arena::new() else { return };
    // The attacker's own file names its interpreter through procfs: an exec of it runs whatever executes it.
    arena.hold_attack("hunter", &["--cap-add", "SYS_PTRACE"], HUNT);
    let shebang = "printf '#!/proc/self/exe\\n' > evil; chmod 755 evil";
    arena
        .agent
        .cli(&["exec", "hunter", "--", "sh", "-c", shebang])
        .success();
    let exec = ExecSpec {
        command: vec!["./evil".into()],
        ..ExecSpec::default()
    };
    arena.race_execs("hunter", &exec, |_| {});
    assert!(
        !arena.printed("hunter").contains("DONE"),
        "{}",
        arena.printed("hunter")
    );
    arena.host_is_unchanged();
}

#[test]
fn a_shebang_that_names_the_runtime_runs_nothing_of_it() {
    let Some(arena) = Arena::new() else { return };
    let evil = arena.ground.join("evil");
    std::fs::write(&evil, "#!/proc/1/exe\n").expect("a file");
    std::fs::set_permissions(&evil, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let spec = LaunchSpec {
        command: vec!["/tmp/evil/evil".into()],
        volumes: vec![crate::arena::volume(&arena.ground, "/tmp/evil", true)],
        capabilities: Capabilities::default(),
        remove: true,
        ..LaunchSpec::default()
    };
    let refused =
        arena.connected(|connection| async move { connection.launch(&spec, None, false).await.is_err() });
    assert!(refused, "the link to the runtime was executed");
}
