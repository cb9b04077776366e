//! The nouns of Bulkhead: plain values, no I/O, depending on nothing of ours.
//!
//! Every number here has a unit type from the moment it is read ([`units`]); every identifier is
//! parsed once ([`ids`]) and is valid from then on.

pub mod agent;
pub mod checkpoint;
pub mod container;
pub mod credential;
pub mod event;
pub mod fault;
pub mod host;
pub mod ids;
pub mod launch;
pub mod limits;
pub mod master;
pub mod network;
pub mod ports;
pub mod registry;
pub mod removed;
pub mod resources;
pub mod snmp;
pub mod task;
pub mod units;
pub mod usage;
pub mod user_namespace;

pub use agent::{AgentInfo, HostReport, IsolatorReport};
pub use checkpoint::{Checkpoint, KeptDescriptor};
pub use container::{ContainerState, ContainerStatus, Limitation, Reason, Termination};
pub use credential::Credential;
pub use event::{Event, EventKind};
pub use fault::{Fault, FaultKind};
pub use host::{CgroupLayout, Controller, HostSupport};
pub use ids::{ContainerId, ContainerName, ProcessIdentity};
pub use launch::{Capabilities, ExecSpec, LaunchSpec, OutputPolicy, Rlimit, Seccomp, TerminalSize, Volume};
pub use limits::{DeviceLimit, DeviceRule, IoLimits, Limits};
pub use master::{Leader, MasterInfo, Term};
pub use network::{Bandwidth, Network, NetworkUsage, Percentiles, Traffic};
pub use ports::{PortError, PortGrant, PortRange, PortRanges, PortRequest};
pub use removed::Removed;
pub use snmp::{SNMP_COUNTERS, SNMP_GROUPS, SnmpStatistics};
pub use units::{BitsPerSecond, Bytes, Cpus, Limit, Millis};
pub use usage::{ContainerUsage, Pressure, Stall, Usage};
pub use user_namespace::{IdRange, UserNamespace};
