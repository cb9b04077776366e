//! Files through which the kernel is set: release_agent (CVE-2022-0492), core_pattern, sysctl, sysrq, and what hides
//! them (CVE-2025-52881: writes led elsewhere by covering parts of procfs).

use crate::arena::Arena;

/// Not a single file of the kernel's outside of the container's own processes takes a byte. Each is opened and written an
/// empty line, which no interface acts upon.
pub const WRITE_ALL: &str = "
for top in ['/proc', '/sys']:
    for directory, below, files in os.walk(top):
        if directory == '/proc':
            below[:] = [name for name in below if not name.isdigit() and name not in ('self', 'thread-self')]
        for name in files:
            path = os.path.join(directory, name)
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode): continue
                write(path)
            except OSError: continue
            print('DONE', path)
";

pub const CONTROL_GROUPS: &str = "
found = 0
for directory, below, files in os.walk('/sys/fs/cgroup'):
    for name in files:
        found += 1
        path = os.path.join(directory, name)
        if name in ('release_agent', 'notify_on_release', 'cgroup.procs', 'tasks', 'cgroup.subtree_control', 'devices.allow', 'memory.max'):
            attempt(path, lambda: write(path, b'1'))
    attempt('mkdir in ' + directory, lambda: os.mkdir(os.path.join(directory, 'evil')))
    attempt('release_agent in ' + directory, lambda: os.stat(os.path.join(directory, 'release_agent')))
    for up in ['../cgroup.procs', '../../cgroup.procs', '../tasks']:
        attempt(up, lambda: write(os.path.join(directory, up), b'0'))
assert found > 0
for line in open('/proc/self/cgroup'): assert '..' not in line, line
for kind, options in [(b'cgroup', b'memory'), (b'cgroup', b'rdma'), (b'cgroup', b'none,name=evil'), (b'cgroup2', b'')]:
    attempt('mount %s %s' % (kind, options), lambda: call(165, b'x', b'/tmp', kind, 0, options))
for flags in [0x10000000, 0x12000000, 0x02000000, 0x00020000, 0x12020000]:
    attempt('unshare %x' % flags, lambda: call(272, flags))
";

pub const MOUNT: &str = "
for target in [b'/proc/self/attr', b'/proc/sys', b'/proc', b'/sys', b'/tmp', b'/etc', b'/dev/null']:
    attempt('tmpfs over %s' % target, lambda: call(165, b'x', target, b'tmpfs', 0, 0))
    attempt('bind over %s' % target, lambda: call(165, b'/tmp', target, 0, 4096, 0))
    attempt('remount %s' % target, lambda: call(165, b'none', target, 0, 32 | 4096, 0))
    attempt('umount %s' % target, lambda: call(166, target, 2))
    attempt('open_tree %s' % target, lambda: call(428, -100, target, 1))
for kind in [b'proc', b'sysfs', b'devtmpfs', b'debugfs', b'tracefs', b'bpf', b'securityfs', b'configfs']:
    attempt('mount %s' % kind, lambda: call(165, b'x', b'/tmp', kind, 0, 0))
    attempt('fsopen %s' % kind, lambda: call(430, kind, 0))
attempt('pivot', lambda: call(155, b'/tmp', b'/tmp'))
attempt('mount_setattr', lambda: call(442, -100, b'/proc/sys', 0, b'\\0' * 32, 32))
";

/// For who may mount in a namespace of its own: what covers the kernel's files can not be taken away, and a fresh
/// procfs or sysfs not be had (mount_namespaces(7), "Restrictions on mount namespaces").
pub const COVERS_STAY: &str = "
for target in [b'/proc/sys', b'/proc', b'/sys', b'/sys/fs/cgroup', b'/proc/irq', b'/dev']:
    attempt('umount %s' % target, lambda: call(166, target, 2))
    attempt('remount %s' % target, lambda: call(165, b'none', target, 0, 32 | 4096, 0))
    if target not in (b'/proc', b'/dev'): attempt('setattr %s' % target, lambda: call(442, -100, target, 0, struct.pack('QQQQ', 0, 1, 0, 0), 32))
