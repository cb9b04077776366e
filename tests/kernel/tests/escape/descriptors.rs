//! Descriptors and directories of the host that a container is left with by mistake (CVE-2024-21626, CVE-2016-9962).

use std::os::unix::fs::symlink;

use model::{ExecSpec, LaunchSpec};

use crate::arena::{Arena, script};

/// Without listing the directory, which would open one more.
const ONLY_THREE: &str = "
n=0; while [ $n -lt 200 ]; do
  if [ -e /proc/self/fd/$n ] && [ $n -gt 2 ]; then echo \"DONE descriptor $n\"; fi
  n=$((n+1))
done
case $(readlink /proc/self/cwd) in /*) ;; *) echo DONE directory;; esac
echo END";

fn assert_only_three(answer: &support::Answer) {
    assert!(
        answer.stdout.ends_with("END\n") && !answer.stdout.contains("DONE"),
        "{answer:?}"
    );
}

#[test]
fn a_command_begins_with_three_descriptors() {
    let Some(arena) = Arena::new() else { return };
    let image = arena.image("image", |_| {});
    let own_root = arena.image_flags(&image);
    let own_root: Vec<&str> = own_root.iter().map(String::as_str).collect();
    for flags in [&[][..], &["--network", "none"], &["--user", "nobody"], &own_root] {
        let command = ["--", "/bin/sh", "-c", ONLY_THREE];
        let arguments: Vec<&str> = ["run", "--rm"]
            .iter()
            .chain(flags)
            .chain(&command)
            .copied()
            .collect();
        assert_only_three(&arena.agent.cli(&arguments));
    }
    arena.hold("held", &[]);
    assert_only_three(
        &arena
            .agent
            .cli(&["exec", "held", "--", "/bin/sh", "-c", ONLY_THREE]),
    );
}

#[test]
fn an_init_keeps_the_reading_ends_of_two_pipes() {
    let Some(arena) = Arena::new() else { return };
    arena.hold("held", &[]);
    let init = arena.init_of("held");
    support::eventually("the init has settled", || {
        let directory = std::fs::read_dir(format!("/proc/{init}/fd")).ok()?;
        let links: Vec<_> = directory
            .flatten()
            .map(|entry| {
                std::fs::read_link(entry.path())
                    .unwrap_or_default()
                    .display()
                    .to_string()
            })
            .collect();
        (links.len() == 2 && links.iter().all(|link| link.starts_with("pipe:"))).then_some(())
    });
    let cwd = std::fs::read_link(format!("/proc/{init}/cwd")).expect("it runs");
    assert_eq!(cwd, std::path::Path::new("/"));
}

/// A working directory that names a descriptor of the runtime, as in CVE-2024-21626: with a leak it leads out.
#[test]
fn a_working_directory_leads_through_no_descriptor() {
    let Some(arena) = Arena::new() else { return };
    let image = arena.image("image", |root| {
        for number in 0..20 {
            symlink(format!("/proc/self/fd/{number}"), root.join(format!("d{number}"))).expect("a link");
        }
    });
    let own_root = LaunchSpec {
        rootfs: Some(image),
        volumes: vec![crate::arena::volume("/usr".as_ref(), "/usr", true)],
        ..script("exit 66")
    };
    arena.hold("held", &[]);
    arena.connected(|connection| async move {
        let held = connection.container("held").await.expect("it runs");
        for number in 3..20 {
            let workdir = Some(format!("/proc/self/fd/{number}").into());
            let by_name = LaunchSpec {
                workdir: workdir.clone(),
                ..script("exit 66")
            };
            let by_link = LaunchSpec {
                workdir: Some(format!("/d{number}").into()),
                ..own_root.clone()
            };
            for spec in [by_name, by_link] {
                let answer = connection.launch(&spec, None, false).await;
                assert!(answer.is_err(), "{:?} was entered", spec.workdir);
            }
            let exec = ExecSpec {
                command: vec!["true".into()],
                workdir,
                ..ExecSpec::default()
            };
            assert!(held.exec(&exec, None).await.is_err(), "descriptor {number}");
        }
    });
}

/// Standard input without a client is a null device; the host's own must not be in a container's hands.
#[test]
fn the_null_device_that_is_given_is_not_the_hosts() {
    let Some(arena) = Arena::new() else { return };
    // Its own may be changed, and is its own.
    let spec = script("chmod 600 /proc/self/fd/0; chown 1:1 /proc/self/fd/0; exit 0");
    let exec = ExecSpec {
        command: [
            "sh",
            "-c",
            "chmod 600 /proc/self/fd/0 || chown 1:1 /proc/self/fd/0 || exit 9",
        ]
        .map(String::from)
        .into(),
        ..ExecSpec::default()
    };
    arena.hold("held", &[]);
    arena.connected(|connection| async move {
        let (_, waiting) = connection
            .launch_and_wait(&spec, None, false)
            .await
            .expect("a launch");
        waiting.await.expect("its end");
        let held = connection.container("held").await.expect("it runs");
        let execution = held.exec(&exec, None).await.expect("an exec");
        assert_eq!(execution.process.wait().await.expect("its end").exit_status, 9);
    });
    arena.host_is_unchanged();
}
