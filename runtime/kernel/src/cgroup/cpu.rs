//! CPU: a weight under contention and a ceiling (CFS bandwidth).
//!
//! | | v1 | v2 |
//! |---|---|---|
//! | weight | `cpu.shares` = 1024 a CPU, 2 to 262144 | `cpu.weight` = 100 a CPU, 1 to 10000 |
//! | ceiling | `cpu.cfs_quota_us` of `cpu.cfs_period_us`, -1 is none | `cpu.max` = `quota period` or `max period` |
//! | burst | `cpu.cfs_burst_us` | `cpu.max.burst` |
//!
//! Kernel: scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst "CPU Interface Files".

use model::{Cpus, Limit, Millis};

use super::group::{Compare, Group, LimitError};
use super::tree::Version;

/// The span in which a quota is spent. The kernel's own default, and Mesos'.
pub const PERIOD_US: u64 = 100_000;
/// The kernel refuses a smaller quota (kernel/sched/core.c, min_cfs_quota_period).
pub const QUOTA_US_MIN: u64 = 1_000;

/// `max(2, floor(1024 cpus))`; the kernel clamps at 2^18 (MAX_SHARES), that is 256 CPUs.
pub fn shares(cpus: Cpus) -> u64 {
    (u64::from(cpus.milli()) * 1024 / 1000).clamp(2, 1 << 18)
}

/// `max(1, floor(100 cpus))`; the kernel refuses more than 10000, that is 100 CPUs.
pub fn weight(cpus: Cpus) -> u64 {
    (u64::from(cpus.milli()) * 100 / 1000).clamp(1, 10_000)
}

/// CPU time in one period.
pub fn quota_us(cpus: Cpus) -> u64 {
    (u64::from(cpus.milli()) * PERIOD_US / 1000).max(QUOTA_US_MIN)
}

/// What to write; `None` leaves the file as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSettings {
    pub weight: Option<Cpus>,
    pub ceiling: Option<Limit<Cpus>>,
    pub burst: Option<Millis>,
}

/// Writes the settings. `burst_was_set`: the group may hold a burst larger than the new quota, which the
/// kernel would refuse (EINVAL), so it is taken back first.
pub fn apply(group: Group<'_>, want: &CpuSettings, burst_was_set: bool) -> Result<(), LimitError> {
    let v1 = group.version() == Version::V1;
    if let Some(cpus) = want.weight {
        if v1 {
            group.set("cpu.shares", format_args!("{}", shares(cpus)), Compare::Exact)?;
        } else {
            group.set("cpu.weight", format_args!("{}", weight(cpus)), Compare::Exact)?;
        }
    }
    let burst_file = if v1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
    if burst_was_set && want.ceiling.is_some() {
        group.set(burst_file, format_args!("0"), Compare::Exact)?;
    }
    match (want.ceiling, v1) {
        // A new group has the period that we want (default_cfs_period); only the quota is ours.
        (Some(Limit::Value(cpus)), true) => {
            group.set(
                "cpu.cfs_quota_us",
                format_args!("{}", quota_us(cpus)),
                Compare::Exact,
            )?;
        }
        (Some(Limit::Max), true) => group.set("cpu.cfs_quota_us", format_args!("-1"), Compare::Exact)?,
        (Some(Limit::Value(cpus)), false) => {
            group.set(
                "cpu.max",
                format_args!("{} {PERIOD_US}", quota_us(cpus)),
                Compare::Exact,
            )?;
        }
        (Some(Limit::Max), false) => group.set("cpu.max", format_args!("max {PERIOD_US}"), Compare::Exact)?,
        (None, _) => {}
    }
    match want.burst {
        Some(burst) => group.set(burst_file, format_args!("{}", burst.get() * 1000), Compare::Exact),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_those_of_mesos() {
        // milli-CPUs, shares, weight, quota
        for (milli, s, w, q) in [
            (1, 2, 1, 1_000),
            (9, 9, 1, 1_000),
            (10, 10, 1, 1_000),
            (100, 102, 10, 10_000),
            (500, 512, 50, 50_000),
            (1_000, 1_024, 100, 100_000),
            (1_500, 1_536, 150, 150_000),
            (64_000, 65_536, 6_400, 6_400_000),
            (100_000, 102_400, 10_000, 10_000_000),
            (101_000, 103_424, 10_000, 10_100_000),
            (300_000, 262_144, 10_000, 30_000_000),
        ] {
            let cpus = Cpus::from_milli(milli);
            assert_eq!((shares(cpus), weight(cpus), quota_us(cpus)), (s, w, q), "{cpus}");
        }
    }
}
