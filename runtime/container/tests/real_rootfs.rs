//! Real containers with a root file system of their own, some of them hostile.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{World, shell, spec};
use model::{LaunchSpec, Volume};

/// A shell and what it needs, by hard copies of the host's.
fn make_rootfs(at: &Path) {
    for directory in ["bin", "etc", "tmp", "lib64", "lib/x86_64-linux-gnu"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    for program in ["sh", "cat", "ls", "touch", "id", "mkdir", "rm", "readlink"] {
        let from = ["/bin", "/usr/bin"]
            .iter()
            .map(|directory| Path::new(directory).join(program))
            .find(|path| path.exists())
            .unwrap();
        fs::copy(from, at.join("bin").join(program)).unwrap();
    }
    for library in ["libc.so.6", "libselinux.so.1", "libpcre2-8.so.0"] {
        let from = Path::new("/lib/x86_64-linux-gnu").join(library);
        if from.exists() {
            fs::copy(from, at.join("lib/x86_64-linux-gnu").join(library)).unwrap();
        }
    }
    fs::copy(
        "/lib64/ld-linux-x86-64.so.2",
        at.join("lib64/ld-linux-x86-64.so.2"),
    )
    .unwrap();
    fs::write(
        at.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1500:1501::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(at.join("etc/group"), "root:x:0:\napp:x:1501:\nextra:x:1600:app\n").unwrap();
}

fn with_rootfs(mut spec: LaunchSpec, rootfs: &Path) -> LaunchSpec {
    spec.rootfs = Some(rootfs.to_owned());
    spec
}

fn listing(at: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_image_stays_untouched_and_the_container_can_write() {
    let world = World::new();
    let image = tempfile::tempdir().unwrap();
    make_rootfs(image.path());
    let before = listing(image.path());
    let script = "touch /new && rm /bin/id && echo changed > /etc/passwd && cat /etc/passwd; ls /; ls /dev /proc/self/fd > /dev/null && echo ok";
    let output = world.output(&with_rootfs(shell(script), image.path()));
    assert!(
        output.starts_with("changed\n") && output.ends_with("ok\n"),
        "{output}"
    );
    assert!(output.contains("\nnew\n"), "{output}");
    assert_eq!(listing(image.path()), before);
    assert!(image.path().join("bin/id").exists());
    assert!(
        fs::read_to_string(image.path().join("etc/passwd"))
            .unwrap()
            .contains("app")
    );
}

#[test]
fn nothing_of_the_host_is_in_sight() {
    let world = World::new();
    let image = tempfile::tempdir().unwrap();
    make_rootfs(image.path());
    let mounts = world.output(&with_rootfs(spec(&["cat", "/proc/self/mountinfo"]), image.path()));
    for line in mounts.lines() {
        let target = line.split(' ').nth(4).unwrap();
        assert!(
            target == "/"
                || ["/proc", "/dev", "/sys", "/var"]
                    .iter()
                    .any(|top| target.starts_with(top)),
            "{line}"
        );
    }
    assert!(
        !mounts.contains("devtmpfs") && !mounts.contains("debugfs"),
        "{mounts}"
    );
}

#[test]
fn users_are_those_of_the_image() {
    let world = World::new();
    let image = tempfile::tempdir().unwrap();
    make_rootfs(image.path());
    let mut spec = with_rootfs(shell("id -u; id -g; id -G; echo $HOME"), image.path());
    spec.user = Some("app".into());
    spec.workdir = Some("/".into());
    assert_eq!(world.output(&spec), "1500\n1501\n1501 1600\n/home/app\n");
}

#[test]
fn an_image_whose_kernel_directories_are_links_is_refused() {
    let world = World::new();
    for name in ["dev", "proc", "sys"] {
        let image = tempfile::tempdir().unwrap();
        make_rootfs(image.path());
        symlink("/etc", image.path().join(name)).unwrap();
        let fault = world.run(&with_rootfs(shell("true"), image.path())).unwrap_err();
        assert!(fault.message.contains("symbolic link"), "{name}: {fault}");
    }
}

#[test]
fn volume_targets_do_not_leave_the_root_through_links() {
    let world = World::new();
    let (image, source, victim) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    make_rootfs(image.path());
    fs::write(source.path().join("file"), "volume").unwrap();
    symlink(victim.path(), image.path().join("absolute")).unwrap();
    symlink("../../../../../../..", image.path().join("tmp/up")).unwrap();
    for target in ["/absolute/deep", "/tmp/up/climbed"] {
        let mut spec = with_rootfs(spec(&["cat", &format!("{target}/file")]), image.path());
        spec.volumes = vec![Volume {
            source: source.path().to_owned(),
            target: target.into(),
            read_only: true,
        }];
        match world.run(&spec) {
            Ok(ended) => assert_eq!(ended.stdout, "volume"),
            Err(fault) => assert!(fault.message.contains("attach volume"), "{fault}"),
        }
    }
    assert!(listing(victim.path()).is_empty());
    assert!(!Path::new("/climbed").exists());
}

#[test]
fn an_images_own_null_device_is_not_used_for_masks() {
    let world = World::new();
    let image = tempfile::tempdir().unwrap();
    make_rootfs(image.path());
    fs::create_dir(image.path().join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", image.path().join("dev/null")).unwrap();
    let script = "echo '|/evil' > /dev/null; cat /proc/keys /proc/timer_list; readlink /dev/null; echo end";
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(world.output(&with_rootfs(shell(script), image.path())), "end\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        pattern
    );
}
