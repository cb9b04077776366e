//! CPU: share under contention, ceiling, burst; CPU time and throttling.

use kernel::cgroup::cpu::{CpuSettings, PERIOD_US, apply, quota_us};
use kernel::cgroup::{LimitError, Version};
use kernel::file::{KernelFileError, for_each_keyed, number};
use model::{Controller, Fault, HostSupport, IsolatorReport, LaunchSpec, Limit, Limits, Usage};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

pub struct CpuIsolator {
    tree: Option<TreeId>,
    /// Where v1 counts CPU time, if the v2 tree does not.
    accounting: Option<TreeId>,
    version: Version,
    /// CFS bandwidth is built in (CONFIG_CFS_BANDWIDTH).
    bandwidth: bool,
    burst: bool,
}

impl CpuIsolator {
    pub fn new(host: &HostSupport, trees: &Trees) -> Self {
        let tree = trees.of(Controller::Cpu);
        let version = tree.map_or(Version::V2, |id| trees.tree(id).version());
        let file = if version == Version::V1 {
            "cpu.cfs_quota_us"
        } else {
            "cpu.max"
        };
        Self {
            tree,
            accounting: trees.of(Controller::Cpuacct),
            version,
            bandwidth: tree.is_some_and(|id| trees.tree(id).has("", file)),
            burst: host.cpu_burst,
        }
    }
}

/// The ceiling to be written for the step from `old` to `new`; `None`: nothing to write.
fn ceiling_change(old: &Limits, new: &Limits) -> Option<Limit<model::Cpus>> {
    match (old.cpu_ceiling(), new.cpu_ceiling()) {
        (old, new) if old == new => None,
        (_, Some(cpus)) => Some(Limit::Value(cpus)),
        (_, None) => Some(Limit::Max),
    }
}

impl Isolator for CpuIsolator {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn report(&self) -> IsolatorReport {
        let mut report = match (self.tree, self.version, self.bandwidth) {
            (None, _, _) => {
                return missing("cpu", "the cpu controller (CONFIG_CGROUP_SCHED) is not mounted");
            }
            (_, Version::V1, true) => active("cpu", "cpu.shares, cpu.cfs_quota_us (cgroup v1)"),
            (_, Version::V2, true) => active("cpu", "cpu.weight, cpu.max (cgroup v2)"),
            (_, Version::V1, false) => active("cpu", "cpu.shares (cgroup v1)"),
            (_, Version::V2, false) => active("cpu", "cpu.weight (cgroup v2)"),
        };
        report.missing = match (self.bandwidth, self.burst) {
            (false, _) => "ceilings and burst (CONFIG_CFS_BANDWIDTH)".to_owned(),
            (true, false) => "burst (cpu.max.burst or cpu.cfs_burst_us, Linux 5.14)".to_owned(),
            (true, true) => String::new(),
        };
        report
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        let field = if limits.cpu_limit.is_some() {
            "limits.cpu_limit"
        } else {
            "limits.cpus"
        };
        if (limits.cpus.is_some() || limits.cpu_limit.is_some()) && self.tree.is_none() {
            return Err(Fault::unsupported(
                field,
                "the cpu controller (CONFIG_CGROUP_SCHED) is not mounted",
            ));
        }
        if limits.cpu_ceiling().is_some() && !self.bandwidth {
            return Err(Fault::unsupported(
                field,
                "this kernel has no CFS bandwidth control (CONFIG_CFS_BANDWIDTH)",
            ));
        }
        let Some(burst) = limits.cpu_burst else {
            return Ok(());
        };
        const FIELD: &str = "limits.cpu_burst";
        if !self.burst {
            let what = "this kernel has no CFS burst (cpu.max.burst or cpu.cfs_burst_us, Linux 5.14)";
            return Err(Fault::unsupported(FIELD, what));
        }
        let Some(ceiling) = limits.cpu_ceiling() else {
            return Err(
                Fault::invalid(FIELD, "there is no cpu ceiling of which time could be saved up")
                    .remedy("set cpus or cpu_limit"),
            );
        };
        let quota = quota_us(ceiling);
        if burst.get().saturating_mul(1000) > quota {
            return Err(Fault::invalid(
                FIELD,
                format!(
                    "{burst} is more than the quota of one period ({} us of CPU in {} us), which the kernel refuses",
                    quota, PERIOD_US
                ),
            ));
        }
        Ok(())
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        self.tree.into_iter().chain(self.accounting).collect()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let settings = CpuSettings {
            weight: spec.limits.cpus,
            ceiling: spec.limits.cpu_ceiling().map(Limit::Value),
            burst: spec.limits.cpu_burst,
        };
        apply(place.group(tree), &settings, false).map_err(|e| PrepareError::limit("cpu", e))
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let ceiling = ceiling_change(old, new);
        let burst = match (old.cpu_burst, new.cpu_burst) {
            // A changed quota takes the burst back first, so it is written again.
            (old, new) if old == new && ceiling.is_none() => None,
            (Some(_), None) => Some(model::Millis(0)),
            (_, new) => new,
        };
        let weight = if old.cpus == new.cpus { None } else { new.cpus };
        apply(
            place.group(tree),
            &CpuSettings {
                weight,
                ceiling,
                burst,
            },
            old.cpu_burst.is_some(),
        )
    }

