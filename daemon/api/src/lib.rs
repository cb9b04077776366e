//! Every JSON shape: those that tools written for Mesos read, and those that the command line prints.
//!
//! **Mesos' shapes** ([`monitor`], [`metrics`], [`state`]). Without a master there are no frameworks and
//! executors, only containers. A tool that reads an agent's old endpoints (a Prometheus exporter, a
//! collectd plug-in) must not notice, so each container stands where it looks for an executor:
//!
//! | field | value |
//! |---|---|
//! | `executor_id` | the container id: unique, never empty, fit for a label |
//! | `executor_name` | the container's name, or `""` |
//! | `framework_id` | `""`: no framework |
//! | `source` | the name, or the id when it has none: what Mesos' own documentation uses it for |
//!
//! In the metrics each container counts as one executor and as its one task. Fields that a host does
//! not measure are left out, as Mesos does; fields that Mesos does not have are added and ignored by
//! its tools.
//!
//! **The command line's shapes** ([`client_json`]) are a stable interface: keys are snake case and carry
//! the unit, absent is `null`, and a key is never removed or given another meaning.

pub mod client_json;
mod jsonp;
pub mod metrics;
pub mod monitor;
pub mod state;

pub use jsonp::{JsonpError, jsonp};

/// Mesos answers `/health` with 200 and nothing: being able to answer is the answer.
pub const HEALTH_BODY: &str = "";
