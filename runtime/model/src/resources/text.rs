//! Resources as an operator writes them: `cpus:24;mem:24576;ports:[31000-32000];disk(web):1024`.

use std::str::FromStr;

use super::{Reservation, Resource, ResourceError, Resources, Role};

impl FromStr for Resources {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let parts = text
            .split([';', '\n'])
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let mut resources = Self::default();
        for part in parts {
            let resource: Resource = part.parse()?;
            if resources
                .iter()
                .any(|known| known.name == resource.name && !known.amount.same_kind(&resource.amount))
            {
                return Err(ResourceError::new(
                    part,
                    "is of another kind than the one of this name before it",
                ));
            }
            resources.add(resource);
        }
        Ok(resources)
    }
}

impl FromStr for Resource {
    type Err = ResourceError;

    /// `name:amount` or `name(role):amount`.
    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let wrong = || ResourceError::new(text, "is no resource; write for example cpus:4 or disk(web):1024");
        // A role may hold no ':' in this form, so the first one ends the name.
        let (name, amount) = text.split_once(':').ok_or_else(wrong)?;
        let mut reservations = Vec::new();
        let name = match name.trim().split_once('(') {
            None => name.trim(),
            Some((name, role)) => {
                let role: Role = role.strip_suffix(')').ok_or_else(wrong)?.trim().parse()?;
                if !role.is_star() {
                    let (principal, labels) = (None, std::collections::BTreeMap::new());
                    reservations.push(Reservation {
                        fixed: true,
                        role,
                        principal,
                        labels,
                    });
                }
                name.trim()
            }
        };
        let mut resource = Self::new(name, amount.parse()?);
        resource.reservations = reservations;
        resource.check()?;
        Ok(resource)
    }
}
