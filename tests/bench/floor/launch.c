/*
 * The least that a launch of an isolated command can cost on this kernel: the system calls of the product's own
 * launch, in the same order, from one small static program without RPC, plan, checks or bookkeeping.
 * docs/benchmarks.md lists the equalities and the differences on purpose. Change both together.
 *
 *   launch INSTANCE SCRATCH host|fresh|pool PROGRAM
 *
 * Commands on stdin, one answer line in nanoseconds each:
 *   one         one launch, start to everything of it removed
 *   many N K    N launches by K workers
 *   pool N      make N network namespaces ahead (answers when they are there)
 * End of file ends it and removes what it made.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TRY(call, path)                                                                                                \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            die(#call, path);                                                                                          \
    } while (0)

enum net { NET_HOST, NET_FRESH, NET_POOL };

static const char *instance, *program;
static char scratch[256];
static enum net net;
static int pool[4096];
static int pool_length;

/* ---- control groups: one group in each hierarchy, limits written and read back ---- */

struct setting {
    const char *file, *value;
    int read_back;
};
struct hierarchy {
    const char *mount;
    struct setting settings[4];
    int root; /* directory of the instance's group */
};

static struct hierarchy hierarchies[] = {
    {"/sys/fs/cgroup/cpu",
     {{"cpu.shares", "512", 1}, {"cpu.cfs_period_us", "100000", 1}, {"cpu.cfs_quota_us", "50000", 1}}, -1},
    {"/sys/fs/cgroup/memory", {{"memory.limit_in_bytes", "67108864", 1}}, -1},
    {"/sys/fs/cgroup/pids", {{"pids.max", "64", 1}}, -1},
    {"/sys/fs/cgroup/unified", {{0}}, -1}, /* the last one: the child is cloned into it */
};
#define HIERARCHIES COUNT(hierarchies)
#define UNIFIED (HIERARCHIES - 1)

static void write_at(int directory, const char *file, const char *value)
{
    int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        die("write", file);
    close(fd);
}

static void read_at(int directory, const char *file)
{
    char buffer[256];
    int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, buffer, sizeof buffer) < 0)
        die("read", file);
    close(fd);
}

static void make_roots(void)
{
    for (size_t i = 0; i < HIERARCHIES; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", hierarchies[i].mount, instance);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            die("mkdir", path);
        TRY(hierarchies[i].root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
    }
}

static void remove_roots(void)
{
    for (size_t i = 0; i < HIERARCHIES; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", hierarchies[i].mount, instance);
        rmdir(path);
    }
}

/* ---- devices: a program that knows the usual nodes, loaded once, attached to each group of the v2 tree ---- */

static int device_program = -1;

static void load_device_program(void)
{
    static const struct {
        int major, minor;
    } allowed[] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}};
    struct bpf_insn code[64];
    unsigned n = 0;
    char *license = "Apache-2.0";

    code[n++] = (struct bpf_insn){BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_1, 4, 0};
    code[n++] = (struct bpf_insn){BPF_LDX | BPF_MEM | BPF_W, BPF_REG_5, BPF_REG_1, 8, 0};
    for (size_t i = 0; i < COUNT(allowed); i++) {
        code[n++] = (struct bpf_insn){BPF_JMP | BPF_JNE | BPF_K, BPF_REG_4, 0, 3, allowed[i].major};
        code[n++] = (struct bpf_insn){BPF_JMP | BPF_JNE | BPF_K, BPF_REG_5, 0, 2, allowed[i].minor};
        code[n++] = (struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1};
        code[n++] = (struct bpf_insn){BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
    }
    code[n++] = (struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0};
    code[n++] = (struct bpf_insn){BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
        .insn_cnt = n,
        .insns = (uint64_t)(uintptr_t)code,
        .license = (uint64_t)(uintptr_t)license,
    };
    TRY(device_program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load), "device program");
}

static void attach_device_program(int group)
{
    union bpf_attr attach = {
        .target_fd = (uint32_t)group,
        .attach_bpf_fd = (uint32_t)device_program,
        .attach_type = BPF_CGROUP_DEVICE,
        .attach_flags = BPF_F_ALLOW_MULTI,
    };
    TRY(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach), "device program");
}

