//! How much one value may hold. A peer that sends more is refused before we allocate for it; a
//! caller of ours is told before it is sent.

use model::{Fault, FaultKind};

/// All texts of one value together. Half of what execve(2) takes for arguments and environment on
/// an 8 MiB stack (2 MiB), so that a spec that passes here can also be started.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Words of a command. Longer lists belong in a file; with their pointers 4096 take 32 KiB.
pub const ARGUMENTS_MAX: u32 = 4096;
/// Variables of an environment: as many as arguments, since execve(2) counts them together.
pub const ENVIRONMENT_MAX: u32 = 4096;
/// Each volume is a mount made before the command starts, at about 20 µs each.
pub const VOLUMES_MAX: u32 = 512;
/// The kernel knows 41 capabilities and has room for 64.
pub const CAPABILITIES_MAX: u32 = 64;
/// The kernel knows 16 resource limits (RLIM_NLIMITS); a name may be repeated by mistake.
pub const RLIMITS_MAX: u32 = 32;
/// v2 device rules become one BPF program, whose length grows with each.
pub const DEVICES_MAX: u32 = 256;
/// Ranges of ports of one container.
pub const PORT_RANGES_MAX: u32 = 4096;
/// Reasons for which packets are dropped.
pub const DROP_REASONS_MAX: usize = 64;
/// Throttled block devices of one container.
pub const IO_DEVICES_MAX: u32 = 256;
/// Labels are printed in tables and lists; a store of data belongs elsewhere.
pub const LABELS_MAX: u32 = 1024;
/// `memory.stat` has 40 to 70 lines, per kernel.
pub const COUNTERS_MAX: u32 = 256;
/// Containers, samples or ids in one answer: four times what one host is meant to carry.
pub const CONTAINERS_MAX: u32 = 1 << 16;
/// Isolators and facts in a host report.
pub const REPORT_LINES_MAX: u32 = 256;
/// Lines of `inspect`'s detail.
pub const DETAILS_MAX: u32 = 4096;
/// Descriptors that an init keeps: status, two streams or a terminal; room for more kinds.
pub const KEPT_DESCRIPTORS_MAX: u32 = 16;

/// Refuses a list that is too long. Empty elements cost a sender nothing, so the length is looked at
/// before the elements.
pub fn check_length(field: &str, length: usize, max: u32) -> Result<(), Fault> {
    if length <= max as usize {
        return Ok(());
    }
    let message = format!("has {length} entries, {max} are allowed");
    Err(Fault::new(FaultKind::Exhausted, message).field(field))
}

/// What is left of [`TEXT_BYTES_MAX`] for one value.
#[derive(Debug)]
pub struct TextBudget {
    left: usize,
    all: usize,
}

impl Default for TextBudget {
    fn default() -> Self {
        Self::of(TEXT_BYTES_MAX)
    }
}

impl TextBudget {
    pub fn of(bytes: usize) -> Self {
        Self {
            left: bytes,
            all: bytes,
        }
    }

    pub fn take(&mut self, field: &str, bytes: usize) -> Result<(), Fault> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let all = self.all;
                let message =
                    format!("of {bytes} bytes is too long: all texts together may have {all} bytes");
                Err(Fault::new(FaultKind::Exhausted, message).field(field))
            }
        }
    }
}
