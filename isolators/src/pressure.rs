//! Pressure stall information of each container: how long its work waited for a processor, for memory, for a disk.
//! Told only, nothing is limited. Every group of a v2 tree has the files, with or without controllers; where the kernel
//! does not count (CONFIG_PSI, psi=0) nothing is opened and a sample costs nothing more.

use kernel::cgroup::{LimitError, pressure::parse};
use kernel::file::KernelFileError;
use model::{Fault, HostSupport, IsolatorReport, LaunchSpec, Limits, Pressure, Usage};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

pub struct PressureIsolator {
    tree: Option<TreeId>,
    counted: bool,
}

impl PressureIsolator {
    pub fn new(host: &HostSupport, trees: &Trees) -> Self {
        Self {
            tree: trees.unified(),
            counted: host.pressure,
        }
    }
}

impl Isolator for PressureIsolator {
    fn name(&self) -> &'static str {
        "pressure"
    }

    fn report(&self) -> IsolatorReport {
        match (self.tree, self.counted) {
            (None, _) => missing("pressure", "no cgroup v2 tree, whose groups tell it, is mounted"),
            (_, false) => missing(
                "pressure",
                "the kernel does not count stalls (CONFIG_PSI; boot with psi=1)",
            ),
            _ => active(
                "pressure",
                "cpu.pressure, memory.pressure, io.pressure (statistics)",
            ),
        }
    }

    fn admit(&self, _limits: &Limits) -> Result<(), Fault> {
        Ok(())
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        Vec::new()
    }

    fn prepare(&self, _place: Place<'_>, _spec: &LaunchSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    fn update(&self, _place: Place<'_>, _old: &Limits, _new: &Limits) -> Result<(), LimitError> {
        Ok(())
    }

    fn usage(&self, place: Place<'_>, files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        let (Some(tree), true) = (self.tree, self.counted) else {
            return Ok(());
        };
        let group = place.group(tree);
        UsageFile::open(group, "cpu.pressure", cpu, files)?;
        UsageFile::open(group, "memory.pressure", memory, files)?;
        UsageFile::open(group, "io.pressure", io, files)?;
        Ok(())
    }
}

fn read(text: &[u8]) -> Option<Pressure> {
    parse(std::str::from_utf8(text).ok()?)
}

fn cpu(text: &[u8], usage: &mut Usage) {
    usage.cpu_pressure = read(text);
}

fn memory(text: &[u8], usage: &mut Usage) {
    usage.mem_pressure = read(text);
}

fn io(text: &[u8], usage: &mut Usage) {
    usage.io_pressure = read(text);
}