static void make_groups(const char *name, int procs[HIERARCHIES])
{
    for (size_t i = 0; i < HIERARCHIES; i++) {
        struct hierarchy *h = &hierarchies[i];
        int directory;
        TRY(mkdirat(h->root, name, 0755), name);
        TRY(directory = openat(h->root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), name);
        for (struct setting *s = h->settings; s->file; s++) {
            write_at(directory, s->file, s->value);
            if (s->read_back)
                read_at(directory, s->file);
        }
        if (i == UNIFIED) {
            attach_device_program(directory);
            procs[i] = directory;
        } else {
            /* Not cgroup.procs: a single thread that moves itself needs no cgroup_threadgroup_rwsem, whose writer
             * waits for an RCU grace period, 2 to 15 ms after a pause. Kernel: kernel/cgroup/cgroup.c,
             * cgroup_procs_write_start(). */
            TRY(procs[i] = openat(directory, "tasks", O_WRONLY | O_CLOEXEC), name);
            close(directory);
        }
    }
}

static void remove_groups(const char *name)
{
    for (size_t i = 0; i < HIERARCHIES; i++) {
        /* A zombie that the kernel has not quite let go of holds its group for some microseconds. */
        while (unlinkat(hierarchies[i].root, name, AT_REMOVEDIR) < 0) {
            if (errno != EBUSY)
                die("rmdir", name);
            usleep(50);
        }
    }
}

/* ---- the child: mounts, privileges, the command ---- */

#define INERT (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

static int scratch_root; /* the container's one tmpfs */
static int parts;

static int clone_tree(int directory, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, directory, path, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

static void restrict_tree(int tree, uint64_t set, uint64_t clear)
{
    struct mount_attr attributes = {.attr_set = set, .attr_clr = clear, .propagation = MS_PRIVATE};
    TRY(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes), "tree");
}

static void attach_tree(int tree, const char *target)
{
    TRY(syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), target);
    close(tree);
}

/* A new directory on the container's tmpfs, bound to its place. */
static void attach_part(const char *target, mode_t mode, uint64_t flags)
{
    char name[16];
    int tree;
    snprintf(name, sizeof name, "%d", parts++);
    TRY(mkdirat(scratch_root, name, mode), target);
    TRY(tree = clone_tree(scratch_root, name, 0), target);
    if (flags)
        restrict_tree(tree, flags, 0);
    attach_tree(tree, target);
}

