//! The agent's own directories, sockets and programs; and ways around a mount view: handles, roots, parents
//! (the class of CVE-2020-15257 for sockets).

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::arena::{Arena, volume_flag};

/// The agent's directories, by every way that a path can be walked.
fn look_for(arena: &Arena) -> String {
    format!(
        "
own = [{work:?}, {run:?}]
def foreign(path):
    found = []
    for directory, below, files in os.walk(path):
        below[:] = [name for name in below if os.path.join(directory, name) != os.environ['BULKHEAD_SANDBOX']]
        found += files + [name for name in below if name in ('containers', 'output', 'overlays', 'removals')]
    if found: return found
    raise FileNotFoundError(2, 'nothing')
for path in own:
    for root in ['', '/proc/1/root', '/proc/self/root', '/proc/thread-self/root', '/proc/self/cwd/../../../../../..']:
        attempt(root + path, lambda: foreign(root + path))
        try: os.mkdir(root + path + '/evil')
        except OSError: pass
    attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect(path + '/agent.sock'))
    attempt('handle', lambda: call(303, -100, path.encode(), ctypes.create_string_buffer(128), ctypes.byref(ctypes.c_int()), 0))
",
        work = arena.agent.work_dir(),
        run = arena.agent.runtime_dir(),
    )
}

#[test]
fn the_agents_directories_are_reached_by_no_path() {
    let Some(arena) = Arena::new() else { return };
    // Somebody else's sandbox and output are there to be found.
    arena.hold("other", &[]);
    arena
        .agent
        .cli(&["exec", "other", "--", "sh", "-c", "echo secret > secret"])
        .success();
    arena.attack_everywhere(&[], &look_for(&arena));
    nothing_was_made(&arena);
}

/// A container may have directories of the same name, in a /tmp of its own.
#[track_caller]
fn nothing_was_made(arena: &Arena) {
    for directory in [arena.agent.work_dir(), arena.agent.runtime_dir()] {
        assert!(
            !directory.join("evil").exists(),
            "a container wrote to {}",
            directory.display()
        );
    }
}

#[test]
fn out_of_a_root_by_chroot_and_open_directories() {
    let Some(arena) = Arena::new() else { return };
    let attack = format!(
        "
canary = {:?}
os.makedirs('/tmp/jail', exist_ok=True)
fd = os.open('/', os.O_RDONLY)
os.chroot('/tmp/jail')
os.fchdir(fd)
for _ in range(200): os.chdir('..')
os.chroot('.')
attempt('canary', lambda: open(canary).read())
attempt('write', lambda: open('/etc/evil', 'w'))
try: os.mkdir({:?} + '/evil')
except OSError: pass
",
        arena.canary_file(),
        arena.agent.work_dir()
    );
    arena.attack(&[], &attack);
    let image = arena.image("image", |root| {
        std::fs::remove_dir(root.join("etc")).expect("remove");
    });
    let flags = arena.image_flags(&image);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    arena.attack(&flags, &attack);
    nothing_was_made(&arena);
}

#[test]
fn files_can_not_be_opened_by_handle() {
    let Some(arena) = Arena::new() else { return };
    // Inode 2 is the root directory of an ext4.
    let attack = "
handle = struct.pack('IiIQ', 8, 1, 2, 0)
for path in ['/', '/tmp', os.environ['BULKHEAD_SANDBOX']]:
    fd = os.open(path, os.O_RDONLY)
    for kind in [1, 2, 0xfe]:
        attempt('handle', lambda: call(304, fd, struct.pack('IiII', 8, kind, 2, 0), os.O_RDONLY))
";
    arena.attack_everywhere(&[], attack);
    // The filter is not all.
    arena.attack(&["--seccomp", "unconfined"], attack);
}

#[test]
fn volumes_that_name_the_agents_directories_are_refused() {
    let Some(arena) = Arena::new() else { return };
    let (work, run) = (arena.agent.work_dir(), arena.agent.runtime_dir());
    let alias = arena.ground.join("alias");
    std::os::unix::fs::symlink(&work, &alias).expect("a link");
    for source in [
        work.clone(),
        run.clone(),
        work.join("sandboxes"),
        run.join("agent.sock"),
        run.join("../work"),
        alias,
    ] {
        for mode in ["", ":ro"] {
            let volume = format!("{}:/tmp/v{mode}", source.display());
            let answer = arena.agent.cli(&["run", "--rm", "-v", &volume, "--", "true"]);
            assert_eq!(answer.status, 125, "{volume}: {answer:?}");
            assert!(answer.stderr.contains("the agent's own"), "{volume}: {answer:?}");
        }
    }
    let answer = arena.agent.cli(&[
        "run",
        "--rm",
        "--rootfs",
        &work.display().to_string(),
        "--",
        "true",
    ]);
    assert!(
        answer.status == 125 && answer.stderr.contains("the agent's own"),
        "{answer:?}"
    );
}

