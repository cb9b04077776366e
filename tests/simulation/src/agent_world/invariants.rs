//! What must hold after every step, and when all is quiet.

use std::collections::BTreeSet;

use model::ContainerState;

use super::{Violation, World};
use crate::{own_ids, own_ports};

impl World {
    pub(super) fn invariants(&self) -> Result<(), Violation> {
        let mut names = BTreeSet::new();
        let mut living = 0;
        for status in self.core.list(true) {
            if status.state.is_over() {
                if status.termination.is_none() {
                    return self.violated(format!("{} is over without a termination", status.id));
                }
                continue;
            }
            if let Some(name) = &status.name
                && !names.insert(name.clone())
            {
                return self.violated(format!("two living containers are named {name}"));
            }
            if status.state == ContainerState::Running
                && !self.reality.get(&status.id).is_some_and(|r| r.command_ran)
            {
                return self.violated(format!("{} is running but its command never ran", status.id));
            }
        }
        for status in self.core.list(false) {
            living += 1;
            if self.reality.get(&status.id).is_some_and(|r| r.forgotten) {
                return self.violated(format!("{} was forgotten while it lived", status.id));
            }
        }
        let living_specs = self.reality.iter().filter(|(_, r)| r.process && r.checkpointed);
        if let Some(message) =
            own_ports::conflict(living_specs.filter_map(|(id, r)| Some((id, r.spec.as_ref()?))))
        {
            return self.violated(message);
        }
        let living_specs = self.reality.iter().filter(|(_, r)| r.process && r.checkpointed);
        if let Some(message) =
            own_ids::conflict(living_specs.filter_map(|(id, r)| Some((id, r.spec.as_ref()?))))
        {
            return self.violated(message);
        }
        if living != self.core.living() {
            return self.violated(format!("{living} live, the core counts {}", self.core.living()));
        }
        Ok(())
    }

    pub(super) fn at_the_end(&self) -> Result<(), Violation> {
        if self.core.living() != 0 {
            let left: Vec<_> = self
                .core
                .list(false)
                .map(|s| (s.id.to_string(), s.state))
                .collect();
            return self.violated(format!("these never ended: {left:?}"));
        }
        if let Some((ticket, asked)) = self.open.first_key_value() {
            return self.violated(format!("{asked:?} {ticket:?} was never answered"));
        }
        let pool = own_ports::pool();
        let all = pool.allotted.plus(&pool.ephemeral);
        if let Some(port) = all.ports().find(|port| self.core.port_owner(*port).is_some()) {
            return self.violated(format!("port {port} was not given back"));
        }
        for (id, reality) in &self.reality {
            if reality.process || reality.groups || reality.checkpointed || reality.directory {
                return self.violated(format!("{id} left something behind: {reality:?}"));
            }
        }
        Ok(())
    }
}
