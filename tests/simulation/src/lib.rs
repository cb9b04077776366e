//! Whole worlds from one seed: cores under faults, every step checked, every run repeatable.

pub mod agent_world;
pub mod election_world;
pub mod log_model;
pub mod log_world;
pub mod master_world;
pub mod own_ids;
pub mod own_ports;
pub mod random;
pub mod sweep;
