//! Memory: ceilings, swap, and the end of a container that ran out of it.

use std::collections::BTreeMap;

use kernel::cgroup::memory::{MemorySettings, apply, kills, limits_swap, peak};
use kernel::cgroup::{Group, LimitError, Version};
use kernel::file::{KernelFileError, for_each_keyed, number};
use model::{
    Bytes, Controller, Fault, HostSupport, IsolatorReport, LaunchSpec, Limit, Limitation, Limits, Usage,
};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

/// The smallest ceiling that is admitted. The init and a shell's page tables and kernel stacks already take
/// some hundred kB; below this no command ever starts.
pub const MEMORY_MIN: Bytes = Bytes::mib(1);

pub struct MemoryIsolator {
    tree: Option<TreeId>,
    version: Version,
    /// Swap is counted per group.
    swap: bool,
    page: u64,
}

impl MemoryIsolator {
    pub fn new(host: &HostSupport, trees: &Trees) -> Self {
        let tree = trees.of(Controller::Memory);
        let version = tree.map_or(Version::V2, |id| trees.tree(id).version());
        Self {
            tree,
            version,
            swap: host.swap_accounting
                && tree
                    .is_some_and(|id| version == Version::V2 || limits_swap(Group::new(trees.tree(id), ""))),
            page: host.page_size.get().max(1),
        }
    }

    pub fn tree(&self) -> Option<TreeId> {
        self.tree
    }

    /// Swap beyond the hard ceiling: what was asked, else none when there is a ceiling and swap is counted.
    fn swap_of(&self, limits: &Limits) -> Option<Limit<Bytes>> {
        match (limits.mem, limits.swap) {
            (_, Some(swap)) => Some(swap),
            (Some(Limit::Value(_)), None) if self.swap => Some(Limit::Value(Bytes(0))),
            (Some(Limit::Max), None) if self.swap => Some(Limit::Max),
            _ => None,
        }
    }

    fn settings(&self, limits: &Limits) -> MemorySettings {
        MemorySettings {
            hard: limits.mem,
            swap: self.swap_of(limits),
            soft: limits.mem_soft,
            high: limits.mem_high,
            min: limits.mem_min,
            new_group: false,
        }
    }

    fn admit_swap(&self, limits: &Limits) -> Result<(), Fault> {
        const FIELD: &str = "limits.swap";
        if limits.swap.is_none() {
            return Ok(());
        }
        if !self.swap {
            return Err(Fault::unsupported(
                FIELD,
                "this kernel does not count swap per control group (memory.memsw.* or memory.swap.max)",
            )
            .remedy("boot with swapaccount=1"));
        }
        match limits.mem {
            Some(Limit::Value(_)) => Ok(()),
            _ if limits.swap == Some(Limit::Max) => Ok(()),
            _ => Err(
                Fault::invalid(FIELD, "limits swap beyond a memory ceiling, and there is none")
                    .remedy("set mem"),
            ),
        }
    }

    fn admit_v2_only(&self, limits: &Limits) -> Result<(), Fault> {
        if self.version == Version::V2 {
            return Ok(());
        }
        for (asked, field, file) in [
            (limits.mem_high.is_some(), "limits.mem_high", "memory.high"),
            (limits.mem_min.is_some(), "limits.mem_min", "memory.min"),
        ] {
            if asked {
                return Err(Fault::unsupported(
                    field,
                    format!("{file} needs the memory controller on cgroup v2; this host has it on v1"),
                ));
            }
        }
        Ok(())
    }
}

