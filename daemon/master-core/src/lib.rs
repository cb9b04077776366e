//! The master, deciding only: no clock, file, socket, thread or chance. So far the registry and its registrar.

mod maintenance;
pub mod registrar;
pub mod registry;

pub use registry::Refusal;
