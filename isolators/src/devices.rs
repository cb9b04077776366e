//! Device nodes: everything is denied but a short list and what the launch asks for.
//!
//! Where there is a v2 tree (hybrid hosts too) a BPF program at the container's group decides: one attach a
//! launch instead of a further hierarchy. Otherwise the v1 devices controller.

use std::path::Path;

use bpf::{NodeKind, Program};
use kernel::cgroup::devices::{DEFAULT, DeviceAllowance, DeviceKind, apply_v1, node};
use kernel::cgroup::{LimitError, Version};
use model::{Controller, Fault, IsolatorReport, LaunchSpec, Limits};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};

/// Further devices of one container; keeps the program small.
const DEVICES_MAX: usize = 64;

/// Who decides.
enum Mechanism {
    /// The program of every container without devices of its own, loaded once.
    Bpf(Program),
    Files(TreeId),
    None(String),
}

pub struct DeviceIsolator {
    mechanism: Mechanism,
}

/// The program for containers without devices of their own.
pub fn default_program() -> Result<Program, bpf::BpfError> {
    Program::device(&rules(&DEFAULT))
}

impl DeviceIsolator {
    /// `program`: the loaded default program, or why there is none.
    pub fn new(trees: &Trees, program: Result<Program, String>) -> Self {
        let files = trees
            .of(Controller::Devices)
            .filter(|id| trees.tree(*id).version() == Version::V1);
        let mechanism = match (program, files) {
            (Ok(program), _) => Mechanism::Bpf(program),
            (Err(_), Some(tree)) => Mechanism::Files(tree),
            (Err(why), None) => Mechanism::None(why),
        };
        Self { mechanism }
    }
}

fn rules(allowed: &[DeviceAllowance]) -> Vec<bpf::DeviceRule> {
    let rule = |a: &DeviceAllowance| bpf::DeviceRule {
        kind: match a.kind {
            DeviceKind::Block => NodeKind::Block,
            DeviceKind::Character => NodeKind::Character,
        },
        major: a.major,
        minor: a.minor,
        read: a.read,
        write: a.write,
        mknod: a.mknod,
    };
    allowed.iter().map(rule).collect()
}

fn allowed_for(spec: &LaunchSpec) -> Result<Vec<DeviceAllowance>, PrepareError> {
    let mut allowed = DEFAULT.to_vec();
    for (index, device) in spec.devices.iter().enumerate() {
        let (kind, number) = node(&device.path).map_err(|source| PrepareError::Node { index, source })?;
        allowed.push(DeviceAllowance {
            kind,
            major: Some(number.major),
            minor: Some(number.minor),
            read: device.read,
            write: device.write,
            mknod: device.mknod,
        });
    }
    Ok(allowed)
}

impl Isolator for DeviceIsolator {
    fn name(&self) -> &'static str {
        "devices"
    }

    fn report(&self) -> IsolatorReport {
        match &self.mechanism {
            Mechanism::Bpf(_) => active("devices", "BPF device program at the v2 group"),
            Mechanism::Files(_) => active("devices", "devices.allow (cgroup v1)"),
            Mechanism::None(why) => missing("devices", why.clone()),
        }
    }

    fn admit(&self, _limits: &Limits) -> Result<(), Fault> {
        Ok(())
    }

    fn admit_spec(&self, spec: &LaunchSpec) -> Result<(), Fault> {
        if spec.devices.len() > DEVICES_MAX {
            let text = format!("{} devices, the most are {DEVICES_MAX}", spec.devices.len());
            return Err(Fault::invalid("devices", text));
        }
        for (index, device) in spec.devices.iter().enumerate() {
            if let Mechanism::None(why) = &self.mechanism {
                return Err(Fault::unsupported(format!("devices.{index}"), why.clone()));
            }
            let inside = device
                .path
                .starts_with(Path::new(kernel::cgroup::devices::DIRECTORY));
            if !inside
                || device
                    .path
                    .components()
                    .any(|part| part == std::path::Component::ParentDir)
            {
                let text = format!(
                    "{} is not below {}",
                    device.path.display(),
                    kernel::cgroup::devices::DIRECTORY
                );
                return Err(Fault::invalid(format!("devices.{index}.path"), text));
            }
            if !(device.read || device.write || device.mknod) {
                return Err(Fault::invalid(
                    format!("devices.{index}"),
                    "allows neither read, write nor mknod",
                ));
            }
        }
        Ok(())
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        match self.mechanism {
            Mechanism::Files(tree) => vec![tree],
            _ => Vec::new(),
        }
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        match &self.mechanism {
            Mechanism::None(_) => Ok(()),
            Mechanism::Files(tree) => apply_v1(place.group(*tree), &allowed_for(spec)?)
                .map_err(|e| PrepareError::limit("devices", e)),
            Mechanism::Bpf(default) => {
                let Some(group) = place.unified else { return Ok(()) };
                if spec.devices.is_empty() {
                    return default.attach(group).map_err(PrepareError::Devices);
                }
                let own = Program::device(&rules(&allowed_for(spec)?)).map_err(PrepareError::Devices)?;
                own.attach(group).map_err(PrepareError::Devices)
            }
        }
    }

    fn update(&self, _place: Place<'_>, _old: &Limits, _new: &Limits) -> Result<(), LimitError> {
        Ok(())
    }
}