impl Isolator for MemoryIsolator {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn report(&self) -> IsolatorReport {
        let swap = if self.swap {
            ", swap counted"
        } else {
            ", swap not counted"
        };
        match (self.tree, self.version) {
            (None, _) => missing("memory", "the memory controller (CONFIG_MEMCG) is not mounted"),
            (_, Version::V1) => {
                let mechanism = format!("memory.limit_in_bytes, oom eventfd (cgroup v1){swap}");
                let mut report = active("memory", mechanism);
                report.missing = "throttling and protection (memory.high, memory.min: cgroup v2)".to_owned();
                report
            }
            (_, Version::V2) => active(
                "memory",
                format!(
                    "memory.max, memory.high, memory.low, memory.min, memory.oom.group (cgroup v2){swap}"
                ),
            ),
        }
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        let asked = [
            (limits.mem.is_some(), "limits.mem"),
            (limits.mem_soft.is_some(), "limits.mem_soft"),
            (limits.mem_high.is_some(), "limits.mem_high"),
            (limits.mem_min.is_some(), "limits.mem_min"),
            (limits.swap.is_some(), "limits.swap"),
        ];
        if let (None, Some((_, field))) = (self.tree, asked.iter().find(|(asked, _)| *asked)) {
            return Err(Fault::unsupported(
                *field,
                "the memory controller (CONFIG_MEMCG) is not mounted",
            ));
        }
        self.admit_v2_only(limits)?;
        for (value, field) in [
            (limits.mem.and_then(Limit::value), "limits.mem"),
            (limits.mem_high.and_then(Limit::value), "limits.mem_high"),
        ] {
            if let Some(value) = value.filter(|value| *value < MEMORY_MIN) {
                let text = format!("{value} is too little to start a command; the least is {MEMORY_MIN}");
                return Err(Fault::invalid(field, text));
            }
        }
        if let Some(hard) = limits.mem.and_then(Limit::value) {
            for (value, field) in [
                (limits.mem_soft, "limits.mem_soft"),
                (limits.mem_min, "limits.mem_min"),
            ] {
                if let Some(value) = value.filter(|value| *value > hard) {
                    return Err(Fault::invalid(
                        field,
                        format!("{value} is above the hard ceiling of {hard}"),
                    ));
                }
            }
        }
        self.admit_swap(limits)
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        self.tree.into_iter().collect()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let settings = MemorySettings {
            new_group: true,
            ..self.settings(&spec.limits)
        };
        apply(place.group(tree), &settings, self.page).map_err(|e| PrepareError::limit("memory", e))
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let (was, want) = (self.settings(old), self.settings(new));
        // On v1 the swap file holds the sum, so both are written when either changes.
        let ceiling_changed = was.hard != want.hard || was.swap != want.swap;
        // What had no value before goes back to the kernel's default (undo of a failed update).
        let lifted = |was: Option<Limit<Bytes>>, want| match (was, want) {
            (Some(_), None) => Some(Limit::Max),
            (_, want) => want,
        };
        let settings = MemorySettings {
            hard: if ceiling_changed {
                lifted(was.hard, want.hard)
            } else {
                None
            },
            swap: if ceiling_changed {
                lifted(was.swap, want.swap)
            } else {
                None
            },
            soft: match (was.soft, want.soft) {
                (was, want) if was == want => None,
                (Some(_), None) if self.version == Version::V2 => Some(Bytes(0)),
                (Some(_), None) => Some(V1_SOFT_NONE),
                (_, want) => want,
            },
            high: if was.high == want.high {
                None
            } else {
                lifted(was.high, want.high)
            },
            min: if was.min == want.min {
                None
            } else {
                want.min.or(Some(Bytes(0)))
            },
            new_group: false,
        };
        apply(place.group(tree), &settings, self.page)
    }

    fn usage(&self, place: Place<'_>, files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let group = place.group(tree);
        match self.version {
            Version::V1 => {
                UsageFile::open(group, "memory.usage_in_bytes", current, files)?;
                // memsw.usage is this plus total_swap; one file less to keep open and to read.
                let stat = if self.swap { v1_stat_with_swap } else { v1_stat };
                UsageFile::open(group, "memory.stat", stat, files)?;
                UsageFile::open(group, "memory.max_usage_in_bytes", peak_so_far, files)?;
                UsageFile::open(group, "memory.failcnt", limit_hits, files)?;
            }
            Version::V2 => {
                UsageFile::open(group, "memory.current", current, files)?;
                UsageFile::open(group, "memory.stat", v2_stat, files)?;
                UsageFile::open(group, "memory.peak", peak_so_far, files)?;
                UsageFile::open(group, "memory.events", v2_events, files)?;
                if self.swap {
                    UsageFile::open(group, "memory.swap.current", v2_swap, files)?;
                }
            }
        }
        Ok(())
    }

    fn limitation(&self, place: Place<'_>, limits: &Limits) -> Result<Option<Limitation>, KernelFileError> {
        let Some(tree) = self.tree else { return Ok(None) };
        // Without a ceiling of its own it was the host that ran out: the signal says all there is.
        let Some(Limit::Value(limit)) = limits.mem else {
            return Ok(None);
        };
        let group = place.group(tree);
        // The group is the container's own and new, so its count began at 0.
        match kills(group) {
            Ok(Some(count)) if count > 0 => {}
            Ok(_) => return Ok(None),
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        }
        let peak = peak(group)?.map(Bytes);
        let mut statistics = BTreeMap::new();
        let mut buffer = [0; 8192];
        let got = group.tree.read(group.name, "memory.stat", &mut buffer)?;
        for_each_keyed(&buffer[..got], |key, value| {
            statistics.insert(String::from_utf8_lossy(key).into_owned(), value);
        });
        let used = peak
            .map(|peak| format!(", the most used was {peak}"))
            .unwrap_or_default();
        Ok(Some(Limitation {
            reason: model::Reason::MemoryLimit,
            message: format!("out of memory: the ceiling is {limit}{used}"),
            limit: Some(limit),
            peak,
            statistics,
        }))
    }
}