def through(kind):
    os.makedirs('/tmp/fresh', exist_ok=True)
    call(165, b'x', b'/tmp/fresh', kind, 0, 0)
    return write('/tmp/fresh/sys/kernel/core_pattern' if kind == b'proc' else '/tmp/fresh/kernel/uevent_helper')
for kind in [b'proc', b'sysfs']: attempt('fresh %s' % kind, lambda: through(kind))
def bound():
    call(165, b'/proc', b'/tmp', 0, 4096 | 16384, 0)
    return write('/tmp/sys/kernel/core_pattern')
attempt('bind procfs', bound)
attempt('core_pattern', lambda: write('/proc/sys/kernel/core_pattern'))
";

#[test]
fn no_file_of_the_kernels_can_be_written() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], WRITE_ALL);
}

#[test]
fn programs_that_the_kernel_calls_can_not_be_named() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/poweroff_cmd',
             '/sys/kernel/uevent_helper', '/proc/sys/fs/binfmt_misc/register', '/proc/sys/kernel/hostname',
             '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger', '/proc/1/root/proc/sys/kernel/core_pattern',
             '/proc/self/root/proc/sys/kernel/core_pattern', '/proc/self/cwd/../../../../../../proc/sys/kernel/core_pattern']:
    attempt(path, lambda: write(path, b'|/tmp/evil'))
    attempt('open ' + path, lambda: os.open(path, os.O_WRONLY))
fd = os.open('/proc/sys', os.O_PATH)
attempt('by descriptor', lambda: os.open('kernel/core_pattern', os.O_WRONLY, dir_fd=fd))
attempt('uncovered', lambda: os.rename('/proc/sys', '/proc/sys2'))
attempt('host name', lambda: socket.sethostname('evil'))
";
    arena.attack_everywhere(&[], attack);
}

#[test]
fn control_groups_are_read_only_and_nobody_elses() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], CONTROL_GROUPS);
}

#[test]
fn nothing_can_be_mounted_or_uncovered() {
    let Some(arena) = Arena::new() else { return };
    arena.attack_everywhere(&[], MOUNT);
    // The filter is not all: without it SYS_ADMIN is missing still.
    arena.attack(&["--seccomp", "unconfined"], MOUNT);
}

#[test]
fn covered_files_tell_nothing() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
for path in ['/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/sched_debug', '/proc/kpageflags']:
    try: content = os.read(os.open(path, os.O_RDONLY), 100)
    except OSError: continue
    if content: print('DONE', path)
for path in ['/sys/firmware', '/proc/acpi', '/proc/scsi', '/sys/devices/virtual/powercap', '/sys/fs/bpf', '/sys/kernel/debug',
             '/sys/kernel/tracing', '/sys/kernel/security', '/sys/kernel/config']:
    if os.path.isdir(path) and os.listdir(path): print('DONE', path, os.listdir(path)[:3])
attempt('kernel log', lambda: call(103, 3, ctypes.create_string_buffer(100), 100))
attempt('kmsg', lambda: os.open('/dev/kmsg', os.O_RDONLY))
";
    arena.attack_everywhere(&[], attack);
}

/// The only procfs in sight is the container's own.
#[test]
fn no_process_of_the_host_is_in_sight() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
assert 1 in pids and open('/proc/1/comm').read().strip() == 'bulkhead-init'
if len(pids) > 8 or max(pids) > 100: print('DONE processes', pids)
mounts = [line.split() for line in open('/proc/self/mountinfo')]
for fields in mounts:
    kind = fields[fields.index('-') + 1]
    where = fields[4]
    visible = os.stat(where).st_dev == os.makedev(*map(int, fields[2].split(':'))) if os.path.exists(where) else False
    if kind == 'proc' and visible and where != '/proc' and not where.startswith('/proc/'): print('DONE procfs at', where)
    if kind in ('bpf', 'debugfs', 'tracefs', 'securityfs', 'devtmpfs') and visible: print('DONE', kind, 'at', where)
";
    arena.attack_everywhere(&[], attack);
}
