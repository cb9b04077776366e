//! Exchanging directories and links while the runtime mounts there (CVE-2021-30465, CVE-2017-1002101, CVE-2019-16884).
//! A living container flips names at full speed; others are launched into what it flips.

use std::os::unix::fs::symlink;
use std::path::Path;

use model::LaunchSpec;

use crate::arena::{Arena, races, script, volume, volume_flag};

/// renameat2(2) with RENAME_EXCHANGE: there is no moment at which a name is missing.
fn flip(one: &str, other: &str) -> String {
    format!(
        "one, other = b'{one}', b'{other}'
count = 0
while True:
    for _ in range(1000): libc.syscall(316, -100, one, -100, other, 2)
    count += 1
    if count == 20: print('FLIPPING', flush=True)
"
    )
}

struct Tally {
    ran: usize,
    refused: usize,
}

#[track_caller]
fn race(arena: &Arena, spec: &LaunchSpec) -> Tally {
    let mut tally = Tally { ran: 0, refused: 0 };
    arena.race_launches(spec, |answer| match answer {
        Ok((_, termination)) => {
            assert_ne!(
                termination.exit_status, 66,
                "a container saw the host: {termination:?}"
            );
            tally.ran += 1;
        }
        Err(_) => tally.refused += 1,
    });
    arena.host_is_unchanged();
    assert_eq!(tally.ran + tally.refused, races());
    eprintln!("{} ran, {} were refused", tally.ran, tally.refused);
    tally
}

fn flipper(arena: &Arena, source: &Path, one: &str, other: &str) {
    let shared = volume_flag(source, "/tmp/v");
    arena.hold_attack("flipper", &["-v", &shared], &flip(one, other));
    support::eventually("it flips", || {
        arena.printed("flipper").contains("FLIPPING").then_some(())
    });
}

#[test]
fn a_volumes_source_that_turns_into_a_link() {
    let Some(arena) = Arena::new() else { return };
    let shared = arena.ground.join("shared");
    std::fs::create_dir_all(shared.join("sub")).expect("a directory");
    symlink(&arena.ground, shared.join("link")).expect("a link out of the volume");
    flipper(&arena, &shared, "/tmp/v/sub", "/tmp/v/link");
    let spec = LaunchSpec {
        volumes: vec![volume(&shared.join("sub"), "/tmp/x", false)],
        ..script("[ -e /tmp/x/canary ] && exit 66; exit 0")
    };
    let tally = race(&arena, &spec);
    // Had it never been a link, nothing was tried.
    assert!(tally.refused > 0, "the flipper never won a race");
}

#[test]
fn a_volumes_target_that_turns_into_a_link() {
    let Some(arena) = Arena::new() else { return };
    let (shared, inner) = (arena.ground.join("shared"), arena.ground.join("inner"));
    std::fs::create_dir_all(shared.join("sub")).expect("a directory");
    std::fs::create_dir(&inner).expect("a directory");
    std::fs::write(inner.join("mark"), "x").expect("a file");
    symlink("/proc", shared.join("link")).expect("a link to the container's procfs");
    flipper(&arena, &shared, "/tmp/v/sub", "/tmp/v/link");
    let spec = LaunchSpec {
        volumes: vec![
            volume(&shared, "/tmp/v", false),
            volume(&inner, "/tmp/v/sub", true),
        ],
        // Over procfs, it would decide what every later look at /proc finds.
        ..script("[ -e /proc/mark ] && exit 66; [ -d /proc/self/attr ] || exit 66; exit 0")
    };
    race(&arena, &spec);
    assert!(!shared.join("mark").exists());
}

#[test]
fn an_image_whose_kernel_directories_turn_into_links() {
    let Some(arena) = Arena::new() else { return };
    let outside = arena.ground.join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    let image = arena.image("image", |root| {
        for name in ["dev", "proc"] {
            std::fs::create_dir(root.join(name)).expect("a directory");
        }
        std::fs::create_dir(root.join("dev/pts")).expect("a directory");
        symlink("/proc/sys/kernel/core_pattern", root.join("dev/null")).expect("a link");
        symlink("/etc", root.join("elsewhere")).expect("a link");
    });
    let shared = volume_flag(&image, "/tmp/v");
    let both = "one, other, third = b'/tmp/v/dev', b'/tmp/v/elsewhere', b'/tmp/v/proc'
count = 0
while True:
    for _ in range(500):
        libc.syscall(316, -100, one, -100, other, 2)
        libc.syscall(316, -100, other, -100, third, 2)
    count += 1
    if count == 20: print('FLIPPING', flush=True)
";
    arena.hold_attack("flipper", &["-v", &shared], both);
    support::eventually("it flips", || {
        arena.printed("flipper").contains("FLIPPING").then_some(())
    });
    let spec = LaunchSpec {
        rootfs: Some(image),
        volumes: vec![volume("/usr".as_ref(), "/usr", true)],
        command: ["/bin/busybox", "sh", "-c"]
            .map(String::from)
            .into_iter()
            .chain([
                "{ echo x; } 2>/dev/null >/proc/sys/kernel/core_pattern && exit 66; \
             [ -c /dev/null ] || exit 67; [ -d /proc/self/attr ] || exit 68; exit 0"
                    .to_owned(),
            ])
            .collect(),
        remove: true,
        ..LaunchSpec::default()
    };
    race(&arena, &spec);
    assert_eq!(std::fs::read_dir(&outside).expect("it is there").count(), 0);
}
