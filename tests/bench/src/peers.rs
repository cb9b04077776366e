//! The container runtimes that launches are compared with, given the same work as far as they can do it.
//! What differs is in docs/benchmarks.md; every difference favours the peer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Finds a program as a shell would.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Writes an OCI bundle that runs the static `true` and returns its directory.
pub fn write_bundle(directory: &Path, program: &Path, own_network: bool) -> io::Result<PathBuf> {
    let bundle = directory.join(if own_network { "bundle-netns" } else { "bundle" });
    let rootfs = bundle.join("rootfs");
    for made in ["bin", "dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(made))?;
    }
    fs::copy(program, rootfs.join("bin/true"))?;
    fs::write(
        bundle.join("config.json"),
        serde_json::to_vec_pretty(&oci_config(own_network))?,
    )?;
    Ok(bundle)
}

/// The words of `crun run` or `runc run`; `@` becomes a number that never repeats.
pub fn oci_words(runtime: &Path, state: &Path, bundle: &Path) -> String {
    [
        runtime.display().to_string(),
        "--root".to_string(),
        state.display().to_string(),
        "run".to_string(),
        "--bundle".to_string(),
        bundle.display().to_string(),
        "bulkhead-bench-@".to_string(),
    ]
    .join("\t")
}

/// bubblewrap with the product's default view of the host: its root read-only, own `/proc`, `/dev`, `/tmp`, `/run`.
/// It knows no limits and takes no rules here, so it does less.
pub fn bwrap_words(bwrap: &Path, program: &Path, own_network: bool) -> String {
    let mut words: Vec<String> = vec![bwrap.display().to_string()];
    words.extend(
        [
            "--unshare-pid",
            "--unshare-uts",
            "--unshare-ipc",
            "--unshare-cgroup",
        ]
        .map(String::from),
    );
    if own_network {
        words.push("--unshare-net".to_string());
    }
    words.extend(
        "--ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --tmpfs /run --new-session"
            .split(' ')
            .map(String::from),
    );
    words.extend(["--cap-drop", "ALL", "--"].map(String::from));
    words.push(program.display().to_string());
    words.join("\t")
}

fn oci_config(own_network: bool) -> Value {
    let capabilities = json!([
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "uts"}),
        json!({"type": "ipc"}),
        json!({"type": "cgroup"}),
    ];
    if own_network {
        namespaces.push(json!({"type": "network"}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=755"]}
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
                "pids": {"limit": 64}
            },
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                            "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
            }
        }
    })
}

/// As many denied calls as the floor's own filter has; names that Debian 12's libseccomp knows.
const DENIED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "move_mount",
    "move_pages",
    "name_to_handle_at",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "query_module",
    "quotactl",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
];