static void make_dev(void)
{
    static const struct {
        const char *name;
        int major, minor;
    } nodes[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *links[][2] = {{"/proc/self/fd", "fd"},
                                     {"/proc/self/fd/0", "stdin"},
                                     {"/proc/self/fd/1", "stdout"},
                                     {"/proc/self/fd/2", "stderr"},
                                     {"pts/ptmx", "ptmx"}};
    int tree;

    TRY(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"), "/dev");
    TRY(scratch_root = open("/dev", O_PATH | O_CLOEXEC), "/dev");
    TRY(mkdirat(scratch_root, "dev", 0755), "dev");
    TRY(tree = clone_tree(scratch_root, "dev", 0), "dev");
    restrict_tree(tree, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV);
    TRY(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH), "/dev");
    for (size_t i = 0; i < COUNT(nodes); i++)
        TRY(mknodat(tree, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].name);
    for (size_t i = 0; i < COUNT(links); i++)
        TRY(symlinkat(links[i][0], tree, links[i][1]), links[i][1]);
    TRY(mkdirat(tree, "pts", 0755), "pts");
    TRY(mkdirat(tree, "shm", 01777), "shm");
    TRY(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        "/dev/pts");
    close(tree);
}

static void make_sys(void)
{
    static const char *controllers[] = {"cpu", "cpuacct", "memory", "pids"};
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char target[64];

    /* EBUSY: the host's own stands there, which is the right one for the host's network, and read-only by now. */
    if (mount("sysfs", "/sys", "sysfs", flags, NULL) < 0 && errno != EBUSY)
        die("mount", "/sys");
    attach_part("/sys/fs/cgroup", 0755, 0);
    for (size_t i = 0; i < COUNT(controllers); i++) {
        snprintf(target, sizeof target, "/sys/fs/cgroup/%s", controllers[i]);
        TRY(mkdir(target, 0755), target);
        TRY(mount("cgroup", target, "cgroup", flags, controllers[i]), target);
    }
    struct mount_attr read_only = {.attr_set = INERT | MOUNT_ATTR_RDONLY};
    TRY(syscall(SYS_mount_setattr, AT_FDCWD, "/sys/fs/cgroup", 0, &read_only, sizeof read_only), "/sys/fs/cgroup");
}

static void make_masks(void)
{
    static const char *read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    static const char *masked[] = {"/proc/acpi",        "/proc/asound",       "/proc/kcore",      "/proc/keys",
                                   "/proc/kpagecgroup", "/proc/kpagecount",   "/proc/kpageflags", "/proc/latency_stats",
                                   "/proc/sched_debug", "/proc/scsi",         "/proc/timer_list", "/proc/timer_stats",
                                   "/sys/firmware",     "/sys/devices/virtual/powercap"};

    for (size_t i = 0; i < COUNT(read_only); i++) {
        int tree = clone_tree(AT_FDCWD, read_only[i], 0);
        if (tree < 0 && errno == ENOENT)
            continue;
        TRY(tree, read_only[i]);
        restrict_tree(tree, INERT | MOUNT_ATTR_RDONLY, 0);
        attach_tree(tree, read_only[i]);
    }
    for (size_t i = 0; i < COUNT(masked); i++)
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) < 0) {
            if (errno == ENOTDIR)
                attach_part(masked[i], 0755, MOUNT_ATTR_RDONLY);
            else if (errno != ENOENT)
                die("mask", masked[i]);
        }
}

static void make_root(const char *sandbox)
{
    static const char *private[] = {"/tmp", "/var/tmp", "/run"};
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                                   .propagation = MS_PRIVATE};
    int held;

    TRY(held = clone_tree(AT_FDCWD, sandbox, AT_RECURSIVE), sandbox);
    TRY(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &read_only, sizeof read_only), "/");
    TRY(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "/proc");
    make_dev();
    for (size_t i = 0; i < COUNT(private); i++)
        attach_part(private[i], i < 2 ? 01777 : 0755, 0);
    attach_part("/opt", 0755, MOUNT_ATTR_RDONLY); /* stands for the two directories that the product hides */
    attach_part("/srv", 0755, MOUNT_ATTR_RDONLY);
    make_sys();
    make_masks();
    restrict_tree(held, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0);
    TRY(mkdir("/run/sandbox", 0755), "/run/sandbox");
    attach_tree(held, "/run/sandbox");
    TRY(sethostname("floor", 5), "floor");
    close(scratch_root);
}

#define CAP(name) (1ull << (name))
#define CAPABILITIES                                                                                                   \
    (CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FOWNER) | CAP(CAP_FSETID) | CAP(CAP_KILL) |                      \
     CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_SETGID) | CAP(CAP_SETPCAP) | CAP(CAP_SETUID) | CAP(CAP_SYS_CHROOT))

static void drop_bounding(void)
{
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(CAPABILITIES >> cap & 1))
            TRY(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "bounding set");
}

static void set_capabilities(uint64_t mask)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = data[i].permitted = (uint32_t)(mask >> (32 * i));
        data[i].inheritable = 0;
    }
    TRY(syscall(SYS_capset, &header, data), "capset");
}

static struct sock_filter filter[512];

/* A search tree over the denied numbers. At installation the kernel runs the filter once for every call there is, to
 * remember those that are always allowed: a list of 61 comparisons costs 180 us there, a tree 30. */
