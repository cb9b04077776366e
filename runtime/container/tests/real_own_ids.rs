//! Real containers with user ids of their own. The attacker is root in the container.

mod harness;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use harness::{Running, World, shell, spec, wait_until};
use model::{Capabilities, ExecSpec, LaunchSpec, Network, Seccomp, TerminalSize, UserNamespace, Volume};

const BASE: u32 = 1_900_000_000;
const COUNT: u32 = 65_536;

fn own_ids(mut spec: LaunchSpec) -> LaunchSpec {
    spec.userns = Some(UserNamespace {
        base: Some(BASE),
        count: COUNT,
    });
    spec
}

fn all_powers(mut spec: LaunchSpec) -> LaunchSpec {
    spec.capabilities = Capabilities {
        add: vec!["ALL".into()],
        drop: Vec::new(),
    };
    spec.seccomp = Seccomp::Unconfined;
    spec
}

fn volume(source: &Path, target: &str, read_only: bool) -> Volume {
    Volume {
        source: source.to_owned(),
        target: target.into(),
        read_only,
    }
}

/// A directory on a file system that can map ids: the host's, or one in a file.
struct Mappable {
    directory: tempfile::TempDir,
    mounted: bool,
}

impl Mappable {
    /// `None` says why not.
    fn directory() -> Option<Self> {
        let mut place = Self {
            directory: tempfile::tempdir_in("/var/lib").unwrap(),
            mounted: false,
        };
        if place.maps() {
            return Some(place);
        }
        let image = place.directory.path().with_extension("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        let (file, point) = (image.to_str().unwrap(), place.path().to_str().unwrap());
        let mounted = run("mkfs.ext4", &["-q", file]) && run("mount", &["-o", "loop", file, point]);
        // The mount holds it.
        fs::remove_file(&image).unwrap();
        place.mounted = mounted;
        if mounted && place.maps() {
            return Some(place);
        }
        eprintln!("SKIPPED: no file system here can map ids, and none could be made in a file");
        None
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn maps(&self) -> bool {
        let users = kernel::user_namespace::make(BASE, 1, false).unwrap();
        let tree = kernel::mount::clone_tree(None, self.path(), false).unwrap();
        kernel::mount::map_ids(tree.as_fd(), users.user.as_fd(), false).is_ok()
    }
}

impl Drop for Mappable {
    fn drop(&mut self) {
        if self.mounted {
            kernel::mount::detach(self.path()).unwrap();
        }
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let facts = fs::symlink_metadata(path).unwrap();
    (facts.uid(), facts.gid())
}

fn status_of(pid: i32, field: &str) -> String {
    let text = harness::file_at(format!("/proc/{pid}/status").into());
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// Pids in the container's pid namespace but its init.
fn commands(running: &Running<'_>) -> Vec<i32> {
    let children = harness::file_at(format!("/proc/{0}/task/{0}/children", running.pid).into());
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn root_inside_is_nobody_in_particular_outside() {
    let world = World::new();
    let running = world.start(&own_ids(shell("sleep 100"))).unwrap();
    let init = running.pid;
    wait_until("the command runs", || !commands(&running).is_empty());
    let command = commands(&running)[0];
    for pid in [init, command] {
        for file in ["uid_map", "gid_map"] {
            let map = harness::file_at(format!("/proc/{pid}/{file}").into());
            let words: Vec<&str> = map.split_whitespace().collect();
            assert_eq!(words, ["0", "1900000000", "65536"], "{file} of {pid}");
        }
        let ids = ["1900000000"; 4].join("\t");
        assert_eq!(status_of(pid, "Uid:"), ids, "{pid}");
        assert_eq!(status_of(pid, "Gid:"), ids, "{pid}");
        assert_eq!(status_of(pid, "Groups:"), "", "{pid}");
    }
    // All of it is the container's own; the host's network was asked for.
    let link = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let own = std::process::id() as i32;
    for name in ["user", "mnt", "uts", "ipc", "pid", "cgroup"] {
        assert_ne!(link(command, name), link(own, name), "{name}");
        assert_eq!(link(command, name), link(init, name), "{name}");
    }
    assert_eq!(link(command, "net"), link(own, "net"));
}

#[test]
fn it_owns_its_sandbox_on_disk_and_changes_owners_within_its_range() {
    let world = World::new();
    let script = "id -u; id -g; id -G; touch mine other; chown 33:34 other; chmod 6755 mine; stat -c '%u %g' mine other . /tmp /run /dev /dev/null";
    let mut running = world.start(&own_ids(shell(script))).unwrap();
    let sandbox = running.context.sandbox.clone();
    assert!(running.reap() == kernel::process::Exit::Exited(0));
    let own = "0 0\n".repeat(5);
    assert_eq!(running.wait().stdout, format!("0\n0\n0\n0 0\n33 34\n{own}"));
    assert_eq!(owner(&sandbox), (BASE, BASE));
    // Set-user-id, but to an id that nobody has.
    assert_eq!(owner(&sandbox.join("mine")), (BASE, BASE));
    assert_eq!(owner(&sandbox.join("other")), (BASE + 33, BASE + 34));
    let beyond = world.run(&own_ids(shell("touch f; chown 65536 f"))).unwrap();
    assert!(beyond.stderr.contains("Invalid argument"), "{beyond:?}");
}

#[test]
fn the_hosts_files_are_those_of_a_stranger() {
    let world = World::new();
    let secret = tempfile::NamedTempFile::new_in("/var/lib").unwrap();
    fs::write(&secret, "canary").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let path = secret.path().display();
    let script = format!(
        "cat {path} /etc/shadow; stat -c %u {path}; chown 0 {path}; chmod 777 {path}; echo x > {path}; ls /root"
    );
    // Not with every capability there is, either.
    for spec in [own_ids(shell(&script)), all_powers(own_ids(shell(&script)))] {
        let ended = world.run(&spec).unwrap();
        assert_eq!(ended.stdout, "65534\n", "{ended:?}");
        assert_eq!(
            ended.stderr.matches("Permission denied").count(),
            4 - 1,
            "{ended:?}"
        );
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "canary");
    assert_eq!(owner(secret.path()), (0, 0));
}

#[test]
fn volumes_keep_the_ids_that_are_on_disk() {
    let world = World::new();
    let Some(data) = Mappable::directory() else { return };
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str, id: u32, mode: u32| {
        let path = data.path().join(name);
        fs::write(&path, "text").unwrap();
        chown(&path, Some(id), Some(id)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("roots", 0, 0o600);
    file("users", 1000, 0o600);
    file("beyond", 70_000, 0o600);
    let mut spec = own_ids(shell(
        "cd /srv && stat -c '%n %u %g' beyond roots users && cat roots users && touch made && chown 7:8 made && \
         mkdir deep && echo >> roots; cat beyond; rm beyond; chown 0 beyond",
    ));
    spec.volumes = vec![volume(data.path(), "/srv", false)];
    let ended = world.run(&spec).unwrap();
    assert_eq!(
        ended.stdout, "beyond 65534 65534\nroots 0 0\nusers 1000 1000\ntexttext",
        "{ended:?}"
    );
    assert_eq!(owner(&data.path().join("made")), (7, 8));
    assert_eq!(owner(&data.path().join("deep")), (0, 0));
    assert!(ended.stderr.contains("beyond: Permission denied"), "{ended:?}");
    // Who is not among the container's ids stays what he was, in a directory of its root at that.
    if data.path().join("beyond").exists() {
        assert_eq!(owner(&data.path().join("beyond")), (70_000, 70_000));
    }
    // The same without ids of its own: nothing was shifted on disk.
    let mut plain = shell("stat -c '%u %g' /srv/made");
    plain.volumes = spec.volumes.clone();
    assert_eq!(world.output(&plain), "7 8\n");
    spec.command[2] = "touch /srv/x; echo $?".into();
    spec.volumes[0].read_only = true;
    assert_eq!(world.output(&spec), "1\n");
}

#[test]
fn a_set_user_id_file_on_a_volume_gives_nothing() {
    let world = World::new();
    let Some(data) = Mappable::directory() else { return };
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = data.path().join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut spec = own_ids(spec(&["/srv/id", "-u"]));
    spec.volumes = vec![volume(data.path(), "/srv", false)];
    spec.user = Some("1000".into());
    assert_eq!(world.output(&spec), "1000\n");
}

#[test]
fn a_file_system_that_can_not_map_ids_is_refused_by_name() {
    let world = World::new();
    let mut spec = own_ids(spec(&["true"]));
    spec.volumes = vec![volume(Path::new("/proc/fs"), "/srv", true)];
    let fault = world.run(&spec).unwrap_err();
    assert!(
        fault.message.contains("/proc/fs") && fault.message.contains("map ids"),
        "{fault}"
    );
}

#[test]
fn every_capability_is_over_the_containers_own_namespaces() {
    let world = World::new();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let script = "
        grep CapEff /proc/self/status | tr -d '0-9:\\t'
        hostname other && hostname
        mount -t tmpfs none /mnt && echo mounted && umount /mnt
        for mask in /proc/keys /proc/timer_list /proc/sys /sys/firmware /dev /tmp /proc; do umount $mask && echo unmounted $mask; done
        mount -o remount,bind,rw / && echo writable
        mount -o remount,bind,rw /proc/sys && echo writable sysctls
        mount -o remount,bind,suid,dev . && echo devices
        mount -t proc none /mnt && echo another proc
        mount -t devtmpfs none /mnt && echo devices
        mknod /tmp/disk b 254 0 && echo node
        date -s 2020-01-01 >/dev/null && echo clock
        echo x > /proc/sys/kernel/core_pattern && echo pattern
        chroot /proc/1/root true && echo outside
        cat /proc/1/environ && echo environment
        ls /proc/1/fd && echo descriptors
        dmesg > /dev/null && echo log
        exit 0";
    let ended = world.run(&all_powers(own_ids(shell(script)))).unwrap();
    assert_eq!(ended.stdout, "CapEffffffffffff\nother\nmounted\n", "{ended:?}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), name);
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        pattern
    );
}

#[test]
fn another_user_namespace_is_refused_as_ever() {
    let world = World::new();
    let ended = world
        .run(&own_ids(shell("unshare -U id; unshare -Ur id")))
        .unwrap();
    assert_eq!(ended.stdout, "");
    assert_eq!(
        ended.stderr.matches("Operation not permitted").count(),
        2,
        "{ended:?}"
    );
}

#[test]
fn its_own_network_is_its_own_and_the_hosts_is_not() {
    let world = World::new();
    let script = "cat /proc/net/dev | grep -c :; ls /sys/class/net; \
         python3 -c 'import socket; socket.socket().bind((\"127.0.0.1\", 81))' 2>/dev/null && echo bound";
    let mut spec = own_ids(shell(script));
    spec.network = Network::None;
    let own = world.run(&spec).unwrap();
    assert!(own.stdout.starts_with("1\nlo\n"), "{own:?}");
    if Path::new("/usr/bin/python3").exists() {
        assert!(own.stdout.ends_with("bound\n"), "{own:?}");
    }
    spec.network = Network::Host;
    let host = world.run(&spec).unwrap();
    assert!(!host.stdout.contains("bound"), "{host:?}");
}

#[test]
fn a_further_process_has_the_same_ids() {
    let world = World::new();
    for network in [Network::Host, Network::None] {
        let mut parent = own_ids(shell("sleep 100"));
        parent.network = network;
        let running = world.start(&parent).unwrap();
        let exec = |script: &str, user: Option<&str>| {
            let exec = ExecSpec {
                command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
                user: user.map(str::to_owned),
                ..ExecSpec::default()
            };
            running.exec(&parent, &exec)
        };
        let (_, output) = exec(
            "id -u; cut -c 11-21 /proc/self/uid_map; echo again > /dev/stdout; grep CapEff /proc/self/status; ls /proc | grep -c '^[0-9]'",
            None,
        )
        .unwrap();
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(
            (lines[0], lines[1].trim(), lines[2]),
            ("0", "1900000000", "again"),
            "{output}"
        );
        let default = container::plan::default_capabilities().0;
        assert_eq!(lines[3], format!("CapEff:\t{default:016x}"), "{output}");
        assert_eq!(
            exec("id -u; echo again > /dev/stdout", Some("33")).unwrap().1,
            "33\nagain\n"
        );
        let fault = exec("id", Some("65536")).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("user"), "{fault}");
    }
}

#[test]
fn users_are_those_of_its_ids() {
    let world = World::new();
    let mut spec = own_ids(shell(
        "id -u; id -g; touch f; stat -c '%u %g' f .; echo x > /dev/stdout",
    ));
    spec.user = Some("1000:1001".into());
    let mut running = world.start(&spec).unwrap();
    let sandbox = running.context.sandbox.clone();
    running.reap();
    assert_eq!(running.wait().stdout, "1000\n1001\n1000 1001\n1000 1001\nx\n");
    assert_eq!(owner(&sandbox), (BASE + 1000, BASE + 1001));
    // Few ids: some accounts of the host are not among them.
    spec.userns = Some(UserNamespace {
        base: Some(BASE),
        count: 100,
    });
    let fault = world.run(&spec).unwrap_err();
    assert_eq!(fault.field.as_deref(), Some("user"), "{fault}");
    spec.user = Some("nobody".into());
    let fault = world.run(&spec).unwrap_err();
    assert!(fault.message.contains("among the container's 100 ids"), "{fault}");
    spec.user = None;
    assert!(world.run(&spec).is_ok());
}

#[test]
fn a_terminal_belongs_to_its_user_and_its_group() {
    let world = World::new();
    let script = "tty; stat -c '%u %g' /dev/console; echo seen > /dev/tty; test -c /dev/console && echo end";
    for (user, owner) in [(None, "0 5"), (Some("33"), "33 5")] {
        let mut spec = own_ids(shell(script));
        spec.terminal = Some(TerminalSize {
            rows: 24,
            columns: 80,
        });
        spec.user = user.map(str::to_owned);
        let mut running = world.start(&spec).unwrap();
        let mut terminal = running.terminal.take().unwrap();
        running.reap();
        let mut bytes = vec![0; 4096];
        let count = std::io::Read::read(&mut terminal, &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]).replace('\r', "");
        assert_eq!(text, format!("/dev/pts/0\n{owner}\nseen\nend\n"));
    }
}

/// A shell and a few programs with their libraries, by hard copies of the host's.
fn fill_image(at: &Path) {
    let libraries = Path::new("lib/x86_64-linux-gnu");
    for directory in [Path::new("bin"), Path::new("etc"), Path::new("lib64"), libraries] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["sh", "cat", "ls", "touch", "stat", "chown", "mknod"] {
        fs::copy(Path::new("/usr/bin").join(program), at.join("bin").join(program)).unwrap();
    }
    for library in ["libc.so.6", "libselinux.so.1", "libpcre2-8.so.0"] {
        let from = Path::new("/").join(libraries).join(library);
        if from.exists() {
            fs::copy(from, at.join(libraries).join(library)).unwrap();
        }
    }
    let loader = "lib64/ld-linux-x86-64.so.2";
    fs::copy(Path::new("/").join(loader), at.join(loader)).unwrap();
}

#[test]
fn an_image_is_seen_with_its_own_ids_and_stays_untouched() {
    let world = World::new();
    let Some(image) = Mappable::directory() else {
        return;
    };
    if !world.host.mapped_layers {
        eprintln!("SKIPPED: no overlay over mounts with mapped ids");
        return;
    }
    fill_image(image.path());
    fs::create_dir_all(image.path().join("home/app")).unwrap();
    for (name, id) in [("etc/secret", 0), ("home/app/file", 1500)] {
        fs::write(image.path().join(name), name).unwrap();
        fs::set_permissions(image.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        chown(image.path().join(name), Some(id), Some(id)).unwrap();
    }
    let data = image.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut spec = own_ids(shell(
        "stat -c '%u %g' / /etc/secret /home/app/file; cat /etc/secret; echo changed > /etc/secret; \
         chown 5:6 /home/app/file; touch /new /made/beside; mknod /null c 1 3; ls /; stat -c '%u' /new /made",
    ));
    spec.rootfs = Some(image.path().to_owned());
    // Its mount point and the directory above are made in the container's root.
    spec.volumes = vec![volume(&data, "/made/deep", false)];
    let mut running = world.start(&spec).unwrap();
    let upper = running.context.overlay_dir.clone().unwrap().join("upper");
    running.reap();
    let kept = [upper.join("new"), upper.join("home/app/file")].map(|path| owner(&path));
    let ended = running.wait();
    assert!(
        ended.stdout.starts_with("0 0\n0 0\n1500 1500\netc/secret"),
        "{ended:?}"
    );
    assert!(
        ended.stdout.ends_with("0\n0\n") && !ended.stdout.contains("null"),
        "{ended:?}"
    );
    assert_eq!(kept, [(BASE, BASE), (BASE + 5, BASE + 6)]);
    assert_eq!(owner(&image.path().join("home/app/file")), (1500, 1500));
    assert_eq!(
        fs::read_to_string(image.path().join("etc/secret")).unwrap(),
        "etc/secret"
    );
}

#[test]
fn a_command_is_not_protected_from_the_oom_killer() {
    let world = World::new();
    let script = "cat /proc/self/oom_score_adj; (echo -500 > /proc/self/oom_score_adj) 2>/dev/null && echo lowered; cat /proc/1/oom_score_adj";
    let mut parent = own_ids(shell(&format!("{script}; sleep 100")));
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let expected: i32 = own.trim().parse().unwrap();
    parent.command[2] = script.to_owned();
    let output = world.output(&parent);
    let scores: Vec<&str> = output.lines().collect();
    assert!(!output.contains("lowered") && scores.len() == 2, "{output}");
    for score in scores {
        assert!(score.parse::<i32>().unwrap() >= expected.min(0), "{output}");
    }
}
