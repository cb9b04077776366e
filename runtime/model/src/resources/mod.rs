//! What agents have and tasks need: named amounts, for a role or for all, and their arithmetic.
//!
//! As in Mesos: two resources add up when everything but the amount is equal; persistent volumes never do; a resource
//! for a role carries the stack of its reservations, each role below the one before.

mod attributes;
mod role;
mod text;
mod value;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use attributes::{Attribute, AttributeValue, Attributes};
pub use role::Role;
pub use value::{Amount, Ranges, Scalar};

/// Why a text is no resource, or resources can't be what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct ResourceError {
    pub text: String,
    pub problem: String,
}

impl ResourceError {
    pub fn new(text: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            problem: problem.into(),
        }
    }
}

/// One layer of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reservation {
    /// By the agent's own configuration: can't be taken back.
    pub fixed: bool,
    pub role: Role,
    pub principal: Option<String>,
    pub labels: BTreeMap<String, Option<String>>,
}

/// What makes disk more than space.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its data stays when the task is gone.
    pub volume: Option<VolumeInfo>,
    /// Another disk than the one of the work directory.
    pub source: Option<DiskSource>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Unique for a role on an agent.
    pub id: String,
    pub principal: Option<String>,
    /// Where a container sees it, below its sandbox.
    pub container_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DiskSource {
    /// A directory of a disk that others use too.
    Path(String),
    /// A file system that is given as a whole.
    Mount(String),
}

/// An amount of something, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    pub name: String,
    pub amount: Amount,
    /// Outermost first; empty: for everybody.
    pub reservations: Vec<Reservation>,
    pub disk: Option<DiskInfo>,
    /// Lent: can be taken back at any time.
    pub revocable: bool,
    /// A volume that several tasks may use at a time.
    pub shared: bool,
    pub provider: Option<String>,
}

impl Resource {
    pub fn new(name: impl Into<String>, amount: Amount) -> Self {
        Self {
            name: name.into(),
            amount,
            reservations: Vec::new(),
            disk: None,
            revocable: false,
            shared: false,
            provider: None,
        }
    }

    pub fn scalar(name: impl Into<String>, milli: u64) -> Self {
        Self::new(name, Amount::Scalar(Scalar::from_milli(milli)))
    }

    /// The role that it is reserved for.
    pub fn role(&self) -> Option<&Role> {
        self.reservations.last().map(|reservation| &reservation.role)
    }

    pub fn is_volume(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.volume.is_some())
    }

    /// Given as a whole or not at all.
    fn is_whole(&self) -> bool {
        self.is_volume()
            || matches!(
                &self.disk,
                Some(DiskInfo {
                    source: Some(DiskSource::Mount(_)),
                    ..
                })
            )
    }

    /// Equal in all but the amount.
    fn alike(&self, other: &Self) -> bool {
        self.name == other.name
            && self.amount.same_kind(&other.amount)
            && self.reservations == other.reservations
            && self.disk == other.disk
            && self.revocable == other.revocable
            && self.shared == other.shared
            && self.provider == other.provider
    }

    fn adds_to(&self, other: &Self) -> bool {
        !self.is_whole() && self.alike(other)
    }

    fn holds(&self, other: &Self) -> bool {
        if self.is_whole() {
            self == other
        } else {
            self.alike(other) && self.amount.contains(&other.amount)
        }
    }

    /// Whether `role` may use it: unreserved, or reserved for that role or one above it.
    pub fn is_for(&self, role: &Role) -> bool {
        self.role().is_none_or(|reserved| role.is_within(reserved))
    }

    /// Why it can't be, whatever the rest.
    pub fn check(&self) -> Result<(), ResourceError> {
        let wrong = |problem: &str| Err(ResourceError::new(self.to_string(), problem));
        let ends_name = |c: char| c.is_whitespace() || matches!(c, ';' | ':' | '(' | ')');
        if self.name.is_empty() || self.name.contains(ends_name) {
            return wrong("has no good name: letters, digits, '_', '-', '.'");
        }
        match (self.name.as_str(), &self.amount) {
            ("cpus" | "mem" | "disk" | "gpus", Amount::Ranges(_) | Amount::Set(_)) => {
                return wrong("has to be a number");
            }
            ("ports", Amount::Scalar(_) | Amount::Set(_)) => {
                return wrong("has to be ranges, for example ports:[31000-32000]");
            }
            ("gpus", Amount::Scalar(scalar)) if scalar.milli() % 1000 != 0 => {
                return wrong("has to be whole");
            }
            _ => {}
        }
        for pair in self.reservations.windows(2) {
            if !pair[1].role.is_strictly_within(&pair[0].role) {
                return wrong("is reserved for a role that is not below the one it was reserved for before");
            }
            if pair[1].fixed {
                return wrong("has a static reservation on top of another");
            }
        }
        if self
            .reservations
            .iter()
            .any(|reservation| reservation.role.is_star())
        {
            return wrong("is reserved for '*', which is everybody");
        }
        if self.disk.is_some() && self.name != "disk" {
            return wrong("has disk information and is no disk");
        }
        if self.is_volume() && self.reservations.is_empty() {
            return wrong("is a persistent volume on disk that is not reserved");
        }
        if self.shared && !self.is_volume() {
            return wrong("is shared and no persistent volume");
        }
        if self.revocable && (!self.reservations.is_empty() || self.is_volume()) {
            return wrong("is revocable, and so can't be reserved or hold a volume");
        }
        Ok(())
    }
}

