//! The agent's flags about disk space.

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
}

/// The same names in a file; times as texts.
#[derive(Debug, Default)]
pub struct DiskFileFlags {
    pub gc_delay: Option<String>,
    pub gc_disk_headroom: Option<f64>,
    pub disk_watch_interval: Option<String>,
}

/// Below it a container's measuring would be most of what it does.
const INTERVAL_MIN: Millis = Millis(100);

impl DiskFlags {
    /// Takes over what the file says and the command line does not. `bad` makes the error of a text that is no time.
    pub fn merge(
        &mut self,
        file: DiskFileFlags,
        given: impl Fn(&str) -> bool,
        bad: impl Fn(&str, model::units::UnitError) -> ConfigError,
    ) -> Result<(), ConfigError> {
        let times = [
            ("gc_delay", file.gc_delay, &mut self.gc_delay),
            (
                "disk_watch_interval",
                file.disk_watch_interval,
                &mut self.disk_watch_interval,
            ),
        ];
        for (name, text, flag) in times {
            if let Some(text) = text {
                let value = text.parse().map_err(|error| bad(name, error))?;
                if !given(name) {
                    *flag = value;
                }
            }
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
        if self.disk_watch_interval < INTERVAL_MIN {
            let value = self.disk_watch_interval.to_string();
            return refused("disk-watch-interval", value, "must be 100ms or more");
        }
        Ok(())
    }
}
