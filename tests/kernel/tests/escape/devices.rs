//! Device nodes: made, found, or turned into the host's.

use crate::arena::Arena;

pub const MAKE: &str = "
disks = [(254, 0), (8, 0), (259, 0), (7, 0)]
for directory in ['/tmp', '/dev', '/dev/shm', os.environ['BULKHEAD_SANDBOX'], '/run']:
    for major, minor in disks:
        path = '%s/disk-%d-%d' % (directory, major, minor)
        def block():
            os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
            return os.read(os.open(path, os.O_RDONLY), 1)
        attempt('disk ' + path, block)
    def memory():
        os.mknod(directory + '/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1))
        return os.open(directory + '/mem', os.O_RDWR)
    attempt('memory in ' + directory, memory)
";

#[test]
fn device_nodes_can_not_be_made() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], MAKE);
}

#[test]
fn device_nodes_that_may_be_made_can_not_be_opened() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&["--cap-add", "MKNOD"], MAKE);
}

#[test]
fn the_devices_in_sight_are_harmless() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
harmless = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
for directory, below, files in os.walk('/dev'):
    for name in files:
        facts = os.lstat(os.path.join(directory, name))
        if stat.S_ISBLK(facts.st_mode): print('DONE block device', name)
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev >> 8 != 136:
            if (os.major(facts.st_rdev), os.minor(facts.st_rdev)) not in harmless: print('DONE', name, facts.st_rdev)
";
    arena.attack_everywhere(&[], attack);
}

/// A host's `/dev` as a volume is a directory of files that are no devices.
#[test]
fn devices_in_a_volume_are_none() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
for name in ['vda', 'sda', 'mem', 'kmsg', 'null', 'loop0']:
    attempt(name, lambda: os.open('/tmp/host/' + name, os.O_RDONLY))
";
    arena.attack(&["-v", "/dev:/tmp/host:ro"], attack);
    let writable = arena
        .agent
        .cli(&["run", "--rm", "-v", "/dev:/tmp/host", "--", "true"]);
    assert_eq!(writable.status, 125, "{writable:?}");
    assert!(writable.stderr.contains("devtmpfs"), "{writable:?}");
}
