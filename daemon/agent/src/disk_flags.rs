//! The agent's flags about disk space.

use std::str::FromStr;

use clap::Args;
use model::Millis;

use crate::config::ConfigError;

#[derive(Debug, Clone, Args)]
pub struct DiskFlags {
    /// Longest time that the sandbox and the output of a finished container are kept; less as the disk fills
    #[arg(long, value_name = "TIME", default_value = "7d", env = "BULKHEAD_GC_DELAY")]
    pub gc_delay: Millis,
    /// Share of the work directory's disk to keep free: max age = GC_DELAY x max(0, 1 - HEADROOM - use)
    #[arg(
        long,
        value_name = "0..1",
        default_value = "0.1",
        env = "BULKHEAD_GC_DISK_HEADROOM"
    )]
    pub gc_disk_headroom: f64,
    /// How often the disk is looked at, and what is too old removed
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1m",
        env = "BULKHEAD_DISK_WATCH_INTERVAL"
    )]
    pub disk_watch_interval: Millis,
    /// How often the disk use of a container with --disk is measured, where no project quota counts it
    #[arg(
        long,
        value_name = "TIME",
        default_value = "15s",
        env = "BULKHEAD_CONTAINER_DISK_WATCH_INTERVAL"
    )]
    pub container_disk_watch_interval: Millis,
    /// End a container that is measured above its --disk; false: only statistics. A project quota always holds
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        action = clap::ArgAction::Set,
        env = "BULKHEAD_ENFORCE_CONTAINER_DISK_QUOTA"
    )]
    pub enforce_container_disk_quota: bool,
    /// Project ids for disk quotas, none of them used by anybody else on the work directory's file system
    #[arg(
        long,
        value_name = "FIRST-LAST",
        default_value = "5000-10000",
        env = "BULKHEAD_DISK_PROJECT_RANGE"
    )]
    pub disk_project_range: ProjectRange,
}

/// Project ids, both ends included; 0 is everybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectRange {
    pub first: u32,
    pub last: u32,
}

impl FromStr for ProjectRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        match ends {
            Some((first, last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err("is not a range of project ids like 5000-10000".to_owned()),
        }
    }
}

/// The same names in a file; times as texts.
#[derive(Debug, Default)]
pub struct DiskFileFlags {
    pub gc_delay: Option<String>,
    pub gc_disk_headroom: Option<f64>,
    pub disk_watch_interval: Option<String>,
    pub container_disk_watch_interval: Option<String>,
    pub enforce_container_disk_quota: Option<bool>,
    pub disk_project_range: Option<String>,
}

/// Below it a container's measuring would be most of what it does.
const INTERVAL_MIN: Millis = Millis(100);

impl DiskFlags {
    /// Takes over what the file says and the command line does not. `bad` makes the error of a text that is no time.
    pub fn merge(
        &mut self,
        file: DiskFileFlags,
        given: impl Fn(&str) -> bool,
        bad: impl Fn(&str, String) -> ConfigError,
    ) -> Result<(), ConfigError> {
        let times = [
            ("gc_delay", file.gc_delay, &mut self.gc_delay),
            (
                "disk_watch_interval",
                file.disk_watch_interval,
                &mut self.disk_watch_interval,
            ),
            (
                "container_disk_watch_interval",
                file.container_disk_watch_interval,
                &mut self.container_disk_watch_interval,
            ),
        ];
        for (name, text, flag) in times {
            if let Some(text) = text {
                let value = text
                    .parse()
                    .map_err(|error: model::units::UnitError| bad(name, error.to_string()))?;
                if !given(name) {
                    *flag = value;
                }
            }
        }
        if let Some(text) = file.disk_project_range {
            let name = "disk_project_range";
            let value = text
                .parse()
                .map_err(|error| bad(name, format!("{text:?} {error}")))?;
            if !given(name) {
                self.disk_project_range = value;
            }
        }
        if let Some(value) = file
            .enforce_container_disk_quota
            .filter(|_| !given("enforce_container_disk_quota"))
        {
            self.enforce_container_disk_quota = value;
        }
        if let Some(value) = file.gc_disk_headroom.filter(|_| !given("gc_disk_headroom")) {
            self.gc_disk_headroom = value;
        }
        Ok(())
    }

    pub fn check(&self) -> Result<(), ConfigError> {
        let refused = |flag, value: String, message: &str| {
            let message = message.to_owned();
            Err(ConfigError::Value { flag, value, message })
        };
        if !(0.0..=1.0).contains(&self.gc_disk_headroom) {
            let value = self.gc_disk_headroom.to_string();
            return refused("gc-disk-headroom", value, "must be from 0 to 1");
        }
        for (flag, interval) in [
            ("disk-watch-interval", self.disk_watch_interval),
            (
                "container-disk-watch-interval",
                self.container_disk_watch_interval,
            ),
        ] {
            if interval < INTERVAL_MIN {
                return refused(flag, interval.to_string(), "must be 100ms or more");
            }
        }
        Ok(())
    }
}
