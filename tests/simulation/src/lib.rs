//! Whole worlds from one seed: cores under faults, every step checked, every run repeatable.

pub mod agent_world;
pub mod random;
