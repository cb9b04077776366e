//! The agent's TOML file.
//!
//! Rules: what is taken is within the bounds that the agent relies on.

use agent::Config;

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let config = match Config::from_text(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for path in [&config.work_dir, &config.runtime_dir, &config.socket] {
        assert!(path.is_absolute(), "{}", path.display());
    }
    assert!(config.work_dir.parent().is_some() && config.runtime_dir.parent().is_some());
    assert!(config.listen.is_none_or(|address| address.ip().is_loopback()));
    assert!((1..=64).contains(&config.workers) && (1..=100_000).contains(&config.max_containers));
    assert!(config.network_pool <= 1024 && config.sample_interval.get() >= 100);
    // It becomes the name of a group and of directories.
    assert!(config.cgroup_root().parse::<model::ContainerName>().is_ok() || config.instance.len() > 55);
}
