//! Every byte we send or store that is not JSON.

#[allow(clippy::all, missing_debug_implementations, unused_qualifications)] // generated
pub mod value_capnp {
    include!(concat!(env!("OUT_DIR"), "/value_capnp.rs"));
}
#[allow(clippy::all, missing_debug_implementations, unused_qualifications)] // generated
pub mod agent_capnp {
    include!(concat!(env!("OUT_DIR"), "/agent_capnp.rs"));
}
