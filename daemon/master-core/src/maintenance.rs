//! The maintenance schedule: which machines are to be away, and which are.

use std::collections::BTreeSet;

use model::registry::{MachineId, MachineMode, Registry, Window};

use crate::Refusal;

fn bad(problem: impl Into<String>) -> Refusal {
    Refusal::BadSchedule(problem.into())
}

fn name(machine: &MachineId) -> String {
    match (machine.hostname.as_str(), machine.address.as_str()) {
        (hostname, "") => hostname.to_owned(),
        ("", address) => address.to_owned(),
        (hostname, address) => format!("{hostname} ({address})"),
    }
}

/// Host names are compared without regard to case.
fn normal(machine: &MachineId) -> MachineId {
    MachineId {
        hostname: machine.hostname.to_lowercase(),
        address: machine.address.clone(),
    }
}

/// A part that the machine's id leaves open fits everything.
pub fn is_machine(machine: &MachineId, hostname: &str, address: &str) -> bool {
    (machine.hostname.is_empty() || machine.hostname.eq_ignore_ascii_case(hostname))
        && (machine.address.is_empty() || machine.address == address)
}

/// Replaces the whole schedule. Machines in it that are up become draining, draining ones that are not come up.
pub fn set_schedule(registry: &mut Registry, windows: &[Window]) -> Result<bool, Refusal> {
    let mut seen = BTreeSet::new();
    let mut schedule = Vec::with_capacity(windows.len());
    for window in windows {
        if window.machines.is_empty() {
            return Err(bad("a window without machines"));
        }
        let machines: Vec<_> = window.machines.iter().map(normal).collect();
        for machine in &machines {
            if machine.hostname.is_empty() && machine.address.is_empty() {
                return Err(bad("a machine with neither host name nor address"));
            }
            if !seen.insert(machine.clone()) {
                return Err(bad(format!("{} comes twice", name(machine))));
            }
        }
        schedule.push(Window {
            machines,
            ..window.clone()
        });
    }
    let down = registry
        .machines
        .iter()
        .filter(|(_, mode)| **mode == MachineMode::Down);
    if let Some((machine, _)) = down.clone().find(|(machine, _)| !seen.contains(*machine)) {
        return Err(bad(format!(
            "{} is down and can't be left out; bring it up first",
            name(machine)
        )));
    }
    let mut machines: std::collections::BTreeMap<_, _> = seen
        .into_iter()
        .map(|machine| (machine, MachineMode::Draining))
        .collect();
    machines.extend(down.map(|(machine, mode)| (machine.clone(), *mode)));
    let changed = registry.schedule != schedule || registry.machines != machines;
    (registry.schedule, registry.machines) = (schedule, machines);
    Ok(changed)
}

/// Machines of the schedule go down.
pub fn start(registry: &mut Registry, machines: &[MachineId]) -> Result<bool, Refusal> {
    let machines: Vec<_> = machines.iter().map(normal).collect();
    for machine in &machines {
        match registry.machines.get(machine) {
            None => return Err(bad(format!("{} is not in the schedule", name(machine)))),
            Some(MachineMode::Down) => return Err(bad(format!("{} is down already", name(machine)))),
            Some(MachineMode::Draining) => {}
        }
    }
    let changed = !machines.is_empty();
    registry
        .machines
        .extend(machines.into_iter().map(|machine| (machine, MachineMode::Down)));
    Ok(changed)
}

/// Machines that are down come up, and leave the schedule.
pub fn stop(registry: &mut Registry, machines: &[MachineId]) -> Result<bool, Refusal> {
    let machines: BTreeSet<_> = machines.iter().map(normal).collect();
    for machine in &machines {
        if registry.machines.get(machine) != Some(&MachineMode::Down) {
            return Err(bad(format!("{} is not down", name(machine))));
        }
    }
    registry.machines.retain(|machine, _| !machines.contains(machine));
    for window in &mut registry.schedule {
        window.machines.retain(|machine| !machines.contains(machine));
    }
    registry.schedule.retain(|window| !window.machines.is_empty());
    Ok(!machines.is_empty())
}
