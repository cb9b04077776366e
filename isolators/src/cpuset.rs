//! CPUs and memory nodes by number. A container has a cpuset group only if it asked for one.

use kernel::cgroup::LimitError;
use kernel::cgroup::cpuset::{apply, is_within, parse_list};
use model::{Controller, Fault, HostSupport, IsolatorReport, LaunchSpec, Limits};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};

pub struct CpusetIsolator {
    tree: Option<TreeId>,
    cpus: Option<String>,
    mems: Option<String>,
}

impl CpusetIsolator {
    pub fn new(host: &HostSupport, trees: &Trees) -> Self {
        Self {
            tree: trees.of(Controller::Cpuset),
            cpus: host.cpuset_cpus.clone(),
            mems: host.cpuset_mems.clone(),
        }
    }
}

/// The most ranges in a list: it is written in one piece of at most 128 bytes.
const LIST_BYTES_MAX: usize = 120;

fn admit_list(field: &str, what: &str, asked: &str, host: Option<&str>) -> Result<(), Fault> {
    let list = parse_list(asked).filter(|list| !list.is_empty());
    let Some(list) = list.filter(|_| asked.len() <= LIST_BYTES_MAX) else {
        return Err(Fault::invalid(
            field,
            format!("{asked:?} is not a list of {what} like 0-3,8"),
        ));
    };
    let Some(host) = host else { return Ok(()) };
    if parse_list(host).is_some_and(|host| is_within(&list, &host)) {
        return Ok(());
    }
    Err(Fault::invalid(
        field,
        format!("{asked} names {what} that this host does not have; it has {host}"),
    ))
}

impl Isolator for CpusetIsolator {
    fn name(&self) -> &'static str {
        "cpuset"
    }

    fn report(&self) -> IsolatorReport {
        match self.tree {
            None => missing("cpuset", "the cpuset controller (CONFIG_CPUSETS) is not mounted"),
            Some(_) => active("cpuset", "cpuset.cpus, cpuset.mems"),
        }
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        for (field, what, asked, host) in [
            ("limits.cpuset_cpus", "CPUs", &limits.cpuset_cpus, &self.cpus),
            (
                "limits.cpuset_mems",
                "memory nodes",
                &limits.cpuset_mems,
                &self.mems,
            ),
        ] {
            let Some(asked) = asked else { continue };
            if self.tree.is_none() {
                return Err(Fault::unsupported(
                    field,
                    "the cpuset controller (CONFIG_CPUSETS) is not mounted",
                ));
            }
            admit_list(field, what, asked, host.as_deref())?;
        }
        Ok(())
    }

    fn trees(&self, limits: &Limits) -> Vec<TreeId> {
        let asked = limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some();
        self.tree.filter(|_| asked).into_iter().collect()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        self.update(place, &Limits::default(), &spec.limits)
            .map_err(|e| PrepareError::limit("cpuset", e))
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let changed = old.cpuset_cpus != new.cpuset_cpus || old.cpuset_mems != new.cpuset_mems;
        // Back to "not asked" (undo): the group stays, with all that the host has.
        let all = |new: &Option<String>, host: &Option<String>| new.clone().or_else(|| host.clone());
        let (cpus, mems) = (
            all(&new.cpuset_cpus, &self.cpus),
            all(&new.cpuset_mems, &self.mems),
        );
        if !changed {
            return Ok(());
        }
        apply(place.group(tree), cpus.as_deref(), mems.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_outside_the_host_are_refused() {
        for (asked, fine) in [
            ("0", true),
            ("0-1", true),
            ("1,0", true),
            ("2", false),
            ("", false),
            ("x", false),
            ("0-", false),
        ] {
            let answer = admit_list("limits.cpuset_cpus", "CPUs", asked, Some("0-1"));
            assert_eq!(answer.is_ok(), fine, "{asked:?} {answer:?}");
        }
        assert!(admit_list("f", "CPUs", "99", None).is_ok());
    }
}
