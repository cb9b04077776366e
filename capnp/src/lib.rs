//! Every byte we send or store that is not JSON.
//!
//! The schemas are the contract; one module per noun turns their structs into `model` values and
//! back. Contract of these functions:
//!
//! - Encoding is total: every model value within the [`bounds`] can be written.
//! - Decoding trusts nothing: malformed pointers, texts that are not UTF-8, enum values of a newer
//!   peer, numbers out of range and lists beyond the [`bounds`] are a [`model::Fault`] that names the field
//!   (`limits.mem`, `volumes.0.source`); never a panic, never a guess.
//! - capnp's own types end at `agent` and `client`.

#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod value_capnp {
    include!(concat!(env!("OUT_DIR"), "/value_capnp.rs"));
}
#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod agent_capnp {
    include!(concat!(env!("OUT_DIR"), "/agent_capnp.rs"));
}
#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod checkpoint_capnp {
    include!(concat!(env!("OUT_DIR"), "/checkpoint_capnp.rs"));
}
#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod replog_capnp {
    include!(concat!(env!("OUT_DIR"), "/replog_capnp.rs"));
}
#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod registry_capnp {
    include!(concat!(env!("OUT_DIR"), "/registry_capnp.rs"));
}
#[allow(
    clippy::all,
    clippy::unimplemented,
    missing_debug_implementations,
    unused_qualifications
)] // generated
pub mod master_capnp {
    include!(concat!(env!("OUT_DIR"), "/master_capnp.rs"));
}

pub mod agent;
pub mod bounds;
pub mod checkpoint;
pub mod container;
pub mod event;
pub mod fault;
pub mod launch;
pub mod limits;
pub mod master;
mod network;
pub mod question;
pub mod registry;
pub mod removed;
pub mod usage;
mod value;
