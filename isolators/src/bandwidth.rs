//! Egress ceilings in the host's network: BPF programs at the container's v2 group pace its connections and drop what
//! exceeds the ceiling all the same. (Containers with a network of their own have theirs at their interface: crate `network`.)

use std::os::fd::AsFd;
use std::sync::Arc;

use bpf::ceiling::{CeilingPrograms, GroupCeiling};
use kernel::cgroup::LimitError;
use model::{Bandwidth, Bytes, Fault, IsolatorReport, LaunchSpec, Limits, Network};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};

/// In words.
pub const MECHANISM: &str =
    "egress by BPF at the v2 group: TCP paced in its sockets, what exceeds it dropped";

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
        if bandwidth.ingress_ceiling().is_some() || bandwidth.ingress_burst.is_some() {
            let message = "what comes in has no ceiling with the host's network: it can't be held back there, only lost";
            return refuse(message.to_owned()).map_err(|fault| fault.remedy("use --network mapped"));
        }
        let Some(rate) = bandwidth.egress_ceiling() else {
            return Ok(());
        };
        if let Err(why) = &self.programs {
            return refuse(format!("the host's network has no ceilings here: {why}"))
                .map_err(|fault| fault.remedy("mount cgroup2, or use --network mapped"));
        }
        if !(RATE_MIN_BITS..=RATE_MAX_BITS).contains(&rate.0) {
            let bits = rate.0;
            return refuse(format!(
                "a ceiling of {bits} bit/s; with the host's network they are between {RATE_MIN_BITS} and {RATE_MAX_BITS} bit/s"
            ));
        }
        Ok(())
    }

    /// For statistics. `None`: the group has no programs of ours.
    pub(crate) fn of(&self, place: Place<'_>) -> Option<GroupCeiling> {
        let group = place.trees.tree(self.unified?).open_group(place.name).ok()?;
        self.programs.as_ref().ok()?.of(group.as_fd()).ok().flatten()
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

/// Bytes a second, 0 for none, and the burst.
fn rate_of(bandwidth: &Bandwidth) -> (u64, u64) {
    let rate = bandwidth.egress_ceiling().map_or(0, |rate| rate.0 / 8);
    (rate, bandwidth.egress_burst.map_or(0, Bytes::get))
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
        let attached = programs.attach(group).map_err(PrepareError::Ceiling);
        match rate_of(&spec.limits.bandwidth) {
            // An update of a ceiling tries again.
            (0, _) => {
                if let Err(error) = attached {
                    tracing::debug!(container = place.name, "attach the programs of ceilings: {error}");
                }
                Ok(())
            }
            (rate, burst) => {
                attached.and_then(|()| programs.set(group, rate, burst).map_err(PrepareError::Ceiling))
            }
        }
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
        let (rate, burst) = rate_of(&new.bandwidth);
        programs
            .set(group.as_fd(), rate, burst)
            .map_err(|error| failed(Box::new(error)))
    }
}