static void search(const uint32_t *numbers, size_t count, unsigned *n)
{
    if (count == 1) {
        filter[(*n)++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[0], 0, 1);
        filter[(*n)++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
        filter[(*n)++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        return;
    }
    unsigned branch = (*n)++;
    search(numbers, count / 2, n);
    unsigned char over = (unsigned char)(*n - branch - 1);
    filter[branch] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, numbers[count / 2], over, 0);
    search(numbers + count / 2, count - count / 2, n);
}

static void install_seccomp(void)
{
    /* A deny list of about the product's length; which calls does not matter to its price. */
    static const int denied[] = {
        SYS_acct, SYS_add_key, SYS_bpf, SYS_clock_adjtime, SYS_clock_settime, SYS_create_module, SYS_delete_module,
        SYS_fanotify_init, SYS_finit_module, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick, SYS_get_kernel_syms,
        SYS_init_module, SYS_ioperm, SYS_iopl, SYS_kcmp, SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl,
        SYS_lookup_dcookie, SYS_mbind, SYS_migrate_pages, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_move_pages,
        SYS_name_to_handle_at, SYS_nfsservctl, SYS_open_by_handle_at, SYS_open_tree, SYS_perf_event_open,
        SYS_personality, SYS_pidfd_getfd, SYS_pivot_root, SYS_process_madvise, SYS_process_vm_readv,
        SYS_process_vm_writev, SYS_ptrace, SYS_query_module, SYS_quotactl, SYS_quotactl_fd, SYS_reboot,
        SYS_request_key, SYS_set_mempolicy, SYS_setdomainname, SYS_sethostname, SYS_setns, SYS_settimeofday,
        SYS_swapoff, SYS_swapon, SYS__sysctl, SYS_syslog, SYS_umount2, SYS_unshare, SYS_uselib, SYS_userfaultfd,
        SYS_ustat, SYS_vhangup, SYS_io_uring_setup};
    uint32_t sorted[COUNT(denied)];
    unsigned n = 0;

    for (size_t i = 0; i < COUNT(denied); i++) {
        size_t at = i;
        for (; at > 0 && sorted[at - 1] > (uint32_t)denied[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = (uint32_t)denied[i];
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    search(sorted, COUNT(denied), &n);
    struct sock_fprog prog = {.len = (unsigned short)n, .filter = filter};
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog), "seccomp");
}

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        die("bring up", "lo");
    close(fd);
}

struct child {
    int procs[HIERARCHIES], netns, stdin_fd, stdout_fd, stderr_fd, status;
    char sandbox[320];
};

static void __attribute__((noreturn)) child_main(struct child *c)
{
    int raw;
    pid_t command;

    for (size_t i = 0; i < UNIFIED; i++) {
        if (write(c->procs[i], "0", 1) != 1)
            die("join", hierarchies[i].mount);
        close(c->procs[i]);
    }
    TRY(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    if (net == NET_POOL)
        TRY(setns(c->netns, CLONE_NEWNET), "network namespace");
    else if (net == NET_FRESH)
        loopback_up();
    make_root(c->sandbox);
    drop_bounding();
    install_seccomp();

    TRY(command = vfork(), "command");
    if (command == 0) {
        char *argv[] = {(char *)program, NULL};
        char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run/sandbox", NULL};
        setsid();
        dup2(c->stdin_fd, 0);
        dup2(c->stdout_fd, 1);
        dup2(c->stderr_fd, 2);
        close_range(3, ~0u, 0);
        set_capabilities(CAPABILITIES);
        if (chdir("/run/sandbox") < 0)
            _exit(125);
        execve(program, argv, envp);
        die("exec", program);
    }
    close(c->stdout_fd);
    close(c->stderr_fd);
    set_capabilities(CAP(CAP_KILL));
    struct rusage usage;
    while (wait4(-1, &raw, 0, &usage) != command)
        ;
    unsigned char record[64] = {0};
    memcpy(record, &raw, sizeof raw);
    if (pwrite(c->status, record, sizeof record, 0) != sizeof record)
        die("write", "status");
    _exit(0);
}

/* ---- the parent ---- */

static unsigned sequence;

static void drain(int fd)
{
    char buffer[4096];
    while (read(fd, buffer, sizeof buffer) > 0)
        ;
    close(fd);
}

static void launch(void)
{
    struct child c;
    char name[64], status_path[400];
    int out[2], err[2], pidfd = -1;
    siginfo_t info;

    snprintf(name, sizeof name, "%d-%u", getpid(), sequence++);
    make_groups(name, c.procs);
    const char *disk = getenv("SANDBOXES"); /* where the product has its own */
    snprintf(c.sandbox, sizeof c.sandbox, "%s/%s", disk ? disk : scratch, name);
    TRY(mkdir(c.sandbox, 0755), c.sandbox);
    snprintf(status_path, sizeof status_path, "%s/%s.status", scratch, name);
    TRY(c.status = open(status_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), status_path);
    TRY(c.stdin_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), "/dev/null");
    TRY(pipe2(out, O_CLOEXEC), "pipe");
    TRY(pipe2(err, O_CLOEXEC), "pipe");
    c.stdout_fd = out[1];
    c.stderr_fd = err[1];
    c.netns = -1;
    if (net == NET_POOL) {
        if (pool_length == 0) {
            errno = ENOENT;
            die("take", "a pooled network namespace");
        }
        c.netns = pool[--pool_length];
    }

    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_INTO_CGROUP | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC |
                 (net == NET_FRESH ? CLONE_NEWNET : 0),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)c.procs[UNIFIED],
    };
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0)
        die("clone3", name);
    if (pid == 0)
        child_main(&c);

    for (size_t i = 0; i < HIERARCHIES; i++)
        close(c.procs[i]);
    close(c.stdin_fd);
    close(out[1]);
    close(err[1]);
    if (c.netns >= 0)
        close(c.netns);
    drain(out[0]);
    drain(err[0]);
    TRY(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), name);
    close(pidfd);
    int raw = -1;
    if (pread(c.status, &raw, sizeof raw, 0) != sizeof raw || raw != 0 || info.si_status != 0) {
        errno = ECHILD;
        die("run", program);
    }
    close(c.status);
    unlink(status_path);
    rmdir(c.sandbox);
    remove_groups(name);
}

