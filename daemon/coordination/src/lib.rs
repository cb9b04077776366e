//! Who leads: election and detection of masters on ZooKeeper, and without it.
//!
//! Two machines decide and do nothing, [`election`] and [`detection`]; [`Contender`] and [`Detector`] put ZooKeeper, a clock and the loop
//! behind them. Znodes, their text and their access rights are those of Mesos, so its tools find the leader, and ours find its.
//!
//! Contract: nothing that ZooKeeper does or fails to do ends a process or a task here; all is tried again, with growing pauses, and said once
//! for each state. A leader stops leading by its own clock before the servers can give its znode to anybody's turn ([`Tenure::holds`]).

pub mod detection;
pub mod election;
pub mod member;
pub mod pause;
pub mod place;

mod contender;
mod detector;
mod journal;
mod replicas;
mod settings;
mod tenure;
mod watched;
mod zookeeper;

pub use contender::{Candidacy, Contender};
pub use detector::Detector;
pub use place::{HostPort, Place, PlaceError, ZkUrl, without_password};
pub use replicas::Replicas;
pub use settings::Settings;
pub use tenure::Tenure;