#[test]
fn volumes_around_the_agents_directories_show_covers() {
    let Some(arena) = Arena::new() else { return };
    arena.hold("other", &[]);
    let around = arena.agent.directory();
    let attack = "
for name in ['work', 'run']:
    attempt(name, lambda: os.listdir('/tmp/v/' + name)[0] if os.listdir('/tmp/v/' + name) else os.stat('/nowhere'))
    attempt('make', lambda: os.mkdir('/tmp/v/%s/evil' % name))
    attempt('uncover', lambda: os.rename('/tmp/v/' + name, '/tmp/v/aside'))
    attempt('remove', lambda: os.rmdir('/tmp/v/' + name))
attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect('/tmp/v/run/agent.sock'))
assert os.path.exists('/tmp/v/log')
";
    arena.attack(&["-v", &volume_flag(around, "/tmp/v")], attack);
    // The whole host, as monitoring asks for it.
    let whole = attack.replace("/tmp/v/", &format!("/tmp/v{}/", around.display()));
    arena.attack(&["-v", "/:/tmp/v:ro"], &whole);
    let image = arena.image("image", |_| {});
    let mut flags = arena.image_flags(&image);
    flags.extend(["-v".to_owned(), volume_flag(around, "/tmp/v")]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    arena.attack(&flags, attack);
}

/// Written through a volume, core_pattern and release_agent are the host's (CVE-2022-0492).
#[test]
fn volumes_bring_no_writable_kernel_files() {
    let Some(arena) = Arena::new() else { return };
    for source in ["/proc", "/sys", "/sys/fs/cgroup", "/", "/proc/sys/kernel"] {
        let answer = arena
            .agent
            .cli(&["run", "--rm", "-v", &format!("{source}:/tmp/v"), "--", "true"]);
        assert_eq!(answer.status, 125, "{source}: {answer:?}");
        assert!(answer.stderr.contains("read-only"), "{source}: {answer:?}");
    }
    let attack = "
for directory, below, files in os.walk('/tmp/v'):
    for name in files:
        if name in ('core_pattern', 'release_agent', 'sysrq-trigger', 'cgroup.procs', 'uevent_helper'):
            attempt(name, lambda: write(os.path.join(directory, name)))
attempt('root of the host', lambda: os.listdir('/tmp/v/1/root'))
";
    arena.attack(&["-v", "/proc/sys/kernel:/tmp/v:ro"], attack);
    arena.attack(&["-v", "/sys/fs/cgroup:/tmp/v:ro"], attack);
}

/// What a container mounts, or has mounted for it, is in no other mount namespace.
#[test]
fn mounts_stay_in_the_container() {
    let Some(arena) = Arena::new() else { return };
    let table = || std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let before = table();
    let shared = arena.ground.join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    arena.hold("held", &["-v", &volume_flag(&shared, "/tmp/v")]);
    let own = |text: &str| {
        text.lines()
            .filter(|line| line.contains(arena.agent.instance()))
            .count()
    };
    assert_eq!(own(&table()), own(&before));
    let propagated = "
for line in open('/proc/self/mountinfo'):
    if 'shared:' in line or 'master:' in line: print('DONE', line)
";
    arena.attack_everywhere(&["-v", &volume_flag(&shared, "/tmp/v")], propagated);
}

#[test]
fn everything_of_the_agents_is_its_own() {
    let Some(arena) = Arena::new() else { return };
    arena.hold("held", &[]);
    arena.agent.cli(&["run", "--", "echo", "output"]).success();
    for top in [arena.agent.work_dir(), arena.agent.runtime_dir()] {
        let mut open = vec![top];
        while let Some(directory) = open.pop() {
            let facts = std::fs::symlink_metadata(&directory).expect("it is there");
            // A sandbox is a container's; nobody gets to it from outside.
            if directory
                .parent()
                .is_some_and(|parent| parent.ends_with("sandboxes"))
            {
                continue;
            }
            assert_eq!(
                (facts.uid(), facts.mode() & 0o077),
                (0, 0),
                "{} {:o}",
                directory.display(),
                facts.mode()
            );
            if facts.is_dir() {
                let entries = std::fs::read_dir(&directory).expect("readable").flatten();
                open.extend(entries.map(|entry| entry.path()));
            }
        }
    }
    let socket = std::fs::metadata(arena.agent.socket())
        .expect("the socket")
        .permissions();
    assert_eq!(socket.mode() & 0o777, 0o600);
}