/// Resources as one thing. Never holds an empty amount, nor two that could be one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Resource>", into = "Vec<Resource>")]
pub struct Resources(Vec<Resource>);

impl Resources {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Resource> {
        self.0.iter()
    }

    pub fn add(&mut self, resource: Resource) {
        if resource.amount.is_empty() && !resource.is_whole() {
            return;
        }
        match self.0.iter_mut().find(|mine| mine.adds_to(&resource)) {
            Some(mine) => mine.amount = mine.amount.plus(&resource.amount),
            None => self.0.push(resource),
        }
    }

    pub fn add_all(&mut self, other: &Self) {
        other.iter().for_each(|resource| self.add(resource.clone()));
    }

    /// Takes `resource` away, if all of it is here; otherwise nothing changes.
    pub fn take(&mut self, resource: &Resource) -> bool {
        let Some(at) = self.0.iter().position(|mine| mine.holds(resource)) else {
            return resource.amount.is_empty() && !resource.is_whole();
        };
        if self.0[at].is_whole() {
            self.0.remove(at);
            return true;
        }
        self.0[at].amount = self.0[at].amount.minus(&resource.amount);
        if self.0[at].amount.is_empty() {
            self.0.remove(at);
        }
        true
    }

    /// Takes all of `other` away, if it is here; otherwise nothing changes.
    pub fn take_all(&mut self, other: &Self) -> bool {
        let mut left = self.clone();
        let taken = other.iter().all(|resource| left.take(resource));
        if taken {
            *self = left;
        }
        taken
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.clone().take_all(other)
    }

    pub fn filter(&self, keep: impl Fn(&Resource) -> bool) -> Self {
        self.0.iter().filter(|resource| keep(resource)).cloned().collect()
    }

    pub fn unreserved(&self) -> Self {
        self.filter(|resource| resource.reservations.is_empty())
    }

    pub fn reserved_for(&self, role: &Role) -> Self {
        self.filter(|resource| resource.role() == Some(role))
    }

    /// All of a scalar by its name, whoever it is for.
    pub fn total(&self, name: &str) -> Scalar {
        self.0
            .iter()
            .filter(|resource| resource.name == name)
            .fold(Scalar::ZERO, |sum, resource| match &resource.amount {
                Amount::Scalar(scalar) => sum.plus(*scalar),
                Amount::Ranges(_) | Amount::Set(_) => sum,
            })
    }

    /// All ports, whoever they are for.
    pub fn ports(&self) -> Ranges {
        self.0
            .iter()
            .filter(|resource| resource.name == "ports")
            .fold(Ranges::default(), |all, resource| match &resource.amount {
                Amount::Ranges(ranges) => all.plus(ranges),
                Amount::Scalar(_) | Amount::Set(_) => all,
            })
    }

    /// [`Resource::check`] for each.
    pub fn check(&self) -> Result<(), ResourceError> {
        self.0.iter().try_for_each(Resource::check)
    }
}

/// The order in which they came does not matter.
impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.contains(other) && other.contains(self)
    }
}

impl Eq for Resources {}

impl From<Vec<Resource>> for Resources {
    fn from(list: Vec<Resource>) -> Self {
        list.into_iter().collect()
    }
}

impl From<Resources> for Vec<Resource> {
    fn from(resources: Resources) -> Self {
        resources.0
    }
}

impl FromIterator<Resource> for Resources {
    fn from_iter<I: IntoIterator<Item = Resource>>(list: I) -> Self {
        let mut resources = Self::default();
        list.into_iter().for_each(|resource| resources.add(resource));
        resources
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a Resource;
    type IntoIter = std::slice::Iter<'a, Resource>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(role) = self.role() {
            write!(f, "({role})")?;
        }
        if let Some(volume) = self.disk.as_ref().and_then(|disk| disk.volume.as_ref()) {
            write!(f, "[{}:{}]", volume.id, volume.container_path)?;
        }
        if self.revocable {
            f.write_str("{REV}")?;
        }
        write!(f, ":{}", self.amount)
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, resource) in self.0.iter().enumerate() {
            let separator = if at > 0 { "; " } else { "" };
            write!(f, "{separator}{resource}")?;
        }
        Ok(())
    }
}