    fn usage(&self, place: Place<'_>, files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        // CPU time: the v2 group tells microseconds wherever there is one; v1 cpuacct nanoseconds in two
        // files (cpuacct.stat has a grain of 10 ms).
        if let Some(unified) = place.trees.unified() {
            UsageFile::open(place.group(unified), "cpu.stat", unified_time, files)?;
        }
        if let (Some(accounting), Version::V1) = (self.accounting, self.version) {
            if UsageFile::open(place.group(accounting), "cpuacct.usage_user", v1_user, files)? {
                UsageFile::open(place.group(accounting), "cpuacct.usage_sys", v1_system, files)?;
            } else {
                UsageFile::open(place.group(accounting), "cpuacct.stat", v1_ticks, files)?;
            }
        }
        if let (Some(tree), Version::V1) = (self.tree, self.version) {
            UsageFile::open(place.group(tree), "cpu.stat", v1_throttling, files)?;
        }
        Ok(())
    }
}

const MICROS: f64 = 1e-6;
const NANOS: f64 = 1e-9;
/// USER_HZ, the unit of cpuacct.stat: 100 on every architecture of today.
const TICK: f64 = 1e-2;

fn unified_time(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"user_usec" => usage.cpus_user_time_secs = Some(value as f64 * MICROS),
        b"system_usec" => usage.cpus_system_time_secs = Some(value as f64 * MICROS),
        b"nr_periods" => usage.cpus_nr_periods = Some(value),
        b"nr_throttled" => usage.cpus_nr_throttled = Some(value),
        b"throttled_usec" => usage.cpus_throttled_time_secs = Some(value as f64 * MICROS),
        _ => {}
    });
}

fn v1_user(text: &[u8], usage: &mut Usage) {
    usage.cpus_user_time_secs = number(text).map(|ns| ns as f64 * NANOS);
}

fn v1_system(text: &[u8], usage: &mut Usage) {
    usage.cpus_system_time_secs = number(text).map(|ns| ns as f64 * NANOS);
}

fn v1_ticks(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"user" => usage.cpus_user_time_secs = Some(value as f64 * TICK),
        b"system" => usage.cpus_system_time_secs = Some(value as f64 * TICK),
        _ => {}
    });
}

fn v1_throttling(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"nr_periods" => usage.cpus_nr_periods = Some(value),
        b"nr_throttled" => usage.cpus_nr_throttled = Some(value),
        b"throttled_time" => usage.cpus_throttled_time_secs = Some(value as f64 * NANOS),
        _ => {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Cpus;

    #[test]
    fn units_of_both_generations_become_seconds() {
        let mut usage = Usage::default();
        unified_time(b"usage_usec 3000000\nuser_usec 1500000\nsystem_usec 500000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 250000\n", &mut usage);
        assert_eq!(usage.cpus_user_time_secs, Some(1.5));
        assert_eq!(usage.cpus_system_time_secs, Some(0.5));
        assert_eq!(
            (usage.cpus_nr_periods, usage.cpus_nr_throttled),
            (Some(7), Some(2))
        );
        assert_eq!(usage.cpus_throttled_time_secs, Some(0.25));
        v1_throttling(
            b"nr_periods 1\nnr_throttled 1\nthrottled_time 2000000000\n",
            &mut usage,
        );
        assert_eq!(usage.cpus_throttled_time_secs, Some(2.0));
        v1_ticks(b"user 150\nsystem 25\n", &mut usage);
        assert_eq!(
            (usage.cpus_user_time_secs, usage.cpus_system_time_secs),
            (Some(1.5), Some(0.25))
        );
        v1_user(b"2500000000\n", &mut usage);
        assert_eq!(usage.cpus_user_time_secs, Some(2.5));
    }

    #[test]
    fn a_ceiling_is_written_when_it_changes() {
        let cpus = |milli| Some(Cpus::from_milli(milli));
        let with = |cpus, cpu_limit| Limits {
            cpus,
            cpu_limit,
            ..Limits::default()
        };
        let value = |milli| Some(Limit::Value(Cpus::from_milli(milli)));
        for (old, new, change) in [
            (with(None, None), with(None, None), None),
            (with(cpus(500), None), with(cpus(500), None), None),
            (with(cpus(500), None), with(cpus(1000), None), value(1000)),
            (
                with(cpus(500), None),
                with(cpus(500), Some(Limit::Max)),
                Some(Limit::Max),
            ),
            (
                with(cpus(500), Some(Limit::Max)),
                with(cpus(500), value(250)),
                value(250),
            ),
            (with(cpus(500), value(250)), with(cpus(700), value(250)), None),
        ] {
            assert_eq!(ceiling_change(&old, &new), change, "{old:?} {new:?}");
        }
    }
}
