//! Ceilings of traffic, where something can hold them. A ceiling that nothing holds is refused.

use kernel::cgroup::LimitError;
use model::{Fault, IsolatorReport, LaunchSpec, Limits};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, missing};
use crate::trees::TreeId;

pub struct BandwidthIsolator;

/// What the mode with a network namespace will hold; with the host's network there is no place for a queue.
const MISSING: &str = "ceilings of traffic are not available in this version";

impl Isolator for BandwidthIsolator {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn report(&self) -> IsolatorReport {
        missing("bandwidth", MISSING)
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        if !limits.bandwidth.limits_anything() {
            return Ok(());
        }
        Err(Fault::unsupported("limits.bandwidth", MISSING).remedy("leave --egress and --ingress out"))
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
}