static void many(int count, int workers)
{
    for (int w = 0; w < workers; w++) {
        int share = count / workers + (w < count % workers);
        pid_t pid = fork();
        if (pid < 0)
            die("fork", "worker");
        if (pid == 0) {
            for (int i = 0; i < share; i++)
                launch();
            _exit(0);
        }
    }
    for (int w = 0; w < workers; w++) {
        int status;
        if (wait(&status) < 0 || status != 0) {
            errno = ECHILD;
            die("wait for", "worker");
        }
    }
}

static void fill_pool(int count)
{
    int own;
    TRY(own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "own network namespace");
    while (pool_length < count && pool_length < (int)COUNT(pool)) {
        TRY(unshare(CLONE_NEWNET), "network namespace");
        loopback_up();
        TRY(pool[pool_length++] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "network namespace");
    }
    TRY(setns(own, CLONE_NEWNET), "own network namespace");
    close(own);
}

int main(int argc, char **argv)
{
    char line[128];
    int count, workers;

    if (argc != 5) {
        fprintf(stderr, "usage: launch INSTANCE SCRATCH host|fresh|pool PROGRAM\n");
        return 2;
    }
    instance = argv[1];
    snprintf(scratch, sizeof scratch, "%s", argv[2]);
    net = strcmp(argv[3], "fresh") == 0 ? NET_FRESH : strcmp(argv[3], "pool") == 0 ? NET_POOL : NET_HOST;
    program = argv[4];
    make_roots();
    load_device_program();
    answer(0);

    while (fgets(line, sizeof line, stdin)) {
        unsigned long long start = now_ns();
        if (strcmp(line, "one\n") == 0)
            launch();
        else if (sscanf(line, "many %d %d", &count, &workers) == 2)
            many(count, workers);
        else if (sscanf(line, "pool %d", &count) == 1)
            fill_pool(count);
        else
            return 2;
        answer(now_ns() - start);
    }
    remove_roots();
    return 0;
}
