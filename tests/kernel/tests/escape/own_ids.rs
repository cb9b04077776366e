//! Containers with ids of their own (`--userns`): root there is nobody on the host, and has the capabilities of its user
//! namespace all the same. More of the kernel answers to it, so the attacks are tried again.

use std::os::unix::fs::MetadataExt as _;

use crate::arena::{Arena, volume_flag};

const OWN_IDS: [&str; 1] = ["--userns"];

#[test]
fn the_kernels_files_stay_closed_to_root_of_a_user_namespace() {
    let Some(arena) = Arena::new() else { return };
    for attack in [
        crate::kernel_files::WRITE_ALL,
        crate::kernel_files::MOUNT,
        crate::kernel_files::CONTROL_GROUPS,
    ] {
        arena.attack(&OWN_IDS, attack);
    }
    // With all that its namespace has to give, and without the filter.
    let all = ["--userns", "--cap-add", "ALL", "--seccomp", "unconfined"];
    arena.attack(&all, crate::kernel_files::WRITE_ALL);
    arena.attack(&all, crate::kernel_files::COVERS_STAY);
}

#[test]
fn the_runtime_and_the_host_stay_closed_to_it() {
    let Some(arena) = Arena::new() else { return };
    arena.attack(&OWN_IDS, crate::own_program::OPEN_EACH);
    arena.attack(&OWN_IDS, crate::devices::MAKE);
    arena.attack(&["--userns", "--cap-add", "MKNOD"], crate::devices::MAKE);
    // The host's files are nobody's business any more, not even to read.
    let attack = "
for path in ['/etc/shadow', '/proc/1/environ']:
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
attempt('become the host\\'s root', lambda: os.setuid(0xfffffffe))
for line in open('/proc/self/uid_map'):
    inside, outside, count = map(int, line.split())
    if outside < 65536 or inside != 0: print('DONE', line)
";
    let programs = ["-v", "/usr:/mnt:ro", "--", "true"];
    let mapped = arena
        .agent
        .cli(&[&["run", "--rm", OWN_IDS[0]][..], &programs].concat());
    if mapped.stderr.contains("no mounts with mapped ids") {
        eprintln!("SKIPPED in an image: {}", mapped.stderr);
        arena.attack(&OWN_IDS, attack);
        return;
    }
    arena.attack_everywhere(&OWN_IDS, attack);
}

#[test]
fn two_containers_share_no_id_and_leave_none_of_roots() {
    let Some(arena) = Arena::new() else { return };
    arena.hold("one", &OWN_IDS);
    arena.hold("two", &OWN_IDS);
    let owner = |name: &str| {
        let init = arena.init_of(name);
        std::fs::read_to_string(format!("/proc/{init}/uid_map")).expect("it runs")
    };
    let (one, two) = (owner("one"), owner("two"));
    assert_ne!(one, two);
    arena
        .agent
        .cli(&[
            "exec",
            "one",
            "--",
            "sh",
            "-c",
            "cp /bin/busybox evil; chmod 4755 evil",
        ])
        .success();
    let id = arena.agent.container("one").expect("known")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let evil = arena.agent.work_dir().join("sandboxes").join(id).join("evil");
    let facts = std::fs::metadata(evil).expect("it was made");
    assert!(facts.uid() >= 65536, "a set-user-id file of user {}", facts.uid());
}

/// What root writes through a volume with mapped ids is root's on the host, as ever; so it must not get a set-user-id
/// program where others can run it, and inside none works.
#[test]
fn a_volume_with_mapped_ids_gives_nothing_beyond_itself() {
    let Some(arena) = Arena::new() else { return };
    let shared = arena.ground.join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    let flag = volume_flag(&shared, "/tmp/v");
    let attack = "
os.mkdir('/tmp/v/made')
attempt('device', lambda: os.mknod('/tmp/v/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0)))
for line in open('/proc/self/mountinfo'):
    if '/tmp/v' in line.split()[4] and 'nosuid' not in line.split()[5]: print('DONE', line)
";
    arena.attack(&["--userns", "-v", &flag], attack);
}
