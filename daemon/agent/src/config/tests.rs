use super::*;

fn parse(args: &[&str]) -> Result<Config, ConfigError> {
    let matches = command().no_binary_name(true).try_get_matches_from(args)?;
    Config::from_matches(&matches)
}

#[test]
fn works_without_flags() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.socket, Path::new("/run/bulkhead/agent.sock"));
    assert_eq!(config.cgroup_root(), "bulkhead");
}

#[test]
fn a_group_is_named_from_the_top() {
    for (text, place) in [
        ("auto", CgroupPlace::Auto),
        ("/", CgroupPlace::At("".into())),
        (
            "/my.slice/my.service",
            CgroupPlace::At("my.slice/my.service".into()),
        ),
    ] {
        assert_eq!(parse(&["--cgroup-root", text]).unwrap().cgroup_place, place);
    }
    assert_eq!(parse(&[]).unwrap().cgroup_place, CgroupPlace::Auto);
}

#[test]
fn another_runtime_directory_is_another_instance() {
    let one = parse(&["--runtime-dir=/a/run"]).unwrap();
    let two = parse(&["--runtime-dir=/b/run"]).unwrap();
    assert_ne!(one.cgroup_root(), two.cgroup_root());
    assert_eq!(one.socket, Path::new("/a/run/agent.sock"));
}

#[test]
fn a_flag_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(
        &path,
        "work_dir = '/from/file'\nsample_interval = '3s'\nworkers = 2\n",
    )
    .unwrap();
    let config = parse(&["--config", path.to_str().unwrap(), "--workers", "3"]).unwrap();
    assert_eq!(config.work_dir, Path::new("/from/file"));
    assert_eq!(config.sample_interval, Millis::secs(3));
    assert_eq!(config.workers, 3);
}

#[test]
fn a_misspelt_key_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "work_dri = '/x'\n").unwrap();
    let error = parse(&["--config", path.to_str().unwrap()]).unwrap_err();
    assert!(error.to_string().contains("work_dri"), "{error}");
}

#[test]
fn absurd_values_are_refused() {
    for args in [
        &["--workers=0"][..],
        &["--http=nowhere"],
        &["--listen=0.0.0.0:5061"],
        &["--listen=5061"],
        &["--instance=../x"],
        &["--sample-interval=1ms"],
        &["--work-dir=/"],
        &["--max-containers=0"],
        &["--userns-range=0:65536"],
        &["--userns-range=100000"],
        &["--userns-range=4294901760:65537"],
        &["--cgroup-root=here"],
        &["--cgroup-root=/a/../b"],
        &["--cgroup-root=/sys/fs/cgroup//a"],
        &["--gc-disk-headroom=1.5"],
        &["--disk-watch-interval=1ms"],
    ] {
        assert!(parse(args).is_err(), "{args:?}");
    }
}
