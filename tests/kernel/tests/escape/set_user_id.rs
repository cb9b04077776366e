//! Set-user-id programs that a container leaves for a user of the host, and those of the host for the container.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::arena::{Arena, volume_flag};

const NOBODY: u32 = 65534;

/// Somebody on the host without rights.
fn as_nobody(program: &std::path::Path) -> std::io::Result<std::process::Output> {
    Command::new(program).uid(NOBODY).gid(NOBODY).arg("true").output()
}

#[test]
fn a_program_left_in_a_sandbox_is_out_of_a_host_users_reach() {
    let Some(arena) = Arena::new() else { return };
    arena.hold("held", &[]);
    let leave = "cp /bin/busybox ./evil && chmod 4755 ./evil && ls -l ./evil | cut -c1-10";
    let answer = arena
        .agent
        .cli(&["exec", "held", "--", "sh", "-c", leave])
        .success();
    assert_eq!(answer.stdout, "-rwsr-xr-x\n");
    let id = arena.agent.container("held").expect("known")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let sandboxes = arena.agent.work_dir().join("sandboxes");
    let evil = sandboxes.join(&id).join("evil");
    assert!(evil.exists(), "{}", evil.display());
    assert!(as_nobody(&evil).is_err(), "nobody executed {}", evil.display());
    for directory in [arena.agent.work_dir(), arena.agent.runtime_dir(), sandboxes] {
        let facts = std::fs::metadata(&directory).expect("it is there");
        assert_eq!(
            (facts.uid(), facts.mode() & 0o7777),
            (0, 0o700),
            "{}",
            directory.display()
        );
    }
}

/// Inside, no mount honours the bit: not the host's root, a sandbox, a volume, /tmp, an image.
#[test]
fn no_set_user_id_program_works_inside() {
    let Some(arena) = Arena::new() else { return };
    let shared = arena.ground.join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    let id = shared.join("id");
    std::fs::copy("/usr/bin/id", &id).expect("a program");
    std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o6755)).expect("its mode");
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let image = arena.image("image", |root| {
        std::fs::copy(&id, root.join("id")).expect("a program");
        std::fs::set_permissions(root.join("id"), std::fs::Permissions::from_mode(0o6755)).expect("its mode");
    });
    let flag = volume_flag(&shared, "/tmp/v");
    let host = arena.agent.cli(&[
        "run",
        "--rm",
        "--user",
        "nobody",
        "-v",
        &flag,
        "--",
        "/tmp/v/id",
        "-u",
    ]);
    assert_eq!(host.success().stdout.trim(), "65534");
    let flags = arena.image_flags(&image);
    let arguments: Vec<&str> = ["run", "--rm", "--user", "65534:65534"]
        .into_iter()
        .chain(flags.iter().map(String::as_str))
        .chain(["--", "/id", "-u"])
        .collect();
    assert_eq!(arena.agent.cli(&arguments).success().stdout.trim(), "65534");
    let all_nosuid = "
for line in open('/proc/self/mountinfo'):
    fields = line.split()
    if 'nosuid' not in fields[5].split(','): print('DONE', line)
";
    arena.attack(&["-v", &flag], all_nosuid);
}
