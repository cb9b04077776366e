//! Every JSON shape: those that tools written for Mesos read ([`mesos`], [`metrics`]), and those that the
//! command line prints ([`client_json`]).

pub mod client_json;
pub mod credentials;
pub mod master;
pub mod master_info;
pub mod mesos;
pub mod metrics;
