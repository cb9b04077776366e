//! Root file systems made to mislead whoever sets them up: places that are mounted to, or written to, as links.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::arena::Arena;

/// Launches from a spoiled image. What runs must have found a sane world; a refusal is as good.
#[track_caller]
fn spoiled(arena: &Arena, name: &str, prepare: impl FnOnce(&Path)) -> Option<String> {
    let image = arena.image(name, prepare);
    let flags = arena.image_flags(&image);
    let probe = "
        [ -d /proc/self/attr ] || echo DONE procfs is another
        [ -c /dev/null ] || echo DONE /dev is another
        { echo x; } 2>/dev/null >/proc/sys/kernel/core_pattern && echo DONE core_pattern
        { echo x; } 2>/dev/null >/sys/kernel/uevent_helper && echo DONE uevent_helper
        [ -e /etc/shadow ] && echo DONE the host\\'s /etc
        echo END";
    let arguments: Vec<&str> = ["run", "--rm"]
        .into_iter()
        .chain(flags.iter().map(String::as_str))
        .chain(["--", "/bin/busybox", "sh", "-c", probe])
        .collect();
    let answer = arena.agent.cli(&arguments);
    arena.host_is_unchanged();
    if answer.status == 125 {
        return Some(answer.stderr);
    }
    assert!(
        answer.stdout.ends_with("END\n") && !answer.stdout.contains("DONE"),
        "{name}: {answer:?}"
    );
    None
}

/// CVE-2019-19921, CVE-2023-27561 (/proc), CVE-2026-41579, CVE-2026-47766 (/dev).
#[test]
fn kernel_directories_that_are_links_are_refused() {
    let Some(arena) = Arena::new() else { return };
    for name in ["proc", "dev", "sys"] {
        for (index, to) in ["/etc", ".", "/nowhere"].iter().enumerate() {
            let refused = spoiled(&arena, &format!("{name}-{index}"), |root| {
                symlink(to, root.join(name)).expect("a link");
            });
            let why = refused.unwrap_or_else(|| panic!("/{name} -> {to} was accepted"));
            assert!(why.contains("symbolic link"), "/{name} -> {to}: {why}");
        }
    }
}

#[test]
fn kernel_directories_that_are_files_are_refused() {
    let Some(arena) = Arena::new() else { return };
    for name in ["proc", "dev", "sys"] {
        let refused = spoiled(&arena, name, |root| {
            std::fs::write(root.join(name), "x").expect("a file");
        });
        assert!(refused.is_some(), "/{name} as a file was accepted");
    }
}

/// CVE-2025-31133 (/dev/null), CVE-2025-52565 (/dev/pts/N, /dev/console).
#[test]
fn device_nodes_of_an_image_are_not_used() {
    let Some(arena) = Arena::new() else { return };
    for target in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
    ] {
        let name = format!("to{}", target.replace('/', "-"));
        spoiled(&arena, &name, |root| {
            std::fs::create_dir_all(root.join("dev")).expect("a directory");
            for device in ["null", "console", "ptmx", "pts", "shm", "tty"] {
                symlink(target, root.join("dev").join(device)).expect("a link");
            }
        });
    }
}

#[test]
fn other_links_stay_inside() {
    let Some(arena) = Arena::new() else { return };
    let outside = arena.ground.join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    for name in ["etc", "tmp", "run", "var", "mnt", "root"] {
        let refused = spoiled(&arena, name, |root| {
            let _ = std::fs::remove_dir(root.join(name));
            symlink(&outside, root.join(name)).expect("a link to the host");
        });
        eprintln!(
            "/{name} as a link out: {}",
            refused.as_deref().unwrap_or("ran inside")
        );
    }
    assert_eq!(
        std::fs::read_dir(&outside).expect("it is there").count(),
        0,
        "something was made on the host"
    );
}

/// Account files that are read before the command runs: a link, a pipe nobody writes to, a device.
#[test]
fn account_files_of_an_image_lead_nowhere() {
    let Some(arena) = Arena::new() else { return };
    let link_out = arena.image("link", |root| {
        symlink("/etc/passwd", root.join("etc/passwd")).expect("a link to itself");
    });
    let pipe = arena.image("pipe", |root| {
        kernel::mount::make_node(
            std::os::fd::AsFd::as_fd(&std::fs::File::open(root.join("etc")).expect("open")),
            Path::new("passwd"),
            0o010_644,
            0,
        )
        .expect("a pipe");
    });
    for image in [link_out, pipe] {
        let flags = arena.image_flags(&image);
        let arguments: Vec<&str> = ["run", "--rm", "--user", "daemon"]
            .into_iter()
            .chain(flags.iter().map(String::as_str))
            .chain(["--", "/bin/busybox", "true"])
            .collect();
        let answer = arena.agent.cli(&arguments);
        assert_eq!(answer.status, 125, "{answer:?}");
    }
}
