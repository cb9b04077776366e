//! Ceilings in the host's network: BPF programs at the container's v2 group pace its connections and drop what exceeds the
//! ceiling all the same; what comes in they can only drop. (Containers with a network of their own have theirs at their
//! interface: crate `network`.)

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bpf::ceiling::{CeilingError, CeilingPrograms, GroupCeiling};
use kernel::cgroup::LimitError;
use model::{Bandwidth, BitsPerSecond, Bytes, Fault, IsolatorReport, LaunchSpec, Limits, Network};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};

/// In words.
pub const MECHANISM: &str = "BPF at the v2 group: TCP paced in its sockets, what exceeds the ceiling dropped; of what comes in, what \
                             exceeds it by half a second";

/// Slower than this, a few packets are seconds.
const RATE_MIN_BITS: u64 = 64_000;
/// The kernel takes a connection's pace in 32 bits: bytes a second.
const RATE_MAX_BITS: u64 = 32_000_000_000;

pub struct HostCeilings {
    /// Loaded once, or why not.
    programs: Result<CeilingPrograms, String>,
    unified: Option<TreeId>,
}

impl HostCeilings {
    pub fn new(trees: &Trees, programs: Result<CeilingPrograms, String>) -> Self {
        let unified = trees.unified();
        let programs = match unified {
            Some(_) => programs,
            None => Err("no v2 tree for BPF programs is mounted".to_owned()),
        };
        Self { programs, unified }
    }

    /// Whether a container in the host's network can be held to this.
    pub fn admit(&self, bandwidth: &Bandwidth) -> Result<(), Fault> {
        let refuse = |message: String| Err(Fault::unsupported("limits.bandwidth", message));
        if !bandwidth.limits_anything() {
            return Ok(());
        }
        let ceilings = [bandwidth.egress_ceiling(), bandwidth.ingress_ceiling()];
        if ceilings.iter().all(Option::is_none) {
            return Ok(());
        }
        if let Err(why) = &self.programs {
            return refuse(format!("the host's network has no ceilings here: {why}"))
                .map_err(|fault| fault.remedy("mount cgroup2, or use --network mapped"));
        }
        for BitsPerSecond(bits) in ceilings.into_iter().flatten() {
            if !(RATE_MIN_BITS..=RATE_MAX_BITS).contains(&bits) {
                return refuse(format!(
                    "a ceiling of {bits} bit/s; with the host's network they are between {RATE_MIN_BITS} and \
                     {RATE_MAX_BITS} bit/s"
                ));
            }
        }
        Ok(())
    }

    /// For statistics. `None`: the group has no programs of ours.
    pub(crate) fn of(&self, place: Place<'_>) -> Option<GroupCeiling> {
        let group = place.trees.tree(self.unified?).open_group(place.name).ok()?;
        self.programs.as_ref().ok()?.of(group.as_fd()).ok().flatten()
    }

    /// The same of what comes in, which may have no ceiling until an update.
    pub(crate) fn inward_of(&self, place: Place<'_>) -> Option<GroupCeiling> {
        let group = place.trees.tree(self.unified?).open_group(place.name).ok()?;
        self.programs.as_ref().ok()?.inward_of(group.as_fd()).ok()
    }

    /// What its connections tell.
    pub(crate) fn connections_of(&self, place: Place<'_>) -> Option<GroupCeiling> {
        let group = place.trees.tree(self.unified?).open_group(place.name).ok()?;
        self.programs
            .as_ref()
            .ok()?
            .connections_of(group.as_fd())
            .ok()
            .flatten()
    }

    /// A container that an agent without ceilings has launched gets the programs now.
    pub(crate) fn make_ready(&self, place: Place<'_>) -> Result<(), Fault> {
        let (Ok(programs), Some(tree)) = (&self.programs, self.unified) else {
            return Ok(());
        };
        let failed =
            |error: &dyn std::error::Error| Fault::failed(format!("ready a group for ceilings: {error}"));
        let group = place
            .trees
            .tree(tree)
            .open_group(place.name)
            .map_err(|error| failed(&error))?;
        match programs.of(group.as_fd()) {
            Ok(Some(_)) => Ok(()),
            _ => programs.attach(group.as_fd()).map_err(|error| failed(&error)),
        }
    }
}

/// Bytes a second, 0 for none, and the burst; of both directions.
fn rates_of(bandwidth: &Bandwidth) -> [(u64, u64); 2] {
    let bytes = |rate: Option<BitsPerSecond>| rate.map_or(0, |rate| rate.0 / 8);
    [
        (
            bytes(bandwidth.egress_ceiling()),
            bandwidth.egress_burst.map_or(0, Bytes::get),
        ),
        (
            bytes(bandwidth.ingress_ceiling()),
            bandwidth.ingress_burst.map_or(0, Bytes::get),
        ),
    ]
}

fn set(programs: &CeilingPrograms, group: BorrowedFd<'_>, bandwidth: &Bandwidth) -> Result<(), CeilingError> {
    let [(egress, egress_burst), (ingress, ingress_burst)] = rates_of(bandwidth);
    programs.set(group, egress, egress_burst)?;
    programs.set_inward(group, ingress, ingress_burst)
}

pub struct BandwidthIsolator(pub Arc<HostCeilings>);

impl Isolator for BandwidthIsolator {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn report(&self) -> IsolatorReport {
        match &self.0.programs {
            Ok(_) => active("bandwidth", format!("with the host's network, {MECHANISM}")),
            Err(why) => missing("bandwidth", why.clone()),
        }
    }

    /// Whose network it is, limits do not say: `admit_spec` does.
    fn admit(&self, _limits: &Limits) -> Result<(), Fault> {
        Ok(())
    }

    fn admit_spec(&self, spec: &LaunchSpec) -> Result<(), Fault> {
        match spec.network {
            Network::Host => self.0.admit(&spec.limits.bandwidth),
            Network::None | Network::Mapped => Ok(()),
        }
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        Vec::new()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        let (Ok(programs), Network::Host, Some(group)) = (&self.0.programs, spec.network, place.unified)
        else {
            return Ok(());
        };
        let attached = programs.attach(group);
        let bandwidth = &spec.limits.bandwidth;
        if rates_of(bandwidth).iter().any(|(rate, _)| *rate != 0) {
            return attached
                .and_then(|()| set(programs, group, bandwidth))
                .map_err(PrepareError::Ceiling);
        }
        // An update of a ceiling tries again.
        if let Err(error) = attached {
            tracing::debug!(container = place.name, "attach the programs of ceilings: {error}");
        }
        Ok(())
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        if old.bandwidth == new.bandwidth {
            return Ok(());
        }
        let (Ok(programs), Some(tree)) = (&self.0.programs, self.0.unified) else {
            return Ok(());
        };
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| LimitError::Programs(error);
        let group = place.trees.tree(tree).open_group(place.name)?;
        // A container with a network of its own has no such programs.
        let known = programs
            .of(group.as_fd())
            .map_err(|error| failed(Box::new(error)))?;
        if known.is_none() {
            return Ok(());
        }
        set(programs, group.as_fd(), &new.bandwidth).map_err(|error| failed(Box::new(error)))
    }
}
