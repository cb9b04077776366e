//! Named scenarios, each a clause of the protocol.

mod cluster;
mod election;
mod membership;
mod recovery;
