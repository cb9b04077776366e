//! Named scenarios, each a clause of the protocol.

mod cluster;
mod election;
mod foreign;
mod membership;
mod recovery;