/// No soft ceiling on v1: more than any host has. The file takes -1 too; a plain number reads back the same
/// way as any other.
const V1_SOFT_NONE: Bytes = Bytes((1 << 62) + ((1 << 62) - (1 << 16)));

fn current(text: &[u8], usage: &mut Usage) {
    usage.mem_total_bytes = number(text);
}

fn peak_so_far(text: &[u8], usage: &mut Usage) {
    usage.mem_peak_bytes = number(text);
}

fn limit_hits(text: &[u8], usage: &mut Usage) {
    usage.mem_limit_hits = number(text);
}

fn v1_stat(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"total_cache" => {
            usage.mem_cache_bytes = Some(value);
            usage.mem_file_bytes = Some(value);
        }
        b"total_rss" => {
            usage.mem_rss_bytes = Some(value);
            usage.mem_anon_bytes = Some(value);
        }
        b"total_mapped_file" => usage.mem_mapped_file_bytes = Some(value),
        b"total_swap" => usage.mem_swap_bytes = Some(value),
        b"total_unevictable" => usage.mem_unevictable_bytes = Some(value),
        _ => {}
    });
}

/// After [`current`].
fn v1_stat_with_swap(text: &[u8], usage: &mut Usage) {
    v1_stat(text, usage);
    usage.mem_total_memsw_bytes = usage
        .mem_total_bytes
        .zip(usage.mem_swap_bytes)
        .map(|(m, s)| m + s);
}

fn v2_stat(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"anon" => {
            usage.mem_anon_bytes = Some(value);
            usage.mem_rss_bytes = Some(value);
        }
        b"file" => {
            usage.mem_file_bytes = Some(value);
            usage.mem_cache_bytes = Some(value);
        }
        b"kernel" => usage.mem_kmem_usage_bytes = Some(value),
        b"file_mapped" => usage.mem_mapped_file_bytes = Some(value),
        b"unevictable" => usage.mem_unevictable_bytes = Some(value),
        _ => {}
    });
}

fn v2_events(text: &[u8], usage: &mut Usage) {
    for_each_keyed(text, |key, value| match key {
        b"max" => usage.mem_limit_hits = Some(value),
        b"oom_kill" => usage.mem_oom_kills = Some(value),
        _ => {}
    });
}

/// After [`current`].
fn v2_swap(text: &[u8], usage: &mut Usage) {
    usage.mem_swap_bytes = number(text);
    usage.mem_total_memsw_bytes = usage
        .mem_total_bytes
        .zip(usage.mem_swap_bytes)
        .map(|(m, s)| m + s);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_statistics_take_the_hierarchical_counters() {
        let mut usage = Usage {
            mem_total_bytes: Some(1000),
            ..Usage::default()
        };
        let text = b"cache 1\nrss 2\nmapped_file 3\nswap 9\nhierarchical_memory_limit 5\ntotal_cache 10\ntotal_rss 20\n\
            total_mapped_file 30\ntotal_swap 40\ntotal_unevictable 50\n";
        v1_stat_with_swap(text, &mut usage);
        assert_eq!(
            (usage.mem_cache_bytes, usage.mem_file_bytes),
            (Some(10), Some(10))
        );
        assert_eq!((usage.mem_rss_bytes, usage.mem_anon_bytes), (Some(20), Some(20)));
        assert_eq!(
            (usage.mem_mapped_file_bytes, usage.mem_unevictable_bytes),
            (Some(30), Some(50))
        );
        assert_eq!(
            (usage.mem_swap_bytes, usage.mem_total_memsw_bytes),
            (Some(40), Some(1040))
        );
    }

    #[test]
    fn v2_statistics_have_the_same_meaning() {
        let mut usage = Usage {
            mem_total_bytes: Some(100),
            ..Usage::default()
        };
        v2_stat(
            b"anon 1\nfile 2\nkernel 3\nfile_mapped 4\nunevictable 5\nsock 6\n",
            &mut usage,
        );
        assert_eq!((usage.mem_anon_bytes, usage.mem_rss_bytes), (Some(1), Some(1)));
        assert_eq!(
            (usage.mem_file_bytes, usage.mem_kmem_usage_bytes),
            (Some(2), Some(3))
        );
        v2_events(
            b"low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
            &mut usage,
        );
        assert_eq!((usage.mem_limit_hits, usage.mem_oom_kills), (Some(7), Some(1)));
        v2_swap(b"11\n", &mut usage);
        assert_eq!(usage.mem_total_memsw_bytes, Some(111));
    }
}
